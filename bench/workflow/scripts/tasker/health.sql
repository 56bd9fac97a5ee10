select * from tasker.get_system_health_counts();

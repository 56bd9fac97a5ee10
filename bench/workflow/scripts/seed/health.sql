select * from seed.get_system_health_counts();

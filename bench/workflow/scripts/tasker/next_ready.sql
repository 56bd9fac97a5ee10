select * from tasker.get_next_ready_tasks(:wanted::integer);

select * from seed.get_next_ready_tasks(:wanted::integer);

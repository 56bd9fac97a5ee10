select * from seed.get_task_execution_context(:task_uuid::uuid);

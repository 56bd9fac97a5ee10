select * from tasker.get_task_execution_context(:task_uuid::uuid);

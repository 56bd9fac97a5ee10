select * from tasker.get_step_readiness_status(:task_uuid::uuid);

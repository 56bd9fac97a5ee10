select * from seed.get_step_readiness_status(:task_uuid::uuid);

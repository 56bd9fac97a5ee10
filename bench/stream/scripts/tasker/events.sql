select * from tasker.get_batch_events(:batch);

select * from tasker.get_queue_status();

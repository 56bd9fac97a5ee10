call tasker.wait_for_batch(:queue, :consumer, :timeout::interval, null);

select tasker.insert_event(:queue, :type, :data);

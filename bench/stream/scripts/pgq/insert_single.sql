select pgq.insert_event(:queue, :type, :data);

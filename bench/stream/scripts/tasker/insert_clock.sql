select tasker.insert_event(:queue, :type, rpad(extract(epoch from clock_timestamp())::text, 100));

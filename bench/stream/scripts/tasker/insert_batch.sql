select cardinality(tasker.send_batch(:queue, :type, array_fill(:data::text, array[100])));

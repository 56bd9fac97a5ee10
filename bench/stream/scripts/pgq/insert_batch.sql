select count(pgq.insert_event(:queue, :type, data)) from unnest(array_fill(:data::text, array[100])) as data;

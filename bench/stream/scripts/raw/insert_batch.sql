insert into raw.event (type, data) select :type, data from unnest(array_fill(:data::text, array[100])) as data;

select count(pgq.insert_event(:flow, 'record', :payload)) from generate_series(1, 100);

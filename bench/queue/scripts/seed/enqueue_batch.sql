insert into seed.processing_queue (flow_name, payload) select :flow, :payload::jsonb from generate_series(1, 100);

insert into seed.processing_queue (flow_name, payload) values (:flow, :payload::jsonb);

insert into raw.record (payload) values (:payload::jsonb);

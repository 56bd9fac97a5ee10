insert into raw.record (payload) select :payload::jsonb from generate_series(1, 100);

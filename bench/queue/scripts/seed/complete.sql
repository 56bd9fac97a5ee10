update seed.processing_queue
set status = 'completed', completed_at = now(), updated_at = now()
where id = any(:ids::bigint[]);

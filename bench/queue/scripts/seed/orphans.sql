select id, flow_instance_id from seed.processing_queue
where status = 'processing' and claimed_at < now() - interval '1 hour';

create index idx_processing_queue_status_created_at on seed.processing_queue (status, created_at);
create index idx_processing_queue_flow_name_status on seed.processing_queue (flow_name, status);
create index idx_processing_queue_flow_instance_id on seed.processing_queue (flow_instance_id)
    where flow_instance_id is not null;
create index idx_processing_queue_pending on seed.processing_queue (created_at) where status = 'pending';
create index idx_processing_queue_processing_claimed_at on seed.processing_queue (claimed_at)
    where status = 'processing';
create index idx_processing_queue_failed_retry on seed.processing_queue (retry_count, created_at)
    where status = 'failed';
create index idx_processing_queue_cleanup_timestamps on seed.processing_queue (completed_at, created_at, status);
create index idx_processing_queue_monitoring on seed.processing_queue (flow_name, status, created_at);
analyze seed.processing_queue;

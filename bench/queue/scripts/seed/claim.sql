with claimed as (
    update seed.processing_queue
    set status = 'processing', flow_instance_id = 'worker-' || :client_id::text, claimed_at = now()
    where id in (
        select id from seed.processing_queue
        where flow_name = :flow and status = 'pending'
        order by created_at asc
        limit :batch
        for update skip locked
    )
    returning id, payload, retry_count, created_at
)
select coalesce(array_agg(id), '{}') as ids, count(*) as n from claimed \gset

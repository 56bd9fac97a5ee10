select coalesce(array_agg(id), '{}') as ids, coalesce(array_agg(lease_token), '{}') as tokens, count(*) as n
from tasker.claim_records_batch(:flow, :batch::integer, 'worker-' || :client_id::text) \gset

select coalesce(array_agg(workflow_step_uuid), '{}') as steps, coalesce(array_agg(lease_token), '{}') as tokens,
       count(*) as n, count(context) as contexts, count(dependency_results) as dependencies
from tasker.claim_steps(:namespace, :batch::integer, 'worker-' || :client_id::text) \gset

-- The engine: creating tasks, claiming and finishing steps.

create function tasker.create_task(namespace text, name text, context jsonb = '{}', version text = null,
        priority integer = 0, identity_key text = null, correlation_id uuid = null, parent_correlation_id uuid = null,
        tags jsonb = null, initiator text = null, source_system text = null, reason text = null,
        run_at timestamptz = null) returns uuid
    language c as 'MODULE_PATHNAME', 'tasker_create_task';
comment on function tasker.create_task(text, text, jsonb, text, integer, text, uuid, uuid, jsonb, text, text, text, timestamptz) is
'Creates a task of a template with its steps, and enqueues those that wait for no other. version null: the one defined last; the task stays on it. priority: 0 (default) to 9, higher first. identity_key: while a task with it exists, that one''s uuid is returned and nothing is created. correlation_id null: the task''s own uuid. run_at: its first steps are not ready before. Result: the task''s uuid. Errors: 42704 unknown template or version; 22023 bad argument.';

create function tasker.create_tasks(namespace text, name text, contexts jsonb[], version text = null,
        priority integer = 0, identity_keys text[] = null, correlation_id uuid = null, parent_correlation_id uuid = null,
        tags jsonb = null, initiator text = null, source_system text = null, reason text = null,
        run_at timestamptz = null) returns uuid[]
    language c as 'MODULE_PATHNAME', 'tasker_create_tasks';
comment on function tasker.create_tasks(text, text, jsonb[], text, integer, text[], uuid, uuid, jsonb, text, text, text, timestamptz) is
'Creates one task for each context, as create_task() does, in two thirds of the time that so many calls take. identity_keys: one for each context, or null. Result: their uuids in the order of the contexts. Errors: as create_task().';

create function tasker.claim_steps(namespace text, batch_size integer = 1, worker text = null, lease interval = null,
        handlers text[] = null,
        out workflow_step_uuid uuid, out task_uuid uuid, out task_name text, out step_name text, out handler text,
        out attempts integer, out inputs jsonb, out context jsonb, out dependency_results jsonb, out checkpoint jsonb,
        out correlation_id uuid, out lease_token bigint, out lease_expires_at timestamptz) returns setof record
    language c as 'MODULE_PATHNAME', 'tasker_claim_steps';
comment on function tasker.claim_steps(text, integer, text, interval, text[]) is
'Claims up to batch_size ready steps of a namespace, each for one worker: for all handlers, or those given. lease null: the step''s timeout, else its flow''s lease; a step''s timeout is the longest lease there is. attempts counts this one. dependency_results: results of the direct parents by step name, null where there are more than 1000 or they are larger than 64 MB together (see step_results()). Rows: the steps, empty when nothing is ready. Errors: 42704 unknown namespace or handler; 22023 batch_size < 1 or a lease that is not positive.';

create function tasker.step_results(step_uuid uuid)
        returns table (step_name text, workflow_step_uuid uuid, results jsonb)
    language c as 'MODULE_PATHNAME', 'tasker_step_results';
comment on function tasker.step_results(uuid) is
'The results of the steps that this one depends on, as far as they are done: the name, uuid and results of each direct parent. Errors: 42704 unknown step.';

create function tasker.complete_step(workflow_step_uuid uuid, results jsonb = null, create_steps jsonb = null,
        lease_token bigint = null) returns text
    language c as 'MODULE_PATHNAME', 'tasker_complete_step';
comment on function tasker.complete_step(uuid, jsonb, jsonb, bigint) is
'Says that a claimed step is done. Stores its results, enqueues the steps that waited for nothing else, and finishes the task with its last step, all in this transaction. create_steps, for decision and batch steps: an array of the names of steps to create, or of objects {"name", "as", "inputs"}. With a lease_token it counts only under that very claim. Result: the task''s state afterwards. Errors: 42704 unknown step; 55000 it is not in progress, or the lease is lost; 22023 create_steps does not fit.';

create function tasker.complete_steps(workflow_step_uuids uuid[], results jsonb[] = null,
        lease_tokens bigint[] = null) returns integer
    language c as 'MODULE_PATHNAME', 'tasker_complete_steps';
comment on function tasker.complete_steps(uuid[], jsonb[], bigint[]) is
'Completes several steps, of one task or of many, all or nothing. Result: how many. Errors: as complete_step(); 22023 for arrays of different length, or a step given twice.';

create function tasker.fail_step(workflow_step_uuid uuid, error jsonb, retryable boolean = true,
        backoff_seconds integer = null, lease_token bigint = null) returns text
    language c as 'MODULE_PATHNAME', 'tasker_fail_step';
comment on function tasker.fail_step(uuid, jsonb, boolean, integer, bigint) is
'Says that a claimed step has failed. It is tried again while it is retryable and attempts are left: after backoff_seconds, or else after the template''s back-off. With retryable false, or no attempt left, it is in error, and its record a dead letter. Result: the step''s state afterwards: waiting_for_retry or error, or pending where a parent was reset meanwhile and has to be done again first. Errors: 42704 unknown step; 55000 it is not in progress, or the lease is lost; 22023 negative backoff_seconds.';

create procedure tasker.wait_for_steps(namespace text, timeout interval, handlers text[] default null, inout ready boolean default null)
    language c as 'MODULE_PATHNAME', 'tasker_wait_for_steps';
comment on procedure tasker.wait_for_steps(text, interval, text[], boolean) is
'Commits, then sleeps with no transaction and no snapshot open until a step of the namespace is ready, for all handlers or those given (ready = true), or the timeout has passed (false). Errors: 25001 inside a transaction block; 42704 unknown namespace or handler; 22023 negative timeout; 54000 more than 64 handlers at once.';

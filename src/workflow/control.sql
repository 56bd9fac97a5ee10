-- Steering: what a worker does with a step while it holds it, and what people do with tasks and steps.

create function tasker.checkpoint_step(workflow_step_uuid uuid, checkpoint jsonb, lease_token bigint = null) returns void
    language c as 'MODULE_PATHNAME', 'tasker_checkpoint_step';
comment on function tasker.checkpoint_step(uuid, jsonb, bigint) is
'Notes how far a claimed step has come; the next attempt gets it with its claim. null takes it back. Errors: 42704 unknown step; 55000 it is not in progress, or the lease is lost.';

create function tasker.extend_step_lease(workflow_step_uuids uuid[], lease interval, lease_tokens bigint[] = null) returns integer
    language c as 'MODULE_PATHNAME', 'tasker_extend_step_lease';
comment on function tasker.extend_step_lease(uuid[], interval, bigint[]) is
'Prolongs the leases of claimed steps to lease from now, but not beyond a step''s timeout. All or nothing. Result: how many. Errors: 42704 unknown step; 55000 one is not in progress, or its lease is lost; 22023 bad argument.';

create function tasker.release_steps(workflow_step_uuids uuid[], lease_tokens bigint[] = null) returns integer
    language c as 'MODULE_PATHNAME', 'tasker_release_steps';
comment on function tasker.release_steps(uuid[], bigint[]) is
'Gives claimed steps back: they are ready at once and have lost no attempt. With lease_tokens only under those very claims. All or nothing. Result: how many. Errors: 42704 unknown step; 55000 one is not in progress, or its lease is lost; 22023 a step given twice, or arrays of different length.';

create function tasker.set_step_backoff_atomic(workflow_step_uuid uuid, backoff_seconds integer) returns boolean
    language c as 'MODULE_PATHNAME', 'tasker_set_step_backoff_atomic';
comment on function tasker.set_step_backoff_atomic(uuid, integer) is
'Asks for the delay before the next attempt: of a step in progress for when it fails, of one that waits for its retry from now. Result: false when it is neither. Errors: 42704 unknown step; 22023 a negative delay.';

create function tasker.cancel_task(task_uuid uuid, reason text = null) returns boolean
    language c as 'MODULE_PATHNAME', 'tasker_cancel_task';
comment on function tasker.cancel_task(uuid, text) is
'Cancels a task with all steps that are not finished; who works on one of them hears of it when he completes it. Result: false when it was cancelled before. Errors: 42704 unknown task; 55000 it is finished.';

create function tasker.retry_task(task_uuid uuid) returns integer
    language c as 'MODULE_PATHNAME', 'tasker_retry_task';
comment on function tasker.retry_task(uuid) is
'Brings a task on again: steps in error and steps that were cancelled begin anew with all of their attempts, and steps that wait for their retry are due at once. Result: how many steps. Errors: 42704 unknown task; 55000 there is no such step, or its partition is being retired.';

create function tasker.reset_step(workflow_step_uuid uuid, cascade boolean = false) returns void
    language c as 'MODULE_PATHNAME', 'tasker_reset_step';
comment on function tasker.reset_step(uuid, boolean) is
'Has a step done again from its first attempt, whatever state it is in. Steps that wait for it wait again; those that came after it and have begun stay as they are, or with cascade begin anew too. Errors: 42704 unknown step; 55000 its task was cancelled or ended in error (see retry_task()), or it is a decision or batch step that has created others.';

create function tasker.resolve_step_manually(workflow_step_uuid uuid, results jsonb, resolved_by text, reason text) returns text
    language c as 'MODULE_PATHNAME', 'tasker_resolve_step_manually';
comment on function tasker.resolve_step_manually(uuid, jsonb, text, text) is
'Says that a step is done although no worker has done it: the steps that waited for it go on with these results. resolved_by and reason go to the log. Result: the task''s state afterwards. Errors: 42704 unknown step; 55000 it is done already, or its task is finished; 22023 no name in resolved_by.';

create function tasker.transition_task_state_atomic(task_uuid uuid, from_state text, to_state text, processor_uuid uuid,
        metadata jsonb = '{}') returns boolean
    language c as 'MODULE_PATHNAME', 'tasker_transition_task_state_atomic';
comment on function tasker.transition_task_state_atomic(uuid, text, text, uuid, jsonb) is
'Moves a task along one legal edge, if it is in from_state. To cancelled, error and resolved_manually it goes with all steps that are not finished, which are cancelled. Between other states the engine moves tasks itself, by where their steps are. processor_uuid and metadata go to the log. Result: false when it is in another state. Errors: 42704 unknown task; 55000 no task can go that way; 22023 no such state.';

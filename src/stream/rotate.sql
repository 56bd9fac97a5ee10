-- Rotation: tables of events, subscriptions and ticks that are emptied in turn, and the rounds of maintenance.

alter table tasker.queue add column queue_emptied_txid bigint not null default 0;
comment on column tasker.queue.queue_emptied_txid is
'Events of transactions up to this one may have been emptied away, as no consumer needed them: nobody can be registered at a tick from before';

create function tasker.maint_rotate_tables_step1(i_queue_name text) returns integer
    language c as 'MODULE_PATHNAME', 'tasker_maint_rotate_tables_step1';
comment on function tasker.maint_rotate_tables_step1(text) is
'Makes the next of a queue''s three event tables the current one, emptied, when its rotation period is over. It is put off while a consumer has not read the one before the current table, or while somebody has locked the next one: queue_rotation_deferrals counts that, and queue_rotation_held_by says who it is. A queue whose tables are all empty is left alone. Result: 0, also for an unknown queue. Errors: 22023 null; XX001 a consumer stands at a tick that does not exist.';
create function tasker.maint_rotate_tables_step2() returns integer
    language c as 'MODULE_PATHNAME', 'tasker_maint_rotate_tables_step2';
comment on function tasker.maint_rotate_tables_step2() is
'Notes for each rotation that it is visible to all; the queue''s next rotation waits for that. Does nothing in the transaction that ran step 1. Result: 0.';

grant execute on function tasker.maint_rotate_tables_step1(text), tasker.maint_rotate_tables_step2() to tasker_admin;

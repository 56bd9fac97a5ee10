-- Rotation: tables of events, subscriptions and ticks that are emptied in turn, and the rounds of maintenance.

create function tasker.maint_rotate_tables_step1(i_queue_name text) returns integer
    language c as 'MODULE_PATHNAME', 'tasker_maint_rotate_tables_step1';
comment on function tasker.maint_rotate_tables_step1(text) is
'Makes the next of a queue''s three event tables the current one, emptied, when its rotation period is over. It is put off while a consumer has not read the one before the current table, or while somebody has locked the next one: queue_rotation_deferrals counts that, and queue_rotation_held_by says who it is. A queue whose tables are all empty is left alone. Result: 0, also for an unknown queue. Errors: 22023 null; XX001 a consumer stands at a tick that does not exist.';
create function tasker.maint_rotate_tables_step2() returns integer
    language c as 'MODULE_PATHNAME', 'tasker_maint_rotate_tables_step2';
comment on function tasker.maint_rotate_tables_step2() is
'Notes for each rotation that it is visible to all; the queue''s next rotation waits for that. Does nothing in the transaction that ran step 1. Result: 0.';
create function tasker.maint_rotate_metadata() returns integer
    language c as 'MODULE_PATHNAME', 'tasker_maint_rotate_metadata';
comment on function tasker.maint_rotate_metadata() is
'Makes the next of the three tables of subscriptions, and of ticks, the active one, emptied but for what is still wanted, where something was appended to the active one since the last rotation, when the shortest metadata_rotation_period of all queues is over. Ticks are put off while a consumer needs an old one, either while somebody has locked the table: tasker.metadata_rotation counts that (rotation_subscription_deferrals, rotation_tick_deferrals) and says who it is (rotation_held_by). Result: 1, or 0 when nothing was rotated, as before step 2 of the last rotation.';
create function tasker.maint_rotate_metadata_step2() returns integer
    language c as 'MODULE_PATHNAME', 'tasker_maint_rotate_metadata_step2';
comment on function tasker.maint_rotate_metadata_step2() is
'Lets the next maint_rotate_metadata() rotate: one transaction has begun after the last rotation was committed. A matter of order, no gate against old snapshots. Result: 1, or 0 when there is nothing to note, or the rotation is of this transaction.';

create function tasker.maint_operations(out func_name text, out func_arg text) returns setof record
    language c rows 10 as 'MODULE_PATHNAME', 'tasker_maint_operations';
comment on function tasker.maint_operations() is
'What a maintenance process should call now, in this order, each in a transaction of its own: functions with no argument or with the one that func_arg gives, and vacuum with the table that func_arg names. The background worker does all of it but vacuum and the functions of queue_extra_maint.';
create function tasker.maint_tables_to_vacuum() returns setof text
    language c rows 10 as 'MODULE_PATHNAME', 'tasker_maint_tables_to_vacuum';
comment on function tasker.maint_tables_to_vacuum() is
'The stream''s tables that want frequent vacuuming; none while autovacuum is on. Tables that are rotated need none.';
create function tasker.maint() returns integer
    language c as 'MODULE_PATHNAME', 'tasker_maint';
comment on function tasker.maint() is
'Runs what maint_operations() lists, but for vacuum and the step 2s, which need transactions of their own. What fails is undone and reported as a warning, and does not stop the others. Functions of queue_extra_maint run with the caller''s rights. Result: the number of operations that went well.';

grant execute on function tasker.maint_operations(), tasker.maint_tables_to_vacuum(), tasker.maint() to tasker_admin;
grant execute on function tasker.maint_rotate_tables_step1(text), tasker.maint_rotate_tables_step2(),
    tasker.maint_rotate_metadata(), tasker.maint_rotate_metadata_step2()
    to tasker_admin;

create function tasker.check_stream_integrity() returns table (object text, problem text)
    language c volatile rows 10 as 'MODULE_PATHNAME', 'tasker_check_stream_integrity';
comment on function tasker.check_stream_integrity() is
'Checks the rules of the stream: subscriptions and where they stand, ticks and the order of their snapshots, event tables and what may be in them, retried events. A row for each problem, none where all holds. Subscriptions and ticks are not rotated while it runs. No errors are expected.';
grant execute on function tasker.check_stream_integrity() to tasker_observer, tasker_admin;

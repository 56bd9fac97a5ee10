-- Triggers that turn changes of tables into events.

create function tasker.jsontriga() returns trigger
    language c as 'MODULE_PATHNAME', 'tasker_jsontriga';
create function tasker.logutriga() returns trigger
    language c as 'MODULE_PATHNAME', 'tasker_logutriga';
create function tasker.sqltriga() returns trigger
    language c as 'MODULE_PATHNAME', 'tasker_sqltriga';
comment on function tasker.jsontriga() is
'Trigger that writes each change of a table into a queue, the row as JSON. Arguments: the queue''s name; then in any order SKIP, backup, deny, ignore=columns, pkey=columns, when=expression, ev_type=, ev_data=, ev_extra1= to ev_extra4=expression. Who changes the table needs no right on the queue: EXECUTE on this function is asked for when the trigger is made.';
comment on function tasker.logutriga() is
'Trigger that writes each change of a table into a queue, the row url-encoded. Arguments and rights as with jsontriga().';
comment on function tasker.sqltriga() is
'Trigger that writes each change of a table into a queue, as the part of an SQL statement that follows the table''s name. Arguments and rights as with jsontriga().';
revoke all on function tasker.jsontriga(), tasker.logutriga(), tasker.sqltriga() from public;
grant execute on function tasker.jsontriga(), tasker.logutriga(), tasker.sqltriga() to tasker_producer, tasker_admin;

-- Queues whose events are the rows of logs.

create table tasker.queue_log (
    queue_id      integer not null,
    log_number    integer not null,
    log_table     regclass not null,
    log_txid      name not null,
    log_mapper    text,
    log_order     text,
    log_ev_time   text,
    log_ev_type   text,
    log_ev_data   text,
    log_ev_extra1 text,
    log_ev_extra2 text,
    log_ev_extra3 text,
    log_ev_extra4 text,
    primary key (queue_id, log_number)
);
select pg_catalog.pg_extension_config_dump('tasker.queue_log', '');
comment on table tasker.queue_log is 'Logs that queues read, see create_log_queue()';
comment on column tasker.queue_log.queue_id is 'The queue''s id';
comment on column tasker.queue_log.log_number is 'Place among the logs of the queue, from 1: the order of events in a transaction';
comment on column tasker.queue_log.log_table is 'The log';
comment on column tasker.queue_log.log_txid is 'Its column of transaction ids, which log_txid() gives';
comment on column tasker.queue_log.log_mapper is 'Who makes events of its rows inside of the extension; null: the expressions that follow';
comment on column tasker.queue_log.log_order is 'Expression, a bigint: order of the events of one transaction';
comment on column tasker.queue_log.log_ev_time is 'Expression over a row: ev_time of its event';
comment on column tasker.queue_log.log_ev_type is 'Expression: ev_type';
comment on column tasker.queue_log.log_ev_data is 'Expression: ev_data';
comment on column tasker.queue_log.log_ev_extra1 is 'Expression: ev_extra1';
comment on column tasker.queue_log.log_ev_extra2 is 'Expression: ev_extra2';
comment on column tasker.queue_log.log_ev_extra3 is 'Expression: ev_extra3';
comment on column tasker.queue_log.log_ev_extra4 is 'Expression: ev_extra4';
create trigger queue_changed after insert or update or delete or truncate on tasker.queue_log
    for each statement execute function tasker._queue_changed();
alter table tasker.queue_log enable always trigger queue_changed;

create function tasker.create_log_queue(queue text, log regclass[], txid_column name default 'txid',
        mapping jsonb default '{}')
    returns integer
    language c as 'MODULE_PATHNAME', 'tasker_create_log_queue';
comment on function tasker.create_log_queue(text, regclass[], name, jsonb) is
'Creates a queue whose events are the rows of logs: tables of the caller, partitioned or not, whose rows are only inserted, with a bigint column that has the default tasker.log_txid() and an index in each partition. mapping gives SQL expressions over the columns of a row (the row itself is "log") for ev_time, ev_type, ev_data and ev_extra1 to 4, and for ev_order, by which the events of one transaction are ordered; without it ev_time is the column created_at, ev_type the name of the table, ev_data the row as JSON. They run as the owner of the log, with search_path pg_catalog. Result: 1, or 0 when there is a queue of that name. Errors: 22023 bad or reserved name, no log, one that is no table, unknown key, or a mapping without ev_time; 42501 the log is somebody else''s; 42704 no such column; 55000 its column has another type or default, or no index, or the stream was restored from a dump; those of the expressions.';
create function tasker.log_txid() returns bigint
    language c volatile as 'MODULE_PATHNAME', 'tasker_log_txid';
comment on function tasker.log_txid() is
'What a row that this transaction writes into a log has as its transaction''s id: the default of that column.';
create function tasker.log_written() returns trigger
    language c as 'MODULE_PATHNAME', 'tasker_log_written';
comment on function tasker.log_written() is
'Statement trigger of a log, after insert; its arguments are the names of the queues that read it, which get a tick soon after the commit. Queues that do not exist, or have no consumer, are passed over. Errors: 22023 no argument.';
revoke all on function tasker.log_written() from public;
grant execute on function tasker.create_log_queue(text, regclass[], name, jsonb) to tasker_admin;
grant execute on function tasker.log_txid(), tasker.log_written() to tasker_producer, tasker_admin;
grant select on tasker.queue_log to tasker_observer, tasker_admin;

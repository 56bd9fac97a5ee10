-- After a restore into another cluster.

create table tasker.stream_origin (
    origin_id    boolean primary key default true check (origin_id),
    installation text not null,
    writer       bigint not null,
    written_at   timestamptz not null default pg_catalog.now(),
    log_offset   bigint not null default 0 check (log_offset >= 0)
);
select pg_catalog.pg_extension_config_dump('tasker.stream_origin', '');
comment on table tasker.stream_origin is
'Where the transaction ids of the stream are from: one row, written with the first queue and by after_restore()';
comment on column tasker.stream_origin.origin_id is 'There is one row';
comment on column tasker.stream_origin.installation is 'System identifier, database and extension in which it was written';
comment on column tasker.stream_origin.writer is 'The (sub)transaction that wrote it: where another one has, it was restored from a dump';
comment on column tasker.stream_origin.written_at is 'When it was written';
comment on column tasker.stream_origin.log_offset is
'How much greater than the server''s the transaction ids are that log_txid() gives; after_restore() raises it';
create trigger queue_changed after insert or update or delete or truncate on tasker.stream_origin
    for each statement execute function tasker._queue_changed();
alter table tasker.stream_origin enable always trigger queue_changed;

create function tasker.after_restore(force boolean default false, out queue_name text, out consumers integer,
        out events bigint, out ticks integer)
    returns setof record
    language c rows 10 as 'MODULE_PATHNAME', 'tasker_after_restore';
comment on function tasker.after_restore(boolean) is
'To be called once a dump has been restored completely: gives ticks and events transaction ids of this cluster, so that each consumer goes on where it stood, with nothing lost and nothing twice; takes away events that everybody had read; puts grant_queue()''s grants and what belongs to the extension in order. Until then ticker(), next_batch() and finish_batch() are refused (55000), while events are taken. A row for each queue: its consumers, the events that still wait for one of them, and the ticks that were kept. No rows, and nothing done, where it is not due, unless forced; it does no harm then. Waits for all who write to a queue. Errors: 55000 an event table has no index on ev_txid (the restore has not ended), or this cluster has had fewer transactions than a queue has positions.';
create function tasker.restore_pending() returns boolean
    language c as 'MODULE_PATHNAME', 'tasker_restore_pending';
comment on function tasker.restore_pending() is
'Is after_restore() due? The stream was restored from a dump, and makes no ticks until it has been called.';


-- Rows on their way into a partition set or out of it. See src/partition/move.hpp.

create table tasker.part_move (
    source regclass primary key,
    target regclass not null,
    swap boolean not null,
    phase text not null,
    rows_moved bigint not null default 0,
    rows_left bigint,
    at_table regclass,
    next_block bigint not null default 0,
    at_file oid not null default 0,
    started_at timestamptz not null default pg_catalog.clock_timestamp(),
    last_batch_at timestamptz,
    run_started_at timestamptz not null default pg_catalog.clock_timestamp(),
    run_rows bigint not null default 0,
    held boolean not null default false
);

comment on table tasker.part_move is
    'Moves of rows that are under way or interrupted, written with each step; shown by tasker.partition_data_progress';
comment on column tasker.part_move.source is 'The table that the rows come from';
comment on column tasker.part_move.target is 'The table that they go to';
comment on column tasker.part_move.swap is
    'The rows are copied, changes are mirrored, and in the end the tables exchange their names';
comment on column tasker.part_move.phase is 'What is being done';
comment on column tasker.part_move.rows_moved is 'Rows moved or copied so far';
comment on column tasker.part_move.rows_left is 'Rows left, estimated';
comment on column tasker.part_move.at_table is 'The table that is being read: the source or a partition of it';
comment on column tasker.part_move.next_block is 'The block of it where another call goes on';
comment on column tasker.part_move.at_file is
    'The file that the block is in; when the table has another one, it was written anew, and the block means nothing';
comment on column tasker.part_move.started_at is 'When the first call began';
comment on column tasker.part_move.last_batch_at is 'When rows were last moved';
comment on column tasker.part_move.run_started_at is 'When the latest call began';
comment on column tasker.part_move.run_rows is 'Rows moved or copied since then';
comment on column tasker.part_move.held is
    'The legal hold of the source was switched on for the move, and is switched off when it is cancelled';

create procedure tasker.partition_data_proc(parent regclass, source regclass, batch interval = null,
    batch_rows int = 50000, wait interval = '0', max_batches int = null, swap boolean = false)
    language c as 'MODULE_PATHNAME', 'tasker_partition_data_proc';
comment on procedure tasker.partition_data_proc(regclass, regclass, interval, int, interval, int, boolean) is
'Moves the rows of a table into a partition set while both are in use, making partitions as they are needed, and commits as it goes: call it again to go on after anything. In physical order, or by ranges of the control column of length "batch". Batches of "batch_rows" rows, with "wait" between them, at most "max_batches" of them. With "swap" the table stays complete and in use: rows are copied, changes mirrored, and in the end the set takes the table''s name and the table becomes NAME_old. The source may also be the set''s own DEFAULT partition. Triggers do not fire for rows that are moved. Errors: 42704 not a partition set; 42501 not owner of both; 42703, 42804 columns that do not fit; 55000 foreign keys, or what else is in the way; 55006 already running; 25001 called inside a transaction block.';

create procedure tasker.undo_partition_proc(parent regclass, target regclass, batch_rows int = 50000,
    wait interval = '0', max_batches int = null, swap boolean = false)
    language c as 'MODULE_PATHNAME', 'tasker_undo_partition_proc';
comment on procedure tasker.undo_partition_proc(regclass, regclass, int, interval, int, boolean) is
'Moves the rows of a partition set into an ordinary table, from the oldest partition on, in the same way as partition_data_proc, and then ends the management of the set. Its partitions stay, empty, so that writers get no error; drop the parent when nothing uses it any more. Errors: as for partition_data_proc.';

create procedure tasker.cancel_partition_move(source regclass)
    language c as 'MODULE_PATHNAME', 'tasker_cancel_partition_move';
comment on procedure tasker.cancel_partition_move(regclass) is
'Ends a move that was interrupted or is not wanted any more. One with "swap" leaves the source as it was; the copies stay in the other table. Of one without, rows that have been moved stay moved. Errors: 42704 there is no such move; 42501 not owner; 55006 it is running; 25001 called inside a transaction block.';

create function tasker._mirror_row() returns trigger
    language c as 'MODULE_PATHNAME', 'tasker_mirror_row';
comment on function tasker._mirror_row() is
'Mirrors a change of a row into the table that the rows are being copied to. Internal.';

create function tasker._mirror_truncate() returns trigger
    language c as 'MODULE_PATHNAME', 'tasker_mirror_truncate';
comment on function tasker._mirror_truncate() is
'Empties the table that rows are being copied to together with the one they come from. Internal.';

create view tasker.partition_data_progress as
select m.source,
       m.target,
       case when m.swap then 'swap' else 'move' end as mode,
       case when l.pid is null then 'interrupted' else m.phase end as phase,
       m.rows_moved,
       m.rows_left,
       r.rows_per_second,
       case when r.rows_per_second > 0 then interval '1 second' * (m.rows_left / r.rows_per_second) end as time_left,
       m.started_at,
       m.last_batch_at,
       l.pid
  from tasker.part_move m
  left join pg_catalog.pg_locks l
         on l.locktype = 'advisory' and l.granted and l.mode = 'ExclusiveLock' and l.classid = m.source::oid and
            l.objid = 4 and l.objsubid = 21569 and
            l.database = (select d.oid from pg_catalog.pg_database d where d.datname = pg_catalog.current_database())
 cross join lateral (
           select m.run_rows / nullif(extract(epoch from m.last_batch_at - m.run_started_at), 0)::double precision
                      as rows_per_second) r;

comment on view tasker.partition_data_progress is 'The progress of rows on their way into partition sets or out of them';
comment on column tasker.partition_data_progress.source is 'The table that the rows come from';
comment on column tasker.partition_data_progress.target is 'The table that they go to';
comment on column tasker.partition_data_progress.mode is
    'move: each row leaves the source as it comes to the target; swap: the source stays complete to the end';
comment on column tasker.partition_data_progress.phase is
    'What is being done; interrupted: nobody is at it, call the procedure again';
comment on column tasker.partition_data_progress.rows_moved is 'Rows moved or copied so far';
comment on column tasker.partition_data_progress.rows_left is 'Rows left, estimated';
comment on column tasker.partition_data_progress.rows_per_second is 'Since the latest call began';
comment on column tasker.partition_data_progress.time_left is 'At that rate';
comment on column tasker.partition_data_progress.started_at is 'When the first call began';
comment on column tasker.partition_data_progress.last_batch_at is 'When rows were last moved';
comment on column tasker.partition_data_progress.pid is 'The session that is at it';

select pg_catalog.pg_extension_config_dump('tasker.part_move', '');

revoke all on tasker.part_move, tasker.partition_data_progress from public;
revoke all on procedure
    tasker.partition_data_proc(regclass, regclass, interval, int, interval, int, boolean),
    tasker.undo_partition_proc(regclass, regclass, int, interval, int, boolean),
    tasker.cancel_partition_move(regclass) from public;
revoke all on function tasker._mirror_row(), tasker._mirror_truncate() from public;
grant select on tasker.part_move, tasker.partition_data_progress to tasker_admin, tasker_observer;
grant execute on procedure
    tasker.partition_data_proc(regclass, regclass, interval, int, interval, int, boolean),
    tasker.undo_partition_proc(regclass, regclass, int, interval, int, boolean),
    tasker.cancel_partition_move(regclass) to tasker_admin;

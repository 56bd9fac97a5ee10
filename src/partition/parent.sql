-- Taking tables under management.

create function tasker.create_parent(parent_table regclass, control name, partition_interval text,
    premake integer = 4, retention interval = null, retention_action text = 'drop', start_at text = null,
    timezone text = 'UTC')
    returns void
    language c as 'MODULE_PATHNAME', 'tasker_create_parent';
comment on function tasker.create_parent(regclass, name, text, integer, interval, text, text, text) is
'Takes a table that is partitioned by range of one column under management and makes its partitions: the current one, "premake" after it, and those from "start_at" on. The column is a number, a date, a timestamp, a timestamptz, a UUIDv7, or a bigint that is a time-ordered record id. "partition_interval" is an interval of at least a minute ("1 day", "1 month"), or for numbers how many. Partitions older than "retention" are retired by "retention_action": drop, detach (kept as tables), or schema:NAME (moved there). Days and longer begin at midnight in "timezone". Partitions that the table already has are adopted as they are; gaps, a DEFAULT partition and another manager are reported by warnings. Errors: 42501 not the owner; 42809 not partitioned; 0A000 partitioned in another way; 42710 a set already; 22023 bad argument; 54000 more than 2,000 partitions.';

create function tasker.drop_partition_set(parent regclass) returns void
    language c as 'MODULE_PATHNAME', 'tasker_drop_partition_set';
comment on function tasker.drop_partition_set(regclass) is
'Stops managing a partition set; its tables stay, also those that were about to be retired. Errors: 42704 not a partition set; 42501 not the owner, or a set of Tasker''s own.';

revoke all on function tasker.create_parent(regclass, name, text, integer, interval, text, text, text),
    tasker.drop_partition_set(regclass) from public;
grant execute on function tasker.create_parent(regclass, name, text, integer, interval, text, text, text),
    tasker.drop_partition_set(regclass) to tasker_admin;

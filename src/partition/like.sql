-- A partitioned table of the shape of a plain one.

create function tasker.create_partitioned_table_like(source regclass, parent name, control name,
    partition_interval text, premake integer = 4, retention interval = null, retention_action text = 'drop',
    start_at text = null, timezone text = 'UTC')
    returns regclass
    language c as 'MODULE_PATHNAME', 'tasker_create_partitioned_table_like';
comment on function tasker.create_partitioned_table_like(regclass, name, name, text, integer, interval, text, text, text) is
'Makes an empty table "parent" in the schema of an ordinary table, with the shape of that table but partitioned by its column "control", takes it under management as tasker.create_parent() does, and returns it. It has the columns, defaults, identity (a sequence of its own that goes on where the other stands), constraints, indexes, extended statistics, foreign keys to other tables, triggers, policies, rights, owner, comments and replica identity; its partitions have the storage parameters. A primary key or unique index without the control column gets it as its last column, which a notice says. Its partitions begin at the smallest control value of the source, or at "start_at". Rows are moved by tasker.partition_data_proc(). Errors: 42501 not the owner; 42710 the name is taken; 22023 bad argument; 0A000 something that a partitioned table cannot have; 54000 more than 2,000 partitions.';

revoke all on function tasker.create_partitioned_table_like(regclass, name, name, text, integer, interval, text, text, text)
    from public;
grant execute on function tasker.create_partitioned_table_like(regclass, name, name, text, integer, interval, text, text, text)
    to tasker_admin;

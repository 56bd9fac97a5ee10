-- The stream plane: PgQ's model and PgQ's names. Its tables and views; the functions follow in files of their own.

create sequence tasker.queue_queue_id_seq as integer;
comment on sequence tasker.queue_queue_id_seq is 'Ids of queues in tasker.queue';
create table tasker.queue (
    queue_id                       integer primary key default nextval('tasker.queue_queue_id_seq'),
    queue_name                     text not null unique,
    queue_ntables                  integer not null default 3 check (queue_ntables = 3),
    queue_cur_table                integer not null default 0 check (queue_cur_table between 0 and 2),
    queue_rotation_period          interval not null default '2 hours' check (queue_rotation_period >= '0'),
    queue_switch_step1             bigint not null default pg_catalog.txid_current(),
    queue_switch_step2             bigint default pg_catalog.txid_current(),
    queue_switch_time              timestamptz not null default pg_catalog.now(),
    queue_external_ticker          boolean not null default false,
    queue_disable_insert           boolean not null default false,
    queue_ticker_paused            boolean not null default false,
    queue_ticker_max_count         integer not null default 500 check (queue_ticker_max_count >= 1),
    queue_ticker_max_lag           interval not null default '3 seconds' check (queue_ticker_max_lag >= '0'),
    queue_ticker_idle_period       interval not null default '1 minute' check (queue_ticker_idle_period >= '0'),
    queue_per_tx_limit             integer check (queue_per_tx_limit >= 0),
    queue_data_pfx                 text not null,
    queue_event_seq                text not null,
    queue_tick_seq                 text not null,
    queue_extra_maint              text[],
    queue_metadata_rotation_period interval not null default '2 minutes' check (queue_metadata_rotation_period > '0'),
    queue_min_tick_interval        interval not null default '1 millisecond' check (queue_min_tick_interval >= '0'),
    queue_ttl                      interval check (queue_ttl > '0'),
    queue_paused                   boolean not null default false,
    queue_rotation_deferrals       bigint not null default 0,
    queue_rotation_held_by         text,
    queue_max_retries              integer not null default 5 check (queue_max_retries >= 0),
    queue_emptied_txid             bigint not null default 0
);
alter sequence tasker.queue_queue_id_seq owned by tasker.queue.queue_id;
select pg_catalog.pg_extension_config_dump('tasker.queue', '');
select pg_catalog.pg_extension_config_dump('tasker.queue_queue_id_seq', '');
comment on table tasker.queue is
'The queues of the event stream, with PgQ''s columns. Made by create_queue(); settings are changed with set_queue_config().';
comment on column tasker.queue.queue_id is 'Key used inside, and in the names of the event tables';
comment on column tasker.queue.queue_name is 'The name that all functions take';
comment on column tasker.queue.queue_ntables is 'Event tables that are rotated: 3';
comment on column tasker.queue.queue_cur_table is 'The one that takes events now';
comment on column tasker.queue.queue_rotation_period is 'How long a table takes events before the next one does (default 2 hours)';
comment on column tasker.queue.queue_switch_step1 is 'Transaction of the last rotation';
comment on column tasker.queue.queue_switch_step2 is
'A transaction from after the last rotation was committed; null until there has been one. What began later writes to the current table only.';
comment on column tasker.queue.queue_switch_time is 'When the last rotation happened';
comment on column tasker.queue.queue_external_ticker is 'Ticks come from outside, by ticker(queue, tick_id, time, event_seq)';
comment on column tasker.queue.queue_disable_insert is 'Events are refused, except in sessions that replicate';
comment on column tasker.queue.queue_ticker_paused is 'No ticks are made';
comment on column tasker.queue.queue_ticker_max_count is 'ticker() ticks at once when so many events wait (default 500)';
comment on column tasker.queue.queue_ticker_max_lag is 'ticker() lets no event wait for longer (default 3 seconds)';
comment on column tasker.queue.queue_ticker_idle_period is 'ticker() ticks so often without events (default 1 minute)';
comment on column tasker.queue.queue_per_tx_limit is 'Most events that one transaction may insert; null: no limit';
comment on column tasker.queue.queue_data_pfx is 'The event tables are called that, _0, _1 and _2';
comment on column tasker.queue.queue_event_seq is 'Sequence of event ids';
comment on column tasker.queue.queue_tick_seq is 'Sequence of tick ids';
comment on column tasker.queue.queue_extra_maint is 'Functions that maint_operations() names for this queue too';
comment on column tasker.queue.queue_metadata_rotation_period is
'How often subscriptions and ticks change their table when they are written to (default 2 minutes); the shortest of all queues counts';
comment on column tasker.queue.queue_min_tick_interval is 'Shortest time between two ticks of the worker (default 1 millisecond)';
comment on column tasker.queue.queue_ttl is 'Events older than that are left out of batches; null: none';
comment on column tasker.queue.queue_paused is 'A paused queue takes events and hands out no batches';
comment on column tasker.queue.queue_rotation_deferrals is 'Rotations put off in a row because a consumer still needs the table';
comment on column tasker.queue.queue_rotation_held_by is 'The consumer, or the lock, that put off the last one';
comment on column tasker.queue.queue_max_retries is 'nack() sends an event again so often before it becomes a dead letter (default 5)';
comment on column tasker.queue.queue_emptied_txid is
'Events of transactions up to this one may have been emptied away, or have gone with a partition of a log, as no consumer needed them: nobody can be registered at a tick from before';

create sequence tasker.consumer_co_id_seq as integer;
comment on sequence tasker.consumer_co_id_seq is 'Ids of consumers in tasker.consumer';
create table tasker.consumer (
    co_id   integer primary key default nextval('tasker.consumer_co_id_seq'),
    co_name text not null unique
);
alter sequence tasker.consumer_co_id_seq owned by tasker.consumer.co_id;
select pg_catalog.pg_extension_config_dump('tasker.consumer', '');
select pg_catalog.pg_extension_config_dump('tasker.consumer_co_id_seq', '');
comment on table tasker.consumer is 'The names of consumers';
comment on column tasker.consumer.co_id is 'Key used inside';
comment on column tasker.consumer.co_name is 'The name that all functions take';

-- All event tables are like this one.
create table tasker.event_template (
    ev_id     bigint not null,
    ev_time   timestamptz not null,
    ev_txid   bigint not null default pg_catalog.txid_current(),
    ev_owner  integer,
    ev_retry  integer,
    ev_type   text,
    ev_data   text,
    ev_extra1 text,
    ev_extra2 text,
    ev_extra3 text,
    ev_extra4 text
);
comment on table tasker.event_template is 'The shape of the event tables, which is PgQ''s';
comment on column tasker.event_template.ev_id is 'Unique in its queue; a retried event keeps it';
comment on column tasker.event_template.ev_time is 'When the event was inserted';
comment on column tasker.event_template.ev_txid is 'The transaction that inserted it';
comment on column tasker.event_template.ev_owner is 'The subscription that wants it again; null: all';
comment on column tasker.event_template.ev_retry is 'How often it has been retried; null: never';
comment on column tasker.event_template.ev_type is 'What kind of event it is';
comment on column tasker.event_template.ev_data is 'Its data';
comment on column tasker.event_template.ev_extra1 is 'More data';
comment on column tasker.event_template.ev_extra2 is 'More data';
comment on column tasker.event_template.ev_extra3 is 'More data';
comment on column tasker.event_template.ev_extra4 is 'More data';

-- Ticks and where consumers stand are in three tables each, of which one is written to; see src/stream/slots.hpp. Rows
-- are only appended, and go with the table: there is nothing to vacuum, and a vacuum would be in the way of emptying it.
create table tasker.tick_0 (
    tick_queue     integer not null,
    tick_id        bigint not null,
    tick_time      timestamptz not null default pg_catalog.now(),
    tick_snapshot  txid_snapshot not null default pg_catalog.txid_current_snapshot(),
    tick_event_seq bigint not null,
    primary key (tick_queue, tick_id)
) with (autovacuum_enabled = off, toast.autovacuum_enabled = off);
comment on table tasker.tick_0 is 'Ticks; the view tasker.tick shows those of all three tables';
comment on column tasker.tick_0.tick_queue is 'The queue''s id';
comment on column tasker.tick_0.tick_id is 'Ascending in its queue';
comment on column tasker.tick_0.tick_time is 'When the tick was made';
comment on column tasker.tick_0.tick_snapshot is 'Which transactions had ended: their events are before this tick';
comment on column tasker.tick_0.tick_event_seq is 'The last event id given out then; a hint at how many events are in a batch';
create table tasker.tick_1 (like tasker.tick_0 including all)
    with (autovacuum_enabled = off, toast.autovacuum_enabled = off);
create table tasker.tick_2 (like tasker.tick_0 including all)
    with (autovacuum_enabled = off, toast.autovacuum_enabled = off);
create sequence tasker.registration_sub_key_seq as integer;
comment on sequence tasker.registration_sub_key_seq is 'Keys of subscriptions in tasker.registration';
create table tasker.registration (
    sub_key      integer primary key default nextval('tasker.registration_sub_key_seq'),
    sub_id       integer not null,
    sub_queue    integer not null,
    sub_consumer integer not null,
    unique (sub_queue, sub_consumer)
);
create index registration_low_bits on tasker.registration ((sub_key & 1048575)); -- of a batch id
create index registration_sub_id on tasker.registration (sub_id);
create index registration_sub_consumer on tasker.registration (sub_consumer);
alter sequence tasker.registration_sub_key_seq owned by tasker.registration.sub_key;
select pg_catalog.pg_extension_config_dump('tasker.registration', '');
select pg_catalog.pg_extension_config_dump('tasker.registration_sub_key_seq', '');
comment on table tasker.registration is
'Which consumer reads which queue. Where it stands is in tasker.subscription_0 to 2; the view tasker.subscription shows both as PgQ does.';
comment on column tasker.registration.sub_key is 'Key used inside';
comment on column tasker.registration.sub_id is 'Owner of retried events: its own sub_key; for a member of a cooperative consumer that of the consumer';
comment on column tasker.registration.sub_queue is 'The queue''s id';
comment on column tasker.registration.sub_consumer is 'The consumer''s id';

create table tasker.subscription_0 (
    sub_key       integer not null,
    sub_version   bigint not null,
    sub_last_tick bigint,
    sub_active    timestamptz not null default pg_catalog.now(),
    sub_batch     bigint,
    sub_next_tick bigint,
    sub_acked     bigint,
    sub_handed    bigint,
    primary key (sub_key, sub_version)
) with (autovacuum_enabled = off);
comment on table tasker.subscription_0 is
'Where consumers stand, version after version; the view tasker.subscription shows the newest in all three tables';
comment on column tasker.subscription_0.sub_key is 'Names the subscription, see tasker.registration';
comment on column tasker.subscription_0.sub_version is 'Counts its changes; the greatest is the one that counts';
comment on column tasker.subscription_0.sub_last_tick is 'The tick up to which everything has been read';
comment on column tasker.subscription_0.sub_active is 'When the consumer was last heard of';
comment on column tasker.subscription_0.sub_batch is 'Its open batch, or null';
comment on column tasker.subscription_0.sub_next_tick is 'The tick at the end of that batch';
comment on column tasker.subscription_0.sub_acked is
'The last event of that batch that ack() has confirmed; null where receive() gives all of it at once';
comment on column tasker.subscription_0.sub_handed is
'The last event of that batch that receive() has handed out, where more are to come; ack() confirms up to there';
create table tasker.subscription_1 (like tasker.subscription_0 including all) with (autovacuum_enabled = off);
create table tasker.subscription_2 (like tasker.subscription_0 including all) with (autovacuum_enabled = off);
comment on table tasker.tick_1 is 'Ticks; the view tasker.tick shows those of all three tables';
comment on table tasker.tick_2 is 'Ticks; the view tasker.tick shows those of all three tables';
comment on table tasker.subscription_1 is 'Where consumers stand, version after version; the view tasker.subscription shows the newest in all three tables';
comment on table tasker.subscription_2 is 'Where consumers stand, version after version; the view tasker.subscription shows the newest in all three tables';
select pg_catalog.pg_extension_config_dump('tasker.tick_0', '');
select pg_catalog.pg_extension_config_dump('tasker.tick_1', '');
select pg_catalog.pg_extension_config_dump('tasker.tick_2', '');
select pg_catalog.pg_extension_config_dump('tasker.subscription_0', '');
select pg_catalog.pg_extension_config_dump('tasker.subscription_1', '');
select pg_catalog.pg_extension_config_dump('tasker.subscription_2', '');

create sequence tasker.batch_id_seq;
select pg_catalog.pg_extension_config_dump('tasker.batch_id_seq', '');
comment on sequence tasker.batch_id_seq is 'A batch id is (the next of these << 20) | the low bits of sub_key';

create table tasker.metadata_rotation (
    rotation_id                     boolean primary key default true check (rotation_id),
    rotation_subscription_table     integer not null default 0 check (rotation_subscription_table between 0 and 2),
    rotation_tick_table             integer not null default 0 check (rotation_tick_table between 0 and 2),
    rotation_switch_time            timestamptz not null default pg_catalog.now(),
    last_step2_txid                 bigint default pg_catalog.txid_current(),
    rotation_subscription_deferrals bigint not null default 0,
    rotation_tick_deferrals         bigint not null default 0,
    rotation_held_by                text,
    rotation_txid                   bigint not null default 0,
    rotation_subscription_rows      bigint not null default 0,
    rotation_tick_rows              bigint not null default 0
);
select pg_catalog.pg_extension_config_dump('tasker.metadata_rotation', '');
comment on table tasker.metadata_rotation is 'Which tables of subscriptions and ticks are active: one row, made with the first queue';
comment on column tasker.metadata_rotation.rotation_id is 'There is one row';
comment on column tasker.metadata_rotation.rotation_subscription_table is 'The active table of subscriptions';
comment on column tasker.metadata_rotation.rotation_tick_table is 'The active table of ticks';
comment on column tasker.metadata_rotation.rotation_switch_time is 'When the last rotation happened';
comment on column tasker.metadata_rotation.last_step2_txid is
'A transaction from after the last rotation was committed; null until there has been one. The next rotation waits for it: a matter of order, and no gate against old snapshots';
comment on column tasker.metadata_rotation.rotation_subscription_deferrals is 'Rotations of subscriptions put off in a row';
comment on column tasker.metadata_rotation.rotation_tick_deferrals is 'Rotations of ticks put off in a row';
comment on column tasker.metadata_rotation.rotation_held_by is 'What put off the last one';
comment on column tasker.metadata_rotation.rotation_txid is 'Transaction of the last rotation';
comment on column tasker.metadata_rotation.rotation_subscription_rows is
'Rows that it kept in the active table of subscriptions: there is nothing to rotate until there are more';
comment on column tasker.metadata_rotation.rotation_tick_rows is 'Rows that it kept in the active table of ticks';

create table tasker.retry_queue (
    ev_retry_after timestamptz not null,
    ev_queue       integer not null,
    like tasker.event_template,
    primary key (ev_owner, ev_id, ev_queue)
);
create index retry_queue_ev_txid on tasker.retry_queue (ev_txid);
create index retry_queue_ev_retry_after on tasker.retry_queue (ev_retry_after);
select pg_catalog.pg_extension_config_dump('tasker.retry_queue', '');
comment on table tasker.retry_queue is 'Events that come again later; one without a consumer (owner 0) comes for the first time';
comment on column tasker.retry_queue.ev_retry_after is 'When it comes';
comment on column tasker.retry_queue.ev_queue is 'The queue''s id';
comment on column tasker.retry_queue.ev_id is 'As in the queue';
comment on column tasker.retry_queue.ev_time is 'When the event was inserted at first';
comment on column tasker.retry_queue.ev_txid is 'The transaction that wrote the row; set by a trigger';
comment on column tasker.retry_queue.ev_owner is 'The subscription that wants it again';
comment on column tasker.retry_queue.ev_retry is 'How often it has been retried, this time included';
comment on column tasker.retry_queue.ev_type is 'What kind of event it is';
comment on column tasker.retry_queue.ev_data is 'Its data';
comment on column tasker.retry_queue.ev_extra1 is 'More data';
comment on column tasker.retry_queue.ev_extra2 is 'More data';
comment on column tasker.retry_queue.ev_extra3 is 'More data';
comment on column tasker.retry_queue.ev_extra4 is 'More data';

create function tasker._queue_changed() returns trigger
    language c as 'MODULE_PATHNAME', 'tasker_queue_changed';
comment on function tasker._queue_changed() is 'Makes every session read anew what it has cached of a changed table. Internal.';
create trigger queue_changed after insert or update or delete or truncate on tasker.queue
    for each statement execute function tasker._queue_changed();
alter table tasker.queue enable always trigger queue_changed;
create trigger queue_changed after insert or update or delete or truncate on tasker.metadata_rotation
    for each statement execute function tasker._queue_changed();
alter table tasker.metadata_rotation enable always trigger queue_changed;
create trigger registration_changed after insert or update or delete or truncate on tasker.registration
    for each statement execute function tasker._queue_changed();
alter table tasker.registration enable always trigger registration_changed;
create trigger consumer_changed after insert or update or delete or truncate on tasker.consumer
    for each statement execute function tasker._queue_changed();
alter table tasker.consumer enable always trigger consumer_changed;

create view tasker.tick as
select tick_queue, tick_id, tick_time, tick_snapshot, tick_event_seq from tasker.tick_0
union all
select tick_queue, tick_id, tick_time, tick_snapshot, tick_event_seq from tasker.tick_1
union all
select tick_queue, tick_id, tick_time, tick_snapshot, tick_event_seq from tasker.tick_2;
create view tasker.subscription as
select r.sub_id, r.sub_queue, r.sub_consumer, v.sub_last_tick, v.sub_active, v.sub_batch, v.sub_next_tick
from tasker.registration r
cross join lateral (
    (select * from tasker.subscription_0 s where s.sub_key = r.sub_key order by s.sub_version desc limit 1)
    union all
    (select * from tasker.subscription_1 s where s.sub_key = r.sub_key order by s.sub_version desc limit 1)
    union all
    (select * from tasker.subscription_2 s where s.sub_key = r.sub_key order by s.sub_version desc limit 1)
    order by sub_version desc
    limit 1
) v;

comment on view tasker.tick is 'The ticks of all queues, as PgQ''s table of that name';
comment on column tasker.tick.tick_queue is 'The queue''s id';
comment on column tasker.tick.tick_id is 'Ascending in its queue';
comment on column tasker.tick.tick_time is 'When the tick was made';
comment on column tasker.tick.tick_snapshot is 'Which transactions had ended: their events are before this tick';
comment on column tasker.tick.tick_event_seq is 'The last event id given out then';
comment on view tasker.subscription is 'Where each consumer of each queue stands, as PgQ''s table of that name: one row for each registration';
comment on column tasker.subscription.sub_id is 'Owner of its retried events';
comment on column tasker.subscription.sub_queue is 'The queue''s id';
comment on column tasker.subscription.sub_consumer is 'The consumer''s id';
comment on column tasker.subscription.sub_last_tick is 'The tick up to which everything has been read';
comment on column tasker.subscription.sub_active is 'When the consumer was last heard of';
comment on column tasker.subscription.sub_batch is 'Its open batch, or null';
comment on column tasker.subscription.sub_next_tick is 'The tick at the end of that batch';

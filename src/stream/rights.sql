-- Rights on the stream: nothing for PUBLIC; the group roles have every queue, other roles those they are granted.

create table tasker.queue_grant (
    queue_id   integer not null,
    privilege  text not null check (privilege in ('produce', 'consume')),
    role_name  name not null,
    role_oid   oid not null,
    granted_in bigint not null,
    granted_at timestamptz not null default pg_catalog.now()
);
create index queue_grant_queue_id on tasker.queue_grant (queue_id);
select pg_catalog.pg_extension_config_dump('tasker.queue_grant', '');
comment on table tasker.queue_grant is 'Which single queues roles may produce into or consume from: see grant_queue()';
comment on column tasker.queue_grant.queue_id is 'The queue''s id';
comment on column tasker.queue_grant.privilege is '''produce'' or ''consume''';
comment on column tasker.queue_grant.role_name is 'The role''s name when it was granted; it names the role in a restored row';
comment on column tasker.queue_grant.role_oid is 'The role, in the cluster that granted_in names; a dropped role''s row means nothing';
comment on column tasker.queue_grant.granted_in is 'System identifier of the cluster in which it was granted';
comment on column tasker.queue_grant.granted_at is 'When it was granted';
create trigger queue_changed after insert or update or delete or truncate on tasker.queue_grant
    for each statement execute function tasker._queue_changed();
alter table tasker.queue_grant enable always trigger queue_changed;

create function tasker.grant_queue(queue text, role text, privilege text) returns integer
    language c as 'MODULE_PATHNAME', 'tasker_grant_queue';
comment on function tasker.grant_queue(text, text, text) is
'Lets a role, and its members, ''produce'' into or ''consume'' from one queue, and gives it USAGE on the schema and EXECUTE on the functions for that. Result: 1, or 0 when it was granted before. Errors: 42704 unknown queue or role; 22023 unknown privilege, or one of the group roles, which have all queues.';
create function tasker.revoke_queue(queue text, role text, privilege text) returns integer
    language c as 'MODULE_PATHNAME', 'tasker_revoke_queue';
comment on function tasker.revoke_queue(text, text, text) is
'Takes back what grant_queue() has given; with the last queue also USAGE and EXECUTE. Result: 1, or 0 when it was not granted. Errors: as grant_queue().';

revoke all on all functions in schema tasker from public;
revoke all on all procedures in schema tasker from public;
grant execute on function tasker.insert_event(text, text, text),
    tasker.insert_event(text, text, text, text, text, text, text),
    tasker.send(text, text), tasker.send(text, text, text), tasker.send(text, jsonb), tasker.send(text, text, jsonb),
    tasker.send_batch(text, text[]), tasker.send_batch(text, text, text[]),
    tasker.send_batch(text, jsonb[]), tasker.send_batch(text, text, jsonb[])
    to tasker_producer, tasker_admin;
grant execute on function tasker.register_consumer(text, text), tasker.unregister_consumer(text, text),
    tasker.subscribe(text, text), tasker.unsubscribe(text, text),
    tasker.next_batch(text, text), tasker.next_batch_info(text, text),
    tasker.next_batch_custom(text, text, interval, integer, interval),
    tasker.get_batch_events(bigint), tasker.finish_batch(bigint), tasker.ack(bigint)
    to tasker_worker, tasker_admin;
grant execute on function tasker.create_queue(text), tasker.drop_queue(text), tasker.drop_queue(text, boolean),
    tasker.insert_event_raw(text, bigint, timestamptz, integer, integer, text, text, text, text, text, text),
    tasker.current_event_table(text), tasker.register_consumer_at(text, text, bigint),
    tasker.ticker(), tasker.ticker(text), tasker.ticker(text, bigint, timestamptz, bigint),
    tasker.force_tick(text), tasker.force_next_tick(text),
    tasker.grant_queue(text, text, text), tasker.revoke_queue(text, text, text),
    tasker.after_restore(boolean)
    to tasker_admin;
grant execute on function tasker.version(), tasker.restore_pending() to tasker_observer, tasker_producer, tasker_worker, tasker_admin;
grant select on tasker.queue, tasker.consumer, tasker.tick, tasker.subscription, tasker.registration,
    tasker.metadata_rotation, tasker.queue_grant, tasker.stream_origin
    to tasker_observer, tasker_admin;

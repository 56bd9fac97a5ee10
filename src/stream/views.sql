-- The views tasker.tick and tasker.subscription for insert, update and delete.

create function tasker._change_subscription() returns trigger
    language c as 'MODULE_PATHNAME', 'tasker_change_subscription';
comment on function tasker._change_subscription() is
'Makes tasker.subscription behave as a table. Errors: 0A000 a change of sub_id, sub_queue or sub_consumer; 40001 the subscription was changed after the statement began; 42704 sub_last_tick or sub_next_tick names no tick, or one whose later events are not all kept; 22023 a sub_batch of another subscription; 23502 null; 23503 no such queue or consumer; 23505 the consumer has a subscription of the queue. Internal.';
create trigger change_subscription instead of insert or update or delete on tasker.subscription
    for each row execute function tasker._change_subscription();
alter view tasker.subscription alter sub_active set default pg_catalog.now();

create function tasker._change_tick() returns trigger
    language c as 'MODULE_PATHNAME', 'tasker_change_tick';
comment on function tasker._change_tick() is
'Makes tasker.tick behave as a table. Errors: 0A000 a change of tick_queue; 40001 the tick was changed after the statement began; 23502 null; 23503 no such queue; 23505 the queue has a tick of that id. Internal.';
create trigger change_tick instead of insert or update or delete on tasker.tick
    for each row execute function tasker._change_tick();
alter view tasker.tick alter tick_time set default pg_catalog.now();
alter view tasker.tick alter tick_snapshot set default pg_catalog.txid_current_snapshot();

grant insert, update, delete on tasker.subscription, tasker.tick to tasker_admin;

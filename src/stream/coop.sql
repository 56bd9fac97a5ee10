-- Cooperative consumers: members that work through the batches of one consumer side by side.

create function tasker.register_subconsumer(queue text, consumer text, subconsumer text,
        convert_normal boolean default false)
    returns integer
    language c as 'MODULE_PATHNAME', 'tasker_register_subconsumer';
comment on function tasker.register_subconsumer(text, text, text, boolean) is
'Registers a member of a cooperative consumer, as ''consumer.subconsumer'', and with the first one the consumer. A consumer that is registered without members becomes cooperative only with convert_normal. Result: 1, or 0 when it was registered. Errors: 22023 bad name, or one with a dot in it; 42704 unknown queue; 55000 the consumer is a normal one or has an open batch, or the member''s name is another consumer''s.';
create function tasker.subscribe_subconsumer(queue text, consumer text, subconsumer text,
        convert_normal boolean default false)
    returns integer
    language c as 'MODULE_PATHNAME', 'tasker_register_subconsumer';
comment on function tasker.subscribe_subconsumer(text, text, text, boolean) is 'The same as register_subconsumer().';
create function tasker.unregister_subconsumer(queue text, consumer text, subconsumer text,
        batch_handling integer default 0)
    returns integer
    language c as 'MODULE_PATHNAME', 'tasker_unregister_subconsumer';
comment on function tasker.unregister_subconsumer(text, text, text, integer) is
'Removes a member of a cooperative consumer. With batch_handling 0 it must have no open batch; with 1 what is left of its batch comes again at once, to any member, or becomes dead letters, as by nack(). A consumer without its last member is a normal one. Result: 1, or 0 when there is no such member. Errors: 42704 unknown queue; 55000 it has an open batch; 22023 bad name or batch_handling.';
create function tasker.unsubscribe_subconsumer(queue text, consumer text, subconsumer text,
        batch_handling integer default 0)
    returns integer
    language c as 'MODULE_PATHNAME', 'tasker_unregister_subconsumer';
comment on function tasker.unsubscribe_subconsumer(text, text, text, integer) is
'The same as unregister_subconsumer().';
create function tasker.touch_subconsumer(queue text, consumer text, subconsumer text) returns integer
    language c as 'MODULE_PATHNAME', 'tasker_touch_subconsumer';
comment on function tasker.touch_subconsumer(text, text, text) is
'Says that a member is at work on its batch, so that nobody takes it over; to be called, and committed, more often than the others'' dead_interval. Result: 1, or 0 when there is no such member. Errors: 42704 unknown queue; 22023 bad name.';

create function tasker.next_batch(queue text, consumer text, subconsumer text, dead_interval interval default null)
    returns bigint
    language c as 'MODULE_PATHNAME', 'tasker_next_member_batch';
comment on function tasker.next_batch(text, text, text, interval) is
'The member''s open batch; else that of another member that has not been heard of for dead_interval (null: never), under a new id, so that the old one means nothing any more; else the consumer''s next batch. Null when there is none. A member that is not registered is. To be committed before the work on the batch begins: until then no other member gets one. Errors: as register_subconsumer(); 22023 a negative interval.';
create function tasker.next_batch_custom(queue text, consumer text, subconsumer text, min_lag interval,
        min_count integer, min_interval interval, dead_interval interval default null, out batch_id bigint,
        out cur_tick_id bigint, out prev_tick_id bigint, out cur_tick_time timestamptz, out prev_tick_time timestamptz,
        out cur_tick_event_seq bigint, out prev_tick_event_seq bigint)
    language c as 'MODULE_PATHNAME', 'tasker_next_member_batch_custom';
comment on function tasker.next_batch_custom(text, text, text, interval, integer, interval, interval) is
'The same, with limits for a new batch and with its ticks, as next_batch_custom() of a normal consumer.';
create function tasker.receive_coop(queue text, consumer text, subconsumer text, max_return integer default 100,
        dead_interval interval default null)
    returns setof tasker.message
    language c rows 100 as 'MODULE_PATHNAME', 'tasker_receive_coop';
comment on function tasker.receive_coop(text, text, text, integer, interval) is
'As receive(), for a member of a cooperative consumer; dead_interval as in next_batch(). Of a batch that is taken over, what the other member has not confirmed comes again. Errors: as next_batch() and receive().';

grant execute on function tasker.register_subconsumer(text, text, text, boolean),
    tasker.subscribe_subconsumer(text, text, text, boolean),
    tasker.unregister_subconsumer(text, text, text, integer),
    tasker.unsubscribe_subconsumer(text, text, text, integer), tasker.touch_subconsumer(text, text, text),
    tasker.next_batch(text, text, text, interval),
    tasker.next_batch_custom(text, text, text, interval, integer, interval, interval),
    tasker.receive_coop(text, text, text, integer, interval)
    to tasker_worker, tasker_admin;

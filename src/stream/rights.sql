-- Rights on the stream: nothing for PUBLIC.
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
    tasker.force_tick(text), tasker.force_next_tick(text)
    to tasker_admin;
grant execute on function tasker.version() to tasker_observer, tasker_producer, tasker_worker, tasker_admin;
grant select on tasker.queue, tasker.consumer, tasker.tick, tasker.subscription, tasker.registration,
    tasker.metadata_rotation
    to tasker_observer, tasker_admin;

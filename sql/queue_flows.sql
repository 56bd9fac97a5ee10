-- Flows and their settings.
\set VERBOSITY terse
\pset null '(null)'
\set flow_columns 'flow_name, max_attempts, lease, backoff_base, backoff_max, backoff_jitter, max_in_flight, rate_limit, retention, paused, notify'

-- Defaults.
select tasker.create_flow('fl_plain') > 0 as has_id;
select :flow_columns from tasker.flow where flow_name = 'fl_plain';
select created_at between now() - interval '1 minute' and clock_timestamp() as made_now from tasker.flow
where flow_name = 'fl_plain';

-- All settings at once, as strings and as JSON's own types.
select tasker.create_flow('fl_strings', '{"max_attempts": "7", "lease": "90 seconds", "backoff_base": "3 s",
    "backoff_max": "1 h", "backoff_jitter": "0.5", "max_in_flight": "10", "rate_limit": "2.5",
    "retention": "1 month", "paused": "true", "notify": "on"}') > 0 as has_id;
select tasker.create_flow('fl_types', '{"max_attempts": 7, "backoff_jitter": 0.5, "max_in_flight": 10,
    "rate_limit": 2.5, "paused": true, "notify": false, "lease": 90}') > 0 as has_id;
select :flow_columns from tasker.flow where flow_name in ('fl_strings', 'fl_types') order by flow_name;

-- A JSON null is the default.
select tasker.create_flow('fl_nulls', '{"max_attempts": null, "lease": null, "max_in_flight": null, "paused": null}')
    > 0 as has_id;
select :flow_columns from tasker.flow where flow_name = 'fl_nulls';

-- Each setting by alter_flow, and back.
select tasker.alter_flow('fl_plain', s, v) from (values
    ('max_attempts', '9'), ('lease', '2 minutes'), ('backoff_base', '0'), ('backoff_max', '10 years'),
    ('backoff_jitter', '1'), ('max_in_flight', '1'), ('rate_limit', '1e9'), ('retention', '0'), ('paused', 'yes'),
    ('notify', 't')) settings (s, v);
select :flow_columns from tasker.flow where flow_name = 'fl_plain';
select tasker.alter_flow('fl_plain', s, null) from unnest(array['max_attempts', 'lease', 'backoff_base',
    'backoff_max', 'backoff_jitter', 'max_in_flight', 'rate_limit', 'retention', 'paused', 'notify']) s;
select :flow_columns from tasker.flow where flow_name = 'fl_plain';

-- What is refused, with the reason; nothing is half done.
create table qt.bad_setting (setting text, value text);
insert into qt.bad_setting values
    ('max_attempts', '0'), ('max_attempts', '-1'), ('max_attempts', '1.5'), ('max_attempts', '3000000000'),
    ('max_attempts', 'many'), ('max_attempts', ''),
    ('lease', '0'), ('lease', '-1 second'), ('lease', 'soon'), ('lease', 'infinity'),
    ('lease', '1 month -30 days'), ('lease', '1 month -31 days'), ('lease', '300000000 years'),
    ('backoff_base', '-1 second'), ('backoff_max', '-1 second'), ('backoff_base', '1 fortnight'),
    ('backoff_jitter', '-0.1'), ('backoff_jitter', '1.1'), ('backoff_jitter', 'NaN'), ('backoff_jitter', 'inf'),
    ('max_in_flight', '0'), ('max_in_flight', '-5'),
    ('rate_limit', '0'), ('rate_limit', '-1'), ('rate_limit', 'NaN'), ('rate_limit', 'infinity'),
    ('rate_limit', '1.1e9'), ('rate_limit', '1e400'),
    ('retention', '-1 day'), ('paused', 'perhaps'), ('notify', '2'),
    ('flow_id', '1'), ('flow_name', 'other'), ('created_at', 'now'), ('Max_Attempts', '3'), ('', '3'),
    ('max_attempts = 1, paused', 'true'), ('paused" = true --', 'true');
select qt.fingerprint() as before \gset
select setting, value, qt.try(format('select tasker.alter_flow(%L, %L, %L)', 'fl_plain', setting, value)) as refusal
from qt.bad_setting;
select setting, value,
    qt.try(format('select tasker.create_flow(%L, %L)', 'fl_new', jsonb_build_object('paused', true, setting, value)))
        <> qt.try(format('select tasker.alter_flow(%L, %L, %L)', 'fl_plain', setting, value)) as differs
from qt.bad_setting;
select qt.try(format('select tasker.create_flow(%L, %L)', 'fl_new', s)) as refusal
from unnest(array['[]', '["paused"]', '"paused"', '3', 'true', 'null', '{"paused": {}}', '{"paused": [true]}',
    '{"max_attempts": 2, "nonsense": 1}', '{"": 1}']) s;
select qt.fingerprint() = :'before' as unchanged;

-- A setting may hold what looks like SQL; it is a value and nothing else.
select qt.try($$select tasker.alter_flow('fl_plain', 'lease', '1 hour''; drop table tasker.flow; --')$$);

-- Names.
select qt.try(format('select tasker.create_flow(%L) > 0', name)) as result, octet_length(name) as bytes
from (values ('fl o''clock "x" \ ; --'), (' '), ('FL_PLAIN'), ('flow with spaces'), (repeat('é', 64)), (repeat('é', 64) || 'x'),
    (repeat('n', 128)), (repeat('n', 129)), (repeat('n', 200)), (''), (E'a\nb'), (E'a\tb'), (E'\x01'),
    (E'a\x7f'), (E'a\rb'), (null)) names (name);
select tasker.enqueue('fl o''clock "x" \ ; --', '{"n": 1}') > 0 as enqueued;
select qt.claim('fl o''clock "x" \ ; --');
select tasker.drop_flow(flow_name, true) from tasker.flow
where flow_name in ('fl o''clock "x" \ ; --', ' ', 'FL_PLAIN', 'flow with spaces', repeat('é', 64), repeat('n', 128));

-- The name exists.
select tasker.create_flow('fl_plain');
-- The flow does not.
select tasker.alter_flow('fl_missing', 'paused', 'true');
select tasker.pause_flow('fl_missing');
select tasker.resume_flow('fl_missing');
select tasker.drop_flow('fl_missing');
select tasker.drop_flow('fl_missing', true);
select tasker.get_queue_status('fl_missing');
select * from tasker.claim_records_batch('fl_missing');
select tasker.reset_failed_records('fl_missing');
select tasker.purge_failed_records('fl_missing', '1 day');
select tasker.cleanup_orphaned_records('1 hour', 'fl_missing');
call tasker.wait_for_records('fl_missing', '0');

-- A flow is made by the first enqueue, unless that is off.
select tasker.enqueue('fl_auto', '{"n": 1}') > 0 as enqueued;
select :flow_columns from tasker.flow where flow_name = 'fl_auto';
set tasker.auto_create_flows = off;
select tasker.enqueue('fl_none', '{"n": 1}');
select tasker.add_records_to_queue('fl_none', array['{"n": 1}']::jsonb[]);
insert into tasker.processing_queue (flow_name, payload) values ('fl_none', '{"n": 1}');
select tasker.enqueue('fl_auto', '{"n": 2}') > 0 as enqueued;
reset tasker.auto_create_flows;
select count(*) from tasker.flow where flow_name = 'fl_none';
-- Made and rolled back, and made again: the cache must not remember.
begin;
select tasker.enqueue('fl_undone', '{"n": 1}') > 0 as enqueued;
rollback;
select * from qt.status('fl_undone');
select tasker.enqueue('fl_undone', '{"n": 2}') > 0 as enqueued;
begin;
savepoint s;
select tasker.enqueue('fl_undone2', '{"n": 1}') > 0 as enqueued;
rollback to s;
select tasker.enqueue('fl_undone2', '{"n": 2}') > 0 as enqueued;
commit;
select n, status from qt.records('fl_undone2');
-- No records, yet a flow.
select tasker.add_records_to_queue('fl_empty', '{}'::jsonb[]);
select * from qt.status('fl_empty');

-- A change acts on the next call, is undone by a rollback, and is seen in its own transaction.
select qt.add('fl_change', 'a', 'b', 'c');
begin;
select tasker.pause_flow('fl_change');
select qt.claim('fl_change');
rollback;
select qt.claim('fl_change');
begin;
savepoint s;
select tasker.pause_flow('fl_change');
rollback to s;
select qt.claim('fl_change');
commit;
select tasker.pause_flow('fl_change');
select tasker.pause_flow('fl_change');
select qt.claim('fl_change');
select tasker.resume_flow('fl_change');
select qt.claim('fl_change');

-- drop_flow refuses while there is work, unless forced.
select qt.add('fl_drop', 'pending', 'processing', 'completed');
select tasker.enqueue('fl_drop', '{"n": "keyed"}', dedup_key => 'k') > 0 as enqueued;
select qt.claim('fl_drop', 1);
select qt.fingerprint() as before \gset
select tasker.drop_flow('fl_drop');
select qt.try($$select tasker.drop_flow('fl_drop')$$);
select qt.try($$select tasker.drop_flow('fl_drop', null)$$);
select qt.fingerprint() = :'before' as unchanged;
begin;
select tasker.drop_flow('fl_drop', true);
select qt.try($$select * from qt.status('fl_drop')$$);
-- The name is free at once, and the new flow is an empty one.
select tasker.create_flow('fl_drop', '{"max_attempts": 1}') > 0 as has_id;
select * from qt.status('fl_drop');
rollback;
select qt.fingerprint() = :'before' as unchanged;
select tasker.drop_flow('fl_drop', true);
select qt.try($$select * from qt.status('fl_drop')$$);
select count(*) from tasker.queue_record r where not exists (select from tasker.flow f where f.flow_id = r.flow_id);
select count(*) from tasker.dedup_key d where not exists (select from tasker.flow f where f.flow_id = d.flow_id);
select tasker.enqueue('fl_drop', '{"n": "new"}', dedup_key => 'k') > 0 as enqueued;
select * from qt.status('fl_drop');
select qt.claim('fl_drop', 10);
-- Without work it goes without force.
select tasker.mark_record_completed(qt.id('fl_drop', 'new'));
select tasker.drop_flow('fl_drop');
select count(*) from tasker.flow where flow_name = 'fl_drop';

select * from tasker.check_queue_integrity();

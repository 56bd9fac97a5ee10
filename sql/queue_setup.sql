-- The extension, and what the tests of the queue share. Their output holds no id and no time: records are told
-- apart by the "n" of their payload.
\set VERBOSITY terse
set client_min_messages = warning;
create extension if not exists tasker;
create schema qt;

-- Ids and times out of a message.
create function qt.masked(message text) returns text language sql immutable as
$$ select regexp_replace(regexp_replace(message, '-?\d{13,}', '<id>', 'g'), 'tasker\.queue_record_p\d+', '<partition>', 'g') $$;

-- Runs a statement; its single result, or SQLSTATE, message, detail and hint of its error.
create function qt.try(statement text) returns text language plpgsql as
$$
declare
    result text;
    state text;
    message text;
    detail text;
    hint text;
begin
    if statement !~* '^select' then
        execute statement;
        return 'done';
    end if;
    execute statement into result;
    return 'returned ' || coalesce(qt.masked(result), 'null');
exception when others then
    get stacked diagnostics state = returned_sqlstate, message = message_text, detail = pg_exception_detail,
        hint = pg_exception_hint;
    return state || ' ' || qt.masked(concat_ws(' | ', message, nullif(detail, ''), nullif(hint, '')));
end
$$;

-- What must not change when a call fails: the tables and the statistics. What is scheduled may become due meanwhile.
create function qt.fingerprint() returns text language sql volatile as
$$
select md5(concat_ws('/',
    (select string_agg(f::text, ',' order by flow_id) from tasker.flow f),
    (select string_agg(d::text, ',' order by flow_id, dedup_key) from tasker.dedup_key d),
    (select string_agg(md5(r::text), ',' order by id) from tasker.queue_record r),
    (select string_agg(concat_ws(' ', flow_name, pending + scheduled, processing, completed, failed, cancelled, total),
        ',' order by flow_name) from tasker.get_queue_status())))
$$;

-- Records of a flow in the order of their ids.
create function qt.records(flow text)
    returns table (n text, status text, retry_count int, priority smallint, by text, error text, result jsonb)
    language sql volatile as
$$
select q.payload ->> 'n', q.status, q.retry_count, q.priority, q.flow_instance_id, q.error_message, q.result
from tasker.processing_queue q where q.flow_name = flow order by q.id
$$;

-- The status of a flow without its time.
create function qt.status(flow text)
    returns table (pending bigint, scheduled bigint, processing bigint, completed bigint, failed bigint,
        cancelled bigint, total bigint)
    language sql volatile as
$$
select s.pending, s.scheduled, s.processing, s.completed, s.failed, s.cancelled, s.total
from tasker.get_queue_status(flow) s
$$;

-- A record of a flow by its mark. The flow comes first: payloads of other flows are not looked at.
create function qt.record(flow text, n text) returns setof tasker.queue_record language sql volatile as
$$
with r as materialized (
    select * from tasker.queue_record where flow_id = (select f.flow_id from tasker.flow f where f.flow_name = $1))
select * from r where payload ->> 'n' = $2
$$;
create function qt.id(flow text, n text) returns bigint language sql volatile as
$$ select id from qt.record(flow, n) $$;
create function qt.token(flow text, n text) returns bigint language sql volatile as
$$ select lease_token from qt.record(flow, n) $$;

-- Claims, and says what came in which order.
create function qt.claim(flow text, batch int default 1, instance text default 'w', lease interval default null)
    returns text language sql volatile as
$$
select coalesce(string_agg(c.payload ->> 'n', ' ' order by c.ordinality), '-')
from tasker.claim_records_batch(flow, batch, instance, lease) with ordinality c
$$;

-- Adds records that carry these marks.
create function qt.add(flow text, variadic marks text[]) returns int language sql volatile as
$$
select tasker.add_records_to_queue(flow, (select array_agg(jsonb_build_object('n', m) order by o)
    from unnest(marks) with ordinality u (m, o)))
$$;

-- The server is the one that the tests were written for.
select extversion from pg_extension where extname = 'tasker';
select * from tasker.get_queue_status();
select * from tasker.check_queue_integrity();

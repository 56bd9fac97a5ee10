-- The worker plane: what the background worker does and how it fares, and its duties as calls.

-- Starts a worker for this database, where the library is preloaded, once this transaction has committed.
create function tasker.notify_launcher() returns void
    language c as 'MODULE_PATHNAME', 'tasker_notify_launcher';
comment on function tasker.notify_launcher() is
'Tells the launcher, when the transaction commits, that this database has the extension. Run by CREATE EXTENSION; does nothing without shared_preload_libraries.';
select tasker.notify_launcher();

create procedure tasker.run_duty(name text)
    language c as 'MODULE_PATHNAME', 'tasker_run_duty';
comment on procedure tasker.run_duty(text) is
'Runs one round of a duty in this session, with or without a background worker. It commits each of its steps. Partitions are then detached without CONCURRENTLY. Errors: 42704 no such duty (see duty_status); 22023 null; 25001 inside a transaction block.';

create function tasker.request_duty(name text) returns boolean
    language c as 'MODULE_PATHNAME', 'tasker_request_duty';
comment on function tasker.request_duty(text) is
'Asks the background worker to run a duty at once, without waiting for it; false when this database has no worker. A duty that keeps failing is tried once a second at most. Errors: 42704 no such duty; 22023 null.';

create function tasker.start(database name = null) returns text
    language c as 'MODULE_PATHNAME', 'tasker_start';
comment on function tasker.start(name) is
'Sees to it that the duties of a database (null: this one) are run: by the background worker where the library is preloaded (result: worker), else by pg_cron (result: pg_cron), which gets a job for each duty; calling it again changes nothing. pg_cron lives in one database: for another one, call start(''other'') there; both need the extension tasker. Errors: 55000 there is neither, or the worker is switched off and pg_cron is not installed in this database; 3D000 no such database.';
create function tasker.stop(database name = null) returns integer
    language c as 'MODULE_PATHNAME', 'tasker_stop';
comment on function tasker.stop(name) is
'Removes the pg_cron jobs that start() made for a database (null: this one), and returns their number. Errors: 55000 there are none, and the background worker does the duties: it is governed by tasker.worker and tasker.databases; 3D000 no such database.';

create function tasker.schedule_task(name text, cron text, namespace text, task_name text, context jsonb = '{}',
        timezone text = 'UTC') returns bigint
    language c as 'MODULE_PATHNAME', 'tasker_schedule_task';
comment on function tasker.schedule_task(text, text, text, text, jsonb, text) is
'Creates a task again and again, by a job of pg_cron: when the cron expression (minute, hour, day of the month, month, day of the week; or @hourly, @daily, @weekly, @monthly, @yearly) fits the clocks of the time zone. Each task is of the version that was defined last, with initiator ''schedule'' and name as its reason. The same name again replaces what was scheduled. Result: the id of the job. Errors: 42704 unknown task; 22023 bad expression or time zone; 55000 pg_cron is not in this database; 0A000 a time zone that changes by a part of an hour.';
create function tasker.schedule_record(name text, cron text, flow_name text, payload jsonb, priority smallint = 0,
        timezone text = 'UTC') returns bigint
    language c as 'MODULE_PATHNAME', 'tasker_schedule_record';
comment on function tasker.schedule_record(text, text, text, jsonb, smallint, text) is
'Adds a record to a flow again and again, as schedule_task() creates tasks. Result: the id of the job of pg_cron. Errors: 22023 bad expression, time zone or priority; 55000 pg_cron is not in this database; 0A000 a time zone that changes by a part of an hour.';
create function tasker.unschedule(name text) returns void
    language c as 'MODULE_PATHNAME', 'tasker_unschedule';
comment on function tasker.unschedule(text) is
'Ends what schedule_task() or schedule_record() has begun under that name; what was created stays. Errors: 42704 nothing is scheduled under it; 55000 pg_cron is not in this database.';
create function tasker._schedule_is_due(cron text, timezone text, at timestamptz = null) returns boolean
    language c stable as 'MODULE_PATHNAME', 'tasker_schedule_is_due';
comment on function tasker._schedule_is_due(text, text, timestamptz) is
'Is the hour at that time (null: now), by the clocks of the zone, one of the cron expression''s; its minutes are not asked. Internal, for the jobs of schedule_task().';

create function tasker._duty_status()
    returns table (name text, description text, period interval, last_run timestamptz, duration interval,
        next_run timestamptz, runs bigint, failures bigint, failures_in_a_row int, last_error text,
        last_error_at timestamptz, running boolean)
    language c volatile rows 10 as 'MODULE_PATHNAME', 'tasker_duty_status';
comment on function tasker._duty_status() is 'The rows of view duty_status.';
create view tasker.duty_status as select * from tasker._duty_status();
comment on view tasker.duty_status is
'The duties, and what the background worker of this database has done about them since the server started. Without a worker all but the first three columns are null.';
comment on column tasker.duty_status.name is 'The duty, as run_duty() takes it';
comment on column tasker.duty_status.description is 'What it does';
comment on column tasker.duty_status.period is 'Time from one run to the next; null: only when needed';
comment on column tasker.duty_status.last_run is 'Start of the last run, or of the one under way';
comment on column tasker.duty_status.duration is 'How long the last run took';
comment on column tasker.duty_status.next_run is 'When it is due again; null while it runs, or when it waits to be asked for';
comment on column tasker.duty_status.runs is 'Runs so far, failed ones included';
comment on column tasker.duty_status.failures is 'Runs that failed';
comment on column tasker.duty_status.failures_in_a_row is 'Runs that have failed since the last that did not; the next is delayed by 1 second, doubled with each, at most 5 minutes';
comment on column tasker.duty_status.last_error is 'Message of the last failure, also when a later run went well; the server''s log has detail and hint';
comment on column tasker.duty_status.last_error_at is 'When that was';
comment on column tasker.duty_status.running is 'Is it being run by the worker?';

create function tasker._worker_status()
    returns table (database text, pid int, state text, started_at timestamptz, duty text, restarts bigint,
        failures int, last_error text, last_error_at timestamptz, next_start_at timestamptz)
    language c volatile rows 10 as 'MODULE_PATHNAME', 'tasker_worker_status';
comment on function tasker._worker_status() is 'The rows of view worker_status.';
create view tasker.worker_status as select * from tasker._worker_status();
comment on view tasker.worker_status is
'The background workers of the server: one row for the launcher (database is null), one for each database with a worker, and always one for this database.';
comment on column tasker.worker_status.database is 'The database; null for the launcher';
comment on column tasker.worker_status.pid is 'The process, if there is one';
comment on column tasker.worker_status.state is
'running, connecting, starting, stopping, waiting (until next_start_at), kept away (by a statement that needs the database to itself), launcher; for this database also none, off (by tasker.worker or tasker.databases), standby, or not loaded (without shared_preload_libraries)';
comment on column tasker.worker_status.started_at is 'When it began its work';
comment on column tasker.worker_status.duty is 'The duty that it is running';
comment on column tasker.worker_status.restarts is 'Starts after a failure, since the server started';
comment on column tasker.worker_status.failures is 'Failures in a row: the next start is delayed by 1 second, doubled with each, at most 5 minutes';
comment on column tasker.worker_status.last_error is 'Why it ended the last time it failed';
comment on column tasker.worker_status.last_error_at is 'When that was';
comment on column tasker.worker_status.next_start_at is 'When the next start is tried, after a failure';

-- Held xmin

create function tasker._xmin_holders()
    returns table (kind text, identity text, pid int, database name, username name, affects text, xmin xid,
        age_xids int, since timestamptz, held_for interval, state text, query text)
    language c volatile rows 10 as 'MODULE_PATHNAME', 'tasker_xmin_holders';
comment on function tasker._xmin_holders() is 'The rows of view xmin_holders.';
create view tasker.xmin_holders as select * from tasker._xmin_holders();
comment on view tasker.xmin_holders is
'Who holds back the oldest snapshot, so that dead rows cannot be removed: oldest first. Ending the first row''s session, transaction or slot frees what lies between its age and the next one''s.';
comment on column tasker.xmin_holders.kind is 'session, prepared transaction, replication slot or standby feedback';
comment on column tasker.xmin_holders.identity is 'application_name (or the kind of process), global transaction id, or name of the slot';
comment on column tasker.xmin_holders.pid is 'The process, for pg_terminate_backend(); null when none is attached';
comment on column tasker.xmin_holders.database is 'Its database';
comment on column tasker.xmin_holders.username is 'Its user';
comment on column tasker.xmin_holders.affects is 'Whose dead rows it keeps: this database, another database (and the shared catalogs), all databases, or catalogs';
comment on column tasker.xmin_holders.xmin is 'The oldest transaction that it still has to see';
comment on column tasker.xmin_holders.age_xids is 'How many transactions have begun since';
comment on column tasker.xmin_holders.since is 'Start of its transaction; null for a slot, which does not know it';
comment on column tasker.xmin_holders.held_for is 'How long that is ago';
comment on column tasker.xmin_holders.state is 'State of the session, or whether the slot is active';
comment on column tasker.xmin_holders.query is 'The session''s query, or its last one';

create function tasker.health_check() returns jsonb
    language c volatile as 'MODULE_PATHNAME', 'tasker_health_check';
comment on function tasker.health_check() is
'{"status": "healthy" | "degraded" | "unhealthy", "reasons": [{"check", "severity", "message", "hint"}], "figures": {…}}. Checks that the worker runs and its duties succeed, who holds back the oldest snapshot, that partitions exist ahead of time, how old the backlog is and how many records failed. Takes milliseconds, whatever the size of the tables.';

create function tasker.status() returns table (component text, status text, detail text)
    language sql volatile
begin atomic
    with report as materialized (select tasker.health_check() as health),
    reason as materialized (
        select r.value ->> 'check' as component, pg_catalog.min(r.value ->> 'severity') as status,
               pg_catalog.string_agg(r.value ->> 'message', '; ') as detail
        from report cross join lateral pg_catalog.jsonb_array_elements(report.health -> 'reasons') r
        group by 1),
    figures as materialized (select report.health -> 'figures' -> 'stream' as stream from report),
    line as (
        select 1 as place, 'server' as component, 'ok' as status,
               'PostgreSQL ' || pg_catalog.current_setting('server_version') as detail
        union all
        select 2, 'extension',
               case when tasker.version() like e.extversion || '%' then 'ok' else 'mismatch' end,
               pg_catalog.format('extension %s, library %s', e.extversion, tasker.version())
        from pg_catalog.pg_extension e
        where e.extname = 'tasker'
        union all
        select 3, 'worker', w.state, coalesce(pg_catalog.format('process %s, since %s', w.pid, w.started_at), w.last_error)
        from tasker._worker_status() w
        where w.database = pg_catalog.current_database()
        union all
        select 4, 'duties', case when pg_catalog.count(*) filter (where d.failures_in_a_row > 0) = 0 then 'ok' else 'failing' end,
               coalesce(pg_catalog.string_agg(d.name || ': ' || d.last_error, '; ' order by d.name)
                            filter (where d.failures_in_a_row > 0),
                        pg_catalog.format('%s duties', pg_catalog.count(*)))
        from tasker._duty_status() d
        union all
        select 5, 'ticker', t.state,
               pg_catalog.format('%sevents wait for a tick for %s s at most',
                                 'process ' || t.pid || ', ' || t.ticks || ' ticks; ',
                                 f.stream -> 'ticker_lag_seconds')
        from figures f, tasker._ticker_status() t
        union all
        select 6, 'queues', 'ok', pg_catalog.format('%s queues, %s paused', pg_catalog.count(*),
                                                    pg_catalog.count(*) filter (where q.queue_paused))
        from tasker.queue q
        union all
        select 7, 'consumer lag', 'ok', pg_catalog.format('%s consumers, the last one %s s behind', f.stream -> 'consumers',
                                                          f.stream -> 'consumer_lag_seconds')
        from figures f
        union all
        select 8, 'rotation', 'ok', pg_catalog.format('the last one at %s',
                                                      coalesce(pg_catalog.max(q.queue_switch_time)::text, 'no time yet'))
        from tasker.queue q
        union all
        select 9, 'metadata rotation', 'ok', pg_catalog.format('the last one at %s',
                                                      coalesce(pg_catalog.max(m.rotation_switch_time)::text, 'no time yet'))
        from tasker.metadata_rotation m
        union all
        select 10, 'restore', 'ok', 'nothing to do'
    )
    select l.component, coalesce(r.status, l.status), coalesce(r.detail, l.detail)
    from line l
    left join reason r on r.component = l.component
    order by l.place;
end;
comment on function tasker.status() is
'How the parts of the extension are, a line each, with the reasons that health_check() gives: server, extension (mismatch: another version than the library), worker (its state, see worker_status), duties, ticker (see ticker_status), queues, consumer lag, rotation, metadata rotation, restore (see after_restore()). Status is ok where it is not said otherwise.';
revoke all on function tasker.status() from public;
grant execute on function tasker.status() to tasker_observer, tasker_admin;

-- Metrics

create function tasker.metrics()
    returns table (metric text, labels jsonb, value double precision, help text, type text)
    language sql volatile
begin atomic
    with status as materialized (select * from tasker.get_queue_status())
    select 'tasker_queue_records', pg_catalog.jsonb_build_object('flow', s.flow_name, 'status', c.status),
           c.records::double precision, 'Records by flow and status', 'gauge'
    from status s
    cross join lateral (values ('pending', s.pending), ('scheduled', s.scheduled), ('processing', s.processing),
        ('completed', s.completed), ('failed', s.failed), ('cancelled', s.cancelled)) c (status, records)
    union all
    select 'tasker_queue_oldest_pending_seconds', pg_catalog.jsonb_build_object('flow', s.flow_name),
           greatest(extract(epoch from pg_catalog.clock_timestamp() - s.oldest_pending_at), 0)::double precision,
           'Age of the first due record in line', 'gauge'
    from status s
    where s.oldest_pending_at is not null
    union all
    select 'tasker_worker_up', '{}'::jsonb,
           (case when w.state = 'running' then 1 else 0 end)::double precision,
           'Whether the background worker of this database is running', 'gauge'
    from tasker._worker_status() w
    where w.database = pg_catalog.current_database()
    union all
    select 'tasker_worker_restarts_total', '{}'::jsonb, coalesce(w.restarts, 0)::double precision,
           'Starts of the background worker after a failure, since the server started', 'counter'
    from tasker._worker_status() w
    where w.database = pg_catalog.current_database()
    union all
    select m.metric, '{}'::jsonb, m.value, m.help, m.type
    from tasker._ticker_status() t
    cross join lateral (values
        ('tasker_ticker_up', (case when t.state = 'running' then 1 else 0 end)::double precision,
            'Whether the ticker of this database is running', 'gauge'),
        ('tasker_ticker_ticks_total', t.ticks::double precision, 'Ticks made by the ticker', 'counter'),
        ('tasker_ticker_rounds_total', t.rounds::double precision, 'Transactions in which the ticker made ticks', 'counter'),
        ('tasker_ticker_failures_total', t.failures::double precision, 'Rounds of the ticker that failed', 'counter'))
        m (metric, value, help, type)
    union all
    select m.metric, pg_catalog.jsonb_build_object('duty', d.name), m.value, m.help, m.type
    from tasker._duty_status() d
    cross join lateral (values
        ('tasker_duty_runs_total', d.runs::double precision, 'Runs of a duty by the background worker', 'counter'),
        ('tasker_duty_failures_total', d.failures::double precision, 'Runs of a duty that failed', 'counter'),
        ('tasker_duty_failures_in_a_row', d.failures_in_a_row::double precision,
            'Failures of a duty since it last went well', 'gauge'),
        ('tasker_duty_duration_seconds', extract(epoch from d.duration)::double precision,
            'Duration of the last run of a duty', 'gauge'),
        ('tasker_duty_last_run_timestamp_seconds', extract(epoch from d.last_run)::double precision,
            'Start of the last run of a duty', 'gauge')) m (metric, value, help, type)
    where m.value is not null
    union all
    select m.metric, pg_catalog.jsonb_build_object('set', p.parent::text), m.value, m.help, 'gauge'
    from tasker.partition_status p
    cross join lateral (values
        ('tasker_partitions', p.partitions::double precision, 'Attached partitions of a set'),
        ('tasker_partitions_ahead', p.partitions_ahead::double precision,
            'Partitions of a set that are ready for the future'),
        ('tasker_partition_retirements_overdue', p.overdue::double precision,
            'Partitions of a set that are due to go and are still there'),
        ('tasker_partition_rows_changed', p.rows_changed::double precision,
            'Rows of a set that changed since its parent was last analyzed')) m (metric, value, help)
    where m.value is not null
    union all
    select m.metric, pg_catalog.jsonb_build_object('kind', x.kind), m.value, m.help, 'gauge'
    from (select h.kind, pg_catalog.max(h.age_xids)::double precision as age,
                 pg_catalog.max(extract(epoch from h.held_for))::double precision as seconds
          from tasker._xmin_holders() h
          where h.affects in ('this database', 'all databases')
          group by h.kind) x
    cross join lateral (values
        ('tasker_xmin_age_xids', x.age, 'Transactions since the oldest snapshot of a kind of holder'),
        ('tasker_xmin_held_seconds', x.seconds, 'Age of the oldest snapshot of a kind of holder'))
        m (metric, value, help)
    where m.value is not null
    union all
    select s.metric, s.labels, s.value, s.help, s.type
    from tasker._stream_metrics() s
    union all
    select w.metric, w.labels, w.value, w.help, w.type
    from tasker._workflow_metrics() w
    union all
    select 'tasker_info', pg_catalog.jsonb_build_object('version', e.extversion), 1::double precision,
           'The installed version', 'gauge'
    from pg_catalog.pg_extension e
    where e.extname = 'tasker';
end;
comment on function tasker.metrics() is
'Figures for a monitoring system: one row for each combination of metric and labels, with what it means and its type (gauge or counter). Counters of the worker start at 0 with the server.';
create function tasker.metrics_openmetrics() returns text
    language c volatile as 'MODULE_PATHNAME', 'tasker_metrics_openmetrics';
comment on function tasker.metrics_openmetrics() is
'The rows of metrics() in the OpenMetrics text format, for Prometheus and whatever reads its format.';
revoke all on function tasker.metrics(), tasker.metrics_openmetrics() from public;
grant execute on function tasker.metrics(), tasker.metrics_openmetrics() to tasker_observer, tasker_admin;

-- Rights: nothing for PUBLIC.
revoke all on function tasker.notify_launcher(), tasker.request_duty(text), tasker.start(name), tasker.stop(name), tasker._duty_status(),
    tasker._worker_status(), tasker._xmin_holders(), tasker.health_check(),
    tasker.schedule_task(text, text, text, text, jsonb, text),
    tasker.schedule_record(text, text, text, jsonb, smallint, text), tasker.unschedule(text),
    tasker._schedule_is_due(text, text, timestamptz) from public;
revoke all on procedure tasker.run_duty(text) from public;
grant execute on procedure tasker.run_duty(text) to tasker_admin;
grant execute on function tasker.request_duty(text), tasker.start(name), tasker.stop(name),
    tasker.schedule_task(text, text, text, text, jsonb, text),
    tasker.schedule_record(text, text, text, jsonb, smallint, text), tasker.unschedule(text) to tasker_admin;
grant execute on function tasker._duty_status(), tasker._worker_status(), tasker._xmin_holders(),
    tasker.health_check() to tasker_observer, tasker_admin;
grant select on tasker.duty_status, tasker.worker_status, tasker.xmin_holders to tasker_observer, tasker_admin;

-- The proof that all planes' rules hold; each plane adds its own.
create function tasker.check_integrity() returns table (object text, problem text)
    language sql
begin atomic
    select c.object, c.problem from tasker.check_queue_integrity() c
    union all
    select c.object, c.problem from tasker.check_stream_integrity() c
    union all
    select c.object, c.problem from tasker._check_workflow_counts() c
    union all
    select c.object, c.problem from tasker.check_workflow_integrity() c;
end;
comment on function tasker.check_integrity() is
'Checks the rules of all planes against their tables and shared memory: a row for each problem, none where all holds. The comparison with shared memory is exact only while nobody writes.';
revoke all on function tasker.check_integrity() from public;
grant execute on function tasker.check_integrity() to tasker_observer, tasker_admin;

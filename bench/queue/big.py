"""Large tables for the benchmarks of growth, status and orphans: made once a run for each contestant.

Records belong to 1,000 flows. Finished ones lie in the 30 days before today; then come the pending ones, which
are put in as arrays of 100 per flow; and of those, 100 in each flow are claimed and stay in flight.
"""

import time
from dataclasses import dataclass

from bench.lib import database
from bench.queue.payload import PAYLOAD

FINISHED = 10_000_000
DAYS = 30
FLOWS = 1_000
PENDING_PER_FLOW = 1_000
IN_FLIGHT_PER_FLOW = 100
ARRAY = 100
WORKER = "worker-1"


@dataclass
class Big:
    """A database with `flows` flows, each with the same number of records pending and in flight."""

    dbname: str
    flows: int
    finished: int

    @property
    def pending(self):
        return self.flows * PENDING_PER_FLOW

    @property
    def in_flight(self):
        return self.flows * IN_FLIGHT_PER_FLOW


def flow_name(number):
    return f"flow_{number}"


def make(ctx, contestant, finished, flows):
    """Make a database for the contestant, or return the one made before with the same sizes."""
    key = (contestant.name, finished, flows)
    if key not in ctx.fixtures:
        big = Big(f"{contestant.dbname}_{'big' if finished else 'small'}", flows, finished)
        began = time.monotonic()
        contestant.fresh(big.dbname)
        LOADERS[contestant.name](ctx, contestant, big)
        ctx.say(f"{contestant.label}: {finished:,} finished, {big.pending:,} pending, {big.in_flight:,} in flight "
                f"in {flows} flows: loaded in {time.monotonic() - began:.0f} s")
        ctx.fixtures[key] = big
    return ctx.fixtures[key]


def _load_seed(ctx, contestant, big):
    """The seed's table, indexes built after the load."""
    database.create_database(ctx.server, big.dbname)
    database.run_script(ctx.server, big.dbname, contestant.table_sql)
    with database.connect(ctx.server, big.dbname) as conn:
        conn.execute("set maintenance_work_mem = '512MB'")
        if big.finished:
            conn.execute("""
                insert into seed.processing_queue (flow_name, payload, status, flow_instance_id, claimed_at,
                                                   completed_at, created_at, updated_at)
                select 'flow_' || (i / %(array)s) %% %(flows)s, %(payload)s::jsonb, 'completed', %(worker)s,
                       at + interval '1 second', at + interval '2 seconds', at, at + interval '2 seconds'
                from (select i, date_trunc('day', now()) - %(days)s * interval '1 day'
                                * (1 - i::float8 / %(finished)s) as at
                      from generate_series(0, %(finished)s - 1) as i) as clock""",
                         {"array": ARRAY, "flows": big.flows, "payload": PAYLOAD, "worker": WORKER, "days": DAYS,
                          "finished": big.finished})
        # Per flow the claimed ones are the oldest; arrays of 100 of one flow lie together.
        conn.execute("""
            insert into seed.processing_queue (flow_name, payload, status, flow_instance_id, claimed_at, created_at)
            select 'flow_' || flow, %(payload)s::jsonb,
                   case when seat = 0 then 'processing' else 'pending' end,
                   case when seat = 0 then %(worker)s end,
                   case when seat = 0 then now() end,
                   now() + seat * interval '1 second' + flow * interval '1 millisecond' - interval '10 minutes'
            from generate_series(0, %(seats)s - 1) as seat, generate_series(0, %(flows)s - 1) as flow,
                 generate_series(1, %(array)s) as i""",
                     {"payload": PAYLOAD, "worker": WORKER, "flows": big.flows, "array": ARRAY,
                      "seats": (PENDING_PER_FLOW + IN_FLIGHT_PER_FLOW) // ARRAY})
        conn.execute(contestant.indexes_sql.read_text())
        conn.execute("vacuum (analyze) seed.processing_queue")
        conn.execute("checkpoint")


def _load_tasker(ctx, _contestant, big):
    """The subject: partitions of past days are filled directly, the rest goes through the public functions."""
    with database.connect(ctx.server, big.dbname) as conn:
        for number in range(big.flows):
            conn.execute("select tasker.create_flow(%s, '{\"retention\": \"365 days\"}')", [flow_name(number)])
        # The first record opens the set and makes today's partition, after whose shape the past ones are made.
        first = conn.execute("select tasker.enqueue(%s, '{}'::jsonb)", [flow_name(0)]).fetchone()[0]
        conn.execute("select tasker.cancel_records(array[%s::bigint])", [first])
        if big.finished:
            _load_finished(ctx, conn, big)
        for _ in range((PENDING_PER_FLOW + IN_FLIGHT_PER_FLOW) // ARRAY):
            conn.execute("""
                select count(tasker.add_records_to_queue('flow_' || flow, array_fill(%s::jsonb, array[%s::integer])))
                from generate_series(0, %s - 1) as flow""", [PAYLOAD, ARRAY, big.flows])
        conn.execute("""
            select count(*) from generate_series(0, %s - 1) as flow,
                   tasker.claim_records_batch('flow_' || flow, %s::integer, %s)""",
                     [big.flows, IN_FLIGHT_PER_FLOW, WORKER])
        conn.execute("vacuum (analyze)")
        conn.execute("checkpoint")


def _load_finished(ctx, conn, big):
    """Partitions for the past days, shaped like the one of today, each with its share of completed records."""
    share = big.finished // DAYS
    for day in range(DAYS, 0, -1):
        name = _make_past_partition(conn, day)
        conn.execute(f"""
            insert into {name} (id, position, lease_token, claimed_at, lease_expires_at, changed_at, flow_id, status,
                                flow_instance_id, payload)
            select id, id, id, at, at + interval '1 hour', at + interval '1 second', flows[1 + (i / %(array)s) %%
                   cardinality(flows)], 'c', %(worker)s, %(payload)s::jsonb
            from (select i, start + i * interval '86399 seconds' / %(share)s as at,
                         ((extract(epoch from start) * 1000)::bigint + i::bigint * 86399000 / %(share)s) << 20
                         | (i & 1048575) as id
                  from generate_series(0, %(share)s - 1) as i,
                       (select date_trunc('day', now(), 'UTC') - %(day)s * interval '1 day' as start) as midnight) as r,
                 (select array_agg(flow_id order by flow_id) as flows from tasker.flow) as f""",
                     {"array": ARRAY, "worker": WORKER, "payload": PAYLOAD, "share": share, "day": day})
        if day % 10 == 0:
            ctx.say(f"tasker: {day} of {DAYS} past days left to load")


def _make_past_partition(conn, day):
    """Attach a partition for a day in the past; returns its name."""
    source, options, name, lower, upper = conn.execute("""
        select p.oid::regclass::text, coalesce(array_to_string(p.reloptions, ', '), 'fillfactor = 100'),
               'tasker.bench_past_' || %(day)s,
               (extract(epoch from midnight - %(day)s * interval '1 day') * 1000)::bigint << 20,
               (extract(epoch from midnight - (%(day)s - 1) * interval '1 day') * 1000)::bigint << 20
        from (select date_trunc('day', now(), 'UTC') as midnight) as clock,
             lateral (select c.oid, c.reloptions from pg_inherits join pg_class c on c.oid = inhrelid
                      where inhparent = 'tasker.queue_record'::regclass and c.relname not like 'bench%%'
                      order by c.relname limit 1) as p""",
                                                               {"day": day}).fetchone()
    conn.execute(f"create table {name} (like {source} including all) with ({options})")
    conn.execute(f"alter table tasker.queue_record attach partition {name} for values from ({lower}) to ({upper})")
    return name


LOADERS = {"seed": _load_seed, "tasker": _load_tasker}

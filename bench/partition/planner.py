"""The planner's row estimate of a join of two partitioned tables, before and after a round of the manager.

Fourteen daily partitions each of tasks and of their events; the join asks for the events of one tenant in fifty.
Autovacuum's work is done for it: every partition is analyzed. Of the parents themselves nobody has made statistics.
"""

import json
import time

from bench.lib import database
from bench.lib.report import Bar
from bench.lib.rounds import add_rows, alternate

DAYS = 14
ROWS_PER_DAY = 200_000
TENANTS = 50
JOIN = "select from task t join task_event e on e.task_id = t.id where e.tenant = 7"


def _make(contestant, conn):
    contestant.make_set(conn, "task", DAYS, 1, "(id bigint not null, at timestamptz not null, state text not null)")
    contestant.make_set(conn, "task_event", DAYS, 1,
                        "(task_id bigint not null, at timestamptz not null, tenant int not null)")


def _fill(conn, first_day, last_day, rows):
    """Tasks and one event for each, on the days from `first_day` ago to `last_day` ago."""
    for day in range(first_day, last_day - 1, -1):
        source = f"(select {day}::bigint * {rows} + i as id, current_date - {day} + i * interval '86000 s' / {rows} " \
                 f"as at, i from generate_series(0, {rows} - 1) i) as s"
        conn.execute(f"insert into task select id, at, 'complete' from {source}")
        conn.execute(f"insert into task_event select id, at, i %% {TENANTS} from {source}".replace("%%", "%"))


def _analyze_partitions(conn):
    """What autovacuum does after such a change; it never comes to a parent."""
    for (name,) in conn.execute("""
            select inhrelid::regclass::text from pg_inherits join pg_class c on c.oid = inhrelid
            where c.relkind = 'r' and inhparent in ('task'::regclass, 'task_event'::regclass)""").fetchall():
        conn.execute(f"analyze {name}")


def _estimate(conn):
    plan = conn.execute(f"explain (format json) {JOIN}").fetchone()[0]
    plan = json.loads(plan) if isinstance(plan, str) else plan
    return plan[0]["Plan"]["Plan Rows"]


def _off(estimate, truth):
    return max(estimate / truth, truth / max(estimate, 1.0))


def _one(ctx, contestant, rows):
    """Figures before and after a round on seven days, and again when as many more have come."""
    contestant.fresh()
    found = {}
    with contestant.connect() as conn:
        _make(contestant, conn)
        for step, (first, last) in (("first", (DAYS, DAYS // 2 + 1)), ("all", (DAYS // 2, 1))):
            _fill(conn, first, last, rows)
            _analyze_partitions(conn)
            conn.execute("select pg_stat_force_next_flush()")
            truth = conn.execute(JOIN.replace("select", "select count(*)", 1)).fetchone()[0]
            before = _estimate(conn)
            found[f"{step} off before"] = _off(before, truth)
            began = time.perf_counter()
            contestant.round(conn)
            found[f"{step} ms"] = (time.perf_counter() - began) * 1000.0
            after = _estimate(conn)
            found[f"{step} estimate before"], found[f"{step} estimate"] = float(before), float(after)
            found[f"{step} truth"], found[f"{step} off"] = float(truth), _off(after, truth)
    return found


def planner_estimate(ctx):
    """Half of the days, a round, the other half, a round. A figure of the planner: one round says it."""
    rows = ctx.scaled(ROWS_PER_DAY, 5_000) // TENANTS * TENANTS
    database.set_server(ctx.server, "autovacuum", "off")
    try:
        found = alternate(ctx, ctx.able(), 1, "planner_estimate", lambda c: _one(ctx, c, rows))
    finally:
        database.set_server(ctx.server, "autovacuum", None)
    for step, days in (("first", DAYS // 2), ("all", DAYS)):
        what = f"{days} days of {rows:,}"
        added = add_rows(ctx, "planner_estimate", found, {
            f"{step} truth": (f"{what}, true", "rows"), f"{step} estimate before": (f"{what}, before a round", "rows"),
            f"{step} estimate": (f"{what}, after a round", "rows"), f"{step} off before": (f"{what}, off before", "×"),
            f"{step} off": (f"{what}, off after", "×"), f"{step} ms": (f"{what}, the round", "ms")})
        row = added[f"{step} off"]
        row.bars.append(Bar("estimate off by", row.value(ctx.report.subject), "<=", 3.0))

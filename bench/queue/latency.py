"""Look-ups on a large queue: status by flow, health, orphans when none is due."""

import time

from bench.lib import database, figures
from bench.lib.contestant import for_psycopg
from bench.lib.report import Bar, Row
from bench.queue import big

CALLS = 30


def _timed(conn, statement, parameters):
    """The median time in ms until a statement's whole result has arrived; the first call, which plans it, does
    not count. Making Python's values of a thousand rows takes longer than that, and is no matter of the server's."""
    times = []
    for _ in range(CALLS + 1):
        began = time.perf_counter()
        cursor = conn.execute(statement, parameters)
        times.append((time.perf_counter() - began) * 1000.0)
        cursor.fetchall()
    return figures.median(times[1:])


def _measure(ctx, benchmark, variant, operations, limit):
    """Time one look-up per contestant on its large table; the bar is for the subject."""
    finished = ctx.scaled(big.FINISHED, 100_000)
    flows = ctx.scaled(big.FLOWS, 50)
    found = {}
    for name, operation in operations.items():
        contestant = ctx.contestants.get(name)
        if contestant is None:
            continue
        table = big.make(ctx, contestant, finished, flows)
        statement = for_psycopg(contestant.script_text(operation))
        with database.connect(ctx.server, table.dbname) as conn:
            found[name] = [_timed(conn, statement, {"flow": big.flow_name(round_number * 7 % flows)})
                           for round_number in range(ctx.options.rounds)]
        ctx.say(f"{benchmark}, {variant}, {contestant.label}: {figures.median(found[name]):.3f} ms")
    row = ctx.report.add(Row(benchmark, f"{variant}, {finished:,} finished, {flows:,} flows", "ms", found))
    row.bars.append(Bar("time", row.value(ctx.report.subject), "<", limit, "ms"))


def status_latency(ctx):
    """get_queue_status() of all flows and of one, health_check(); the seed's statement is for one flow."""
    _measure(ctx, "status_latency", "status of all flows", {"tasker": "status"}, 10.0)
    _measure(ctx, "status_latency", "status of one flow", {"tasker": "status_flow", "seed": "status"}, 10.0)
    _measure(ctx, "status_latency", "health_check", {"tasker": "health"}, 10.0)


def orphan_latency(ctx):
    """cleanup_orphaned_records() with records in flight in every flow, none of them due."""
    _measure(ctx, "orphan_latency", "nothing due", {"tasker": "orphans", "seed": "orphans"}, 100.0)

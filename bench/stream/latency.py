"""End to end: from an event's insert to the return of its batch's events to a consumer that waits.

The event carries the time at which its statement ran, so that its commit is inside. Events come at random times
(pgbench's -R), because those that come at regular ones may meet regular ticks always at the same distance.
"""

import contextlib
import tempfile
import time

from bench.lib import figures, pgbench, plot
from bench.lib.report import Bar
from bench.lib.rounds import add_rows, alternate
from bench.stream.readers import reading

RATES = (("idle", 20), ("busy", 2_000))
SECONDS = 20
QUICK_SECONDS = 4

# What was sent in the first and in the last second is left out: nothing is warm yet, or no more events come that
# would make the next tick due.
EDGE = 1.0
CONSUMER = "waiter"

# The longest that an event may take, after which it counts as lost.
LONGEST = 15

BARS = {("idle", "p50"): 2.0, ("idle", "p99"): 10.0, ("busy", "p99"): 25.0}


def _collect(reader, expected):
    """Wait until all events have been read; none may be missing and none may come twice."""
    deadline = time.monotonic() + LONGEST
    while True:
        reader.check()
        found = reader.event_latencies()
        if len(found) >= expected:
            break
        if time.monotonic() > deadline:
            raise RuntimeError(f"{reader.contestant.label}: {expected - len(found)} of {expected} events did not come")
        time.sleep(0.1)
    if len(found) > expected:
        raise RuntimeError(f"{reader.contestant.label}: {len(found)} events came, {expected} were sent")
    return found


def _measure(ctx, contestant, rate, seconds):
    contestant.fresh()
    with contextlib.ExitStack() as stack:
        conn = stack.enter_context(contestant.connect())
        contestant.register(conn, CONSUMER)
        stack.enter_context(contestant.duties())
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="tasker-latency-"))
        reader = stack.enter_context(reading(contestant, folder, CONSUMER, time.time() + seconds + 2 * LONGEST,
                                             latencies=True))
        began, used = time.time(), contestant.ticker_cpu(conn)
        outcome = pgbench.run(ctx.server, contestant.dbname, contestant.pgbench_script("insert_clock"),
                              clients=ctx.options.clients, seconds=seconds, rate=rate, defines=contestant.defines())
        used = contestant.ticker_cpu(conn) - used
        sent, latencies = _collect(reader, outcome.transactions).T
        latencies = latencies[(sent >= began + EDGE) & (sent < sent.max() - EDGE)]
        ticks = conn.execute(f"select count(*) from {contestant.schema}.tick").fetchone()[0]
    return {"p50": figures.percentile(latencies, 50), "p99": figures.percentile(latencies, 99),
            "max": float(latencies.max()), "ticks": ticks / seconds, "ticker": used / seconds * 100.0}


def latency(ctx):
    """20 events a second, and 2,000."""
    able = ctx.able("insert_clock", "events", "finish")
    seconds = QUICK_SECONDS if ctx.options.quick else SECONDS
    shown = []
    for name, rate in RATES:
        found = alternate(ctx, able, ctx.options.rounds, f"latency, {name}", lambda c: _measure(ctx, c, rate, seconds))
        variant = f"{name}, {rate:,} events/s"
        rows = add_rows(ctx, "latency", found, {
            **{which: (f"{variant}, {which}", "ms") for which in ("p50", "p99", "max")},
            "ticks": (f"{variant}, ticks", "per second"), "ticker": (f"{variant}, CPU of the ticker", "% of a core")})
        for which in ("p50", "p99", "max"):
            row = rows[which]
            if (name, which) in BARS:
                row.bars.append(Bar(which, row.value(ctx.report.subject), "<=", BARS[name, which], "ms"))
            shown.append((f"{name}, {which}", {who: (figures.median(values), min(values), max(values))
                                               for who, values in row.figures.items()}))
    plot.grouped_bars(ctx.out / "latency_log.svg", "from insert to the waiting consumer", "ms", shown,
                      ctx.report.labels, log=True)

"""Consuming what is there: one client takes batch after batch, with the three calls of PgQ.

pgbench is the client, so that a slow one does not hide the server's work; all events go over the connection.
"""

from bench.lib import cpu, database, pgbench
from bench.lib.rounds import add_rows, alternate

EVENTS = 1_000_000
LEAST_EVENTS = 50_000
SIZES = (500, 5_000)
CONSUMER = "reader"
LIMIT = 1.5

# A run takes a second or two: more of them than elsewhere.
ROUNDS = 7


def _prepare(ctx, contestant, batches, size):
    """A queue with `batches` batches of `size` events, in memory, and a look at the first and the last of them.
    Returns the tick before the first."""
    contestant.fresh()
    with contestant.connect() as conn:
        start = contestant.load(conn, batches, size)
    database.settle(ctx.server, contestant.dbname)
    with contestant.connect(autocommit=False) as conn:
        for tick in (start, start + batches - 1):
            contestant.register(conn, CONSUMER, tick)
            batch = conn.execute(contestant.statement("next").replace("\\gset", ""),
                                 contestant.defines(consumer=CONSUMER)).fetchone()[0]
            found = len(conn.execute(contestant.statement("events"), {"batch": batch}).fetchall())
            if found != size:
                raise RuntimeError(f"{contestant.label}: batch behind tick {tick} has {found} of {size} events")
            conn.rollback()
    ctx.say(f"consume, {contestant.label}: {batches} batches of {size} loaded")
    return start


def _consume(ctx, contestant, start, batches, size):
    """Read all batches from the tick `start` to the last."""
    with contestant.connect() as conn:
        contestant.register(conn, CONSUMER, start)
    with cpu.Meter(ctx.server) as meter:
        outcome = pgbench.run(ctx.server, contestant.dbname, contestant.pgbench_script("next", "events", "finish"),
                              clients=1, transactions=batches, defines=contestant.defines(consumer=CONSUMER))
    with contestant.connect() as conn:
        left = contestant.left(conn, CONSUMER)
    if left:
        raise RuntimeError(f"{contestant.label}: {left} batches were left after all of {batches}")
    return {"rate": batches * size / outcome.seconds, "cpu": meter.per(batches * size)}


def consume(ctx):
    """Batches of 500 and of 5,000 events."""
    able = ctx.able("next", "events", "finish")
    rounds = ctx.options.rounds if ctx.options.quick else max(ROUNDS, ctx.options.rounds)
    for size in SIZES:
        batches = ctx.scaled(EVENTS, LEAST_EVENTS) // size
        starts = {contestant.name: _prepare(ctx, contestant, batches, size) for contestant in able}
        found = alternate(ctx, able, rounds, f"consume, batches of {size}",
                          lambda c: _consume(ctx, c, starts[c.name], batches, size))
        rows = add_rows(ctx, "consume", found, {"rate": (f"batches of {size:,}", "events/s"),
                                                "cpu": (f"batches of {size:,}, server's CPU", "µs/event")})
        ctx.report.ratio_bar(rows["rate"], "pgq", LIMIT)

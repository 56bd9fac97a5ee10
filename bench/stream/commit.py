"""What ticks cost the producers: inserts at full speed with the ticker at work and with it paused."""

from bench.lib import cpu, pgbench
from bench.lib.rounds import add_rows, alternate
from bench.stream.contestants import QUEUE


def _ticks(contestant, conn):
    return conn.execute(f"select count(*) from {contestant.schema}.tick").fetchone()[0]


def _run(ctx, contestant, paused):
    """Returns events/s, the sessions' CPU per event in µs, and of the ticker: % of a core and ticks per second."""
    contestant.fresh()
    with contestant.connect() as conn:
        contestant.configure(conn, QUEUE, ticker_paused="true" if paused else "false")
        with contestant.duties():
            ticks, used = _ticks(contestant, conn), contestant.ticker_cpu(conn)
            with cpu.Meter(ctx.server) as meter:
                outcome = pgbench.run(ctx.server, contestant.dbname, contestant.pgbench_script("insert_single"),
                                      clients=ctx.options.clients, seconds=ctx.options.seconds,
                                      defines=contestant.defines())
            used, ticks = contestant.ticker_cpu(conn) - used, _ticks(contestant, conn) - ticks
    return (outcome.tps, meter.per(outcome.transactions), used / outcome.seconds * 100.0, ticks / outcome.seconds)


def _measure(ctx, contestant, turns):
    """Both runs, the one that comes first changing from round to round."""
    turns[contestant.name] = turn = not turns.get(contestant.name, False)
    found = {paused: _run(ctx, contestant, paused) for paused in (turn, not turn)}
    (rate, cost, ticker, ticks), (rate_paused, cost_paused, _, _) = found[False], found[True]
    return {"rate": rate, "paused": rate_paused, "share": rate / rate_paused, "cpu": cost, "cpu paused": cost_paused,
            "ticker": ticker, "ticks": ticks}


def commit_busy(ctx):
    """One event per transaction, as fast as they go."""
    turns = {}
    found = alternate(ctx, ctx.able("insert_single", "next"), ctx.options.rounds, "commit_busy",
                      lambda c: _measure(ctx, c, turns))
    add_rows(ctx, "commit_busy", found, {
        "rate": ("ticking", "events/s"), "paused": ("ticker paused", "events/s"), "share": ("ticking / paused", "×"),
        "cpu": ("ticking, server's CPU", "µs/event"), "cpu paused": ("ticker paused, server's CPU", "µs/event"),
        "ticker": ("CPU of the ticker", "% of a core"), "ticks": ("ticks", "per second")})

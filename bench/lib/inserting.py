"""Putting things in with pgbench at full speed: rates and the server's CPU."""

from bench.lib import cpu, pgbench
from bench.lib.report import Row


def _measure(ctx, contestant, operation, per_call, synchronous_commit):
    """One run into an empty queue: things per second, and µs of the sessions' CPU for each."""
    contestant.fresh()
    with contestant.duties(), cpu.Meter(ctx.server) as meter:
        outcome = pgbench.run(ctx.server, contestant.dbname, contestant.pgbench_script(operation),
                              clients=ctx.options.clients, seconds=ctx.options.seconds,
                              defines=contestant.defines(), synchronous_commit=synchronous_commit)
    return outcome.tps * per_call, meter.per(outcome.transactions * per_call)


def measure_inserts(ctx, benchmark, operation, thing, per_call, bars):
    """All contestants in turn, with synchronous_commit off and once on; `thing` is what is put in, as a word, and
    `bars` are (baseline, limit) of the subject's rate."""
    able = ctx.able(operation)
    for mode, rounds in (("off", ctx.options.rounds), ("on", 1)):
        costs = {contestant.name: [] for contestant in able}

        def measure(contestant):
            rate, cost = _measure(ctx, contestant, operation, per_call, mode)
            costs[contestant.name].append(cost)
            return rate

        found = ctx.interleaved(able, rounds, f"{benchmark}, synchronous_commit {mode}", measure)
        row = ctx.report.add(Row(benchmark, f"sync {mode}", f"{thing}s/s", found))
        if mode == "off":
            ctx.report.add(Row(benchmark, "server's CPU", f"µs/{thing}", costs))
            for baseline, limit in bars:
                ctx.report.ratio_bar(row, baseline, limit)

"""Putting records in: one per transaction, and in arrays of 100."""

from bench.lib import cpu, pgbench
from bench.lib.report import Row


def measure_enqueue(ctx, contestant, operation, records_per_call, synchronous_commit):
    """One run into an empty queue: records per second, and µs of the server's CPU per record."""
    contestant.fresh()
    with cpu.Meter(ctx.server) as meter:
        outcome = pgbench.run(ctx.server, contestant.dbname, contestant.pgbench_script(operation),
                              clients=ctx.options.clients, seconds=ctx.options.seconds,
                              defines=contestant.defines(), synchronous_commit=synchronous_commit)
    return outcome.tps * records_per_call, meter.per(outcome.transactions * records_per_call)


def _enqueue(ctx, benchmark, operation, records_per_call, bars):
    able = ctx.able(operation)
    for mode, rounds in (("off", ctx.options.rounds), ("on", 1)):
        costs = {contestant.name: [] for contestant in able}

        def measure(contestant):
            rate, cost = measure_enqueue(ctx, contestant, operation, records_per_call, mode)
            costs[contestant.name].append(cost)
            return rate

        found = ctx.interleaved(able, rounds, f"{benchmark}, synchronous_commit {mode}", measure)
        row = ctx.report.add(Row(benchmark, f"sync {mode}", "records/s", found))
        if mode == "off":
            ctx.report.add(Row(benchmark, "server's CPU", "µs/record", costs))
            for baseline, limit in bars:
                ctx.report.ratio_bar(row, baseline, limit)


def enqueue_single(ctx):
    """One record per transaction."""
    _enqueue(ctx, "enqueue_single", "enqueue_single", 1, [("seed", 1.3), ("raw", 0.6)])


def enqueue_batch(ctx):
    """Arrays of 100 records, one array per transaction."""
    _enqueue(ctx, "enqueue_batch", "enqueue_batch", 100, [("seed", 4.0), ("raw", 0.4)])

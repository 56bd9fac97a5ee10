"""The whole life of tasks: create, claim, complete, transitions and events, to the end of the task.

Each client of the load (pgbench) makes ten tasks and then claims and completes as many batches of ten steps as these
tasks have, whichever tasks the steps belong to. So as many tasks end as begin, and the tables grow as in
production. What was done is counted in the tables, not taken from the load driver.
"""

import time

from bench.lib import cpu, database, pgbench
from bench.lib.report import Row
from bench.workflow import population
from bench.workflow.templates import ORDER

TASKS = 10
BATCH = 10

# Unfinished tasks at the start, so that no claim comes back short.
STANDING = 200

# So many transactions of each client before the run, to bring steps and tasks into a steady mixture.
WARM_UP = 8 * len(ORDER)

# Unfinished tasks of life_among.
AMONG = 50_000


def prepare(ctx, contestant, clients=None, standing=STANDING):
    """A database in the middle of its work, settled and in memory."""
    contestant.fresh()
    pgbench.run(ctx.server, contestant.dbname, contestant.pgbench_script(*contestant.operations("create", "start")),
                clients=1, transactions=1, defines=contestant.defines(tasks=standing))
    run(ctx, contestant, clients or ctx.options.clients, transactions=WARM_UP)
    database.settle(ctx.server, contestant.dbname)


def run(ctx, contestant, clients, synchronous_commit="off", **length):
    """The load for a time or a number of transactions per client."""
    return pgbench.run(ctx.server, contestant.dbname, contestant.life_script(), clients=clients,
                       defines=contestant.defines(tasks=TASKS, batch=BATCH, turn=0), synchronous_commit=synchronous_commit,
                       **length)


def _measure(ctx, contestant, synchronous_commit="off"):
    """One run: tasks and steps per second, and the server's CPU for each step."""
    with contestant.connect() as conn:
        before = contestant.done(conn)
        began = time.monotonic()
        with cpu.Meter(ctx.server) as meter:
            run(ctx, contestant, ctx.options.clients, synchronous_commit, seconds=ctx.options.seconds)
        passed = time.monotonic() - began
        tasks, steps = (after - was for after, was in zip(contestant.done(conn), before))
    return {"tasks": tasks / passed, "steps": steps / passed, "cpu": meter.per(steps)}


def life(ctx):
    """Steps and tasks per second with the usual number of clients; once with synchronous_commit on."""
    able = ctx.able("create", "claim", "complete")
    for mode, rounds in (("off", ctx.options.rounds), ("on", 1)):
        found = {}

        def measure(contestant):
            prepare(ctx, contestant)
            figures = _measure(ctx, contestant, mode)
            for name, value in figures.items():
                found.setdefault(name, {}).setdefault(contestant.name, []).append(value)
            return figures["steps"]

        ctx.interleaved(able, rounds, f"life, synchronous_commit {mode}, steps/s", measure)
        variant = f"{len(ORDER)} steps a task, {ctx.options.clients} clients, batch {BATCH}, sync {mode}"
        row = ctx.report.add(Row("life", variant, "steps/s", found["steps"]))
        ctx.report.add(Row("life", variant, "tasks/s", found["tasks"]))
        if mode == "off":
            ctx.report.add(Row("life", f"{variant}, server's CPU", "µs/step", found["cpu"]))
            ctx.report.ratio_bar(row, "seed", 5.0)


def life_among(ctx):
    """The same load on 50,000 unfinished tasks in a mixture of states, whose steps are worked on as well."""
    able = ctx.able("create", "claim", "complete")
    tasks = ctx.scaled(AMONG, 2_000)
    costs = {}

    def measure(contestant):
        population.load(ctx, contestant, tasks)
        run(ctx, contestant, ctx.options.clients, transactions=len(ORDER))
        database.settle(ctx.server, contestant.dbname)
        figures = _measure(ctx, contestant)
        costs.setdefault(contestant.name, []).append(figures["cpu"])
        return figures["steps"]

    found = ctx.interleaved(able, 1, f"life_among, {tasks:,} tasks, steps/s", measure)
    ctx.report.add(Row("life_among", f"beside {tasks:,} unfinished tasks", "steps/s", found))
    ctx.report.add(Row("life_among", f"beside {tasks:,} unfinished tasks, server's CPU", "µs/step", costs))

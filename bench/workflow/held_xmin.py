"""The held xmin: tasks are made and worked through at a steady rate, first without and then behind an old snapshot.

Dead row versions cannot be removed as long as the snapshot lives. The rate is a share of what the contestant can do at
full speed, which is measured before, at the end with the snapshot still open, and once more when it is closed: the tables
have grown meanwhile, snapshot or not.
"""

import contextlib
import tempfile
import time
from pathlib import Path

import numpy

from bench.lib import cpu, pgbench, plot, process
from bench.lib.report import Bar, Row, write_csv
from bench.workflow import life

# The steady rate: a share of the full speed, and no more than so many steps per second, so that ten minutes fit on a disk.
SHARE = 0.4
MOST = 4_000
LIMIT = 0.95
SETTLING = 5
TAIL = 3


def _steps(contestant, conn):
    return contestant.done(conn)[1]


def _full_speed(ctx, contestant):
    """Steps per second, and µs of the server's CPU for each."""
    with contestant.connect() as conn:
        before, began = _steps(contestant, conn), time.monotonic()
        with cpu.Meter(ctx.server) as meter:
            life.run(ctx, contestant, ctx.options.clients, seconds=ctx.options.seconds)
        passed = time.monotonic() - began
        steps = _steps(contestant, conn) - before
    return steps / passed, meter.per(steps)


class Edge:
    """Where things stand at the edge of a phase: the time, completed steps, the CPU that the load's sessions have used."""

    def __init__(self, contestant, conn):
        used = [cpu.spent(row[0]) for row in
                conn.execute("select pid from pg_stat_activity where application_name = 'pgbench'").fetchall()]
        self.cpu = float("nan") if None in used else sum(used)
        self.time = time.time()
        self.steps = _steps(contestant, conn)

    def since(self, before):
        """Steps per second, and µs of CPU for each, between two edges."""
        steps = self.steps - before.steps
        return steps / (self.time - before.time), (self.cpu - before.cpu) * 1e6 / max(steps, 1)


def _watch(ctx, contestant, load, folder, until, what):
    said = time.time()
    while time.time() < until:
        time.sleep(min(0.5, max(0.0, until - time.time())))
        if load.poll() is not None:
            raise process.CommandFailed(f"{contestant.label}: pgbench ended: {(folder / 'producer.err').read_text()[-500:]}")
        if time.time() - said >= 60:
            said = time.time()
            ctx.say(f"held_xmin, {contestant.label}, {what}: {until - said:.0f} s left")


def _series(folder, start, seconds):
    """Steps per second, and the mean ms of a round, which counts from the moment at which it was due."""
    rounds, spent = numpy.zeros(seconds), numpy.zeros(seconds)
    for path in folder.glob("producer.*"):
        if path.suffix != ".err":
            for line in path.read_text().splitlines():
                second, count, total = (int(word) for word in line.split()[:3])
                if 0 <= second - start < seconds:
                    rounds[second - start] += count
                    spent[second - start] += total
    with numpy.errstate(invalid="ignore"):
        return (rounds * life.BATCH).tolist(), (spent / rounds / 1000.0).tolist()


def _one(ctx, contestant, clean, held):
    """Run one contestant; its series, and its figures."""
    life.prepare(ctx, contestant)
    clean_speed, clean_cost = _full_speed(ctx, contestant)
    rate = min(SHARE * clean_speed, MOST) / life.BATCH
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tasker-held-")))
        watcher = stack.enter_context(contestant.connect())
        load = stack.enter_context(pgbench.start(
            ctx.server, contestant.dbname, contestant.life_script(), folder, clients=ctx.options.clients,
            seconds=SETTLING + clean + held + TAIL, rate=f"{rate:.1f}",
            defines=contestant.defines(tasks=life.TASKS, batch=life.BATCH, turn=0)))
        start = int(time.time()) + SETTLING
        _watch(ctx, contestant, load, folder, start, "settling")
        edges = [Edge(contestant, watcher)]
        _watch(ctx, contestant, load, folder, start + clean, "clean")
        edges.append(Edge(contestant, watcher))
        holder = stack.enter_context(contextlib.closing(contestant.connect(autocommit=False)))
        holder.execute("set transaction isolation level repeatable read")
        holder.execute("select count(*) from pg_class")
        last = max(5, held // 5)
        _watch(ctx, contestant, load, folder, start + clean + held - last, "held")
        edges.append(Edge(contestant, watcher))
        _watch(ctx, contestant, load, folder, start + clean + held, "held")
        edges.append(Edge(contestant, watcher))
        load.wait(60)  # it writes its log when it ends
        held_speed, held_cost = _full_speed(ctx, contestant)
        holder.execute("select 1")
        holder.close()
        after_speed, after_cost = _full_speed(ctx, contestant)
        steps, latency = _series(folder, start, clean + held)
    figures = {"asked": rate * life.BATCH, "full_clean": clean_speed, "full_held": held_speed,
               "full_after": after_speed, "full_cost_clean": clean_cost, "full_cost_held": held_cost,
               "full_cost_after": after_cost}
    figures["clean"], figures["cost_clean"] = edges[1].since(edges[0])
    figures["held"], figures["cost_held"] = edges[3].since(edges[1])
    figures["last"], figures["cost_last"] = edges[3].since(edges[2])
    ctx.say(f"held_xmin, {contestant.label}: " + ", ".join(f"{name} {value:,.1f}" for name, value in figures.items()))
    return {"steps": steps, "ms": latency, **figures}


def held_xmin(ctx):
    """Clean for a fifth of the time, then as long as was asked for behind a REPEATABLE READ snapshot."""
    held = max(10, int(ctx.options.held_minutes * 60))
    clean = max(5, held // 5)
    found = {contestant.name: _one(ctx, contestant, clean, held) for contestant in ctx.able("create", "claim", "complete")}
    _report(ctx, found, clean, held)
    write_csv(ctx.out / "held_xmin_series.csv", ["contestant", "second", "steps", "round_ms"],
              [[ctx.report.labels[name], second, *values] for name, one in found.items()
               for second, values in enumerate(zip(one["steps"], one["ms"]))])
    panels = [("steps/s", {name: one["steps"] for name, one in found.items()}, False),
              ("ms for a round of 10 steps", {name: one["ms"] for name, one in found.items()}, True)]
    plot.lines(ctx.out / "held_xmin_series.svg", f"steady load, from second {clean} behind an open snapshot", panels,
               ctx.report.labels, marks=[clean])


def _report(ctx, found, clean, held):
    subject = found.get(ctx.report.subject)

    def row(variant, unit, key):
        return ctx.report.add(Row("held_xmin", variant, unit, {who: [one[key]] for who, one in found.items()}))

    def ratio(key, base):
        return subject[key] / subject[base] if subject else None

    row("steady rate asked for", "steps/s", "asked")
    row(f"steady, clean, {clean} s", "steps/s", "clean")
    row(f"steady, snapshot open {held} s", "steps/s", "held").bars.append(
        Bar("× clean", ratio("held", "clean"), ">=", LIMIT))
    row("steady, its last fifth", "steps/s", "last").bars.append(Bar("× clean", ratio("last", "clean"), ">=", LIMIT))
    row("steady, clean, sessions' CPU", "µs/step", "cost_clean")
    row("steady, last fifth of the snapshot, sessions' CPU", "µs/step", "cost_last")
    row("full speed before", "steps/s", "full_clean")
    row("full speed at the end, snapshot open", "steps/s", "full_held")
    row("full speed after that, snapshot closed", "steps/s", "full_after")
    row("full speed before, server's CPU", "µs/step", "full_cost_clean")
    row("full speed at the end, snapshot open, server's CPU", "µs/step", "full_cost_held")
    row("full speed after that, snapshot closed, server's CPU", "µs/step", "full_cost_after")

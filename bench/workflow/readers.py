"""The functions that look: what to do next, and how a task or all of them are doing, by the number of unfinished tasks."""

import time

from bench.lib import cpu, figures, plot
from bench.lib.report import Bar, Row
from bench.workflow import population

SIZES = (50, 500, 5_000, 50_000, 500_000)
LIMITS = (5, 100, 1_000)

# A round of calls of one function: so many seconds or calls, whichever comes first, but some at least.
SECONDS = 0.7
MOST = 200
LEAST = 3

# What a call may take in ms, by size and limit.
NEXT_READY = {50: {5: 1.0, 100: 2.0, 1_000: 2.0}, 50_000: {5: 1.0, 100: 3.0, 1_000: 15.0}}
GROWTH = 1.5
ONE_TASK = 1.0
HEALTH = 5.0


def _calls(conn, statement, parameters):
    """Median of the ms that a call takes, to the arrival of its last row, and the session's CPU for one."""
    if conn.execute(statement, parameters[0]).rowcount < 1:
        raise RuntimeError(f"no rows: {statement}")
    pid, times = conn.info.backend_pid, []
    used, began = cpu.spent(pid), time.perf_counter()
    while len(times) < LEAST or (len(times) < MOST and time.perf_counter() - began < SECONDS):
        clock = time.perf_counter()
        conn.execute(statement, parameters[len(times) % len(parameters)])
        times.append((time.perf_counter() - clock) * 1000.0)
    spent = (cpu.spent(pid) - used) * 1000.0 / len(times) if used is not None else float("nan")
    return figures.median(times), spent


def _questions(sample):
    """{figure's name: (operation, list of parameters)}."""
    found = {f"next_ready({limit})": ("next_ready", [{"wanted": limit}]) for limit in LIMITS}
    found["readiness"] = ("readiness", [{"task_uuid": task} for task in sample])
    found["context"] = ("context", [{"task_uuid": task} for task in sample])
    found["health"] = ("health", [{}])
    return found


def _round(ctx, contestant, sample):
    """All functions once: {figure's name: (ms, CPU ms)}."""
    found = {}
    with contestant.connect(prepare_threshold=0) as conn:
        for name, (operation, parameters) in _questions(sample).items():
            found[name] = _calls(conn, contestant.statement(operation), parameters)
    ctx.say(f"readers, {contestant.label}: " + ", ".join(f"{name} {ms:.2f}" for name, (ms, _) in found.items()))
    return found


def _measure(ctx, able, tasks, found):
    samples = {contestant.name: population.load(ctx, contestant, tasks) for contestant in able}
    for number in range(ctx.options.rounds):
        turn = number % len(able)
        for contestant in able[turn:] + able[:turn]:
            for name, figure in _round(ctx, contestant, samples[contestant.name]).items():
                for kind, value in zip(("ms", "cpu"), figure):
                    found.setdefault((name, tasks, kind), {}).setdefault(contestant.name, []).append(value)


FUNCTIONS = {"readiness": "get_step_readiness_status", "context": "get_task_execution_context",
             "health": "get_system_health_counts"}


def _report(ctx, found, sizes):
    subject = ctx.report.subject
    for name in _questions([]):
        title = FUNCTIONS.get(name, name.replace("next_ready", "get_next_ready_tasks"))
        for tasks in sizes:
            row = ctx.report.add(Row("readers", f"{title}, {tasks:,} tasks", "ms", found[name, tasks, "ms"]))
            value = row.value(subject)
            if name.startswith("next_ready"):
                limit = int(name.split("(")[1].rstrip(")"))
                if tasks in NEXT_READY:
                    row.bars.append(Bar("time", value, "<=", NEXT_READY[tasks][limit], "ms"))
                elif tasks == SIZES[-1]:
                    before = figures.median(found[name, SIZES[-2], "ms"].get(subject, [float("nan")]))
                    row.bars.append(Bar(f"× its time at {SIZES[-2]:,}", value / before if value else None, "<=", GROWTH))
            elif name != "health":
                row.bars.append(Bar("time", value, "<=", ONE_TASK, "ms"))
            elif tasks == sizes[-1]:
                row.bars.append(Bar("time", value, "<=", HEALTH, "ms"))
        for tasks in sizes[-2:]:
            ctx.report.add(Row("readers", f"{title}, {tasks:,} tasks, session's CPU", "ms", found[name, tasks, "cpu"]))


def _plot(ctx, found, sizes):
    panels = []
    for name in _questions([]):
        curves = {}
        for who in ctx.report.labels:
            points = [(tasks, figures.median(found[name, tasks, "ms"][who])) for tasks in sizes
                      if found[name, tasks, "ms"].get(who)]
            if points:
                curves[who] = points
        panels.append((FUNCTIONS.get(name, name.replace("next_ready", "get_next_ready_tasks")), curves))
    plot.curves(ctx.out / "readers_by_size.svg", "unfinished tasks", "ms", panels, ctx.report.labels)


def readers(ctx):
    """get_next_ready_tasks, get_step_readiness_status, get_task_execution_context and get_system_health_counts."""
    able = ctx.able("next_ready", "readiness", "context", "health")
    sizes = [tasks for tasks in SIZES if tasks <= max(SIZES[1], SIZES[-1] * ctx.options.scale)]
    found = {}
    for tasks in sizes:
        _measure(ctx, able, tasks, found)
    _report(ctx, found, sizes)
    _plot(ctx, found, sizes)

"""Wide and deep tasks: what a step costs when its task has 10,000 of them beside each other, or 1,000 in a line.

One client. As many steps in all each time: one task of 10,000 against a hundred of 100, one line of 1,000 against a
hundred of 10.
"""

import numpy

from bench.lib import cpu, pgbench
from bench.lib.report import Bar, Row
from bench.workflow.templates import chain, fan

WIDE = 10_000
NARROW = 100
DEEP = 1_000
SHALLOW = 10
BATCH = 100
LIMIT = 1.3


def _create(ctx, contestant, template, tasks):
    pgbench.run(ctx.server, contestant.dbname, contestant.pgbench_script(*contestant.operations("create", "start")),
                clients=1, transactions=1, defines=contestant.defines(task=template.name, tasks=tasks))


def _work(ctx, contestant, steps, batch):
    """Claim and complete so many steps; returns the seconds that it took, and those of the server's CPU."""
    done = _steps(contestant)
    with cpu.Meter(ctx.server) as meter:
        outcome = pgbench.run(ctx.server, contestant.dbname, contestant.pgbench_script("claim", "complete"), clients=1,
                              transactions=-(-steps // batch), defines=contestant.defines(batch=batch))
    done = _steps(contestant) - done
    if done != steps:
        raise RuntimeError(f"{contestant.label}: {done} of {steps} steps were completed")
    return numpy.array([outcome.seconds, meter.per(1) / 1e6])


def _steps(contestant):
    with contestant.connect() as conn:
        return contestant.done(conn)[1]


def _per_step(found):
    """{name: (time and CPU in seconds, steps)} as µs a step, the CPU's under a name of its own."""
    return {name + suffix: float(value) * 1e6 / steps for name, (both, steps) in found.items()
            for suffix, value in zip(("", " CPU"), both)}


def _fan(ctx, contestant, width, tasks):
    """µs for each child that is enqueued, and for each one that is claimed and completed, the joining step included."""
    template = fan(width)
    contestant.fresh(templates=(template,))
    _create(ctx, contestant, template, tasks)
    with contestant.connect() as conn:
        contestant.settle(conn)
    out = _work(ctx, contestant, tasks, tasks)
    with contestant.connect() as conn:
        contestant.settle(conn)
    parts = _work(ctx, contestant, width * tasks, BATCH)
    parts += _work(ctx, contestant, tasks, tasks)
    return _per_step({"out": (out, width * tasks), "in": (parts, (width + 1) * tasks)})


def _chain(ctx, contestant, depth, tasks):
    """µs for each step, claimed and completed one by one."""
    template = chain(depth)
    contestant.fresh(templates=(template,))
    _create(ctx, contestant, template, tasks)
    with contestant.connect() as conn:
        contestant.settle(conn)
    return _per_step({"chain": (_work(ctx, contestant, depth * tasks, 1), depth * tasks)})


def _compare(ctx, what, measure, small, large):
    """Both sizes in turn: {(figure's name, size): {contestant: [values]}}. The seed's cost of the large ones is a matter of
    minutes, so it has one round."""
    found = {}
    for number in range(ctx.options.rounds):
        for contestant in ctx.able("create", "claim", "complete"):
            if number > 0 and contestant.name == "seed":
                continue
            for size, tasks in ((small, large // small), (large, 1)):
                for name, value in measure(ctx, contestant, size, tasks).items():
                    found.setdefault((name, size), {}).setdefault(contestant.name, []).append(value)
                    ctx.say(f"{what} {size:,}, round {number + 1}/{ctx.options.rounds}, {contestant.label}, {name}: "
                            f"{value:,.1f} µs a step")
    return found


def _report(ctx, found, name, text, small, large, limit):
    subject = ctx.report.subject
    for suffix, shown in (("", ""), (" CPU", ", server's CPU")):
        before = ctx.report.add(Row("fan", f"{text} {small:,}{shown}", "µs/step", found[name + suffix, small]))
        row = ctx.report.add(Row("fan", f"{text} {large:,}{shown}", "µs/step", found[name + suffix, large]))
        if limit and not suffix:
            value = row.value(subject)
            row.bars.append(Bar(f"× {text} {small:,}", value / before.value(subject) if value else None, "<=", limit))


def wide(ctx):
    """Fan-out and fan-in of 10,000 against 100."""
    large = WIDE if not ctx.options.quick else WIDE // 10
    found = _compare(ctx, "fan of", _fan, NARROW, large)
    _report(ctx, found, "out", "fan-out of", NARROW, large, None)
    _report(ctx, found, "in", "fan-in of", NARROW, large, LIMIT)


def deep(ctx):
    """A line of 1,000 steps against lines of 10."""
    large = DEEP if not ctx.options.quick else DEEP // 5
    found = _compare(ctx, "line of", _chain, SHALLOW, large)
    _report(ctx, found, "chain", "line of", SHALLOW, large, None)

"""The held xmin: three phases under the same load, of which the second has an old snapshot open.

Events come in at a steady rate. Two consumers wait for batches as well as they can, and one asks for the next batch
again and again, as fast as it goes: its rounds show what becomes of next_batch when dead rows pile up. Dead rows
are counted in all tables of the queue and in pg_class. Rotation of events is set to one a minute for all, so that it
happens under the snapshot too; everything else is as it comes.
"""

import contextlib
import tempfile
import time
from pathlib import Path

import numpy

from bench.lib import pgbench, plot, process
from bench.lib.report import Bar, Row, write_csv
from bench.stream import dead
from bench.stream.contestants import QUEUE
from bench.stream.readers import reading

RATE = 2_000
PRODUCERS = 4
WAITERS = ("waiter_1", "waiter_2")
POLLER = "poller"
WARM_UP = 8
QUICK_WARM_UP = 3
SAMPLE_PERIOD = 5.0
QUICK_SAMPLE_PERIOD = 1.0
ROTATION_PERIOD = "1 minute"
PHASES = ("clean", "held", "recovery")

# Peaks that the subject's tables may have while the snapshot is open.
PEAKS = {"subscription": 500, "tick": 200, "event": 0}


class Run:
    """What one contestant did: series of one value per second from the start of the first phase."""

    def __init__(self, phases):
        self.phases = phases  # {phase: (first second, end)}
        self.series = {}
        self.events_counted = None
        self.exact = True

    @property
    def seconds(self):
        return self.phases["recovery"][1]

    def values(self, series, phase, half=False):
        """A series' values in a phase, or in its second half."""
        first, end = self.phases[phase]
        values = numpy.array(self.series[series][first + (end - first) // 2 if half else first:end])
        return values[~numpy.isnan(values)]

    def median(self, series, phase, half=False):
        values = self.values(series, phase, half)
        return float(numpy.median(values)) if len(values) else float("nan")

    def mean(self, series, phase, half=False):
        values = self.values(series, phase, half)
        return float(values.mean()) if len(values) else float("nan")

    def peak(self, series, phase):
        values = self.values(series, phase)
        return float(values.max()) if len(values) else float("nan")


def _phases(ctx):
    held = max(10, int(ctx.options.held_minutes * 60))
    around = max(5, held // 2)
    return {"clean": (0, around), "held": (around, around + held), "recovery": (around + held, 2 * around + held)}


def _watch(ctx, contestant, readers, producer, folder, until, what):
    said = time.time()
    while time.time() < until:
        time.sleep(0.5)
        for reader in readers:
            reader.check()
        if producer.poll() not in (None, 0):
            raise process.CommandFailed(f"{contestant.label}: pgbench failed: "
                                        f"{(folder / 'producer.err').read_text()[-500:]}")
        if time.time() - said >= 60:
            said = time.time()
            ctx.say(f"held_xmin, {contestant.label}, {what}: {until - said:.0f} s left")


def _reader_series(reader, start, seconds):
    """Events, rounds, batches, median ms of a round, and of the µs of CPU of rounds without and with a batch."""
    names = {"rounds": 1, "batches": 2, "events": 3, "round_ms": 4, "empty_cpu": 5, "batch_cpu": 6}
    found = {name: [float("nan")] * seconds for name in names}
    found["events"] = [0.0] * seconds
    for row in reader.seconds():
        seat = int(row[0]) - start
        if 0 <= seat < seconds:
            for name, column in names.items():
                found[name][seat] = row[column]
    return found


def _produced(folder, start, seconds):
    """Events in, per second, from pgbench's logs."""
    found = [0.0] * seconds
    for path in folder.glob("producer.*"):
        if path.suffix != ".err":
            for line in path.read_text().splitlines():
                second, count = (int(word) for word in line.split()[:2])
                if 0 <= second - start < seconds:
                    found[second - start] += count
    return found


def _one(ctx, contestant, phases):
    """Run one contestant through the three phases."""
    contestant.discard()  # a new database, whose catalogs have no dead rows
    contestant.fresh()
    with contestant.connect() as conn:
        contestant.configure(conn, QUEUE, rotation_period=ROTATION_PERIOD)
        for consumer in (*WAITERS, POLLER):
            contestant.register(conn, consumer)
    run = Run(phases)
    warm_up, sample_period = ((QUICK_WARM_UP, QUICK_SAMPLE_PERIOD) if ctx.options.quick
                              else (WARM_UP, SAMPLE_PERIOD))
    length = warm_up + run.seconds + 2
    sampler = dead.Sampler(contestant, sample_period)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tasker-held-")))
        stack.enter_context(contestant.duties())
        until = time.time() + length
        producer = stack.enter_context(pgbench.start(
            ctx.server, contestant.dbname, contestant.pgbench_script("insert_single"), folder, clients=PRODUCERS,
            seconds=length, rate=RATE, defines=contestant.defines()))
        readers = [stack.enter_context(reading(contestant, folder, consumer, until, waiting=consumer != POLLER))
                   for consumer in (*WAITERS, POLLER)]
        _watch(ctx, contestant, readers, producer, folder, time.time() + warm_up, "warm-up")
        sampler.start()
        stack.callback(sampler.ended.set)
        start = int(time.time()) + 1
        _watch(ctx, contestant, readers, producer, folder, start + phases["clean"][1], "clean")
        with contextlib.closing(contestant.connect(autocommit=False)) as holder:
            holder.execute("set transaction isolation level repeatable read")
            holder.execute("select count(*) from pg_class")
            _watch(ctx, contestant, readers, producer, folder, start + phases["held"][1], "held")
            holder.execute("select 1")
            run.events_counted = sampler.events_counted()
        _watch(ctx, contestant, readers, producer, folder, start + run.seconds, "recovery")
        sampler.finish()
        producer.wait(60)
        for reader in readers:
            reader.child.wait(60)
            reader.check()
        run.exact = sampler.exact
        run.series["in"] = _produced(folder, start, run.seconds)
        for reader, consumer in zip(readers, (*WAITERS, POLLER)):
            for name, values in _reader_series(reader, start, run.seconds).items():
                run.series[f"{consumer} {name}"] = values
    run.series["out"] = [sum(values) / len(WAITERS)
                         for values in zip(*(run.series[f"{consumer} events"] for consumer in WAITERS))]
    for group, values in sampler.per_second(start, run.seconds).items():
        run.series[f"dead {group}"] = values
    return run


def held_xmin(ctx):
    """2,000 events/s in, three consumers; clean, behind a snapshot that stays open, and after it has gone."""
    phases = _phases(ctx)
    found = {}
    for contestant in ctx.able("insert_single", "next", "events", "finish"):
        found[contestant.name] = run = _one(ctx, contestant, phases)
        ctx.say(f"held_xmin, {contestant.label}: " + "; ".join(
            f"{phase} {run.mean('out', phase):,.0f} events/s, {run.median(f'{POLLER} rounds', phase):,.0f} rounds/s, "
            + ", ".join(f"{group} {run.peak(f'dead {group}', phase):,.0f}" for group in (*dead.GROUPS, "pg_class"))
            for phase in PHASES))
    _write(ctx, found)
    _report(ctx, found)


def _write(ctx, found):
    """The series as CSV and as a plot."""
    names = list(next(iter(found.values())).series)
    rows = [[ctx.report.labels[who], second, next(phase for phase, (first, end) in run.phases.items() if second < end),
             *(run.series[name][second] for name in names)]
            for who, run in found.items() for second in range(run.seconds)]
    write_csv(ctx.out / "held_xmin_series.csv", ["contestant", "second", "phase", *names], rows)
    phases = next(iter(found.values())).phases
    panels = [(label, {who: run.series[name] for who, run in found.items()}, log) for label, name, log in (
        ("events/s out,\nwaiting consumer", "out", False), ("rounds/s,\npolling consumer", f"{POLLER} rounds", False),
        ("µs of CPU, round\nwithout a batch", f"{POLLER} empty_cpu", False),
        ("µs of CPU, round\nwith a batch", f"{POLLER} batch_cpu", False),
        ("dead rows,\nsubscription", "dead subscription", False), ("dead rows,\ntick", "dead tick", False),
        ("dead rows,\nevent tables", "dead event", False), ("dead rows,\nother tables", "dead other", False),
        ("dead rows,\npg_class", "dead pg_class", False))]
    plot.lines(ctx.out / "held_xmin_series.svg",
               f"{RATE:,} events/s; snapshot open from {phases['held'][0]} to {phases['held'][1]} s", panels,
               ctx.report.labels, marks=phases["held"])


def _report(ctx, found):
    subject = found.get(ctx.report.subject)

    def row(variant, unit, figure):
        return ctx.report.add(Row("held_xmin", variant, unit, {who: [figure(run)] for who, run in found.items()}))

    def passed(run, phase, half=False):
        """The share of the events that a waiting consumer got, of those that came in meanwhile."""
        return run.mean("out", phase, half) / run.mean("in", phase, half)

    def against_clean(figure):
        """The second half of the held phase, where most is dead, against the clean phase."""
        return figure(subject, "held", half=True) / figure(subject, "clean") if subject else None

    lengths = {phase: end - first for phase, (first, end) in next(iter(found.values())).phases.items()}
    for phase in PHASES:
        variant = f"{phase}, {lengths[phase]} s"
        out = row(f"{variant}: events out of a waiting consumer", "events/s", lambda run: run.mean("out", phase))
        rounds = row(f"{variant}: rounds of a polling consumer", "per second",
                     lambda run: run.median(f"{POLLER} rounds", phase))
        row(f"{variant}: its batches", "per second", lambda run: run.median(f"{POLLER} batches", phase))
        row(f"{variant}: server's CPU of a round without a batch", "µs",
            lambda run: run.median(f"{POLLER} empty_cpu", phase))
        row(f"{variant}: server's CPU of a round with a batch", "µs",
            lambda run: run.median(f"{POLLER} batch_cpu", phase))
        peaks = {group: row(f"{variant}: most dead rows, {group}", "rows", lambda run: run.peak(f"dead {group}", phase))
                 for group in (*dead.GROUPS, *dead.CATALOGS)}
        if phase == "held":
            out.bars.append(Bar("events out / in, second half, × clean", against_clean(passed), ">=", 0.97))
            rounds.bars.append(Bar("rounds, second half, × clean", against_clean(
                lambda run, phase, half=False: run.median(f"{POLLER} rounds", phase, half)), ">=", 0.97))
            for group, limit in PEAKS.items():
                peaks[group].bars.append(Bar(f"{group} tables", peaks[group].value(ctx.report.subject), "<=", limit, "rows"))
    counted = row("held: dead rows in event tables, counted at its end", "rows",
                  lambda run: float(run.events_counted))
    counted.note = dead.describe(all(run.exact for run in found.values()))
    counted.bars.append(Bar("event tables, counted", counted.value(ctx.report.subject), "<=", 0, "rows"))

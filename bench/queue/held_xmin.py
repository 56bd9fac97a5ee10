"""The held xmin: an old snapshot stays open while records come in at a steady rate and are consumed.

Dead row versions cannot be removed as long as the snapshot lives, so a queue that walks over them slows down
with every second. Shown per second: records in, records out, the 99th percentile of a claim, the backlog.
"""

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy

from bench.lib import figures, pgbench, plot, process
from bench.lib.report import Bar, Row, write_csv

RATE = 2000
CONSUMERS = 4
BATCH = 10
IDLE = 0.01
WARM_UP = 8
START_BACKLOG = 1000
EDGE = 15
CONSUMER = Path(__file__).parent.parent / "lib" / "consumer.py"


def _start_consumers(stack, contestant, folder, until):
    """Start the consumer processes, each with its own orders."""
    children = []
    for number in range(CONSUMERS):
        errors = stack.enter_context(open(folder / f"consumer{number}.err", "w"))
        child = stack.enter_context(process.started([sys.executable, str(CONSUMER)], stdin=subprocess.PIPE,
                                                    stderr=errors, text=True))
        orders = {
            "dsn": contestant.server.dsn(contestant.dbname), "claim": contestant.claim_statement(),
            "complete": contestant.statement("complete"), "batch": BATCH, "idle": IDLE, "until": until,
            "parameters": contestant.defines(batch=BATCH, client_id=str(number)),
            "out": str(folder / f"consumer{number}.log"),
        }
        child.stdin.write(json.dumps(orders))
        child.stdin.close()
        children.append((child, folder / f"consumer{number}.err"))
    return children


def _watch(ctx, contestant, children, until):
    """Wait for the end with a progress line now and then; a child that fails ends the benchmark."""
    said = time.time()
    while time.time() < until:
        time.sleep(0.5)
        for child, errors in children:
            if child.poll() not in (None, 0):
                raise process.CommandFailed(f"{contestant.label}: a client failed: {errors.read_text()[-500:]}")
        if time.time() - said >= 30:
            said = time.time()
            ctx.say(f"held_xmin, {contestant.label}: {until - said:.0f} s left")


def _produced(folder, start, seconds):
    """Records in per second, and how many came in before `start`, from pgbench's per-second logs."""
    per_second = numpy.zeros(seconds)
    before = 0
    for path in folder.glob("producer.*"):
        if path.suffix == ".err":
            continue
        for line in path.read_text().splitlines():
            second, count = (int(word) for word in line.split()[:2])
            if second < start:
                before += count
            elif second < start + seconds:
                per_second[second - start] += count
    return per_second, before


def _consumed(folder, start, seconds):
    """Records out per second and before `start`; claims' times and latencies."""
    rows = numpy.concatenate([numpy.loadtxt(path, ndmin=2) for path in sorted(folder.glob("consumer*.log"))])
    began, latency, count, done = rows.T
    seats = numpy.floor(done - start).astype(int)
    inside = (seats >= 0) & (seats < seconds)
    per_second = numpy.bincount(seats[inside], weights=count[inside], minlength=seconds)
    return per_second, float(count[seats < 0].sum()), began, latency


def _one(ctx, contestant, held):
    """Run one contestant; return its series and its figures."""
    contestant.reset(START_BACKLOG)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tasker-held-")))
        until = time.time() + WARM_UP + held + 2
        script = contestant.pgbench_script("enqueue_single")
        producer = stack.enter_context(pgbench.start(ctx.server, contestant.dbname, script, folder, clients=4,
                                                     seconds=WARM_UP + held + 2, rate=RATE,
                                                     defines=contestant.defines()))
        children = _start_consumers(stack, contestant, folder, until)
        children.append((producer, folder / "producer.err"))
        _watch(ctx, contestant, children, time.time() + WARM_UP)
        holder = stack.enter_context(contextlib.closing(contestant.connect(autocommit=False)))
        holder.execute("set transaction isolation level repeatable read")
        holder.execute("select count(*) from pg_class")
        start = int(time.time()) + 1
        _watch(ctx, contestant, children, start + held)
        holder.execute("select 1")
        for child, _ in children:
            child.wait(60)
        incoming, before_in = _produced(folder, start, held)
        outgoing, before_out, began, latency = _consumed(folder, start, held)
    backlog = START_BACKLOG + before_in - before_out + numpy.cumsum(incoming) - numpy.cumsum(outgoing)
    p99 = figures.series(began, latency, start, held, lambda values: figures.percentile(values, 99))
    first = latency[(began >= start) & (began < start + EDGE)]
    last = latency[(began >= start + held - EDGE) & (began < start + held)]
    return {
        "in": incoming.tolist(), "out": outgoing.tolist(), "p99": p99, "backlog": backlog.tolist(),
        "first_p99": figures.percentile(first, 99), "last_p99": figures.percentile(last, 99),
        "last_in": float(incoming[-EDGE:].mean()), "last_out": float(outgoing[-EDGE:].mean()),
        "last_backlog": float(backlog[-EDGE:].max()),
    }


def held_xmin(ctx):
    """2,000 records/s in, 4 consumers of batch 10, behind a snapshot that stays open."""
    held = max(2 * EDGE, int(ctx.options.held_minutes * 60))
    found = {}
    for contestant in ctx.able("enqueue_single", "claim", "complete"):
        found[contestant.name] = _one(ctx, contestant, held)
        one = found[contestant.name]
        ctx.say(f"held_xmin, {contestant.label}: out {one['last_out']:,.0f}/s of {one['last_in']:,.0f}/s in, claim p99 "
                f"{one['first_p99']:.2f} → {one['last_p99']:.2f} ms, backlog {one['last_backlog']:,.0f}")
    _write(ctx, found)
    _report(ctx, found, f"snapshot open {held} s")


def _write(ctx, found):
    """The series as CSV and as a plot."""
    rows = []
    for name, one in found.items():
        for second, values in enumerate(zip(one["in"], one["out"], one["p99"], one["backlog"])):
            rows.append([ctx.report.labels[name], second, *values])
    write_csv(ctx.out / "held_xmin_series.csv",
              ["contestant", "second", "records_in", "records_out", "claim_p99_ms", "backlog"], rows)
    panels = [("records/s out", {name: one["out"] for name, one in found.items()}, False),
              ("claim p99, ms", {name: one["p99"] for name, one in found.items()}, True),
              ("backlog, records", {name: one["backlog"] for name, one in found.items()}, False)]
    plot.lines(ctx.out / "held_xmin_series.svg", f"{RATE} records/s behind an open snapshot", panels,
               ctx.report.labels)


def _report(ctx, found, variant):
    def row(name, unit, key):
        return ctx.report.add(Row("held_xmin", f"{variant}, {name}", unit,
                                  {who: [one[key]] for who, one in found.items()}))
    subject = found.get(ctx.report.subject)
    out = row(f"out, last {EDGE} s", "records/s", "last_out")
    row(f"claim p99, first {EDGE} s", "ms", "first_p99")
    late = row(f"claim p99, last {EDGE} s", "ms", "last_p99")
    backlog = row(f"backlog, last {EDGE} s", "records", "last_backlog")
    out.bars.append(Bar("out / in", subject["last_out"] / subject["last_in"] if subject else None, ">=", 0.98, ""))
    late.bars.append(Bar(f"× its first {EDGE} s", subject["last_p99"] / subject["first_p99"] if subject else None,
                         "<=", 1.5))
    backlog.bars.append(Bar("backlog in seconds of input", subject["last_backlog"] / RATE if subject else None,
                            "<", 1.0, "s"))

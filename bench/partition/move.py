"""Bringing the rows of an existing table into a set: how fast, and what writers notice of it.

The speed is that of the call itself on a quiet machine, against `insert ... select` of the same rows into the same
set, which leaves the old table as it is and has to be one transaction. Writers change rows of the old table by key
and add rows, at a steady rate; their 99th percentile while the rows are on their way is set against the same figure of
a quiet stretch before.
"""

import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

from bench.lib import figures, pgbench, process
from bench.lib.report import Bar
from bench.lib.rounds import add_rows, alternate

ROWS = 1_000_000
WRITTEN = 2_000_000  # of the runs with writers, so that they last for some seconds
DAYS = 30
CLIENTS = 4
RATE = 600
QUIET = 5.0
SCRIPTS = Path(__file__).parent / "scripts"
COLUMNS = "(id bigint not null, at timestamptz not null, key int not null, name text)"

CALLS = {
    ("tasker", "move"): "call tasker.partition_data_proc('event', 'src')",
    ("tasker", "swap"): "call tasker.partition_data_proc('event', 'src', swap => true)",
    ("partman", "move"): "call partman.partition_data_proc('public.event', p_wait => 0, p_source_table => 'public.src', "
                         "p_quiet => true)",
}


def _make(contestant, conn, rows):
    """An old table of rows over 30 days, and an empty set with all its partitions."""
    contestant.make_set(conn, "event", DAYS, 1, COLUMNS)
    conn.execute("alter table event add primary key (id, at)")
    conn.execute("create index on event (at)")
    conn.execute(f"create table src {COLUMNS}")
    conn.execute(f"""
        insert into src select i, current_date - {DAYS - 1} + i * interval '{DAYS - 1} days' / {rows}, i % 1000,
                               'a payload of a few bytes' from generate_series(1, {rows}) i""")
    conn.execute("alter table src add primary key (id)")
    conn.execute("create index on src (at)")
    conn.execute("vacuum analyze src")
    conn.execute("checkpoint")


def _timed(conn, statement):
    began = time.perf_counter()
    conn.execute(statement)
    return time.perf_counter() - began


def _speed(contestant, rows):
    """Rows per second of each way."""
    found = {}
    contestant.fresh()
    with contestant.connect() as conn:
        _make(contestant, conn, rows)
        found["insert"] = rows / _timed(conn, "insert into event select * from src")
        conn.execute("truncate event")
        conn.execute("checkpoint")
        found["move"] = rows / _timed(conn, CALLS[contestant.name, "move"])
        if conn.execute("select count(*) from event").fetchone()[0] != rows:
            raise RuntimeError(f"{contestant.label} did not move all rows")
    if (contestant.name, "swap") in CALLS:
        contestant.fresh()
        with contestant.connect() as conn:
            _make(contestant, conn, rows)
            found["swap"] = rows / _timed(conn, CALLS[contestant.name, "swap"])
    return found


def move_speed(ctx):
    """Rows per second into the set, against insert ... select."""
    rows = ctx.scaled(ROWS, 50_000)
    found = alternate(ctx, ctx.able(), ctx.options.rounds, "move_speed", lambda c: _speed(c, rows))
    made = add_rows(ctx, "move_speed", found, {
        "insert": (f"{rows:,} rows, insert ... select", "rows/s"), "move": (f"{rows:,} rows, moved", "rows/s"),
        "swap": (f"{rows:,} rows, copied, verified and swapped", "rows/s")})
    subject = ctx.report.subject
    raw = made["insert"].value(subject) if "insert" in made else None
    for way in ("move", "swap"):
        if way in made and raw:
            made[way].bars.append(Bar("× insert ... select", made[way].value(subject) / raw, ">=", 0.5))


@contextmanager
def _writers(server, dbname, way, rows):
    """Writers until the end of the block; yields the folder with their log."""
    with tempfile.TemporaryDirectory(prefix="tasker-move-") as name:
        command = [server.tool("pgbench"), "-n", "-h", server.host, "-p", str(server.port), "-U", server.user,
                   "-c", str(CLIENTS), "-j", "2", "-T", "300", "-R", str(RATE), "--max-tries", "100",
                   "-D", f"rows={rows}", "-f", str(SCRIPTS / f"move_{way}.sql"), "--log", "--log-prefix", f"{name}/log"]
        with open(Path(name) / "errors", "w") as errors:
            with process.started(command + [dbname], env=pgbench.environment(), cwd=name, stdout=errors,
                                 stderr=errors) as child:
                yield Path(name)
                if child.poll() is not None or "ERROR" in (Path(name) / "errors").read_text():
                    raise process.CommandFailed("a writer failed: " + (Path(name) / "errors").read_text()[-500:])
                child.terminate()
                child.wait(30)


def _read(folder):
    """(end, latency in ms) of each transaction; the last line of a file may be cut off."""
    found = []
    for path in folder.glob("log.*"):
        for line in path.read_text().splitlines()[:-1]:
            row = line.split()
            if len(row) >= 6 and row[2].isdigit():
                found.append((int(row[4]) + int(row[5]) / 1e6, int(row[2]) / 1000.0))
    return found


def _beside(ctx, contestant, rows):
    """p99 of writers before and during each way, in ms."""
    found = {}
    for way in ("move", "swap"):
        call = CALLS.get((contestant.name, way))
        if not call:
            continue
        contestant.fresh()
        with contestant.connect() as conn:
            _make(contestant, conn, rows)
            with _writers(ctx.server, contestant.dbname, way, rows) as folder:
                time.sleep(1.0)
                quiet = time.time()
                time.sleep(QUIET)
                start = time.time()
                conn.execute(call)
                end = time.time()
                time.sleep(1.0)
                log = _read(folder)
        calm = [ms for at, ms in log if quiet <= at < start]
        busy = [ms for at, ms in log if start <= at and at - ms / 1000.0 <= end]
        found[f"{way} quiet"] = figures.percentile(calm, 99)
        found[f"{way} p99"] = figures.percentile(busy, 99)
        found[f"{way} longest"] = float(max(busy))
        found[f"{way} seconds"] = end - start
    return found


def move_stall(ctx):
    """What writers notice."""
    rows = ctx.scaled(WRITTEN, 100_000)
    found = alternate(ctx, ctx.able(), ctx.options.rounds, "move_stall", lambda c: _beside(ctx, c, rows))
    variants = {}
    for way, what in (("move", "moved"), ("swap", "copied and swapped")):
        variants[f"{way} quiet"] = (f"before {rows:,} rows are {what}, writers' p99", "ms")
        variants[f"{way} p99"] = (f"while {rows:,} rows are {what}, writers' p99", "ms")
        variants[f"{way} longest"] = (f"while {rows:,} rows are {what}, longest transaction", "ms")
        variants[f"{way} seconds"] = (f"{rows:,} rows {what} beside writers", "s")
    made = add_rows(ctx, "move_stall", found, variants)
    subject = ctx.report.subject
    for way in ("move", "swap"):
        calm, busy = (made[f"{way} {name}"].value(subject) if f"{way} {name}" in made else None
                      for name in ("quiet", "p99"))
        if calm:
            made[f"{way} p99"].bars.append(Bar("p99 / its p99 before", busy / calm, "<=", 2.0))

"""Premake and retire under load: how long the slowest insert on the parent took while the manager was at work.

The load's latencies count from the moment at which a transaction was due, so that one long stall is not hidden by
the transactions that could not begin meanwhile. The same figure for a quiet stretch before shows what the machine
itself adds, and the server's log tells how often a client waited for a lock at all.
"""

import time
from contextlib import contextmanager

from bench.lib import database, figures
from bench.lib.report import Bar
from bench.lib.rounds import add_rows, alternate
from bench.partition import load

PARTITIONS = 100  # to be made or retired
KEPT = 30
CLIENTS = 4
RATE = 600
WARM_UP = 2.0
QUIET = 4.0
AFTER = 1.0
READER_SECONDS = 5
LOCK_WAIT_MS = 20  # a client's wait for a lock counts from here
LOG_SETTINGS = {"log_lock_waits": "on", "deadlock_timeout": f"{LOCK_WAIT_MS}ms", "log_line_prefix": "%m [%p] %a: "}


def _prepare(contestant, conn, past):
    contestant.make_set(conn, "event", past, 4)
    conn.execute("create index on event (key)")
    conn.execute("insert into event select i, current_date - i %% %s + interval '12 hours', i %% 1000, 'old' "
                 "from generate_series(0, 20000) i", [past + 1])
    contestant.premake(conn)
    conn.execute("analyze")
    if contestant.name == "tasker":
        contestant.wait_for_worker(conn)
        contestant.worker_round(conn)


def _worst(transactions, start, end):
    """The longest insert, the longest look-up and the inserts' 99.9th percentile of a stretch of time, in ms."""
    inserts = transactions.between("insert", start, end)
    return float(inserts.max()), float(transactions.between("lookup", start, end).max()), \
        figures.percentile(inserts, 99.9)


@contextmanager
def _logged_lock_waits(ctx):
    """Have the server log waits for locks; yields a function that counts those of the load since the last call,
    or None where its log is out of reach."""
    log = getattr(ctx.server, "folder", None) and ctx.server.folder / "server.log"
    if not log:
        yield lambda: None
        return
    seen = 0

    def count():
        nonlocal seen
        lines = log.read_text(errors="replace").splitlines()
        fresh, seen = lines[seen:], len(lines)
        return float(sum("pgbench: LOG:" in line and "still waiting for" in line for line in fresh))

    for name, value in LOG_SETTINGS.items():
        database.set_server(ctx.server, name, value)
    try:
        count()
        yield count
    finally:
        for name in LOG_SETTINGS:
            database.set_server(ctx.server, name, None)


def _one(ctx, contestant, past, ask, with_reader, lock_waits):
    """Load, a quiet stretch, then the work that `ask` sets, to its end."""
    contestant.fresh()
    with contestant.connect() as conn:
        _prepare(contestant, conn, past)
        with load.running(ctx.server, contestant.dbname, CLIENTS, RATE) as running:
            time.sleep(WARM_UP)
            quiet = time.time()
            time.sleep(QUIET)
            lock_waits()
            done = ask(contestant, conn)
            if with_reader:
                took = _behind_reader(ctx, contestant, conn, done)
            else:
                took = (time.time(), contestant.maintain_until(conn, done))
            ended = time.time()
            time.sleep(AFTER)
            running.finish()
    start, seconds = took
    insert, lookup, high = _worst(running.transactions, start, ended)
    calm, calm_lookup, _ = _worst(running.transactions, quiet, start)
    found = {"insert": insert, "lookup": lookup, "p99.9": high, "quiet insert": calm, "quiet lookup": calm_lookup,
             "seconds": seconds}
    waits = lock_waits()
    if waits is not None:
        found["lock waits"] = waits
    return found


def _behind_reader(ctx, contestant, conn, done):
    """The manager begins when the reader has its locks."""
    with load.reader(ctx.server, contestant.dbname, READER_SECONDS) as child:
        load.wait_until(lambda: conn.execute("select exists (select from pg_stat_activity where "
                                             "datname = current_database() and wait_event = 'PgSleep')").fetchone()[0],
                        "the reader's sleep")
        start = time.time()
        seconds = contestant.maintain_until(conn, done)
        if child.wait(60) != 0:
            raise RuntimeError(f"{contestant.label}: the reader failed: {child.stderr.read()[-500:]}")
    return start, seconds


def _ask_premake(partitions):
    def ask(contestant, conn):
        contestant.want_ahead(conn, "event", 4 + partitions)
        return lambda: contestant.partition_count(conn, "event") >= KEPT + 1 + 4 + partitions
    return ask


def _ask_retire(_partitions):
    def ask(contestant, conn):
        contestant.keep_days(conn, "event", KEPT)
        return lambda: contestant.partition_count(conn, "event") <= KEPT + 1 + 4
    return ask


def _run(ctx, benchmark, past, ask, what, with_reader=False):
    with _logged_lock_waits(ctx) as lock_waits:
        found = alternate(ctx, ctx.able(), ctx.options.rounds, benchmark,
                          lambda c: _one(ctx, c, past, ask, with_reader, lock_waits))
    rows = add_rows(ctx, benchmark, found, {
        "insert": (f"{what}, longest insert", "ms"), "lookup": (f"{what}, longest look-up", "ms"),
        "p99.9": (f"{what}, inserts' p99.9", "ms"),
        "lock waits": (f"{what}, clients' waits for locks over {LOCK_WAIT_MS} ms", "waits"), "quiet insert": ("before, longest insert", "ms"),
        "quiet lookup": ("before, longest look-up", "ms"), "seconds": (f"{what}, duration", "s")})
    rows["insert"].bars.append(Bar("longest stall", rows["insert"].value(ctx.report.subject), "<=", 100.0, "ms"))


def premake_stall(ctx):
    """100 partitions are made ahead."""
    partitions = ctx.scaled(PARTITIONS, 20)
    _run(ctx, "premake_stall", KEPT, _ask_premake(partitions), f"{partitions} made")


def retire_stall(ctx):
    """100 partitions are dropped."""
    partitions = ctx.scaled(PARTITIONS, 20)
    _run(ctx, "retire_stall", KEPT + partitions, _ask_retire(partitions), f"{partitions} dropped")


def retire_stall_reader(ctx):
    """The same behind a transaction that has read the parent and stays open for five seconds."""
    partitions = ctx.scaled(PARTITIONS, 20)
    _run(ctx, "retire_stall_reader", KEPT + partitions, _ask_retire(partitions),
         f"{partitions} dropped behind a reader", with_reader=True)

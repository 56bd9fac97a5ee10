"""A round of maintenance with nothing to do: how long it takes, what it writes, and whether it locks a parent.

Rows of a plain table change before each round, so that the subject cannot pass over its parents because nothing in
the database has changed at all.
"""

import time

import psycopg
from psycopg import sql

from bench.lib import database, figures
from bench.lib.report import Bar
from bench.lib.rounds import add_rows, alternate
from bench.partition import cost

CALLS = 10
LOCK_TIMEOUT = "1s"
SIZES = ((1, 30), (1, 365), (50, 100))
QUICK_SIZES = ((1, 30), (3, 20))
AHEAD = 4


def _make(ctx, contestant, sets, partitions):
    """A database with so many sets of so many partitions, each with a row of today; returns its name."""
    dbname = f"{contestant.dbname}_{sets}x{partitions}"
    began = time.monotonic()
    contestant.fresh(dbname)
    with database.connect(ctx.server, dbname) as conn:
        conn.execute("create table elsewhere (a int)")
        for number in range(sets):
            contestant.make_set(conn, f"event_{number}", partitions - 1 - AHEAD, AHEAD)
            conn.execute(f"insert into event_{number} values (1, now(), 1, '')")
    with database.connect(ctx.server, dbname) as conn:
        # Twice: the first round may still have something to do.
        contestant.round(conn)
        contestant.round(conn)
        conn.execute("vacuum (analyze)")
        conn.execute("checkpoint")
    ctx.say(f"idle_round, {contestant.label}: {sets} sets of {partitions} made in {time.monotonic() - began:.0f} s")
    return dbname


def _change_rows_elsewhere(conn):
    conn.execute("insert into elsewhere select generate_series(1, 2000)")
    conn.execute("select pg_stat_force_next_flush()")


def _written(conn):
    """Counters of what is written: transaction ids, rows of catalogs and the managers' tables, bytes of WAL."""
    conn.execute("select pg_stat_force_next_flush()")
    return conn.execute("""
        select pg_snapshot_xmax(pg_current_snapshot())::text::bigint,
               (select sum(n_tup_ins + n_tup_upd + n_tup_del)::bigint from pg_stat_all_tables
                where schemaname in ('pg_catalog', 'tasker', 'partman')),
               (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint""").fetchone()


def _medians(found, name, costs):
    """The median time and CPU time of some rounds."""
    found[name] = figures.median([cost.ms for cost in costs])
    if all(cost.cpu_ms is not None for cost in costs):
        found[f"{name} cpu"] = figures.median([cost.cpu_ms for cost in costs])


def _rounds(helper, pid, call):
    """The costs of some rounds, each after changes elsewhere."""
    costs = []
    for _ in range(CALLS):
        _change_rows_elsewhere(helper)
        costs.append(cost.measure(pid, call))
    return costs


def _failures(contestant, conn):
    if contestant.name != "tasker":
        return 0
    return conn.execute("select count(*) from tasker.part_failure").fetchone()[0]


def _passes_locks(contestant, conn, helper, sets):
    """Does a round pass while somebody else has locked all parents against everybody? 1 or 0."""
    conn.execute(f"set lock_timeout = '{LOCK_TIMEOUT}'")
    helper.execute("begin")
    helper.execute(sql.SQL("lock table {} in access exclusive mode").format(
        sql.SQL(", ").join(sql.SQL("only {}").format(sql.Identifier(f"event_{i}")) for i in range(sets))))
    try:
        contestant.round(conn)
        passed = True
    except psycopg.Error as error:
        # pg_partman raises what it has caught as an error of its own.
        if "lock timeout" not in str(error):
            raise
        passed = False
    finally:
        helper.execute("rollback")
        conn.execute("reset lock_timeout")
    return float(passed and _failures(contestant, conn) == 0)


def _one_round(ctx, contestant, dbname, sets):
    found = {}
    with database.connect(ctx.server, dbname) as helper, database.connect(ctx.server, dbname) as conn:
        _change_rows_elsewhere(helper)
        pid = conn.info.backend_pid
        _medians(found, "new", [cost.measure(pid, lambda: contestant.round(conn))])
        _medians(found, "warm", _rounds(helper, pid, lambda: contestant.round(conn)))
        if contestant.name == "tasker":
            times = []
            costs = _rounds(helper, contestant.worker_pid(helper),
                            lambda: times.append(contestant.worker_round(helper)))
            _medians(found, "worker", costs)
            found["worker"] = figures.median(times)  # without the time to ask and to notice
        _change_rows_elsewhere(helper)
        before = _written(conn)
        contestant.round(conn)
        after = _written(conn)
        found.update(zip(("xids", "rows", "wal"), (float(b - a) for a, b in zip(before, after))))
        found["locks"] = _passes_locks(contestant, conn, helper, sets)
    return found


def _size(ctx, contestants, sets, partitions):
    databases = {c.name: _make(ctx, c, sets, partitions) for c in contestants}
    what = f"{sets} × {partitions}"
    found = alternate(ctx, contestants, ctx.options.rounds, f"idle_round, {what}",
                      lambda c: _one_round(ctx, c, databases[c.name], sets))
    for contestant in contestants:
        database.drop_database(ctx.server, databases[contestant.name])
    rows = add_rows(ctx, "idle_round", found, {
        "warm": (f"{what}, in a session", "ms"), "new": (f"{what}, in a new session", "ms"),
        "worker": (f"{what}, by the worker", "ms"), "warm cpu": (f"{what}, in a session, CPU", "ms"),
        "worker cpu": (f"{what}, by the worker, CPU", "ms"), "xids": (f"{what}, transaction ids used", "ids"),
        "rows": (f"{what}, rows of catalogs written", "rows"), "wal": (f"{what}, WAL", "bytes"),
        "locks": (f"{what}, passes while parents are locked", "of 1")})
    subject = ctx.report.subject
    for name in ("warm", "worker"):
        if name in rows:
            rows[name].bars.append(Bar("time", rows[name].value(subject), "<", 20.0, "ms"))
    for name, unit in (("xids", "ids"), ("rows", "rows")):
        rows[name].bars.append(Bar("written", rows[name].value(subject), "<=", 0.0, unit))
    rows["locks"].bars.append(Bar("rounds that pass", rows["locks"].value(subject), ">=", 1.0, ""))


def idle_round(ctx):
    """One set of 30, one of 365, fifty of 100 partitions."""
    contestants = ctx.able()
    database.set_server(ctx.server, "autovacuum", "off")
    try:
        for sets, partitions in QUICK_SIZES if ctx.options.quick else SIZES:
            _size(ctx, contestants, sets, partitions)
    finally:
        database.set_server(ctx.server, "autovacuum", None)

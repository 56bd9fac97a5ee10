"""What 1,000 queues cost in which nothing happens: CPU of the processes that make ticks, and WAL."""

import time

from bench.lib import database
from bench.lib.report import Bar
from bench.lib.rounds import add_rows, alternate

QUEUES = 1_000
QUICK_QUEUES = 30
SECONDS = 60
QUICK_SECONDS = 3

# Queues that have just been made still tick now and then; PgQ's come to rest at one tick a minute.
SETTLE = 60
QUICK_SETTLE = 2


def _wal(conn):
    return int(conn.execute("select pg_current_wal_insert_lsn() - '0/0'::pg_lsn").fetchone()[0])


def _ticks(contestant, conn):
    return conn.execute(f"select count(*) from {contestant.schema}.tick").fetchone()[0]


def _measure(ctx, contestant, queues, settle, seconds):
    contestant.fresh()
    with contestant.connect() as conn:
        for number in range(1, queues):
            contestant.make_queue(conn, f"idle_{number}")
        # Each has seen one event, so that there is something behind which it comes to rest.
        conn.execute(f"select count({contestant.schema}.insert_event(queue_name, 'last', '')) "
                     f"from {contestant.schema}.queue")
        conn.execute("vacuum (analyze)")
        conn.execute("checkpoint")
        with contestant.duties():
            time.sleep(settle)
            conn.execute("checkpoint")
            ticks, wal, used, began = _ticks(contestant, conn), _wal(conn), contestant.ticker_cpu(conn), time.monotonic()
            time.sleep(seconds)
            passed = time.monotonic() - began
            found = {"cpu": (contestant.ticker_cpu(conn) - used) / passed * 100.0,
                     "wal": (_wal(conn) - wal) / passed, "ticks": (_ticks(contestant, conn) - ticks) / passed}
    contestant.clear()
    return found


def idle(ctx):
    """Contestants one after the other, as what one of them writes would count for the other."""
    able = ctx.able("next")
    for contestant in able:
        contestant.clear()
    quick = ctx.options.quick
    queues = QUICK_QUEUES if quick else QUEUES
    settle, seconds = (QUICK_SETTLE, QUICK_SECONDS) if quick else (SETTLE, SECONDS)
    database.set_server(ctx.server, "autovacuum", "off")
    try:
        found = alternate(ctx, able, 1, "idle", lambda c: _measure(ctx, c, queues, settle, seconds))
    finally:
        database.set_server(ctx.server, "autovacuum", None)
    variant = f"{queues:,} queues"
    rows = add_rows(ctx, "idle", found, {"cpu": (f"{variant}, CPU", "% of a core"),
                                         "wal": (f"{variant}, WAL", "bytes/s"), "ticks": (f"{variant}, ticks", "per second")})
    subject = ctx.report.subject
    rows["cpu"].bars.append(Bar("CPU", rows["cpu"].value(subject), "<", 0.5, "%"))
    rows["wal"].bars.append(Bar("WAL", rows["wal"].value(subject), "<", 1024.0, "bytes/s"))

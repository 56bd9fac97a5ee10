"""Making partitions: time and WAL of each, when many are missing ahead of an open set."""

import time

from bench.lib import database
from bench.partition.rounds import add_rows, alternate

PARTITIONS = 100
AHEAD = 4


def _one(ctx, contestant, partitions):
    contestant.fresh()
    with contestant.connect() as conn:
        contestant.make_set(conn, "event", 0, AHEAD)
        # A second index beside the key, as most tables have.
        conn.execute("create index on event (key)")
        # pg_partman makes partitions ahead of the data, Tasker ahead of the clock.
        conn.execute("insert into event values (1, now(), 1, '')")
        contestant.premake(conn)
        contestant.want_ahead(conn, "event", AHEAD + partitions)
        database.connect(ctx.server).execute("checkpoint").connection.close()
        lsn = "select (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint"
        wal, began = conn.execute(lsn).fetchone()[0], time.perf_counter()
        contestant.premake(conn)
        took, wal = time.perf_counter() - began, conn.execute(lsn).fetchone()[0] - wal
        made = contestant.partition_count(conn, "event") - 1 - AHEAD
        if made < partitions:
            raise RuntimeError(f"{contestant.label} made {made} of {partitions} partitions")
    return {"time": took * 1000.0 / made, "wal": wal / 1024.0 / made}


def create_partitions(ctx):
    """100 partitions with a key and a second index, made by one call of maintenance."""
    partitions = ctx.scaled(PARTITIONS, 20)
    found = alternate(ctx, ctx.able(), ctx.options.rounds, "create_partitions", lambda c: _one(ctx, c, partitions))
    add_rows(ctx, "create_partitions", found, {"time": (f"{partitions} at once", "ms each"),
                                               "wal": (f"{partitions} at once, WAL", "KiB each")})

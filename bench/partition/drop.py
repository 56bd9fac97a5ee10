"""Dropping a partition of ten million rows against one of ten thousand.

What no manager can avoid is that the file system frees the space. It is measured by dropping plain tables of the
same sizes, and taken off.
"""

import time

from bench.lib.report import Bar
from bench.partition.rounds import add_rows, alternate

LARGE = 10_000_000
SMALL = 10_000


def _fill(conn, table, rows):
    """Narrow rows, so that many fit; a full day's worth of times, two days ago."""
    conn.execute(f"alter table {table} set unlogged")
    conn.execute(f"""
        insert into {table} select current_date - 2 + i * interval '86000 seconds' / {rows}
        from generate_series(0, {rows} - 1) i""")


def _time_partition(contestant, conn, rows):
    """ms to retire the partition of the day before yesterday."""
    name = f"event_{rows}"
    contestant.make_set(conn, name, 2, 1, "(at timestamptz not null)")
    conn.execute(f"insert into {name} values (now())")
    _fill(conn, contestant.partition_at(conn, name, 2), rows)
    before = contestant.partition_count(conn, name)
    conn.execute("checkpoint")
    contestant.keep_days(conn, name, 1)
    took = contestant.retire(conn)
    if contestant.partition_count(conn, name) != before - 1:
        raise RuntimeError(f"{contestant.label} did not retire the one partition that is due")
    contestant.forget(conn, name)
    return took


def _time_plain(conn, rows):
    """ms to drop a plain table of that many rows."""
    conn.execute("create table plain (at timestamptz not null)")
    _fill(conn, "plain", rows)
    conn.execute("checkpoint")
    began = time.perf_counter()
    conn.execute("drop table plain")
    return (time.perf_counter() - began) * 1000.0


def _one(contestant, large):
    contestant.fresh()
    with contestant.connect() as conn:
        if contestant.name == "tasker":
            contestant.wait_for_worker(conn)
        # What a session or the worker does for the first time is not what this is about.
        _time_partition(contestant, conn, 1)
        found = {"small": _time_partition(contestant, conn, SMALL), "large": _time_partition(contestant, conn, large),
                 "plain small": _time_plain(conn, SMALL), "plain large": _time_plain(conn, large)}
    found["ratio"] = (found["large"] - (found["plain large"] - found["plain small"])) / found["small"]
    return found


def drop_rows(ctx):
    """Retiring one partition, by the worker or by the manager's own call."""
    large = ctx.scaled(LARGE, 100_000)
    found = alternate(ctx, ctx.able(), ctx.options.rounds, "drop_rows", lambda c: _one(c, large))
    rows = add_rows(ctx, "drop_rows", found, {
        "small": (f"partition of {SMALL:,} rows", "ms"), "large": (f"partition of {large:,} rows", "ms"),
        "plain small": (f"plain table of {SMALL:,} rows", "ms"),
        "plain large": (f"plain table of {large:,} rows", "ms"), "ratio": ("large / small, file removal aside", "ratio")})
    rows["ratio"].bars.append(Bar("time / its time for few rows", rows["ratio"].value(ctx.report.subject), "<=", 1.5))

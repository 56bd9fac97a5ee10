"""Retiring a partition of ten million rows against one of ten thousand.

What no manager can avoid is that the file system frees the space of what is dropped. So the partition is detached
and kept, which is all that the manager does about it, and then dropped by hand; and, to show the whole, another one is
dropped by the manager.
"""

import time

from bench.lib import figures
from bench.lib.report import Bar
from bench.lib.rounds import add_rows, alternate

LARGE = 10_000_000
SMALL = 10_000
REPEATS = 5


def _make(contestant, conn, name, rows):
    """A set of four days, the first of which is due; its rows are narrow, so that many fit."""
    contestant.make_set(conn, name, 2, 1, "(at timestamptz not null)")
    conn.execute(f"insert into {name} values (now())")
    table = contestant.partition_at(conn, name, 2)
    conn.execute(f"alter table {table} set unlogged")
    conn.execute(f"""
        insert into {table} select current_date - 2 + i * interval '86000 seconds' / {rows}
        from generate_series(0, {rows} - 1) i""")
    conn.execute("checkpoint")
    return table


def _retire(contestant, conn, name):
    """ms to retire the one partition that is due."""
    before = contestant.partition_count(conn, name)
    took = contestant.retire(conn)
    if contestant.partition_count(conn, name) != before - 1:
        raise RuntimeError(f"{contestant.label} did not retire the one partition that is due")
    return took


def _attach(conn, name, table):
    lower, upper = conn.execute("select (current_date - 2)::text, (current_date - 1)::text").fetchone()
    conn.execute(f"alter table {name} attach partition {table} for values from ('{lower}') to ('{upper}')")


def _detach_and_drop(contestant, conn, rows):
    """The median time to detach and keep, then the time of DROP TABLE."""
    name = f"kept_{rows}"
    table = _make(contestant, conn, name, rows)
    contestant.keep_tables(conn, name)
    contestant.keep_days(conn, name, 1)
    times = [_retire(contestant, conn, name)]
    for _ in range(REPEATS - 1):
        _attach(conn, name, table)
        times.append(_retire(contestant, conn, name))
    began = time.perf_counter()
    conn.execute(f"drop table {table}")
    dropped = (time.perf_counter() - began) * 1000.0
    contestant.forget(conn, name)
    return figures.median(times), dropped


def _retire_whole(contestant, conn, rows):
    name = f"dropped_{rows}"
    _make(contestant, conn, name, rows)
    contestant.keep_days(conn, name, 1)
    took = _retire(contestant, conn, name)
    contestant.forget(conn, name)
    return took


def _one(contestant, large):
    contestant.fresh()
    found = {}
    with contestant.connect() as conn:
        if contestant.name == "tasker":
            contestant.wait_for_worker(conn)
        _retire_whole(contestant, conn, 1)  # what a session or the worker does for the first time does not count
        for size, rows in (("small", SMALL), ("large", large)):
            found[f"{size} detach"], found[f"{size} drop"] = _detach_and_drop(contestant, conn, rows)
            found[f"{size} whole"] = _retire_whole(contestant, conn, rows)
    return found


def drop_rows(ctx):
    """Retiring one partition, by the worker or by the manager's own call."""
    large = ctx.scaled(LARGE, 100_000)
    found = alternate(ctx, ctx.able(), ctx.options.rounds, "drop_rows", lambda c: _one(c, large))
    variants = {}
    for size, rows in (("small", SMALL), ("large", large)):
        variants[f"{size} detach"] = (f"{rows:,} rows, detached by the manager", "ms")
        variants[f"{size} drop"] = (f"{rows:,} rows, then DROP TABLE by hand", "ms")
        variants[f"{size} whole"] = (f"{rows:,} rows, detached and dropped by the manager", "ms")
    rows = add_rows(ctx, "drop_rows", found, variants)
    few, many = (rows[f"{size} detach"].value(ctx.report.subject) for size in ("small", "large"))
    rows["large detach"].bars.append(Bar("time / its time for few rows", many / few if few else None, "<=", 1.5))

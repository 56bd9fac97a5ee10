"""What a step's whole life writes: WAL, and the share of updates that are HOT, table by table."""

import contextlib

from bench.lib import database
from bench.lib.report import Row
from bench.workflow import life
from bench.workflow.templates import ORDER

# Rounds of claim and complete of ten steps.
ROUNDS = 700

UPDATES_SQL = """
    select coalesce(sum(n_tup_upd), 0)::float8, coalesce(sum(n_tup_hot_upd), 0)::float8
    from pg_stat_user_tables where relname ~ %s"""


def _lsn(conn):
    return conn.execute("select pg_current_wal_insert_lsn() - '0/0'::pg_lsn").fetchone()[0]


def _updates(contestant, conn):
    return {group: conn.execute(UPDATES_SQL, [pattern]).fetchone() for group, pattern in contestant.tables.items()}


def _life(ctx, contestant, rounds, snapshot=False):
    """Bytes of WAL for each completed step, and {table: (updates for each step, share of HOT ones)}."""
    life.prepare(ctx, contestant, clients=1)
    with contestant.connect() as conn:
        conn.execute("checkpoint")
        before, done, updates = _lsn(conn), contestant.done(conn)[1], _updates(contestant, conn)
    with contextlib.closing(contestant.connect(autocommit=False)) as holder:
        if snapshot:
            holder.execute("set transaction isolation level repeatable read")
            holder.execute("select count(*) from pg_class")
        life.run(ctx, contestant, clients=1, transactions=rounds)
    # The sessions of pgbench have ended and reported their counts; this one is new and sees them.
    with contestant.connect() as conn:
        written, steps = float(_lsn(conn) - before), contestant.done(conn)[1] - done
        shares = {}
        for group, (all_after, hot_after) in _updates(contestant, conn).items():
            changed, hot = all_after - updates[group][0], hot_after - updates[group][1]
            shares[group] = (changed / steps, hot / changed if changed else float("nan"))
    return written / steps, shares


def _report_updates(ctx, shares, suffix):
    """One row for the number of updates and one for the share of HOT ones, table by table."""
    for group, found in shares.items():
        changed = {who: [updates] for who, (updates, _) in found.items() if updates > 0}
        if changed:
            ctx.report.add(Row("wal", f"updates of {group} for each step{suffix}", "rows", changed))
            ctx.report.add(Row("wal", f"updates of {group}, HOT{suffix}", "share", {who: [found[who][1]] for who in changed}))


def wal(ctx):
    """With full page writes, behind one checkpoint, and without, and then behind an old snapshot; one client, so that
    nothing else writes."""
    able = ctx.able("create", "claim", "complete")
    rounds = ctx.scaled(ROUNDS, 20 * len(ORDER))
    try:
        for variant, full_pages, snapshot in (("full pages on", "on", False), ("full pages off", "off", False),
                                              ("full pages off, snapshot open", "off", True)):
            database.set_server(ctx.server, "full_page_writes", full_pages)
            shares = {}

            def measure(contestant):
                written, found = _life(ctx, contestant, rounds, snapshot)
                for group, figures in found.items():
                    shares.setdefault(group, {})[contestant.name] = figures
                return written

            found = ctx.interleaved(able, 1, f"wal, {variant}, bytes a step", measure)
            ctx.report.add(Row("wal", f"a step's whole life, {variant}", "bytes", found))
            if full_pages == "off":
                _report_updates(ctx, shares, ", snapshot open" if snapshot else "")
    finally:
        database.set_server(ctx.server, "full_page_writes", None)

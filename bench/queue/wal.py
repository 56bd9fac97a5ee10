"""WAL written in the whole life of a record: enqueue, claim, complete."""

from bench.lib import database, pgbench
from bench.lib.report import Row

RECORDS = 20_000

# Clients are few so that nothing but the records' own life writes; batches as in the other benchmarks.
CLIENTS = 1
BATCH = 10


def _lsn(server):
    with database.connect(server) as conn:
        return conn.execute("select pg_current_wal_insert_lsn() - '0/0'::pg_lsn").fetchone()[0]


def _checkpoint(server):
    with database.connect(server) as conn:
        conn.execute("checkpoint")


def _life(ctx, contestant, records, between):
    """Bytes of WAL per record from enqueue to completion; `between`: one more checkpoint before the claims,
    as for records that wait for longer than a checkpoint takes to come."""
    contestant.fresh()
    _checkpoint(ctx.server)
    began = _lsn(ctx.server)
    pgbench.run(ctx.server, contestant.dbname, contestant.pgbench_script("enqueue_single"), clients=CLIENTS,
                transactions=records, defines=contestant.defines())
    ended = _lsn(ctx.server)
    written = ended - began
    # Statistics for the planner as autovacuum would gather them; not part of a record's life.
    with contestant.connect() as conn:
        conn.execute("analyze")
    if between:
        _checkpoint(ctx.server)
    began = _lsn(ctx.server)
    pgbench.run(ctx.server, contestant.dbname, contestant.pgbench_script("claim", "complete"), clients=CLIENTS,
                transactions=records // BATCH, defines=contestant.defines(batch=BATCH))
    written += _lsn(ctx.server) - began
    left = contestant.pending()
    if left:
        raise RuntimeError(f"{contestant.label}: {left} of {records} records were left unclaimed")
    return float(written) / records


def wal_per_record(ctx):
    """With full page writes (one checkpoint, and one more before the claims) and without."""
    able = ctx.able("enqueue_single", "claim", "complete")
    records = ctx.scaled(RECORDS, 2_000) // BATCH * BATCH
    variants = (("full pages on", "on", False), ("full pages on, 2 checkpoints", "on", True),
                ("full pages off", "off", False))
    try:
        for variant, full_pages, between in variants:
            database.set_server(ctx.server, "full_page_writes", full_pages)
            found = ctx.interleaved(able, 1 if ctx.options.quick else ctx.options.rounds,
                                    f"wal_per_record, {variant}",
                                    lambda c: _life(ctx, c, records, between))
            row = ctx.report.add(Row("wal_per_record", variant, "bytes", found))
            ctx.report.ratio_bar(row, "seed", 0.5, "<=")
    finally:
        database.set_server(ctx.server, "full_page_writes", None)

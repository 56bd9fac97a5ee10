"""Growth: what a claim of 100 costs beside 10 million finished records, against the same on a small table."""

from bench.lib import database, figures, pgbench
from bench.lib.report import Bar, Row
from bench.queue import big

CLAIMS = 100
SMALL_FLOWS = 50


def _claim_script(contestant):
    """The contestant's claim, going from flow to flow; the stride has no divisor in common with their number."""
    path = contestant.work / f"{contestant.name}_claim_growth.sql"
    claim = contestant.script_text("claim").replace(":flow", "'flow_' || :f::text")
    path.write_text("\\set f (:f + 379) % :flows\n" + claim)
    return path


def _median_claim(ctx, contestant, table, number):
    """The median time in ms of claims of 100 from changing flows, one client."""
    with database.connect(ctx.server, table.dbname) as conn:
        # What is claimed next is in memory in a queue that is in use; the finished records need not be.
        conn.execute("create extension if not exists pg_prewarm")
        table_name = contestant.current_table(conn)
        conn.execute("""
            select sum(pg_prewarm(relation)) from (select %s::regclass union all
                select indexrelid from pg_index where indrelid = %s::regclass) as r (relation)""", [table_name] * 2)
    outcome = pgbench.run(ctx.server, table.dbname, _claim_script(contestant), clients=1, transactions=CLAIMS,
                          defines={"flows": table.flows, "f": number * CLAIMS, "batch": 100}, log=True)
    return figures.median(outcome.latencies)


def growth(ctx):
    """1M pending and 10M finished records in 30 partitions and 1,000 flows, against 50,000 pending in 50 flows."""
    able = ctx.able("claim", only={"tasker", "seed"})
    finished = ctx.scaled(big.FINISHED, 100_000)
    flows = ctx.scaled(big.FLOWS, SMALL_FLOWS)
    tables = {c.name: (big.make(ctx, c, 0, SMALL_FLOWS), big.make(ctx, c, finished, flows)) for c in able}
    small, large, ratios = {}, {}, {}
    for number in range(ctx.options.rounds):
        for contestant in able:
            for table, found in zip(tables[contestant.name], (small, large)):
                found.setdefault(contestant.name, []).append(_median_claim(ctx, contestant, table, number))
            ratio = large[contestant.name][-1] / small[contestant.name][-1]
            ratios.setdefault(contestant.name, []).append(ratio)
            ctx.say(f"growth, round {number + 1}/{ctx.options.rounds}, {contestant.label}: claim of 100 "
                    f"{small[contestant.name][-1]:.3f} → {large[contestant.name][-1]:.3f} ms")
    ctx.report.add(Row("growth", "claim of 100, small table", "ms", small))
    ctx.report.add(Row("growth", f"claim of 100, {finished:,} finished, {flows:,} flows", "ms", large))
    row = ctx.report.add(Row("growth", "large / small", "ratio", ratios))
    row.bars.append(Bar("time / its time on a small table", row.value(ctx.report.subject), "<=", 1.2))

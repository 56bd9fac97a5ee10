"""Waking: from the commit of an enqueue to the return of a worker that waits, and what waiting costs."""

import asyncio
import time

import psycopg

from bench.lib import cpu, figures
from bench.lib.report import Bar, Row

PROBES = 300
WAITERS = (1, 10, 100)
IDLE_WAITERS = 100
PAUSE = 0.02


def flow_name(number):
    return f"wake_{number}"


async def _wait(conn, flow, timeout):
    cursor = await conn.execute("call tasker.wait_for_records(%s, %s::interval, null)", [flow, timeout])
    return (await cursor.fetchone())[0]


async def _worker(conn, number, woken):
    """A worker's loop: wait, note when the wait returned, take the record."""
    flow = flow_name(number)
    while True:
        ready = await _wait(conn, flow, "60 s")
        returned = time.perf_counter()
        cursor = await conn.execute("select id, lease_token from tasker.claim_records_batch(%s, 10)", [flow])
        rows = await cursor.fetchall()
        if rows:
            await conn.execute("select tasker.mark_records_completed(%s::bigint[], null, %s::bigint[])",
                               [[row[0] for row in rows], [row[1] for row in rows]])
        if ready and rows:
            await woken.put((number, returned))


async def _end_waits(tasks, connections):
    """Cancel the waits in the server: a session whose client just goes away would wait on to its timeout, and
    take the next probe's wake-up."""
    while not all(task.done() for task in tasks):
        for conn in connections:
            conn.cancel()
        await asyncio.wait(tasks, timeout=0.5)
    for conn in connections:
        await conn.close()
    for task in tasks:
        failure = task.exception()
        if failure is not None and not isinstance(failure, psycopg.errors.QueryCanceled):
            raise failure


async def _probe(server, dbname, waiters, probes):
    """Latencies in ms: from before the enqueue is sent to the return of its flow's waiter. The enqueue's own
    round trip is inside, so that the figure is never too good."""
    async def connect():
        return await psycopg.AsyncConnection.connect(server.dsn(dbname), autocommit=True, prepare_threshold=0,
                                                     options="-c synchronous_commit=off")
    producer = await connect()
    connections = [await connect() for _ in range(waiters)]
    woken = asyncio.Queue()
    workers = [asyncio.create_task(_worker(conn, number, woken)) for number, conn in enumerate(connections)]
    latencies = []
    try:
        await asyncio.sleep(0.5)
        for probe in range(probes):
            number = probe % waiters
            sent = time.perf_counter()
            await producer.execute("select tasker.enqueue(%s, '{}'::jsonb)", [flow_name(number)])
            who, returned = await asyncio.wait_for(woken.get(), 15)
            if who != number:
                raise RuntimeError(f"a waiter of {flow_name(who)} was woken for {flow_name(number)}")
            latencies.append((returned - sent) * 1000.0)
            await asyncio.sleep(PAUSE)
    finally:
        await _end_waits(workers, connections)
        await producer.close()
    return latencies


async def _idle_cost(server, dbname, waiters, seconds):
    """The share of one core that `waiters` waiting sessions use together."""
    connections = []
    for _ in range(waiters):
        connections.append(await psycopg.AsyncConnection.connect(server.dsn(dbname), autocommit=True))
    waits = [asyncio.create_task(_wait(conn, flow_name(number), f"{seconds + 5:.0f} s"))
             for number, conn in enumerate(connections)]
    try:
        await asyncio.sleep(2.0)
        pids = [conn.info.backend_pid for conn in connections]
        before, began = sum(cpu.spent(pid) for pid in pids), time.monotonic()
        await asyncio.sleep(seconds)
        used, passed = sum(cpu.spent(pid) for pid in pids) - before, time.monotonic() - began
    finally:
        await _end_waits(waits, connections)
    return used / passed


def wake_latency(ctx):
    """Wake-up latency with 1, 10 and 100 waiting workers on flows of their own; CPU of 100 that wait."""
    subject = ctx.subject()
    if subject is None:
        ctx.report.skip("wake_latency", "only the subject can wait")
        return
    subject.fresh()
    with subject.connect() as conn:
        for number in range(max(WAITERS)):
            conn.execute("select tasker.create_flow(%s)", [flow_name(number)])
    probes = PROBES if not ctx.options.quick else 100
    for waiters in WAITERS:
        latencies = asyncio.run(_probe(ctx.server, subject.dbname, waiters, probes))
        for which, limit in ((50, 2.0), (99, 10.0)):
            row = ctx.report.add(Row("wake_latency", f"{waiters} waiting, p{which}", "ms",
                                     {subject.name: [figures.percentile(latencies, which)]}))
            row.bars.append(Bar(f"p{which}", row.value(subject.name), "<=", limit, "ms"))
        ctx.say(f"wake_latency, {waiters} waiting: p50 {figures.percentile(latencies, 50):.2f} ms, "
                f"p99 {figures.percentile(latencies, 99):.2f} ms")
    share = asyncio.run(_idle_cost(ctx.server, subject.dbname, IDLE_WAITERS, 10 if ctx.options.quick else 30))
    row = ctx.report.add(Row("wake_latency", f"CPU of {IDLE_WAITERS} waiting", "% of a core",
                             {subject.name: [share * 100.0]}))
    row.bars.append(Bar("CPU", share * 100.0, "<", 1.0, "%"))

"""Claim to claim: from the completion of a step's last parent to the claim of the step by a worker that waits for it.

The worker sleeps in wait_for_steps on its handler, then claims. The time runs from before the completion is
sent to the arrival of the claimed row, so that both round trips and the wake-up are inside. A line of four
steps, each with a waiting worker of its own, shows the same from the task's creation to its end.
"""

import asyncio
import time

import psycopg

from bench.lib import figures
from bench.lib.report import Bar, Row
from bench.workflow.templates import CONTEXT, NAMESPACE, RESULTS, Template

PAIR = Template("pair", (("left", ()), ("right", ()), ("both", ("left", "right"))))
LINE = Template("line", (("first", ()), ("second", ("first",)), ("third", ("second",)), ("fourth", ("third",))))

PROBES = 300
QUICK_PROBES = 60
PATIENCE = 15

# Between probes, so that the worker is asleep again and the processor has other things in its caches.
PAUSE = 0.02

CLAIM = """
    select workflow_step_uuid, lease_token, step_name from tasker.claim_steps(%s, %s, 'waiter', handlers => %s::text[])"""
COMPLETE = "select tasker.complete_step(%s, %s::jsonb, lease_token => %s)"
CREATE = "select tasker.create_task(%s, %s, %s::jsonb)"


async def _connect(contestant):
    return await psycopg.AsyncConnection.connect(contestant.server.dsn(contestant.dbname), autocommit=True,
                                                 prepare_threshold=0, options="-c synchronous_commit=off")


async def _claim(conn, count, *handlers):
    cursor = await conn.execute(CLAIM, [NAMESPACE, count, list(handlers)])
    return await cursor.fetchall()


async def _complete(conn, step, token):
    await conn.execute(COMPLETE, [step, RESULTS, token])


async def _worker(conn, handler, done):
    """Wait, claim, complete; tells when each step was claimed and when it was complete."""
    while True:
        cursor = await conn.execute("call tasker.wait_for_steps(%s, '60 s'::interval, %s::text[], null)",
                                    [NAMESPACE, [handler]])
        await cursor.fetchone()
        for step, token, _ in await _claim(conn, 10, handler):
            claimed = time.perf_counter()
            await _complete(conn, step, token)
            await done.put((claimed, time.perf_counter()))


async def _end(workers, connections):
    """Cancel the waits in the server, which would sleep on, and close."""
    while not all(worker.done() for worker in workers):
        for conn in connections:
            conn.cancel()
        await asyncio.wait(workers, timeout=0.5)
    for conn in connections:
        await conn.close()
    for worker in workers:
        failure = worker.exception()
        if failure is not None and not isinstance(failure, psycopg.errors.QueryCanceled):
            raise failure


async def _next(done, workers):
    """What a worker tells next; a worker that failed ends the wait."""
    told = asyncio.create_task(done.get())
    ended, _ = await asyncio.wait([told, *workers], timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
    if told in ended:
        return told.result()
    told.cancel()
    for worker in ended:
        worker.result()
    raise RuntimeError(f"no step came to a waiting worker within {PATIENCE} seconds")


async def _probe(contestant, template, handlers, probes, once):
    """Latencies in ms of `once(driver, next)`, beside workers that wait for the handlers."""
    driver = await _connect(contestant)
    connections = [await _connect(contestant) for _ in handlers]
    done = asyncio.Queue()
    workers = [asyncio.create_task(_worker(conn, handler, done)) for conn, handler in zip(connections, handlers)]
    latencies = []
    try:
        for number in range(probes + 5):
            latency = await once(driver, template, lambda: _next(done, workers))
            if number >= 5:  # the first ones fill caches
                latencies.append(latency * 1000.0)
    finally:
        await _end(workers, connections)
        await driver.close()
    return latencies


async def _last_parent(driver, template, told):
    """From the completion of the second parent to the claim of the child."""
    await driver.execute(CREATE, [NAMESPACE, template.name, CONTEXT])
    (first, first_token, _), (second, second_token, _) = await _claim(driver, 2, "left", "right")
    await _complete(driver, first, first_token)
    await asyncio.sleep(PAUSE)
    sent = time.perf_counter()
    await _complete(driver, second, second_token)
    claimed, _ = await told()
    return claimed - sent


async def _whole_line(driver, template, told):
    """From the creation of the task to the completion of its last step."""
    await asyncio.sleep(PAUSE)
    sent = time.perf_counter()
    await driver.execute(CREATE, [NAMESPACE, template.name, CONTEXT])
    for _ in template.steps:
        _, completed = await told()
    return completed - sent


def latency(ctx):
    """Only the subject can wait."""
    subject = ctx.subject()
    if subject is None:
        ctx.report.skip("latency", "only the subject can wait")
        return
    subject.fresh(templates=(PAIR, LINE))
    probes = QUICK_PROBES if ctx.options.quick else PROBES
    for variant, template, handlers, once, bars in (
            ("last parent's completion to the claim", PAIR, ["both"], _last_parent, {50: 3.0}),
            ("line of 4 steps, creation to end", LINE, [name for name, _ in LINE.steps], _whole_line, {})):
        found = {which: [] for which in (50, 99)}
        for number in range(ctx.options.rounds):
            latencies = asyncio.run(_probe(subject, template, handlers, probes, once))
            for which, values in found.items():
                values.append(figures.percentile(latencies, which))
            ctx.say(f"latency, {variant}, round {number + 1}/{ctx.options.rounds}: "
                    + ", ".join(f"p{which} {values[-1]:.2f} ms" for which, values in found.items()))
        for which, values in found.items():
            row = ctx.report.add(Row("latency", f"{variant}, p{which}", "ms", {subject.name: values}))
            if which in bars:
                row.bars.append(Bar(f"p{which}", row.value(subject.name), "<=", bars[which], "ms"))

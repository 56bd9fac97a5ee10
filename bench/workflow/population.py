"""Unfinished tasks in a mixture of states, for the functions that look.

Of twenty tasks, eight are new, four have ready steps, four are being worked on, three wait for a retry, which is due
in one of them, and one is blocked by a step that failed for good; priorities from 0 to 9, as many of each. The
subject's come from histories: its functions make the tasks, claim steps, complete and fail them. The seed's are
written straight into its tables, with the transitions that the same histories would have left behind.
"""

import time

from bench.lib import database
from bench.workflow.templates import CONTEXT, NAMESPACE, ORDER, RESULTS

PRIORITIES = 10
TWENTY = 20

# The smallest population: one batch of twenty for some of the priorities.
ARRAY = 500
WORKER = "bench-worker"

# Tasks whose readiness is asked for, one after the other.
SAMPLE = 50


def load(ctx, contestant, tasks):
    """Fill a new database; returns the uuids of some tasks that are being worked on."""
    began = time.monotonic()
    sample = LOADERS[contestant.name](contestant, tasks)
    with contestant.connect() as conn:
        contestant.settle(conn)
        conn.execute("checkpoint")
    ctx.say(f"{contestant.label}: {tasks:,} unfinished tasks, loaded in {time.monotonic() - began:.0f} s")
    return sample


# -- the seed ------------------------------------------------------------------------------------------------------


def _load_seed(contestant, tasks):
    contestant.make(contestant.dbname, indexes=False)
    with contestant.connect() as conn:
        contestant.define(conn, ORDER)
        conn.execute("set maintenance_work_mem = '512MB'")
        conn.execute("set work_mem = '256MB'")
        conn.execute("set jit = off")
        conn.execute("create temporary table wanted (tasks integer, kind text)")
        conn.execute("insert into wanted values (%s, %s)", [tasks, ORDER.name])
        conn.execute(contestant.population_sql.read_text())
        sample = conn.execute("select task_uuid from new_task where turn between 12 and 15 limit %s", [SAMPLE]).fetchall()
    contestant.add_indexes(contestant.dbname)
    return [row[0] for row in sample]


# -- the subject ---------------------------------------------------------------------------------------------------


class Worker:
    """Claims steps of one handler and does something with them."""

    def __init__(self, conn):
        self.conn = conn

    def _claim(self, handler, steps):
        """Arrays of claimed steps and their tokens, until there are so many."""
        while steps > 0:
            found = self.conn.execute("""
                select array_agg(workflow_step_uuid), array_agg(lease_token), array_agg(task_uuid), count(*)
                from tasker.claim_steps(%s, %s, %s, handlers => %s::text[])""",
                                      [NAMESPACE, min(steps, ARRAY), WORKER, [handler]]).fetchone()
            if found[3] == 0:
                raise RuntimeError(f"{steps} steps of {handler} cannot be claimed")
            steps -= found[3]
            yield found

    def complete(self, handler, steps):
        for found, tokens, _, count in self._claim(handler, steps):
            self.conn.execute("select tasker.complete_steps(%s::uuid[], array_fill(%s::jsonb, array[%s::integer]), %s::bigint[])",
                              [found, RESULTS, count, tokens])

    def fail(self, handler, steps, retryable, backoff=None):
        for found, tokens, _, _ in self._claim(handler, steps):
            self.conn.execute("""
                select count(tasker.fail_step(step, '{"message": "out of stock"}', %s, %s::integer, token))
                from unnest(%s::uuid[], %s::bigint[]) as c (step, token)""", [retryable, backoff, found, tokens])

    def hold(self, handler, steps):
        """Claim them and leave them in progress; returns their tasks."""
        return [task for claimed in self._claim(handler, steps) for task in claimed[2]]


def _shares(tasks):
    """How many tasks of each priority; twenties as long as there are enough."""
    unit = TWENTY if tasks >= TWENTY * PRIORITIES else tasks // PRIORITIES
    shares = [tasks // PRIORITIES // unit * unit] * PRIORITIES
    shares[0] += tasks - sum(shares)
    return shares


def _history(worker, tasks):
    """Bring as many new tasks, which have the highest priority so far, into the mixture. Steps are claimed in the order
    in which they were enqueued, so that the same tasks come first each time."""
    def part(twentieths):
        return tasks * twentieths // TWENTY
    worker.complete("collect", part(12))
    late, stuck, busy = part(3), part(1), part(4)
    worker.fail("price", part(1), True, 1)
    worker.fail("price", late - part(1), True, 1200)
    worker.fail("price", stuck, False)
    held = worker.hold("price", busy)
    worker.complete("stock", late + stuck)
    worker.complete("address", late + stuck + busy)
    worker.complete("label", late + stuck)
    return held


def _load_tasker(contestant, tasks):
    contestant.fresh()
    sample = []
    with contestant.connect() as conn:
        conn.execute("set synchronous_commit = off")
        worker = Worker(conn)
        # Upwards, so that the newest tasks are the first to be claimed.
        for priority, share in enumerate(_shares(tasks)):
            for first in range(0, share, ARRAY):
                conn.execute("""
                    select cardinality(tasker.create_tasks(%s, %s, array_fill(%s::jsonb, array[%s::integer]), priority => %s))""",
                             [NAMESPACE, ORDER.name, CONTEXT, min(ARRAY, share - first), priority])
            sample += _history(worker, share)[:SAMPLE // PRIORITIES]
    return sample


LOADERS = {"seed": _load_seed, "tasker": _load_tasker}

"""One client of test/t/workflow_stress.pl: does everything to workflows at random, and says what it knows.

    workflow_stress.py CONNINFO NAME SEED LOG STOP [calm]

It works, and says what it knows of its transactions, as test/clients/stress_client.py does; they make the tasks that it
says. With whatever a transaction does to a step or task it leaves a row in stress.ledger or stress.claims, so that the
two can be compared step by step afterwards.

Calm clients make one call in each transaction. Transactions with several calls may change tasks in any order, and run
into deadlocks; those with one must not, whatever the others do at the same time.
"""

import json
import sys

from stress_client import StressClient

HANDLERS = ["plan", "work"]

# What an error may be: a lost race or lease, an unknown step, a race that another isolation level notices, a cancel.
EXPECTED = {"55000", "42704", "40001", "57014"}


class Client(StressClient):
    """Holds steps, each with its token and name; knows steps and tasks that it has seen."""

    def __init__(self, *arguments, calm=False):
        super().__init__(*arguments)
        self.calm = calm
        self.expected = EXPECTED if calm else EXPECTED | {"40P01"}
        if calm:
            self.most_operations = 1
            self.in_savepoint = 0

    def note(self, kind, things, tokens=None):
        """Our own rows for what has been done to steps or tasks, in the same transaction."""
        self.execute(
            "insert into stress.ledger select uuid, %s, token, %s from unnest(%s::uuid[], %s::bigint[]) u (uuid, token)",
            kind, self.tx, things, tokens or [None] * len(things),
        )

    # --- producers --------------------------------------------------------------------------------------------

    def create(self):
        run_at = self.random.choices([None, "200 ms"], [9, 1])[0]
        task = self.value(
            "select tasker.create_task('stress', %s, %s::jsonb, priority => %s::int, run_at => clock_timestamp() + %s::interval)",
            self.random.choice(SHAPES), json.dumps({"tx": self.tx}), self.random.randint(0, 2), run_at,
        )
        self.made.append(str(task))
        self.seen.append(task)

    def create_array(self):
        count = self.random.randint(0, 6)
        [(tasks,)] = self.rows(
            "select tasker.create_tasks('stress', %s, array_fill('{}'::jsonb, array[%s::int]))", self.random.choice(SHAPES), count
        )
        self.made += [str(task) for task in tasks]

    def create_unique(self):
        """Under a few identity keys: our task, or the one that holds the key."""
        keys = [f"key {self.random.randint(1, 40)}" for _ in range(self.random.randint(1, 3))]
        [(tasks,)] = self.rows(
            "select tasker.create_tasks('stress', 'chain', array_fill(%s::jsonb, array[%s::int]), identity_keys => %s)",
            json.dumps({"tx": self.tx}), len(keys), keys,
        )
        found = dict(self.rows("select task_uuid, context ->> 'tx' from tasker.task where task_uuid = any (%s)", tasks))
        by_key = {}
        for key, task in zip(keys, tasks):
            if by_key.setdefault(key, task) != task:
                self.say(tx=self.tx, bad=f"two tasks under {key}")
            if found.get(task) == self.tx and str(task) not in self.made:
                self.made.append(str(task))

    # --- workers ----------------------------------------------------------------------------------------------

    def claim(self):
        lease = self.random.choices([None, "200 ms"], [9, 1])[0]
        handlers = self.random.choice([None, None, ["plan"], ["work"]])
        claimed = self.rows(
            "with c as materialized (select * from tasker.claim_steps('stress', %s::int, %s, %s::interval, %s::text[])), "
            "l as (insert into stress.claims select workflow_step_uuid, lease_token, attempts, %s from c) "
            "select workflow_step_uuid, task_uuid, lease_token, step_name, task_name, dependency_results from c",
            self.random.randint(1, 12), self.name, lease, handlers, self.tx,
        )
        for step, task, token, name, shape, results in claimed:
            self.claimed[step] = (token, name)
            self.seen += [step, task]
            if None in (results or {}).values():
                self.say(tx=self.tx, bad=f"step {step} ({name} of {shape}) was handed out before its parents: {results}")
        # What this very transaction has claimed can be finished in it too.
        if claimed and not self.calm and self.random.random() < 0.5:
            self.held.update(self.claimed)
            self.claimed = {}

    def some_held(self, most, fits=lambda name: True):
        steps = [step for step, (_, name) in self.held.items() if fits(name)]
        steps = self.random.sample(steps, min(most, len(steps)))
        return steps, [self.held.pop(step) for step in steps]

    def complete(self):
        """One step; a decision or a batch step may create others."""
        [steps, held] = self.some_held(1)
        if not steps:
            return
        (token, name), creates = held[0], None
        if name in CHOICES:
            creates = json.dumps(self.random.choice(CHOICES[name]))
        self.execute("select tasker.complete_step(%s, '1', %s::jsonb, %s)", steps[0], creates, token)
        self.note("completed", steps, [token])

    def complete_array(self):
        steps, held = self.some_held(self.random.randint(1, 12))
        tokens = [token for token, _ in held]
        self.execute(
            "select tasker.complete_steps(%s, array_fill('1'::jsonb, array[%s::int]), %s::bigint[])", steps, len(steps), tokens
        )
        self.note("completed", steps, tokens)

    def complete_without_token(self):
        steps, _ = self.some_held(1)
        if steps:
            self.execute("select tasker.complete_step(%s, '1')", steps[0])
            self.note("completed", steps)

    def fail(self):
        steps, held = self.some_held(1)
        if steps:
            retryable, backoff = self.random.random() < 0.9, self.random.choice([None, 0, 0, 1])
            self.execute(
                "select tasker.fail_step(%s, '{\"message\": \"on purpose\"}', %s, %s::int, %s)",
                steps[0], retryable, backoff, held[0][0],
            )
            self.note("failed", steps, [held[0][0]])

    def release(self):
        steps, held = self.some_held(3)
        if steps:
            tokens = [token for token, _ in held]
            self.execute("select tasker.release_steps(%s, %s::bigint[])", steps, tokens)
            self.note("released", steps, tokens)

    def extend(self):
        steps, held = self.some_held(3)
        if steps:
            self.execute("select tasker.extend_step_lease(%s, '1 minute', %s::bigint[])", steps, [token for token, _ in held])
            self.claimed.update(zip(steps, held))

    def checkpoint(self):
        steps, held = self.some_held(1)
        if steps:
            self.execute("select tasker.checkpoint_step(%s, %s::jsonb, %s)", steps[0], json.dumps(self.serial), held[0][0])
            self.claimed[steps[0]] = held[0]

    # --- people -----------------------------------------------------------------------------------------------

    def some_known(self, is_step):
        things = [thing for thing in self.known if (thing.int % 2**32 != 0) == is_step]
        return self.random.choice(things) if things else None

    def cancel(self):
        task = self.some_known(False)
        if task and self.value("select tasker.cancel_task(%s, 'on purpose')", task):
            self.note("cancelled", [task])

    def give_up_task(self):
        """Ends a task that is in one of these states, past its steps."""
        task = self.some_known(False)
        before, after = self.random.choice([
            ("steps_in_process", "error"), ("waiting_for_retry", "error"), ("blocked_by_failures", "resolved_manually"),
            ("blocked_by_failures", "error"),
        ])
        if task and self.value(
            "select tasker.transition_task_state_atomic(%s, %s, %s, gen_random_uuid())", task, before, after
        ):
            self.note(after, [task])

    def retry(self):
        task = self.some_known(False)
        if task:
            self.execute("select tasker.retry_task(%s)", task)

    def reset(self):
        step = self.some_known(True)
        if step:
            self.execute("select tasker.reset_step(%s, %s)", step, self.random.random() < 0.5)

    def resolve(self):
        step = self.some_known(True)
        if step:
            self.execute("select tasker.resolve_step_manually(%s, '2', %s, 'on purpose')", step, self.name)
            self.note("resolved", [step])

    def set_backoff(self):
        step = self.some_known(True)
        if step:
            self.execute("select tasker.set_step_backoff_atomic(%s, %s)", step, self.random.choice([0, 1]))

    def recover(self):
        self.execute("select tasker.cleanup_orphaned_records('5 seconds')")

    def look(self):
        counts = self.rows("select * from tasker.get_system_health_counts()")[0]
        if min(counts) < 0 or sum(counts[:12]) != counts[12] or sum(counts[13:23]) != counts[23]:
            self.say(tx=self.tx, bad=f"health counts {counts}")
        task = self.some_known(False)
        for row in self.rows("select total_steps, pending_steps, in_progress_steps, completed_steps, failed_steps "
                             "from tasker.get_task_execution_context(%s)", task) if task else []:
            if min(row) < 0 or max(row[1:]) > row[0]:
                self.say(tx=self.tx, bad=f"execution context {row}")
        self.execute("select * from tasker.get_next_ready_tasks(5)")


Client.operations = (
    [Client.create, Client.create_array, Client.create_unique, Client.claim, Client.complete, Client.complete_array,
     Client.complete_without_token, Client.fail, Client.release, Client.extend, Client.checkpoint, Client.cancel,
     Client.give_up_task, Client.retry, Client.reset, Client.resolve, Client.set_backoff, Client.recover, Client.look],
    [5, 2, 2, 26, 26, 12, 1, 6, 2, 2, 2, 1.5, 1, 2, 2, 1, 1, 1, 3],
)
SHAPES = ["chain", "diamond", "fan", "brittle", "choice", "choice", "batch"]
# What a decision or batch step may create.
CHOICES = {
    "left": [[], ["l1"], ["l2"], ["l1", "l2"]],
    "right": [[], ["r"]],
    "plan": [[], ["part"], ["part"] * 5, [{"name": "part", "inputs": {"n": 1}}, {"name": "part", "as": "other"}]],
}

if __name__ == "__main__":
    Client(*sys.argv[1:6], calm=sys.argv[6:] == ["calm"]).run()

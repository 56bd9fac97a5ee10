"""One client of test/t/workflow_stress.pl: does everything to workflows at random, and says what it knows.

    workflow_stress.py CONNINFO NAME SEED LOG STOP [calm]

It works until the file STOP appears. What it knows it writes to LOG, one line of JSON each, straight to the kernel,
so that a SIGKILL loses nothing:

    {"tx": T, "tasks": [...]}   before COMMIT: the transaction has created these tasks, and no others
    {"tx": T, "end": "ok"}      the COMMIT was confirmed
    {"tx": T, "end": "no"}      the transaction was rolled back, or ended by an error before its COMMIT
    {"tx": T, "bad": text}      something that must never happen

A transaction without an end has an outcome that its client does not know. Each transaction also leaves a row in
stress.journal, and with whatever it does to a step or task a row in stress.ledger or stress.claims, so that the two
can be compared step by step afterwards.

Calm clients make one call in each transaction. Transactions with several calls may change tasks in any order, and run
into deadlocks; those with one must not, whatever the others do at the same time.
"""

import json
import os
import random
import sys
import time

import psycopg

HANDLERS = ["plan", "work"]

# What an error may be: a lost race or lease, an unknown step, a race that another isolation level notices, a cancel.
EXPECTED = {"55000", "42704", "40001", "57014"}


class RolledBack(Exception):
    """The transaction takes itself back, as a user's might."""


class Client:
    def __init__(self, conninfo, name, seed, log, stop, calm):
        self.conninfo = conninfo
        self.name = name
        self.random = random.Random(seed)
        self.log = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self.stop = stop
        self.calm = calm
        self.serial = 0
        self.connection = None
        self.held = {}  # step: (token, name), of claims that committed
        self.known = []  # steps and tasks that we have seen, to interfere with

    def say(self, **what):
        os.write(self.log, (json.dumps(what) + "\n").encode())

    def connected(self):
        """Connects anew where needed; the server may be down, or in recovery."""
        while self.connection is None and not os.path.exists(self.stop):
            try:
                self.connection = psycopg.connect(
                    self.conninfo, application_name="stress", autocommit=True, connect_timeout=5
                )
                self.connection.execute("set deadlock_timeout = '50ms'")
            except psycopg.Error:
                self.disconnect()
                time.sleep(0.05)  # between two attempts
        return self.connection is not None

    def disconnect(self):
        if self.connection is not None:
            self.connection.close()
        self.connection = None

    def run(self):
        while not os.path.exists(self.stop):
            if self.connected():
                self.transaction()

    # --- one transaction --------------------------------------------------------------------------------------

    def transaction(self):
        self.serial += 1
        self.tx = f"{self.name}.{self.serial}"
        self.tasks, self.claimed, self.seen = [], {}, []
        held, committing = dict(self.held), False
        try:
            level = self.random.choices(["read committed", "repeatable read", "serializable"], [8, 1, 1])[0]
            self.execute(f"begin isolation level {level}")
            self.execute("insert into stress.journal values (%s)", self.tx)
            for _ in range(1 if self.calm else self.random.randint(1, 4)):
                self.maybe_in_savepoint()
            if self.random.random() < 0.1:
                raise RolledBack
            self.say(tx=self.tx, tasks=self.tasks)
            committing = True
            self.execute("commit")
            self.say(tx=self.tx, end="ok")
            self.held.update(self.claimed)
            self.known += self.seen
        except RolledBack:
            self.give_up(held)
        except psycopg.Error as error:
            if committing and self.is_loss(error):
                self.disconnect()  # and nobody tells us the outcome
            else:
                self.judge(error)
                self.give_up(held)
        del self.known[:-100]

    def give_up(self, held):
        """Rolls back; that it did is certain even when the connection is lost meanwhile."""
        try:
            self.connection.execute("rollback")
        except psycopg.Error:
            self.disconnect()
        self.say(tx=self.tx, end="no")
        self.held = held

    def is_loss(self, error):
        """Has the connection gone? The server's last words arrive before its end does."""
        return self.connection.closed or error.sqlstate is None or error.sqlstate.startswith(("57P", "08"))

    def judge(self, error):
        if self.is_loss(error) or error.sqlstate in EXPECTED:
            return
        if error.sqlstate == "40P01" and not self.calm:
            return
        self.say(tx=self.tx, bad=f"{error.sqlstate} {error} {error.diag.message_detail} {error.diag.context}")

    def maybe_in_savepoint(self):
        """One operation; now and then in a subtransaction, which may be taken back."""
        operation = self.random.choices(*OPERATIONS)[0]
        if self.calm or self.random.random() > 0.4:
            operation(self)
            return
        marks, claimed, held = (len(self.tasks), len(self.seen)), dict(self.claimed), dict(self.held)
        self.execute("savepoint s")
        try:
            operation(self)
            if self.random.random() < 0.4:
                raise RolledBack
            self.execute("release savepoint s")
        except (RolledBack, psycopg.Error) as error:
            if isinstance(error, psycopg.Error):
                self.judge(error)
                if self.is_loss(error) or error.sqlstate == "40001":
                    raise
            self.execute("rollback to savepoint s")
            del self.tasks[marks[0]:], self.seen[marks[1]:]
            self.claimed, self.held = claimed, held

    def execute(self, statement, *parameters):
        return self.connection.execute(statement, parameters)

    def rows(self, statement, *parameters):
        return self.execute(statement, *parameters).fetchall()

    def one(self, statement, *parameters):
        return self.rows(statement, *parameters)[0][0]

    def note(self, kind, things, tokens=None):
        """Our own rows for what has been done to steps or tasks, in the same transaction."""
        self.execute(
            "insert into stress.ledger select uuid, %s, token, %s from unnest(%s::uuid[], %s::bigint[]) u (uuid, token)",
            kind, self.tx, things, tokens or [None] * len(things),
        )

    # --- producers --------------------------------------------------------------------------------------------

    def create(self):
        run_at = self.random.choices([None, "200 ms"], [9, 1])[0]
        task = self.one(
            "select tasker.create_task('stress', %s, %s::jsonb, priority => %s::int, run_at => clock_timestamp() + %s::interval)",
            self.random.choice(SHAPES), json.dumps({"tx": self.tx}), self.random.randint(0, 2), run_at,
        )
        self.tasks.append(str(task))
        self.seen.append(task)

    def create_array(self):
        count = self.random.randint(0, 6)
        [(tasks,)] = self.rows(
            "select tasker.create_tasks('stress', %s, array_fill('{}'::jsonb, array[%s::int]))", self.random.choice(SHAPES), count
        )
        self.tasks += [str(task) for task in tasks]

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
            if found.get(task) == self.tx and str(task) not in self.tasks:
                self.tasks.append(str(task))

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
        if task and self.one("select tasker.cancel_task(%s, 'on purpose')", task):
            self.note("cancelled", [task])

    def give_up_task(self):
        """Ends a task that is in one of these states, past its steps."""
        task = self.some_known(False)
        before, after = self.random.choice([
            ("steps_in_process", "error"), ("waiting_for_retry", "error"), ("blocked_by_failures", "resolved_manually"),
            ("blocked_by_failures", "error"),
        ])
        if task and self.one(
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


OPERATIONS = (
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
    Client(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4], sys.argv[5], sys.argv[6:] == ["calm"]).run()

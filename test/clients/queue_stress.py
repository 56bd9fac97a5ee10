"""One client of test/t/queue_stress.pl: does everything to the queue at random, and says what it knows.

    queue_stress.py CONNINFO NAME SEED LOG STOP

It works until the file STOP appears. What it knows it writes to LOG, one line of JSON each, straight to the kernel,
so that a SIGKILL loses nothing:

    {"tx": T, "keys": [...]}    before COMMIT: the transaction adds records with these keys, and no others
    {"tx": T, "end": "ok"}      the COMMIT was confirmed
    {"tx": T, "end": "no"}      the transaction was rolled back, or ended by an error before its COMMIT
    {"tx": T, "bad": text}      something that must never happen

A transaction without an end has an outcome that its client does not know. Each transaction also leaves a row in
stress.journal, so that the database knows; and with whatever it does to a record a row in stress.ledger, so that
the two can be compared record by record afterwards.
"""

import json
import os
import random
import sys
import time

import psycopg

FLOWS = ["steady", "steady", "limited", "brittle"]
MAX_IN_FLIGHT = 30  # of flow "limited"

# What an error may be: a lost race or lease, a deadlock, a cancel, an unknown record. All else is a fault.
EXPECTED = {"55000", "42704", "40P01", "40001", "57014"}


class RolledBack(Exception):
    """The transaction takes itself back, as a user's might."""


class Client:
    def __init__(self, conninfo, name, seed, log, stop):
        self.conninfo = conninfo
        self.name = name
        self.random = random.Random(seed)
        self.log = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self.stop = stop
        self.serial = 0
        self.connection = None
        self.held = {}  # record: token, of claims that committed
        self.own = []  # ids of records that we added

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
        self.keys, self.claimed, self.added = [], [], []
        held, committing = dict(self.held), False
        try:
            level = self.random.choices(["read committed", "repeatable read", "serializable"], [8, 1, 1])[0]
            self.execute(f"begin isolation level {level}")
            self.execute("insert into stress.journal values (%s)", self.tx)
            for _ in range(self.random.randint(1, 4)):
                self.maybe_in_savepoint()
            if self.random.random() < 0.15:
                raise RolledBack
            self.say(tx=self.tx, keys=self.keys)
            committing = True
            self.execute("commit")
            self.say(tx=self.tx, end="ok")
            self.held.update(self.claimed)
            self.own += self.added
        except RolledBack:
            self.give_up(held)
        except psycopg.Error as error:
            if committing and self.is_loss(error):
                self.disconnect()  # and nobody tells us the outcome
            else:
                self.judge(error)
                self.give_up(held)
        del self.own[:-200]

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
        if not self.is_loss(error) and error.sqlstate not in EXPECTED:
            self.say(tx=self.tx, bad=f"{error.sqlstate} {error}")

    def maybe_in_savepoint(self):
        """One operation; now and then in a subtransaction, which may be taken back."""
        operation = self.random.choices(*OPERATIONS)[0]
        if self.random.random() > 0.4:
            operation(self)
            return
        marks, held = (len(self.keys), len(self.claimed), len(self.added)), dict(self.held)
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
            del self.keys[marks[0]:], self.claimed[marks[1]:], self.added[marks[2]:]
            self.held = held

    def execute(self, statement, *parameters):
        return self.connection.execute(statement, parameters)

    def rows(self, statement, *parameters):
        return self.execute(statement, *parameters).fetchall()

    # --- producers --------------------------------------------------------------------------------------------

    def new_key(self):
        self.counter = getattr(self, "counter", 0) + 1
        return f"{self.tx}/{self.counter}"

    def payload(self, key, **more):
        filler = "x" * self.random.choice([0, 0, 100, 600])
        return json.dumps({"key": key, "tx": self.tx, "filler": filler, **more})

    def run_at(self):
        """Mostly now; soon; or so late that it stays scheduled to the end."""
        delay = self.random.choices([None, self.random.random(), 86400], [8, 2, 0.3])[0]
        return None if delay is None else f"{delay} seconds"

    def enqueue(self):
        key = self.new_key()
        [(record,)] = self.rows(
            "select tasker.enqueue(%s, %s::jsonb, %s::int, clock_timestamp() + %s::interval)",
            self.random.choice(FLOWS), self.payload(key), self.random.randint(0, 2), self.run_at(),
        )
        self.keys.append(key)
        self.added.append(record)

    def enqueue_array(self):
        keys = [self.new_key() for _ in range(self.random.randint(0, 20))]
        [(count,)] = self.rows(
            "select tasker.add_records_to_queue(%s, %s::jsonb[], %s::int, clock_timestamp() + %s::interval)",
            self.random.choice(FLOWS), [self.payload(key) for key in keys], self.random.randint(0, 2), self.run_at(),
        )
        if count != len(keys):
            self.say(tx=self.tx, bad=f"{len(keys)} payloads made {count} records")
        self.keys += keys

    def enqueue_unique(self):
        """Under one of a few deduplication keys: ours, or the record that holds the key."""
        key = self.new_key()
        name = f"unique {self.random.randint(1, 20)}"
        [(record,)] = self.rows(
            "select tasker.enqueue('steady', %s::jsonb, 0, null, %s)", self.payload(key, dedup=name), name
        )
        [(holder, dedup)] = self.rows(
            "select payload ->> 'key', payload ->> 'dedup' from tasker.queue_record where id = %s", record
        ) or [(None, name)]  # an old snapshot does not see the holder
        if dedup != name:
            self.say(tx=self.tx, bad=f"record {record} holds {name}, but its payload says {dedup}")
        if holder == key:
            self.keys.append(key)

    def insert_by_statement(self):
        """Through the view, and into the table itself: the triggers' way."""
        key = self.new_key()
        if self.random.random() < 0.5:
            self.execute(
                "insert into tasker.processing_queue (flow_name, payload, priority) values ('steady', %s::jsonb, 1)",
                self.payload(key),
            )
        else:
            self.execute(
                "insert into tasker.queue_record (flow_id, payload) "
                "select flow_id, %s::jsonb from tasker.flow where flow_name = 'steady'",
                self.payload(key),
            )
        self.keys.append(key)

    def cancel(self):
        if not self.own:
            return
        record = self.own.pop(self.random.randrange(len(self.own)))
        self.execute("select tasker.cancel_records(array[%s])", record)
        self.note("cancelled", [record])

    # --- workers ----------------------------------------------------------------------------------------------

    def note(self, kind, records):
        """Our own row for what has been done to the records, in the same transaction."""
        self.execute(
            "insert into stress.ledger select id, %s, lease_token, %s from tasker.queue_record where id = any(%s)",
            kind, self.tx, records,
        )

    def claim(self):
        lease = self.random.choices([None, "200 ms"], [9, 1])[0]
        claimed = self.rows(
            "with c as materialized (select * from tasker.claim_records_batch(%s, %s, %s, %s::interval)), "
            "l as (insert into stress.claims select id, lease_token, retry_count, %s from c) "
            "select id, lease_token from c",
            self.random.choice(FLOWS), self.random.randint(1, 12), self.name, lease, self.tx,
        )
        self.claimed += claimed
        # What this very transaction has claimed can be finished in it too.
        if claimed and self.random.random() < 0.3:
            self.held.update([self.claimed.pop()])

    def some_held(self, most):
        records = self.random.sample(list(self.held), min(most, len(self.held)))
        return records, [self.held.pop(record) for record in records]

    def complete(self):
        records, tokens = self.some_held(self.random.randint(1, 8))
        if not records:
            return
        if len(records) == 1:
            self.execute("select tasker.mark_record_completed(%s, '{\"by\": 1}', %s)", records[0], tokens[0])
        else:
            self.execute("select tasker.mark_records_completed(%s, null, %s)", records, tokens)
        self.note("completed", records)
        done = self.rows("select lease_token from tasker.queue_record where id = any(%s)", records)
        if sorted(t for (t,) in done) != sorted(tokens):
            self.say(tx=self.tx, bad=f"completed {records} under {tokens}, but their claims were {done}")

    def complete_without_token(self):
        records, _ = self.some_held(2)
        if records:
            self.execute("select tasker.mark_records_completed(%s)", records)
            self.note("completed", records)

    def fail(self):
        records, tokens = self.some_held(1)
        if records:
            delay = self.random.choice([None, "0", "300 ms"])
            self.execute(
                "select tasker.mark_record_failed(%s, 'on purpose', %s::interval, %s)", records[0], delay, tokens[0]
            )
            self.note("failed", records)

    def release(self):
        records, _ = self.some_held(3)
        if records:
            self.execute("select tasker.release_records(%s)", records)
            self.note("released", records)

    def extend(self):
        records, tokens = self.some_held(3)
        if records:
            self.execute("select tasker.extend_lease(%s, '1 minute', %s)", records, tokens)
            self.claimed += list(zip(records, tokens))

    # --- operators --------------------------------------------------------------------------------------------

    def revive(self):
        """Brings a dead letter back; how often it had failed is set to zero, so our ledger keeps it."""
        dead = self.rows(
            "select id, retry_count from tasker.queue_record where status = 'f' limit 1 for update skip locked"
        )
        for record, failures in dead:
            self.execute("select tasker.retry_records(array[%s])", record)
            self.execute(
                "insert into stress.ledger values (%s, 'revived', %s, %s)", record, failures, self.tx
            )

    def look(self):
        for row in self.rows("select flow_name, pending, scheduled, processing, completed, failed, cancelled, total "
                             "from tasker.get_queue_status()"):
            over = row[0] == "limited" and row[3] > MAX_IN_FLIGHT
            if min(row[1:]) < 0 or sum(row[1:7]) != row[7] or over:
                self.say(tx=self.tx, bad=f"status {row}")

    def recover(self):
        self.execute("select tasker.cleanup_orphaned_records('5 seconds')")


OPERATIONS = (
    [Client.enqueue, Client.enqueue_array, Client.enqueue_unique, Client.insert_by_statement, Client.cancel,
     Client.claim, Client.complete, Client.complete_without_token, Client.fail, Client.release, Client.extend,
     Client.revive, Client.look, Client.recover],
    [15, 8, 3, 3, 4, 25, 25, 2, 8, 5, 3, 2, 3, 1],
)


if __name__ == "__main__":
    Client(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4], sys.argv[5]).run()

"""One client of test/t/queue_stress.pl: does everything to the queue at random, and says what it knows.

    queue_stress.py CONNINFO NAME SEED LOG STOP

It works, and says what it knows of its transactions, as test/clients/stress_client.py does; they make records with the
keys that it says. With whatever a transaction does to a record it leaves a row in stress.ledger, so that the two can be
compared record by record afterwards.
"""

import json
import sys

from stress_client import StressClient

FLOWS = ["steady", "steady", "limited", "brittle"]
MAX_IN_FLIGHT = 30  # of flow "limited"

# What an error may be: a lost race or lease, a deadlock, a cancel, an unknown record. All else is a fault.
EXPECTED = {"55000", "42704", "40P01", "40001", "57014"}


class Client(StressClient):
    """Holds records, each with its token; knows the ids of records that it added."""

    expected = EXPECTED
    taken_back = 0.15
    most_known = 200

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
        self.made.append(key)
        self.seen.append(record)

    def enqueue_array(self):
        keys = [self.new_key() for _ in range(self.random.randint(0, 20))]
        [(count,)] = self.rows(
            "select tasker.add_records_to_queue(%s, %s::jsonb[], %s::int, clock_timestamp() + %s::interval)",
            self.random.choice(FLOWS), [self.payload(key) for key in keys], self.random.randint(0, 2), self.run_at(),
        )
        if count != len(keys):
            self.say(tx=self.tx, bad=f"{len(keys)} payloads made {count} records")
        self.made += keys

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
            self.made.append(key)

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
        self.made.append(key)

    def cancel(self):
        if not self.known:
            return
        record = self.known.pop(self.random.randrange(len(self.known)))
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
        self.claimed.update(claimed)
        # What this very transaction has claimed can be finished in it too.
        if claimed and self.random.random() < 0.3:
            self.held.update([self.claimed.popitem()])

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
            self.claimed.update(zip(records, tokens))

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


Client.operations = (
    [Client.enqueue, Client.enqueue_array, Client.enqueue_unique, Client.insert_by_statement, Client.cancel,
     Client.claim, Client.complete, Client.complete_without_token, Client.fail, Client.release, Client.extend,
     Client.revive, Client.look, Client.recover],
    [15, 8, 3, 3, 4, 25, 25, 2, 8, 5, 3, 2, 3, 1],
)

if __name__ == "__main__":
    Client(*sys.argv[1:]).run()

"""One process of test/t/stream_proof.pl: produces, consumes or maintains two queues until the file STOP appears.

    stream_proof.py CONNINFO NAME SEED LOG STOP ROLE

What is true stands in the database: a producer writes into proof.journal what it sends, in the same transaction, and
a consumer writes into proof.taken what it gets, in the transaction that finishes the batch. LOG gets one line of JSON
for what happened that the test wants to have seen, and for what must never happen, straight to the kernel, so that a
SIGKILL loses nothing:

    {"did": what, ...}     with figures where there are any
    {"bad": text}          a fault
"""

import os
import sys
import time

import psycopg

import stress_client
from stress_client import RolledBack

BUSY, OTHER = "busy", "other"  # the queues

# What an error may be: a cancel by the test, a lost race between transactions.
EXPECTED = {"57014", "40P01", "40001"}


class Client(stress_client.Client):
    """One step after the other."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.application = f"proof {type(self).__name__.lower()}"

    def pause(self, seconds):
        """Until there may be something to do again."""
        time.sleep(seconds)

    def turn(self):
        try:
            self.step()
        except RolledBack:
            self.roll_back()
        except psycopg.Error as error:
            self.judge(error)
            self.roll_back()

    def step(self):
        raise NotImplementedError

    def judge(self, error):
        if not self.is_loss(error) and error.sqlstate not in EXPECTED:
            self.say(bad=f"{self.name}: {error.sqlstate} {error}")

    def begin(self):
        level = self.random.choices(["read committed", "repeatable read", "serializable"], [8, 2, 1])[0]
        self.execute(f"begin isolation level {level}")
        if level != "read committed" and self.chance(0.3):
            self.execute("select 1")  # an old snapshot by the time that something happens
            time.sleep(0.01)

    def chance(self, probability):
        return self.random.random() < probability


# --- producers ------------------------------------------------------------------------------------------------


class Producer(Client):
    """Short transactions that commit out of the order of their ids."""

    def data(self):
        """Different each time; now and then too long for its page."""
        self.serial += 1
        filler = os.urandom(4000).hex() if self.chance(0.01) else ""
        return f"{self.name}.{self.serial}{filler}"

    def send(self, queue=None):
        """One call, and what it sends into the journal."""
        queue = queue or self.random.choice([BUSY, BUSY, BUSY, OTHER])
        if self.chance(0.2):
            data = [self.data() for _ in range(self.random.randint(0, 30))]
            self.execute(
                "insert into proof.journal select %s, data, id "
                "from unnest(%s::text[], tasker.send_batch(%s, 'many', %s::text[])) many (data, id)",
                queue, data, queue, data)
            return
        data = self.data()
        call = self.random.choice([
            "tasker.insert_event(%s, 'one', %s)", "tasker.send(%s, %s::text)", "tasker.send(%s, 'sent', %s::text)",
            "tasker.insert_event(%s, 'seven', %s, 'a', null, 'c', 'd')",
            "tasker.insert_event_raw(%s, null, now(), null, null, 'raw', %s, null, null, null, null)",
        ])
        self.execute(f"insert into proof.journal select %s, %s, {call}", queue, data, queue, data)

    def maybe_in_savepoint(self, depth=0):
        if not self.chance(0.4) or depth > 3:
            self.send()
            return
        self.execute(f"savepoint s{depth}")
        self.maybe_in_savepoint(depth + 1)
        if self.chance(0.4):
            self.execute(f"rollback to savepoint s{depth}")
            self.maybe_in_savepoint(depth + 1)
        else:
            self.execute(f"release savepoint s{depth}")
        if self.chance(0.5):
            self.send()

    def some_events(self):
        for _ in range(self.random.randint(1, 3)):
            self.maybe_in_savepoint()

    def step(self):
        self.begin()
        self.some_events()
        time.sleep(self.random.choice([0, 0, 0.001, 0.005, 0.03, 0.08]))  # others overtake it
        if self.chance(0.3):
            self.send()
        if self.chance(0.1):
            raise RolledBack
        if self.chance(0.02):
            self.disconnect()  # without a word
            return
        self.execute("commit")


class Preparer(Producer):
    """Transactions in two phases; whoever ends them is not the one that began them."""

    def step(self):
        if self.value("select count(*) from pg_prepared_xacts") >= 3:
            self.pause(0.1)
            return
        self.begin()
        self.some_events()
        self.serial += 1
        self.execute(f"prepare transaction '{self.name}.{self.serial}'")
        self.disconnect()
        self.pause(self.random.random() * 2)


class Decider(Client):
    def step(self):
        left = self.rows(
            "select gid from pg_prepared_xacts where gid not like 'kept%%' "
            "and prepared < clock_timestamp() - random() * interval '500 ms' order by random() limit 1"
        )
        for (gid,) in left:
            end = "rollback" if self.chance(0.2) else "commit"
            self.execute(f"{end} prepared '{gid}'")
            self.say(did=f"{end} prepared")
        self.pause(0.05)


class Long(Producer):
    """Transactions that many ticks and rotations pass by."""

    def step(self):
        length = float(os.environ["PROOF_LONG"])
        self.begin()
        before = self.passed_by()
        end = time.time() + length
        while time.time() < end:
            self.maybe_in_savepoint()
            time.sleep(length / 50)
        after = self.passed_by()
        self.execute("commit")
        ticks, tries = (b - a for a, b in zip(before, after))
        self.say(did="long transaction", ticks=ticks, tries=tries)
        self.pause(length)  # in which rotations are possible

    def passed_by(self):
        """Ticks and attempts to rotate so far, as sequences know them: in any snapshot."""
        return self.rows(
            "select (select last_value from proof.ticks), (select last_value from proof.rotations)"
        )[0]


# --- maintenance ----------------------------------------------------------------------------------------------


class Ticker(Client):
    """Ticks as fast as it can."""

    def step(self):
        for queue in BUSY, OTHER:
            tick = self.value("select tasker.ticker(%s)", queue)
            if tick is not None:
                self.execute("select nextval('proof.ticks')")
        if self.chance(0.02):
            self.execute("select tasker.ticker()")
        if self.chance(0.02):
            self.pause(0.02)


class Rotator(Client):
    """Rotates everything all the time; two of them get in each other's way."""

    def step(self):
        queue = self.random.choice([BUSY, BUSY, OTHER])
        if self.chance(0.6):
            before = self.state()
            self.execute("select tasker.maint_rotate_tables_step1(%s)", queue)
            self.execute("select nextval('proof.rotations')")
            self.compare(before)
        if self.chance(0.6):
            self.execute("select tasker.maint_rotate_tables_step2()")
        if self.chance(0.3):
            before = self.state()
            self.execute("select tasker.maint_rotate_metadata()")
            self.compare(before)
        if self.chance(0.3):
            self.execute("select tasker.maint_rotate_metadata_step2()")
        if self.chance(0.2):
            self.execute("select tasker.maint_retry_events()")
        self.pause(self.random.random() * 0.02)

    def state(self):
        return self.rows(
            "select (select queue_cur_table from tasker.queue where queue_name = %s), "
            "rotation_subscription_table, rotation_tick_table from tasker.metadata_rotation", BUSY
        )[0]

    def compare(self, before):
        for what, a, b in zip(["rotation", "rotation of subscriptions", "rotation of ticks"], before, self.state()):
            if a != b:
                self.say(did=what)
                self.execute("insert into proof.rotated values (%s)", what)


# --- consumers ------------------------------------------------------------------------------------------------


class Consumer(Client):
    """Exactly once: what it gets is written in the transaction that finishes the batch."""

    queue = BUSY

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.consumer = type(self).__name__.lower()

    def next_batch(self):
        call = self.random.choices(
            ["tasker.next_batch(%s, %s)", "(tasker.next_batch_info(%s, %s)).batch_id",
             "(tasker.next_batch_custom(%s, %s, null, null, '100 ms')).batch_id",
             "(tasker.next_batch_custom(%s, %s, '1 ms', 50, null)).batch_id"],
            [4, 1, 4, 1])[0]
        return self.value(f"select {call}", self.queue, self.consumer)

    def take(self, batch):
        self.execute(
            "insert into proof.taken (queue, consumer, batch, ev_id, data) "
            "select %s, %s, %s, ev_id, ev_data from tasker.get_batch_events(%s)",
            self.queue, self.consumer, batch, batch)

    def finish(self, batch):
        if self.value("select tasker.finish_batch(%s)", batch) != 1:
            self.say(bad=f"{self.name}: batch {batch} is not there to be finished")

    def step(self):
        self.begin()
        batch = self.next_batch()
        if batch is not None:
            self.take(batch)
            self.finish(batch)
        self.execute("commit")
        if batch is None:
            self.wait()

    def wait(self):
        """Until there is a batch, most often."""
        if self.chance(0.2):
            self.pause(0.01)
        else:
            self.rows("call tasker.wait_for_batch(%s, %s, '500 ms')", self.queue, self.consumer)


class Other(Consumer):
    """Of the other queue."""

    queue = OTHER


class Twin(Consumer):
    """One consumer in two processes: they take turns."""


class Flaky(Consumer):
    """Most of its transactions come to nothing, and some of what it does in the others. It takes large batches."""

    def next_batch(self):
        if self.chance(0.2):
            return super().next_batch()
        return self.value(
            "select (tasker.next_batch_custom(%s, %s, null, null, '300 ms')).batch_id", self.queue, self.consumer
        )

    def maybe_break(self):
        if self.chance(0.15):
            raise RolledBack
        if self.chance(0.02):
            self.disconnect()  # without a word
            raise RolledBack
        if self.chance(0.02):
            self.execute("select 1 / 0")

    def judge(self, error):
        if error.sqlstate != "22012":
            super().judge(error)

    def step(self):
        self.begin()
        batch = self.next_batch()
        if batch is None:
            self.execute("commit")
            self.pause(0.01)
            return
        self.maybe_break()
        self.execute("savepoint s")
        self.take(batch)
        self.maybe_break()
        self.finish(batch)
        if self.chance(0.5):
            self.execute("rollback to savepoint s")
            if self.chance(0.5):
                self.execute("commit")  # the batch stays open
                return
            self.take(batch)
            self.finish(batch)
        self.maybe_break()
        self.execute("commit")


class Lagging(Consumer):
    """Stands still for a while, then takes large batches."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.asleep_until = 0

    def next_batch(self):
        return self.value(
            "select (tasker.next_batch_custom(%s, %s, null, null, '300 ms')).batch_id", self.queue, self.consumer
        )

    def step(self):
        if time.time() < self.asleep_until:
            self.pause(0.05)
            return
        self.begin()
        batch = self.next_batch()
        if batch is None:
            self.asleep_until = time.time() + float(os.environ["PROOF_LAG"])
        else:
            self.take(batch)
            self.finish(batch)
        self.execute("commit")


class Retrying(Consumer):
    """Puts some events off, up to three times; it has got them when it does not."""

    def take(self, batch):
        taken = []
        for event, retries, data in self.rows(
            "select ev_id, coalesce(ev_retry, 0), ev_data from tasker.get_batch_events(%s)", batch
        ):
            if retries < 3 and self.chance(0.1):
                self.execute("select tasker.event_retry(%s, %s, %s::int)", batch, event, self.random.randint(0, 1))
            else:
                taken.append((event, data))
        self.execute(
            "insert into proof.taken (queue, consumer, batch, ev_id, data) "
            "select %s, %s, %s, unnest(%s::bigint[]), unnest(%s::text[])",
            self.queue, self.consumer, batch, [event for event, _ in taken], [data for _, data in taken])


class Member(Consumer):
    """One of several members of a consumer, that each have a batch; they take over what a dead one has had."""

    def step(self):
        call = self.random.choice(["tasker.next_batch(%s, 'team', %s, '300 ms')",
                                   "(tasker.next_batch_custom(%s, 'team', %s, null, null, '100 ms', '300 ms')).batch_id"])
        batch = self.value(f"select {call}", self.queue, self.name)
        if batch is None:
            self.pause(0.01)
        elif self.chance(0.01):
            self.serial += 1
            self.name = f"{self.name.partition('-again')[0]}-again{self.serial}"  # nobody hears of it any more
        else:
            self.begin()
            self.take(batch)
            time.sleep(self.random.choice([0, 0, 0, 0.01]))
            if self.value("select tasker.finish_batch(%s)", batch) == 1:
                self.execute("commit")
            else:
                self.execute("rollback")  # it was taken over

    def take(self, batch):
        self.consumer = "team"
        super().take(batch)


class Receiver(Consumer):
    """A batch in parts, by the short forms; some messages are refused, and come again."""

    def step(self):
        self.begin()
        messages = self.rows(
            "select msg_id, batch_id, payload, coalesce(retry_count, 0) from tasker.receive(%s, %s, %s::int)",
            self.queue, self.consumer, self.random.choice([1, 5, 1000]))
        taken = []
        for event, batch, data, retries in messages:
            if retries < 2 and self.chance(0.05):
                self.execute("select tasker.nack(%s, %s::bigint, %s::interval)", batch, event,
                             self.random.choice(["0", "500 ms"]))
            else:
                taken.append((event, data))
        self.execute(
            "insert into proof.taken (queue, consumer, batch, ev_id, data) "
            "select %s, %s, -txid_current(), unnest(%s::bigint[]), unnest(%s::text[])",  # a part of a batch
            self.queue, self.consumer, [event for event, _ in taken], [data for _, data in taken])
        if messages and self.value("select tasker.ack(%s)", messages[0][1]) != 1:
            self.say(bad=f"{self.name}: batch {messages[0][1]} is not there to be confirmed")
        self.execute("commit")
        if not messages:
            self.pause(0.01)


class Cursor(Consumer):
    """Reads a batch bit by bit."""

    def take(self, batch):
        columns = "ev_id, ev_data"
        got = self.rows(f"select {columns} from tasker.get_batch_cursor(%s, 'events', 7)", batch)
        while True:
            more = self.rows("fetch 5 from events")
            if not more:
                break
            got += [(row[0], row[5]) for row in more]
        self.execute("close events")
        ids = [row[0] for row in got]
        if ids != sorted(ids):
            self.say(bad=f"{self.name}: batch {batch} is not in the order of ids")
        self.execute(
            "insert into proof.taken (queue, consumer, batch, ev_id, data) "
            "select %s, %s, %s, unnest(%s::bigint[]), unnest(%s::text[])",
            self.queue, self.consumer, batch, ids, [row[1] for row in got])


class Steps(Consumer):
    """A transaction each to open a batch, to read it, and to finish it; what is read twice must be the same."""

    def step(self):
        batch = self.next_batch()
        if batch is None:
            self.pause(0.01)
            return
        for _ in range(self.random.randint(1, 2)):
            self.serial += 1
            self.execute(
                "insert into proof.reading select %s, %s, ev_id, ev_data from tasker.get_batch_events(%s)",
                batch, f"{self.name}.{self.serial}", batch)
        self.execute("begin")
        self.execute(
            "insert into proof.taken (queue, consumer, batch, ev_id, data) "
            "select %s, %s, batch, ev_id, data from proof.reading where batch = %s and reading = %s",
            self.queue, self.consumer, batch, f"{self.name}.{self.serial}")
        self.finish(batch)
        self.execute("commit")


ROLES = {role.__name__.lower(): role for role in
         [Producer, Preparer, Decider, Long, Ticker, Rotator, Consumer, Other, Twin, Flaky, Lagging, Retrying, Member,
          Receiver, Cursor, Steps]}

if __name__ == "__main__":
    ROLES[sys.argv[6]](*sys.argv[1:6]).run()

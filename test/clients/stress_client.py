"""What the clients of the tests with many processes share.

    PROGRAM CONNINFO NAME SEED LOG STOP ...

A client works until the file STOP appears, at random from SEED on, over connections that may be lost at any time. What
the test has to know it writes to LOG, one line of JSON each, straight to the kernel, so that a SIGKILL loses nothing.
"""

import json
import os
import random
import time

import psycopg


class RolledBack(Exception):
    """The transaction takes itself back, as a user's might."""


class Client:
    """A connection that comes again, and one turn after the other."""

    application = "stress"

    def __init__(self, conninfo, name, seed, log, stop):
        self.conninfo = conninfo
        self.name = name
        self.random = random.Random(int(seed))
        self.log = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self.stop = stop
        self.serial = 0
        self.connection = None

    def say(self, **what):
        os.write(self.log, (json.dumps(what) + "\n").encode())

    def stopped(self):
        return os.path.exists(self.stop)

    def connected(self):
        """Connects anew where needed; the server may be down, or in recovery."""
        while self.connection is None and not self.stopped():
            try:
                self.connection = psycopg.connect(
                    self.conninfo, application_name=self.application, autocommit=True, connect_timeout=5
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
        while not self.stopped():
            if self.connected():
                self.turn()

    def turn(self):
        raise NotImplementedError

    def roll_back(self):
        """That it did is certain even when the connection is lost meanwhile."""
        try:
            if self.connection is not None:
                self.connection.execute("rollback")
        except psycopg.Error:
            self.disconnect()

    def is_loss(self, error):
        """Has the connection gone? The server's last words arrive before its end does."""
        return (self.connection is None or self.connection.closed or error.sqlstate is None
                or error.sqlstate.startswith(("57P", "08")))

    def execute(self, statement, *parameters):
        return self.connection.execute(statement, parameters or None)

    def rows(self, statement, *parameters):
        return self.execute(statement, *parameters).fetchall()

    def value(self, statement, *parameters):
        return self.rows(statement, *parameters)[0][0]


class StressClient(Client):
    """Transactions of a few operations, drawn at random. What it knows of them it says:

        {"tx": T, "made": [...]}    before COMMIT: the transaction has made these things, and no others
        {"tx": T, "end": "ok"}      the COMMIT was confirmed
        {"tx": T, "end": "no"}      the transaction was rolled back, or ended by an error before its COMMIT
        {"tx": T, "bad": text}      something that must never happen

    A transaction without an end has an outcome that its client does not know. Each transaction also leaves a row in
    stress.journal, so that the database knows.
    """

    operations = ([], [])  # methods, and how often each
    expected = set()  # what an error may be, all else is a fault
    most_operations = 4  # in one transaction
    in_savepoint = 0.4  # how many of the operations
    taken_back = 0.1  # how many of the transactions
    most_known = 100

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.held = {}  # what we hold by claims that committed
        self.known = []  # what we have seen, to interfere with

    def turn(self):
        self.serial += 1
        self.tx = f"{self.name}.{self.serial}"
        self.made, self.claimed, self.seen = [], {}, []
        held, committing = dict(self.held), False
        try:
            level = self.random.choices(["read committed", "repeatable read", "serializable"], [8, 1, 1])[0]
            self.execute(f"begin isolation level {level}")
            self.execute("insert into stress.journal values (%s)", self.tx)
            for _ in range(self.random.randint(1, self.most_operations)):
                self.maybe_in_savepoint()
            if self.random.random() < self.taken_back:
                raise RolledBack
            self.say(tx=self.tx, made=self.made)
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
        del self.known[:-self.most_known]

    def give_up(self, held):
        self.roll_back()
        self.say(tx=self.tx, end="no")
        self.held = held

    def judge(self, error):
        if not self.is_loss(error) and error.sqlstate not in self.expected:
            self.say(tx=self.tx, bad=f"{error.sqlstate} {error} {error.diag.message_detail} {error.diag.context}")

    def maybe_in_savepoint(self):
        """One operation; now and then in a subtransaction, which may be taken back."""
        operation = self.random.choices(*self.operations)[0]
        if self.random.random() >= self.in_savepoint:
            operation(self)
            return
        made, seen, claimed, held = len(self.made), len(self.seen), dict(self.claimed), dict(self.held)
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
            del self.made[made:], self.seen[seen:]
            self.claimed, self.held = claimed, held

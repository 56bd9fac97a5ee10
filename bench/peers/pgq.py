"""PgQ from Debian (postgresql-NN-pgq3): an event queue, whose consumers read batches and do not claim records."""

import json
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

from bench.lib import cluster, database, process
from bench.lib.contestant import Unavailable
from bench.queue.contestants import QueueContestant
from bench.queue.payload import FLOW
from bench.stream.contestants import EventQueue

TICKER = Path(__file__).parent / "pgq_ticker.py"
TICKER_NAME = "bench ticker"


class Pgq(QueueContestant):
    """For enqueueing, beside the queue plane."""

    name = "pgq"
    label = "PgQ"
    optional = True

    def prepare(self):
        with database.connect(self.server) as conn:
            row = conn.execute("select default_version from pg_available_extensions where name = 'pgq'").fetchone()
        if not row:
            raise Unavailable(f"extension pgq is not installed in {cluster.share_dir(self.server.bindir)}")
        self.label = f"{self.label} {row[0]}"

    def create(self, dbname):
        with database.connect(self.server, dbname) as conn:
            conn.execute("create extension pgq")
            conn.execute("select pgq.create_queue(%s)", [FLOW])


class PgqStream(EventQueue):
    """The whole of it, beside the stream plane. Its daemon pgqd is not packaged: pgq_ticker.py calls what pgqd
    calls, as often as pgqd does."""

    name = "pgq"
    label = "PgQ"
    schema = "pgq"
    optional = True
    tables = {"subscription": "^subscription$", "tick": "^tick$", "event": r"^event_\d+_[0-2]$",
              "other": "^(queue|consumer|retry_queue)$"}
    ticker_sql = f"select pid from pg_stat_activity where application_name = '{TICKER_NAME}' and datname = current_database()"

    # A consumer polls; every 10 ms costs little beside a tick a second.
    poll_period = 0.01
    tick_period = 1.0
    maintenance_period = 30.0

    def prepare(self):
        super().prepare()
        self.label = f"{self.label} {self.version}"

    @contextmanager
    def duties(self):
        orders = {"dsn": self.server.dsn(self.dbname), "name": TICKER_NAME, "tick_period": self.tick_period,
                  "maintenance_period": self.maintenance_period}
        errors = self.work / "pgq_ticker.err"
        with open(errors, "w") as out, process.started([sys.executable, str(TICKER)], stdin=subprocess.PIPE,
                                                       stderr=out, text=True) as child:
            child.stdin.write(json.dumps(orders))
            child.stdin.close()
            self.wait_for_ticker()
            yield
            if child.poll() is not None:
                raise process.CommandFailed(f"PgQ's ticker ended: {errors.read_text()[-500:]}")

    def clear(self):
        """Drop its database."""
        self.discard()

"""PgQ from Debian (postgresql-NN-pgq3), for enqueueing: its consumers read batches, they do not claim records."""

from bench.lib import cluster, database
from bench.lib.contestant import Unavailable
from bench.queue.contestants import QueueContestant
from bench.queue.payload import FLOW


class Pgq(QueueContestant):
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

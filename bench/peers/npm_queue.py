"""The queues from the npm registry as contestants: pg-boss and graphile-worker."""

import json

from bench.lib import database
from bench.peers import capture, npm
from bench.queue.contestants import QueueContestant
from bench.queue.payload import PAYLOAD


class NpmQueue(QueueContestant):
    """A queue whose schema and statements come from its own library."""

    optional = True
    capture_script = ""

    def __init__(self, server, work, cache):
        super().__init__(server, work)
        self.cache = cache
        self.captured = None
        self.scripts = self.work / f"scripts_{self.name}"

    def prepare(self):
        """Install the library, migrate a template database and write its statements down as scripts."""
        npm.modules(self.cache)
        self.empty = f"{self.dbname}_empty"
        database.create_database(self.server, self.empty)
        self.captured = npm.capture(self.capture_script, self.cache, self.server, self.empty)
        self.label = f"{self.label} {self.captured['version']}"
        self.scripts.mkdir(exist_ok=True)
        for operation, statement in self.captured["statements"].items():
            text = capture.to_script(statement, self.captured)
            text = capture.claim_script(text) if operation == "claim" else text + ";\n"
            (self.scripts / f"{operation}.sql").write_text(text)

    def fresh(self, dbname=None):
        database.create_database(self.server, dbname or self.dbname, self.empty)

    def jobs(self, count, payload):
        """The library's own list of jobs as it goes over the wire."""
        job = json.loads(self.captured["jobs"])[0]
        job = {key: json.loads(payload) if isinstance(value, dict) else value for key, value in job.items()}
        return json.dumps([job] * count)

    def defines(self, **more):
        return super().defines(jobs=self.jobs(100, PAYLOAD), **more)

    def load(self, dbname, records, payload):
        """Load through the library's own batch insert, 1,000 jobs at a time."""
        statement = self.statement("enqueue_batch")
        with database.connect(self.server, dbname) as conn:
            left = records
            while left > 0:
                step = min(left, 1000)
                conn.execute(statement, {"jobs": self.jobs(step, payload)})
                left -= step

    def discard(self):
        super().discard()
        if self.captured:
            database.drop_database(self.server, self.empty)


class PgBoss(NpmQueue):
    name = "pgboss"
    label = "pg-boss"
    capture_script = "pg-boss.js"
    pending_sql = "select count(*) from pgboss.job where name = 'bench' and state < 'active'"


class GraphileWorker(NpmQueue):
    name = "graphile"
    label = "graphile-worker"
    capture_script = "graphile-worker.js"
    pending_sql = "select count(*) from graphile_worker._private_jobs where is_available"

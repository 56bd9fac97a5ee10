"""The queue plane's contestants: the subject, the seed's queue and the raw limit."""

from pathlib import Path

from bench.lib import cluster, database
from bench.lib.contestant import Contestant, Unavailable, for_psycopg
from bench.queue.payload import FLOW, PAYLOAD

HERE = Path(__file__).parent


class QueueContestant(Contestant):
    """A queue that takes records in and hands them out in batches."""

    # A copy of a loaded database is quicker than a second load. The subject is always loaded anew, because
    # what it keeps in shared memory belongs to the database in which it was made.
    copyable = True

    # Which tables hold its records, as a regular expression on their names.
    record_tables = "."

    def __init__(self, server, work):
        super().__init__(server, work)
        self.scripts = HERE / "scripts" / self.name
        self.templates = {}

    def fresh(self, dbname=None):
        """A new database with an empty queue."""
        dbname = dbname or self.dbname
        database.create_database(self.server, dbname)
        self.create(dbname)

    def create(self, dbname):
        """Make the schema in an empty database."""
        raise NotImplementedError

    def load(self, dbname, records, payload):
        """Put a backlog of pending records into an empty queue."""
        raise NotImplementedError

    def pending(self):
        """How many records wait to be claimed."""
        with self.connect() as conn:
            return conn.execute(self.pending_sql).fetchone()[0]

    def defines(self, **more):
        """The pgbench variables of its scripts."""
        return {"flow": FLOW, "payload": PAYLOAD, **more}

    def reset(self, records, payload=PAYLOAD):
        """A database whose queue holds exactly `records` pending records, settled and in memory."""
        if not self.copyable:
            self.fresh()
            self.load(self.dbname, records, payload)
        else:
            key = (records, payload)
            if key not in self.templates:
                template = f"{self.dbname}_t{len(self.templates)}"
                self.fresh(template)
                self.load(template, records, payload)
                self.templates[key] = template
            database.create_database(self.server, self.dbname, self.templates[key])
        database.settle(self.server, self.dbname)

    def discard(self):
        super().discard()
        for template in self.templates.values():
            database.drop_database(self.server, template)
        self.templates = {}

    def claim_statement(self):
        """The claim for psycopg: one row with the ids and their number."""
        return for_psycopg(self.script_text("claim").replace("\\gset", ""))


class Seed(QueueContestant):
    name = "seed"
    label = "S"
    record_tables = "^processing_queue$"
    table_sql = HERE / "seed.sql"
    indexes_sql = HERE / "seed_indexes.sql"
    pending_sql = "select count(*) from seed.processing_queue where status = 'pending'"

    def create(self, dbname):
        database.run_script(self.server, dbname, self.table_sql)
        database.run_script(self.server, dbname, self.indexes_sql)

    def load(self, dbname, records, payload):
        """Load without the indexes and build them afterwards, which leaves them as small as they can be."""
        database.create_database(self.server, dbname)
        database.run_script(self.server, dbname, self.table_sql)
        with database.connect(self.server, dbname) as conn:
            conn.execute("""
                insert into seed.processing_queue (flow_name, payload, created_at, updated_at)
                select %s, %s::jsonb, at, at
                from (select now() - (%s - i) * interval '1 millisecond' as at
                      from generate_series(1, %s) as i) as clock""", [FLOW, payload, records, records])
        database.run_script(self.server, dbname, self.indexes_sql)

    def current_table(self, _conn):
        """The table that holds what is claimed next."""
        return "seed.processing_queue"


class Raw(QueueContestant):
    """The raw limit: a bare table without indexes, only good for inserts."""

    name = "raw"
    label = "R"

    def create(self, dbname):
        with database.connect(self.server, dbname) as conn:
            conn.execute("create schema raw")
            conn.execute("create table raw.record (payload jsonb not null)")


class Tasker(QueueContestant):
    name = "tasker"
    label = "tasker"
    copyable = False
    record_tables = "^queue_record"
    pending_sql = "select coalesce(sum(pending), 0)::bigint from tasker.get_queue_status()"

    def prepare(self):
        with database.connect(self.server) as conn:
            known = conn.execute("select 1 from pg_available_extensions where name = 'tasker'").fetchone()
        if not known:
            raise Unavailable(f"extension tasker is not installed in {cluster.share_dir(self.server.bindir)}")

    def fresh(self, dbname=None):
        """An empty queue. The database stays and the extension is made anew: what each database takes of shared
        memory is given back when the extension goes, and a run needs many empty queues."""
        dbname = dbname or self.dbname
        if not database.exists(self.server, dbname):
            database.create_database(self.server, dbname)
        with database.connect(self.server, dbname) as conn:
            conn.execute("drop extension if exists tasker cascade")
        self.create(dbname)

    def create(self, dbname):
        with database.connect(self.server, dbname) as conn:
            conn.execute("create extension tasker")

    def load(self, dbname, records, payload):
        with database.connect(self.server, dbname) as conn:
            left = records
            while left > 0:
                step = min(left, 1000)
                conn.execute("select tasker.add_records_to_queue(%s, array_fill(%s::jsonb, array[%s::integer]))",
                             [FLOW, payload, step])
                left -= step

    def current_table(self, conn):
        """The partition that holds what is claimed next."""
        return conn.execute("select tableoid::regclass::text from tasker.queue_record order by id desc limit 1").fetchone()[0]

"""The stream plane's contestants: the subject and the raw limit; PgQ stands in bench/peers/pgq.py."""

import time
from contextlib import contextmanager
from pathlib import Path

from psycopg import sql

from bench.lib import cluster, cpu, database
from bench.lib.contestant import Contestant, Unavailable
from bench.queue.payload import PAYLOAD

HERE = Path(__file__).parent

QUEUE = "bench"
TYPE = "invoice.create"

# How long to wait for the background worker or the ticker before the benchmark gives up.
PATIENCE = 60

# What a batch is loaded with: so many events in each transaction.
PER_TRANSACTION = 10

# Batches of one size, with ticks of the loader's own between them; the same text for all, as the calls are.
LOAD = """
do $load$
begin
    perform {schema}.ticker({queue}, {start}, clock_timestamp(), 0);
    commit;
    for batch in 1 .. {batches} loop
        for part in 1 .. {parts} loop
            perform count({schema}.insert_event({queue}, {type}, {data})) from generate_series(1, {events});
            commit;
        end loop;
        perform {schema}.ticker({queue}, {start} + batch, clock_timestamp(), batch::bigint * {parts} * {events});
        commit;
    end loop;
end $load$"""


class StreamContestant(Contestant):
    """Takes events in; most also hand them out in batches."""

    def __init__(self, server, work):
        super().__init__(server, work)
        self.scripts = HERE / "scripts" / self.name

    def fresh(self, dbname=None):
        """A new database with an empty queue."""
        dbname = dbname or self.dbname
        database.create_database(self.server, dbname)
        with database.connect(self.server, dbname) as conn:
            self.create(conn)

    def create(self, conn):
        """Make the schema, and the queue, in an empty database."""
        raise NotImplementedError

    def defines(self, **more):
        """The pgbench variables of its scripts."""
        return {"queue": QUEUE, "type": TYPE, "data": PAYLOAD, **more}


class EventQueue(StreamContestant):
    """A queue with PgQ's calls, in a schema of its own."""

    schema = ""

    # Which of its tables are subscriptions, ticks, events and the rest, as regular expressions on their names.
    tables = {}

    # Finds the processes that make ticks and do maintenance in a database.
    ticker_sql = ""

    def prepare(self):
        """Extension and schema have the same name."""
        with database.connect(self.server) as conn:
            row = conn.execute("select default_version from pg_available_extensions where name = %s",
                               [self.schema]).fetchone()
        if not row:
            raise Unavailable(f"extension {self.schema} is not installed in "
                              f"{cluster.share_dir(self.server.bindir)}")
        self.version = row[0]

    def create(self, conn):
        conn.execute(f"create extension {self.schema}")
        self.make_queue(conn, QUEUE)

    def make_queue(self, conn, name, **settings):
        conn.execute(f"select {self.schema}.create_queue(%s)", [name])
        self.configure(conn, name, **settings)

    def configure(self, conn, queue, **settings):
        for name, value in settings.items():
            conn.execute(f"select {self.schema}.set_queue_config(%s, %s, %s)", [queue, name, value])

    def register(self, conn, consumer, tick=None):
        """Register a consumer, or set one back to a tick."""
        if tick is None:
            conn.execute(f"select {self.schema}.register_consumer(%s, %s)", [QUEUE, consumer])
        else:
            conn.execute(f"select {self.schema}.register_consumer_at(%s, %s, %s)", [QUEUE, consumer, tick])

    def load(self, conn, batches, size):
        """Fill the queue with batches of `size` events each, a tick behind each of them, and return the tick before
        the first of them. Ticks come from here alone, so that all contestants have the same; the first leaves
        room for one that the queue's own ticker may be making."""
        self.configure(conn, QUEUE, external_ticker="true")
        start = conn.execute(f"select max(tick_id) from {self.schema}.tick").fetchone()[0] + 10
        conn.execute("set synchronous_commit = off")
        conn.execute(sql.SQL(LOAD).format(
            start=start, schema=sql.Identifier(self.schema), queue=QUEUE, type=TYPE, data=PAYLOAD, batches=batches,
            parts=size // PER_TRANSACTION, events=PER_TRANSACTION))
        return start

    def left(self, conn, consumer):
        """How many ticks the consumer has not come to yet."""
        return conn.execute(f"""
            select (select max(tick_id) from {self.schema}.tick) - sub_last_tick
            from {self.schema}.subscription join {self.schema}.consumer on co_id = sub_consumer
            where co_name = %s""", [consumer]).fetchone()[0]

    def reader(self, consumer, waiting):
        """The orders of a consumer process (reader.py): one that waits as well as it can, or one that asks for
        the next batch again and again."""
        waits = waiting and self.can("wait")
        return {
            "dsn": self.server.dsn(self.dbname), "next": self.statement("wait" if waits else "next").replace("\\gset", ""),
            "events": self.statement("events"), "finish": self.statement("finish"),
            "parameters": {"queue": QUEUE, "consumer": consumer, "timeout": "1 second"},
            "idle": self.poll_period if waiting and not waits else 0.0,
        }

    def ticker_pids(self, conn):
        return [row[0] for row in conn.execute(self.ticker_sql).fetchall()]

    def ticker_cpu(self, conn):
        """CPU seconds that the processes which make ticks have used; NaN where it cannot be told."""
        used = [cpu.spent(pid) for pid in self.ticker_pids(conn)]
        return float("nan") if None in used else sum(used)

    def wait_for_ticker(self):
        """Return when there is a process that makes ticks."""
        deadline = time.monotonic() + PATIENCE
        with self.connect() as conn:
            while not self.is_ticking(conn):
                if time.monotonic() > deadline:
                    raise RuntimeError(f"{self.label}: nothing makes ticks")
                time.sleep(0.05)

    def is_ticking(self, conn):
        return bool(self.ticker_pids(conn))


class Raw(StreamContestant):
    """The raw limit: a bare table without indexes, only good for inserts."""

    name = "raw"
    label = "R"

    def create(self, conn):
        conn.execute("create schema raw")
        conn.execute("create table raw.event (type text not null, data text not null)")


class Tasker(EventQueue):
    name = "tasker"
    label = "tasker"
    schema = "tasker"
    tables = {"subscription": "^subscription_[0-2]$", "tick": "^tick_[0-2]$", "event": r"^event_\d+_[0-2]$",
              "other": "^(registration|queue|metadata_rotation|consumer|retry_queue)$"}
    ticker_sql = """
        select pid from pg_stat_activity
        where backend_type = 'tasker launcher' or backend_type like 'tasker%' and datname = current_database()"""

    def fresh(self, dbname=None):
        """An empty queue. The database stays and the extension is made anew: what each database takes of shared
        memory is given back when the extension goes, and a run needs many empty queues."""
        dbname = dbname or self.dbname
        if not database.exists(self.server, dbname):
            database.create_database(self.server, dbname)
        with database.connect(self.server, dbname) as conn:
            conn.execute("drop extension if exists tasker cascade")
            self.create(conn)

    def is_ticking(self, conn):
        """The worker does the maintenance; the ticker follows the commits."""
        return conn.execute("""
            select count(distinct backend_type) = 2 from pg_stat_activity
            where backend_type in ('tasker worker', 'tasker ticker') and datname = current_database()""").fetchone()[0]

    @contextmanager
    def duties(self):
        """Background workers of the server make the ticks and do the maintenance."""
        self.wait_for_ticker()
        yield

    def clear(self):
        """Take the extension out of its database: nothing of it is at work until the next fresh()."""
        if database.exists(self.server, self.dbname):
            with self.connect() as conn:
                conn.execute("drop extension if exists tasker cascade")

"""The partition plane's contestants: the subject and pg_partman, each a manager of the same tables.

All sets are daily ones of a timestamptz column, with no name of a partition used by the benchmarks, so that each
manager names them as it likes.
"""

import time
from pathlib import Path

from psycopg import sql

from bench.lib import cluster, database
from bench.lib.contestant import Contestant, Unavailable

HERE = Path(__file__).parent

COLUMNS = "(id bigint not null, at timestamptz not null, key int not null, payload text, primary key (id, at))"

# How long a round of the worker, or the retirement of a set, may take before the benchmark gives up.
PATIENCE = 120


class Manager(Contestant):
    """Makes, looks after and retires partitions."""

    scripts = HERE / "scripts"
    extension = ""

    def prepare(self):
        with database.connect(self.server) as conn:
            row = conn.execute("select default_version from pg_available_extensions where name = %s",
                               [self.extension]).fetchone()
        if not row:
            raise Unavailable(f"extension {self.extension} is not installed in "
                              f"{cluster.share_dir(self.server.bindir)}")
        self.version = row[0]

    def fresh(self, dbname=None):
        dbname = dbname or self.dbname
        database.create_database(self.server, dbname)
        with database.connect(self.server, dbname) as conn:
            self.create(conn)

    def create(self, conn):
        """Make the schema in an empty database."""
        raise NotImplementedError

    def make_set(self, conn, name, past, ahead, columns=COLUMNS):
        """A set of `past` daily partitions before today's, today's, and `ahead` after it; nothing is ever due."""
        conn.execute(sql.SQL("create table {} {} partition by range (at)").format(
            sql.Identifier(name), sql.SQL(columns)))
        self.manage(conn, name, past, ahead)

    def manage(self, conn, name, past, ahead):
        """Take an empty parent under management."""
        raise NotImplementedError

    def forget(self, conn, name):
        """Stop managing a set and drop it."""
        raise NotImplementedError

    def want_ahead(self, conn, name, ahead):
        """Ask for so many partitions ahead; they are made by the next round."""
        raise NotImplementedError

    def keep_days(self, conn, name, days):
        """Let partitions that ended longer than so many days ago be dropped by the next round."""
        raise NotImplementedError

    def keep_tables(self, conn, name):
        """Let retired partitions of the set be detached and stay as tables."""
        raise NotImplementedError

    def round(self, conn):
        """One round of maintenance of everything, in this session."""
        raise NotImplementedError

    def premake(self, conn):
        """Make what is missing ahead, with the fewest other duties that the manager can do it with."""
        raise NotImplementedError

    def retire(self, conn):
        """Drop what is due, as the manager does it in production; returns the ms that it took."""
        raise NotImplementedError

    def maintain_until(self, conn, done):
        """Have the manager do its work as it does in production, until `done()`; returns the seconds taken."""
        raise NotImplementedError

    def partition_count(self, conn, name):
        """Attached partitions without the DEFAULT partition."""
        return conn.execute("""
            select count(*) from pg_inherits i join pg_partitioned_table p on p.partrelid = i.inhparent
            where i.inhparent = %s::regclass and i.inhrelid <> p.partdefid""", [name]).fetchone()[0]

    def partition_at(self, conn, name, days_ago):
        """The partition that holds noon of that day, qualified and quoted."""
        row = conn.execute("""
            select (n.nspname || '.' || quote_ident(c.relname)) from pg_inherits i join pg_class c on c.oid = inhrelid
            join pg_namespace n on n.oid = relnamespace
            where inhparent = %s::regclass and pg_get_expr(relpartbound, c.oid) like
                  'FOR VALUES FROM (''' || (current_date - %s::int) || '%%'""", [name, days_ago]).fetchone()
        return row[0]


class Tasker(Manager):
    name = "tasker"
    label = "tasker"
    extension = "tasker"

    def create(self, conn):
        conn.execute("create extension tasker")

    def manage(self, conn, name, past, ahead):
        conn.execute("""
            select tasker.create_parent(%s::regclass, 'at', '1 day', %s::int, '1000 days',
                                        start_at => (current_date - %s::int)::text)""", [name, ahead, past])

    def forget(self, conn, name):
        conn.execute("select tasker.drop_partition_set(%s::regclass)", [name])
        conn.execute(sql.SQL("drop table {}").format(sql.Identifier(name)))

    def want_ahead(self, conn, name, ahead):
        conn.execute("select tasker.alter_parent(%s::regclass, 'premake', %s)", [name, str(ahead)])

    def keep_days(self, conn, name, days):
        conn.execute("select tasker.alter_parent(%s::regclass, 'retention', %s)", [name, f"{days} days"])

    def keep_tables(self, conn, name):
        conn.execute("select tasker.alter_parent(%s::regclass, 'retention_action', 'detach')", [name])

    def round(self, conn):
        """All duties in this session; run_maintenance() would leave two of them to the worker."""
        for duty in ("premake", "finalize", "retire", "analyze"):
            conn.execute(f"call tasker.run_duty('{duty}')")

    def premake(self, conn):
        conn.execute("call tasker.run_duty('premake')")

    def worker_duty(self, conn, duty):
        """Have the worker run a duty and return its own time for it in ms."""
        status = "select runs, extract(epoch from duration) * 1000, running from tasker.duty_status where name = %s"
        before = conn.execute(status, [duty]).fetchone()[0]
        conn.execute("select tasker.request_duty(%s)", [duty])
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            runs, took, running = conn.execute(status, [duty]).fetchone()
            if runs > before and not running:
                return float(took)
            time.sleep(0.002)
        raise RuntimeError(f"the worker did not run duty {duty} within {PATIENCE} s")

    def worker_pid(self, conn):
        return conn.execute("select pid from tasker.worker_status where database = current_database()").fetchone()[0]

    def worker_round(self, conn):
        """One round of the worker: the sum of its duties' times in ms."""
        return sum(self.worker_duty(conn, duty) for duty in ("premake", "finalize", "retire", "analyze"))

    def retire(self, conn):
        return self.worker_duty(conn, "retire")

    def wait_for_worker(self, conn):
        """Return when the background worker of the database has come up."""
        deadline = time.monotonic() + PATIENCE
        while conn.execute("select not tasker.request_duty('premake')").fetchone()[0]:
            if time.monotonic() > deadline:
                raise RuntimeError("no background worker came up")
            time.sleep(0.05)

    def maintain_until(self, conn, done):
        began = time.monotonic()
        while not done():
            if time.monotonic() - began > PATIENCE:
                raise RuntimeError("the worker did not finish in time")
            for duty in ("premake", "finalize", "retire"):
                self.worker_duty(conn, duty)
        return time.monotonic() - began


class Partman(Manager):
    """pg_partman from Debian (postgresql-NN-partman), its maintenance called as its own worker or cron would."""

    name = "partman"
    label = "pg_partman"
    extension = "pg_partman"
    optional = True

    def prepare(self):
        super().prepare()
        self.label = f"{self.label} {self.version}"

    def create(self, conn):
        conn.execute("create schema partman")
        conn.execute("create extension pg_partman schema partman")

    def manage(self, conn, name, past, ahead):
        conn.execute("""
            select partman.create_parent('public.' || %s, 'at', 'native', 'daily', p_premake => %s::int,
                                         p_start_partition => (current_date - %s::int)::text, p_jobmon => false)""",
                     [name, ahead, past])
        conn.execute("""
            update partman.part_config set retention = '1000 days', retention_keep_table = false,
                   retention_keep_index = false, jobmon = false where parent_table = 'public.' || %s""", [name])

    def forget(self, conn, name):
        conn.execute("delete from partman.part_config where parent_table = 'public.' || %s", [name])
        conn.execute(sql.SQL("drop table {}").format(sql.Identifier(name)))

    def want_ahead(self, conn, name, ahead):
        conn.execute("update partman.part_config set premake = %s where parent_table = 'public.' || %s",
                     [ahead, name])

    def keep_days(self, conn, name, days):
        conn.execute("update partman.part_config set retention = %s where parent_table = 'public.' || %s",
                     [f"{days} days", name])

    def keep_tables(self, conn, name):
        conn.execute("update partman.part_config set retention_keep_table = true "
                     "where parent_table = 'public.' || %s", [name])

    def round(self, conn):
        conn.execute("select partman.run_maintenance(p_jobmon => false)")

    def premake(self, conn):
        self.round(conn)

    def retire(self, conn):
        began = time.perf_counter()
        self.round(conn)
        return (time.perf_counter() - began) * 1000.0

    def maintain_until(self, conn, done):
        began = time.monotonic()
        while not done():
            if time.monotonic() - began > PATIENCE:
                raise RuntimeError("maintenance did not finish in time")
            self.round(conn)
        return time.monotonic() - began

"""Dead rows of a queue's tables over time.

What the statistics collector says is an estimate, which a rotation's TRUNCATE sets to zero and a VACUUM replaces. So
where the extension pgstattuple is to be had, the small tables are read row by row: what no new snapshot can see is dead,
whether it may be removed or not. Event tables are large and are judged by the collector's counts, as nothing in
them is ever updated or deleted; they are read once at the end.
"""

import threading
import time

import psycopg

from bench.lib import database

# Tables that are counted together, and catalogs beside them.
GROUPS = ("subscription", "tick", "event", "other")
CATALOGS = {"pg_class": ("pg_class",), "catalogs": ("pg_attribute", "pg_statistic", "pg_depend", "pg_type", "pg_index")}

COLLECTED = "select coalesce(sum(n_dead_tup), 0)::bigint from pg_stat_all_tables where relid = any(%s::oid[])"
COUNTED = "select coalesce(sum(dead_tuple_count), 0)::bigint from unnest(%s::oid[]) as t, pgstattuple(t::regclass)"


class Sampler(threading.Thread):
    """Counts dead rows now and then, in a session of its own."""

    def __init__(self, contestant, period):
        super().__init__(daemon=True)
        self.contestant = contestant
        self.period = period
        self.samples = []  # (Unix time, {group: dead rows})
        self.failure = None
        self.ended = threading.Event()
        with contestant.connect() as conn:
            self.exact = conn.execute("select exists (select from pg_available_extensions "
                                      "where name = 'pgstattuple')").fetchone()[0]
            if self.exact:
                conn.execute("create extension if not exists pgstattuple")
            self.tables = {group: self._oids(conn, contestant.schema, contestant.tables[group]) for group in GROUPS}
            for group, names in CATALOGS.items():
                self.tables[group] = self._oids(conn, "pg_catalog", f"^({'|'.join(names)})$")

    @staticmethod
    def _oids(conn, schema, pattern):
        found = conn.execute("""
            select array_agg(c.oid::bigint) from pg_class c join pg_namespace n on n.oid = c.relnamespace
            where nspname = %s and relname ~ %s and relkind = 'r'""", [schema, pattern]).fetchone()[0]
        if not found:
            raise RuntimeError(f"no table of {schema} is called {pattern}")
        return found

    def _sample(self, conn):
        """A table that is being truncated is waited for: rotation takes milliseconds."""
        return {group: conn.execute(COUNTED if self.exact and group != "event" else COLLECTED,
                                    [tables]).fetchone()[0]
                for group, tables in self.tables.items()}

    def run(self):
        try:
            with self.contestant.connect(application_name="bench sampler") as conn:
                due = time.time()
                while not self.ended.wait(max(0.0, due - time.time())):
                    self.samples.append((time.time(), self._sample(conn)))
                    due += self.period
        except psycopg.Error as failure:
            self.failure = failure

    def events_counted(self):
        """Dead rows of the event tables, row by row where that is possible."""
        with self.contestant.connect() as conn:
            return conn.execute(COUNTED if self.exact else COLLECTED, [self.tables["event"]]).fetchone()[0]

    def finish(self):
        self.ended.set()
        self.join()
        if self.failure is not None:
            raise RuntimeError(f"{self.contestant.label}: dead rows could not be counted: {self.failure}")

    def per_second(self, start, seconds):
        """{group: the last count at each second from `start`}."""
        series = {group: [] for group in self.tables}
        seat, current = 0, None
        for second in range(seconds):
            while seat < len(self.samples) and self.samples[seat][0] < start + second + 1:
                current = self.samples[seat][1]
                seat += 1
            for group, values in series.items():
                values.append(float(current[group]) if current else float("nan"))
        return series


def describe(exact):
    return "pgstattuple; event tables: pg_stat_all_tables" if exact else "pg_stat_all_tables"

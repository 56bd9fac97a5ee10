"""Connections, databases and the description of the machine and the server."""

import os
import platform
from pathlib import Path

import psycopg
from psycopg import sql

SHOWN_SETTINGS = [
    "server_version", "shared_buffers", "fsync", "synchronous_commit", "full_page_writes", "wal_level",
    "wal_compression", "max_wal_size", "checkpoint_timeout", "autovacuum", "autovacuum_naptime",
    "max_connections", "jit", "shared_preload_libraries",
]


def connect(server, dbname="postgres", **options):
    """An autocommit connection; benchmarks open transactions by hand where they want one."""
    options.setdefault("autocommit", True)
    return psycopg.connect(server.dsn(dbname), **options)


def drop_database(server, dbname):
    with connect(server) as conn:
        conn.execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(dbname)))


def exists(server, dbname):
    with connect(server) as conn:
        return conn.execute("select 1 from pg_database where datname = %s", [dbname]).fetchone() is not None


def create_database(server, dbname, template=None):
    """(Re)create a database, empty or as a copy of another one (by file copy: quick, and the same for all)."""
    drop_database(server, dbname)
    with connect(server) as conn:
        statement = sql.SQL("create database {}").format(sql.Identifier(dbname))
        if template:
            statement += sql.SQL(" template {}").format(sql.Identifier(template))
            if conn.info.server_version >= 150000:
                statement += sql.SQL(" strategy file_copy")
        conn.execute(statement)


def run_script(server, dbname, path):
    """Run a file of SQL statements in one call."""
    with connect(server, dbname) as conn:
        conn.execute(Path(path).read_text())


def settle(server, dbname, prewarm=True):
    """Bring a loaded database into the same state for every contestant: vacuumed, analyzed, in memory,
    and behind a checkpoint, so that the first change of each page costs a full page image for all alike."""
    with connect(server, dbname) as conn:
        conn.execute("vacuum (analyze)")
        if prewarm:
            conn.execute("create extension if not exists pg_prewarm")
            conn.execute("""
                select sum(pg_prewarm(c.oid, 'buffer')) from pg_class c join pg_namespace n on n.oid = c.relnamespace
                where c.relkind in ('r', 'i', 't') and c.relpersistence = 'p'
                  and n.nspname not in ('pg_catalog', 'information_schema')""")
        conn.execute("checkpoint")


def set_server(server, name, value):
    """Set one of the server's settings (None: reset it) and return when a session has seen the change."""
    with connect(server) as conn:
        loaded = conn.execute("select pg_conf_load_time()").fetchone()[0]
        if value is None:
            conn.execute(sql.SQL("alter system reset {}").format(sql.Identifier(name)))
        else:
            conn.execute(sql.SQL("alter system set {} = {}").format(sql.Identifier(name), sql.Literal(value)))
        conn.execute("select pg_reload_conf()")
        while conn.execute("select pg_conf_load_time()").fetchone()[0] == loaded:
            pass


def cpu_model():
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"


def describe(server):
    """Machine, server and settings, as an ordered dict of strings."""
    found = {"machine": f"{cpu_model()}, {os.cpu_count()} cores", "kernel": platform.release()}
    with connect(server) as conn:
        for name in SHOWN_SETTINGS:
            row = conn.execute("select current_setting(%s, true)", [name]).fetchone()
            found[name] = row[0] if row[0] is not None else ""
    return found

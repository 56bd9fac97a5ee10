"""A contestant: something that takes part in a benchmark, with its own database and its own SQL scripts.

Scripts are files named after the operation, with pgbench variables (`:batch`). The same text also runs
through psycopg, so that a statement is written once whoever drives it.
"""

import contextlib
import re
from pathlib import Path

from bench.lib import database

VARIABLE = re.compile(r"(?<![:\w]):([A-Za-z_]\w*)")


class Unavailable(Exception):
    """A contestant cannot take part on this machine; the message says why."""


def for_psycopg(text):
    """Turn pgbench variables into named psycopg parameters."""
    return VARIABLE.sub(r"%(\1)s", text.replace("%", "%%")).rstrip().rstrip(";")


class Contestant:
    """The base: a name, a label for people, a database, and scripts in a folder of its own."""

    name = ""
    label = ""
    scripts: Path

    # A peer that fails is left out, with a line that says so; the subject and its baselines must not fail.
    optional = False

    def __init__(self, server, work):
        self.server = server
        self.work = Path(work)
        self.dbname = f"bench_{self.name}"

    def prepare(self):
        """Check that it can take part and do what is done once a run. Raises Unavailable."""

    def fresh(self, dbname=None):
        """A new, empty database with the contestant's schema."""
        raise NotImplementedError

    def script_text(self, operation):
        return (self.scripts / f"{operation}.sql").read_text()

    def can(self, operation):
        """Does it have that operation at all?"""
        return (self.scripts / f"{operation}.sql").exists()

    def statement(self, operation):
        """An operation as one psycopg statement."""
        return for_psycopg(self.script_text(operation))

    def pgbench_script(self, *operations):
        """Write the operations into one pgbench script file and return its path.

        An operation that hands values to the next one ends in \\gset instead of a semicolon."""
        parts = [self.script_text(operation).rstrip() for operation in operations]
        path = self.work / f"{self.name}_{'_'.join(operations)}.sql"
        path.write_text("\n".join(parts) + "\n")
        return path

    def connect(self, **options):
        return database.connect(self.server, self.dbname, **options)

    def duties(self):
        """What runs beside it in production, as a context manager: nothing, or what the server runs by itself."""
        return contextlib.nullcontext()

    def discard(self):
        """Drop its databases."""
        database.drop_database(self.server, self.dbname)

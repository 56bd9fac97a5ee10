"""Starts consumer processes (reader.py) and reads what they wrote down."""

import json
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy

from bench.lib import process
from bench.stream.contestants import PATIENCE

PROGRAM = Path(__file__).parent / "reader.py"


class Reader:
    """A consumer that is at work."""

    def __init__(self, contestant, child, folder, consumer):
        self.contestant = contestant
        self.child = child
        self.out = folder / f"{consumer}.log"
        self.latencies = folder / f"{consumer}.latencies"
        self.errors = folder / f"{consumer}.err"

    def check(self):
        """Raises when the process has failed."""
        if self.child.poll() not in (None, 0):
            raise process.CommandFailed(f"{self.contestant.label}: a consumer failed: {self.errors.read_text()[-500:]}")

    def seconds(self):
        """One row per second: see reader.py."""
        return numpy.loadtxt(self.out, ndmin=2)

    def event_latencies(self):
        """Two columns: when each event was inserted (Unix time), and the ms until it was read."""
        return numpy.loadtxt(self.latencies, ndmin=2) if self.latencies.stat().st_size else numpy.empty((0, 2))


def _wait_until_connected(reader, conn):
    deadline = time.monotonic() + PATIENCE
    while not conn.execute("select exists (select from pg_stat_activity where application_name = 'bench reader' "
                           "and datname = current_database() and state is not null)").fetchone()[0]:
        reader.check()
        if time.monotonic() > deadline:
            raise RuntimeError("a consumer did not connect in time")
        time.sleep(0.02)


@contextmanager
def reading(contestant, folder, consumer, until, waiting=True, latencies=False):
    """Run a consumer, which must be registered, until a Unix time or the end of the block."""
    folder = Path(folder)
    with open(folder / f"{consumer}.err", "w") as errors, \
            process.started([sys.executable, str(PROGRAM)], stdin=subprocess.PIPE, stderr=errors, text=True) as child:
        reader = Reader(contestant, child, folder, consumer)
        orders = {**contestant.reader(consumer, waiting), "until": until, "out": str(reader.out),
                  "latencies": str(reader.latencies) if latencies else None}
        child.stdin.write(json.dumps(orders))
        child.stdin.close()
        with contestant.connect() as conn:
            _wait_until_connected(reader, conn)
        yield reader

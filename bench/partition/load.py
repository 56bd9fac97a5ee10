"""Writers and readers on a set while its manager is at work: pgbench with a steady rate, every transaction logged."""

import signal
import subprocess
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy

from bench.lib import pgbench, process

HERE = Path(__file__).parent
SCRIPTS = ("insert", "lookup")
LONGEST = 300  # s; the load is ended long before


@dataclass
class Transactions:
    """When each transaction was due or began, when it ended (Unix time), its latency in ms, and its script."""

    ends: numpy.ndarray = field(default_factory=lambda: numpy.empty(0))
    latencies: numpy.ndarray = field(default_factory=lambda: numpy.empty(0))
    scripts: numpy.ndarray = field(default_factory=lambda: numpy.empty(0))

    def between(self, script, start, end):
        """Latencies of the transactions of a script that were under way at any time from `start` to `end`."""
        begins = self.ends - self.latencies / 1000.0
        inside = (self.scripts == SCRIPTS.index(script)) & (self.ends >= start) & (begins <= end)
        return self.latencies[inside]


class Load:
    def __init__(self, child, folder):
        self.child = child
        self.folder = folder
        self.transactions = None

    def check(self):
        """Raises when a client has seen an error: pgbench gives such a client up."""
        errors = (self.folder / "errors").read_text()
        if "ERROR" in errors or "aborted" in errors or self.child.poll() not in (None, 0):
            raise process.CommandFailed(f"a client failed: {errors[-500:]}")

    def finish(self):
        """End the load in good order and read what it logged."""
        # SIGALRM is what pgbench itself ends a run of a given time with: clients end after their transaction.
        self.child.send_signal(signal.SIGALRM)
        self.child.wait(60)
        self.check()
        rows = [line.split() for path in sorted(self.folder.glob("log.*")) for line in path.read_text().splitlines()]
        # client transaction latency_us script epoch_s epoch_us lag_us; the latency counts from when it was due.
        table = numpy.array([[float(row[2]), float(row[3]), float(row[4]), float(row[5])] for row in rows])
        self.transactions = Transactions(table[:, 2] + table[:, 3] / 1e6, table[:, 0] / 1000.0, table[:, 1])


@contextmanager
def running(server, dbname, clients, rate):
    """Inserts and look-ups, half and half, at `rate` transactions a second in all."""
    with tempfile.TemporaryDirectory(prefix="tasker-load-") as name:
        folder = Path(name)
        command = [server.tool("pgbench"), "-n", "-M", "prepared", "-h", server.host, "-p", str(server.port),
                   "-U", server.user, "-c", str(clients), "-j", "2", "-T", str(LONGEST), "-R", str(rate),
                   "--log", "--log-prefix", f"{folder}/log"]
        for script in SCRIPTS:
            command += ["-f", str(HERE / "scripts" / f"{script}.sql")]
        with open(folder / "errors", "w") as errors:
            with process.started(command + [dbname], env=pgbench.environment(), cwd=folder, stdout=subprocess.DEVNULL,
                                 stderr=errors) as child:
                load = Load(child, folder)
                yield load


@contextmanager
def reader(server, dbname, seconds):
    """A transaction that has read the set and stays open for so long, in a session of its own."""
    command = [server.tool("psql"), "-qXAt", "-v", "ON_ERROR_STOP=1", "-h", server.host, "-p", str(server.port),
               "-U", server.user, "-d", dbname, "-c",
               f"begin; select count(*) from event; select pg_sleep({seconds}); commit;"]
    with process.started(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as child:
        yield child


def wait_until(condition, what, seconds=60):
    """Poll for something that another session does."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what} did not happen within {seconds} s")
        time.sleep(0.01)

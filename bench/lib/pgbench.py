"""pgbench as a load driver: one run, its rate and every transaction's latency."""

import os
import re
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy

from bench.lib import process


@dataclass
class Outcome:
    """What one run of pgbench gave. Times are in seconds, latencies in milliseconds."""

    transactions: int
    tps: float
    seconds: float
    ends: numpy.ndarray = field(default_factory=lambda: numpy.empty(0))
    latencies: numpy.ndarray = field(default_factory=lambda: numpy.empty(0))


def _command(server, dbname, script, clients, seconds, transactions, rate, defines):
    command = [server.tool("pgbench"), "-n", "-M", "prepared", "-h", server.host, "-p", str(server.port),
               "-U", server.user, "-c", str(clients), "-j", str(min(clients, os.cpu_count() or 1)),
               "-f", str(script)]
    command += ["-t", str(transactions)] if transactions else ["-T", str(max(1, int(round(seconds))))]
    if rate:
        command += ["-R", str(rate)]
    for name, value in (defines or {}).items():
        command += ["-D", f"{name}={value}"]
    return command + [dbname]


def environment(synchronous_commit="off"):
    """The environment of a client whose sessions commit as asked."""
    return {**os.environ, "PGOPTIONS": f"-c synchronous_commit={synchronous_commit}", "LC_ALL": "C"}


def read_log(folder, prefix):
    """Parse pgbench's transaction logs: the time at which each ended (Unix time) and its latency in ms."""
    ends, latencies = [], []
    for path in sorted(Path(folder).glob(prefix + "*")):
        # client transaction latency_us script epoch_s epoch_us [lag_us]; a skipped or failed one has a word
        # in place of the latency.
        rows = [line.split() for line in path.read_text().splitlines()]
        for row in rows:
            if row[2].isdigit():
                ends.append(int(row[4]) + int(row[5]) / 1e6)
                latencies.append(int(row[2]) / 1000.0)
    return numpy.array(ends), numpy.array(latencies)


def _parse(out):
    processed = re.search(r"number of transactions actually processed: (\d+)", out)
    tps = re.search(r"tps = ([\d.]+) \(without initial connection time\)", out)
    failed = re.search(r"number of failed transactions: (\d+)", out)
    if not processed or not tps:
        raise process.CommandFailed(f"pgbench printed no result:\n{out[-2000:]}")
    if failed and int(failed.group(1)) > 0:
        raise process.CommandFailed(f"pgbench counted {failed.group(1)} failed transactions")
    return int(processed.group(1)), float(tps.group(1))


def run(server, dbname, script, clients=4, seconds=5, transactions=None, rate=None, defines=None,
        synchronous_commit="off", log=False):
    """Run one script with `clients` sessions for a time (or a number of transactions per client)."""
    with tempfile.TemporaryDirectory(prefix="tasker-pgbench-") as folder:
        command = _command(server, dbname, script, clients, seconds, transactions, rate, defines)
        if log:
            command[1:1] = ["--log", "--log-prefix", f"{folder}/log"]
        out = process.run(command, env=environment(synchronous_commit), cwd=folder)
        count, tps = _parse(out)
        outcome = Outcome(count, tps, count / tps if tps else float(seconds))
        if log:
            outcome.ends, outcome.latencies = read_log(folder, "log")
    return outcome


def start(server, dbname, script, folder, clients, seconds, rate=None, defines=None, synchronous_commit="off"):
    """Start a run in the background; a context manager that yields the child. It logs one line per second
    into `folder`: Unix time, transactions, and sums of their latencies."""
    command = _command(server, dbname, script, clients, seconds, None, rate, defines)
    command[1:1] = ["--log", "--log-prefix", f"{folder}/producer", "--aggregate-interval", "1"]
    errors = open(Path(folder) / "producer.err", "w")
    return process.started(command, env=environment(synchronous_commit), cwd=folder, stdout=subprocess.DEVNULL,
                           stderr=errors)

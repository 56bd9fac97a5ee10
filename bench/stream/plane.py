"""The stream plane: its contestants and its benchmarks, in the order in which they run."""

from bench.peers.pgq import PgqStream
from bench.stream import commit, consume, held_xmin, idle, insert, latency
from bench.stream.contestants import Raw, Tasker

SUBJECT = "tasker"
PRELOAD = "tasker"

BENCHMARKS = {
    "insert_single": insert.insert_single,
    "insert_batch": insert.insert_batch,
    "consume": consume.consume,
    "latency": latency.latency,
    "commit_busy": commit.commit_busy,
    "idle": idle.idle,
    "held_xmin": held_xmin.held_xmin,
}

PEERS = ("pgq",)

# --quick: all of it in about two minutes.
QUICK = {"rounds": 1, "seconds": 1, "held_minutes": 1 / 6}


def make_contestants(server, work, _cache, peers):
    """Every contestant that was asked for; the subject first."""
    found = [Tasker(server, work), Raw(server, work)]
    if "pgq" in peers:
        found.append(PgqStream(server, work))
    return found

"""The queue plane: its contestants and its benchmarks, in the order in which they run."""

from bench.peers.npm_queue import GraphileWorker, PgBoss
from bench.peers.pgq import Pgq
from bench.queue import claim, contestants, enqueue, growth, held_xmin, hot, latency, wake, wal

SUBJECT = "tasker"
PRELOAD = "tasker"

BENCHMARKS = {
    "enqueue_single": enqueue.enqueue_single,
    "enqueue_batch": enqueue.enqueue_batch,
    "claim_complete": claim.claim_complete,
    "wal_per_record": wal.wal_per_record,
    "hot_ratio": hot.hot_ratio,
    "wake_latency": wake.wake_latency,
    "held_xmin": held_xmin.held_xmin,
    "growth": growth.growth,
    "status_latency": latency.status_latency,
    "orphan_latency": latency.orphan_latency,
}

PEERS = ("pgq", "pgboss", "graphile")


def make_contestants(server, work, cache, peers):
    """Every contestant that was asked for; the subject first."""
    found = [contestants.Tasker(server, work), contestants.Seed(server, work), contestants.Raw(server, work)]
    if "pgq" in peers:
        found.append(Pgq(server, work))
    if "pgboss" in peers:
        found.append(PgBoss(server, work, cache))
    if "graphile" in peers:
        found.append(GraphileWorker(server, work, cache))
    return found

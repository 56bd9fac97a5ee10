"""The workflow plane: its contestants and its benchmarks, in the order in which they run."""

from bench.workflow import contestants, fan, held_xmin, latency, life, readers, wal

SUBJECT = "tasker"
PRELOAD = "tasker"

BENCHMARKS = {
    "readers": readers.readers,
    "life": life.life,
    "life_among": life.life_among,
    "latency": latency.latency,
    "wide": fan.wide,
    "deep": fan.deep,
    "wal": wal.wal,
    "held_xmin": held_xmin.held_xmin,
}

PEERS = ()

# --quick: all of it in a few minutes.
QUICK = {"rounds": 1, "seconds": 1, "held_minutes": 1 / 6}


def make_contestants(server, work, _cache, _peers):
    """The subject first."""
    return [contestants.Tasker(server, work), contestants.Seed(server, work)]

"""The partition plane: its contestants and its benchmarks, in the order in which they run."""

from bench.partition import create, drop, idle, move, planner, stall
from bench.partition.contestants import Partman, Tasker

SUBJECT = "tasker"
PRELOAD = "tasker"

BENCHMARKS = {
    # First: a file system that has just removed the thousands of files of a benchmark makes new ones slowly.
    "create_partitions": create.create_partitions,
    "idle_round": idle.idle_round,
    "drop_rows": drop.drop_rows,
    "premake_stall": stall.premake_stall,
    "retire_stall": stall.retire_stall,
    "retire_stall_reader": stall.retire_stall_reader,
    "move_speed": move.move_speed,
    "move_stall": move.move_stall,
    "planner_estimate": planner.planner_estimate,
}

PEERS = ("partman",)


def make_contestants(server, work, _cache, peers):
    """Every contestant that was asked for; the subject first."""
    found = [Tasker(server, work)]
    if "partman" in peers:
        found.append(Partman(server, work))
    return found

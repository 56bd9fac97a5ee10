"""Putting records in: one per transaction, and in arrays of 100."""

from bench.lib.inserting import measure_inserts


def enqueue_single(ctx):
    """One record per transaction."""
    measure_inserts(ctx, "enqueue_single", "enqueue_single", "record", 1, [("seed", 1.3), ("raw", 0.6)])


def enqueue_batch(ctx):
    """Arrays of 100 records, one array per transaction."""
    measure_inserts(ctx, "enqueue_batch", "enqueue_batch", "record", 100, [("seed", 4.0), ("raw", 0.4)])

"""Putting events in: one per transaction, and in arrays of 100."""

from bench.lib.inserting import measure_inserts


def insert_single(ctx):
    """One event per transaction."""
    measure_inserts(ctx, "insert_single", "insert_single", "event", 1, [("pgq", 1.2)])


def insert_batch(ctx):
    """Arrays of 100 events, one array per transaction."""
    measure_inserts(ctx, "insert_batch", "insert_batch", "event", 100, [("pgq", 4.0), ("raw", 0.5)])

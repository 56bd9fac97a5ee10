"""The payloads that every contestant carries."""

import json


def make(size=100):
    """A JSON object that takes about `size` bytes as jsonb."""
    record = {"order": 4711, "customer": "c-000123", "action": "invoice.create", "note": ""}
    spare = size - 81
    record["note"] = ("the quick brown fox jumps over the lazy dog " * 30)[:max(0, spare)]
    return json.dumps(record)


PAYLOAD = make(100)
FLOW = "bench"

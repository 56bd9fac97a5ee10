"""The kinds of tasks that are measured: names of steps, and which of them wait for which."""

import json
from dataclasses import dataclass

NAMESPACE = "bench"
CONTEXT = json.dumps({"order": 4711, "customer": "c-000123", "lines": 3, "note": "the quick brown fox jumps over the"})
RESULTS = json.dumps({"ok": True, "rows": 42, "checksum": "d41d8cd98f00b204"})
MAX_ATTEMPTS = 3


@dataclass(frozen=True)
class Template:
    """A kind of task. `steps` is a tuple of (name, names of its parents); each step has a handler of its own name,
    unless `handler` names one for all."""

    name: str
    steps: tuple
    handler: str | None = None

    def __len__(self):
        return len(self.steps)

    def definition(self):
        """The definition for the subject."""
        return json.dumps({"steps": [
            {"name": name, "handler": self.handler or name, "depends_on": list(parents), "max_attempts": MAX_ATTEMPTS,
             "backoff": {"base_seconds": 1200, "multiplier": 1, "max_seconds": 1200, "jitter": 0}}
            for name, parents in self.steps]})


# Seven steps: one, three beside each other, two that join some of them, and the last.
ORDER = Template("order", (
    ("collect", ()),
    ("price", ("collect",)), ("stock", ("collect",)), ("address", ("collect",)),
    ("invoice", ("price", "stock")), ("label", ("address",)),
    ("ship", ("invoice", "label"))))


def fan(width):
    """One step, `width` beside each other, and one that joins them all."""
    middle = tuple((f"part_{number}", ("split",)) for number in range(width))
    return Template(f"fan_{width}", (("split", ()), *middle, ("join", tuple(name for name, _ in middle))), "fan")


def chain(depth):
    """`depth` steps, each behind the one before."""
    return Template(f"chain_{depth}", tuple((f"link_{n}", (f"link_{n - 1}",) if n else ()) for n in range(depth)), "chain")

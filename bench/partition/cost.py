"""What a piece of work costs: its time, and the CPU time of the server process that did it.

On a machine that others use as well the time says little; the CPU time is what the work itself needs.
"""

import time
from dataclasses import dataclass

from bench.lib import cpu


@dataclass
class Cost:
    ms: float
    cpu_ms: float | None


def measure(pid, call):
    """Run `call`, whose work is done by the process `pid`."""
    before, began = cpu.spent(pid), time.perf_counter()
    call()
    ms, after = (time.perf_counter() - began) * 1000.0, cpu.spent(pid)
    return Cost(ms, (after - before) * 1000.0 if before is not None and after is not None else None)

"""What a piece of work costs: its time, and the CPU time of the server process that did it.

On a machine that others use as well the time says little; the CPU time is what the work itself needs.
"""

import time
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Cost:
    ms: float
    cpu_ms: float | None


def cpu_ms(pid):
    """CPU time of a process so far in ms; None where the system does not tell, or the server is elsewhere."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e6
    except OSError:
        return None


def measure(pid, call):
    """Run `call`, whose work is done by the process `pid`."""
    cpu, began = cpu_ms(pid), time.perf_counter()
    call()
    ms, after = (time.perf_counter() - began) * 1000.0, cpu_ms(pid)
    return Cost(ms, after - cpu if cpu is not None and after is not None else None)

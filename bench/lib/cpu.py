"""CPU time of the server's processes: what work costs, whoever else is at work on the machine."""

import os
from pathlib import Path

from bench.lib import database

LISTED_SQL = "select pid, application_name = 'pgbench' from pg_stat_activity where pid is not null"


def spent(pid):
    """CPU seconds that a process has used; None where the system does not tell, or the server is elsewhere.

    The scheduler's own count, which is in nanoseconds; /proc/PID/stat counts in ticks."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9
    except OSError:
        return None


def _stat(pid):
    """The fields of /proc/PID/stat after the command's name, which may hold spaces; the state is field 0."""
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()


def _children(pid):
    return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


class Meter:
    """Measures what a piece of work costs: `with Meter(server) as meter: …`, then meter.seconds.

    The kernel adds a child's time to its parent's when the parent has collected it. So the time of the load
    driver's sessions is in the postmaster's account once all of them have ended and been collected. Without
    /proc, or with the server on another machine, nothing is measured."""

    def __init__(self, server):
        self.server = server
        self.seconds = None

    def __enter__(self):
        self.before = self._collected()
        return self

    def __exit__(self, failed, *_):
        if failed is None and self.before is not None:
            self.seconds = self._collected() - self.before

    def _collected(self):
        """CPU seconds of the postmaster's collected children, when no session of pgbench is left."""
        with database.connect(self.server) as conn:
            try:
                postmaster = int(_stat(conn.info.backend_pid)[1])
                self._wait_for_collection(conn, postmaster)
                fields = _stat(postmaster)
            except (OSError, IndexError):
                return None
        return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")

    @staticmethod
    def _wait_for_collection(conn, postmaster):
        """Return when the server lists no session of pgbench, and has no child that has ended but is not
        collected: such a one is still in the kernel's list, as a zombie or on its way out."""
        unlisted = 1
        while unlisted:
            listed = dict(conn.execute(LISTED_SQL).fetchall())
            unlisted = any(listed.values())
            for child in _children(postmaster) - set(listed):
                try:
                    # A child that just started sleeps or runs and will be listed or be gone at the next look;
                    # one that is never listed (the logger) sleeps.
                    unlisted = unlisted or _stat(child)[0] != "S"
                except OSError:
                    pass  # collected in between

    def per(self, count):
        """Microseconds of CPU for each of `count` things."""
        return self.seconds / count * 1e6 if self.seconds is not None and count else float("nan")

"""One consumer process of a stream: next batch, its events, finish; and how long each took to come.

Run as a program; its orders come as JSON on standard input:
    dsn, next, events, finish (SQL for psycopg; `next` gives a batch id or null), parameters,
    idle (seconds to wait after there was no batch), until (Unix time), out (file to write),
    latencies (file to write, or null: then the events' data is not looked at).
Each line of `out` is one second: Unix time, how often it asked, batches, events, median of the ms that a round
(next, events, finish) took, medians of the µs of CPU that its session took for a round without and with a batch. Each line of `latencies` is one event, whose data
begins with the Unix time of its insert: that time, and the ms to the return of the batch's events.
"""

import json
import os
import signal
import statistics
import sys
import time

import psycopg

NAME = "bench reader"
DATA = 5  # the column ev_data

stopping = False


def stop(_signum, _frame):
    global stopping  # pylint: disable=global-statement
    stopping = True


class Session:
    """The CPU time of a server process, where the system tells."""

    def __init__(self, pid):
        try:
            self.file = os.open(f"/proc/{pid}/schedstat", os.O_RDONLY)
        except OSError:
            self.file = None

    def cpu(self):
        """In µs."""
        return int(os.pread(self.file, 64, 0).split()[0]) / 1e3 if self.file is not None else float("nan")


def median(values):
    return statistics.median(values) if values else float("nan")


class Seconds:
    """Writes one line for each second that has passed."""

    def __init__(self, out):
        self.out = out
        self.begin(int(time.time()))

    def begin(self, second):
        self.second, self.events, self.rounds, self.empty, self.full = second, 0, [], [], []

    def count(self, now, took, cpu, batch, events):
        """One round that ended at `now`."""
        if int(now) != self.second:
            self.out.write(f"{self.second} {len(self.rounds)} {len(self.full)} {self.events} {median(self.rounds):.4f} "
                           f"{median(self.empty):.2f} {median(self.full):.2f}\n")
            self.begin(int(now))
        self.rounds.append(took)
        (self.empty if batch is None else self.full).append(cpu)
        self.events += events


def read(orders, out, latencies):
    parameters = orders["parameters"]
    with psycopg.connect(orders["dsn"], autocommit=True, prepare_threshold=0, application_name=NAME,
                         options="-c synchronous_commit=off") as conn:
        cursor = conn.cursor()
        seconds, session = Seconds(out), Session(conn.info.backend_pid)
        while not stopping and time.time() < orders["until"]:
            began, used, rows = time.perf_counter(), session.cpu(), []
            batch = cursor.execute(orders["next"], parameters).fetchone()[0]
            if batch is not None:
                rows = cursor.execute(orders["events"], {"batch": batch}).fetchall()
                returned = time.time()
                cursor.execute(orders["finish"], {"batch": batch})
                if latencies is not None and rows:
                    for row in rows:
                        sent = float(row[DATA])
                        latencies.write(f"{sent:.6f} {(returned - sent) * 1000.0:.4f}\n")
                    latencies.flush()
            seconds.count(time.time(), (time.perf_counter() - began) * 1000.0, session.cpu() - used, batch, len(rows))
            if batch is None and orders["idle"]:
                time.sleep(orders["idle"])


def main():
    signal.signal(signal.SIGTERM, stop)
    orders = json.load(sys.stdin)
    with open(orders["out"], "w") as out:
        if orders["latencies"]:
            with open(orders["latencies"], "w") as latencies:
                read(orders, out, latencies)
        else:
            read(orders, out, None)


if __name__ == "__main__":
    main()

"""One consumer process of a stream: next batch, its events, finish; and how long each took to come.

Run as a program; its orders come as JSON on standard input:
    dsn, next, events, finish (SQL for psycopg; `next` gives a batch id or null), parameters,
    idle (seconds to wait after there was no batch), until (Unix time), out (file to write),
    latencies (file to write, or null: then the events' data is not looked at).
Each line of `out` is one second: Unix time, how often it asked, batches, events, median of the ms that a round
(next, events, finish) took, CPU seconds of its session so far. Each line of `latencies` is one event, whose data
begins with the Unix time of its insert: that time, and the ms to the return of the batch's events.
"""

import json
import signal
import statistics
import sys
import time
from pathlib import Path

import psycopg

NAME = "bench reader"
DATA = 5  # the column ev_data

stopping = False


def stop(_signum, _frame):
    global stopping  # pylint: disable=global-statement
    stopping = True


class Seconds:
    """Writes one line for each second that has passed."""

    def __init__(self, out, pid):
        self.out = out
        self.schedstat = Path(f"/proc/{pid}/schedstat")
        self.begin(int(time.time()))

    def begin(self, second):
        self.second, self.batches, self.events, self.rounds = second, 0, 0, []

    def cpu(self):
        try:
            return int(self.schedstat.read_text().split()[0]) / 1e9
        except OSError:
            return float("nan")

    def count(self, now, took, batch, events):
        """One round that ended at `now`."""
        if int(now) != self.second:
            self.out.write(f"{self.second} {len(self.rounds)} {self.batches} {self.events} "
                           f"{statistics.median(self.rounds) if self.rounds else float('nan'):.4f} {self.cpu():.6f}\n")
            self.begin(int(now))
        self.rounds.append(took)
        self.batches += batch is not None
        self.events += events


def read(orders, out, latencies):
    parameters = orders["parameters"]
    with psycopg.connect(orders["dsn"], autocommit=True, prepare_threshold=0, application_name=NAME,
                         options="-c synchronous_commit=off") as conn:
        cursor = conn.cursor()
        seconds = Seconds(out, conn.info.backend_pid)
        while not stopping and time.time() < orders["until"]:
            began, rows = time.perf_counter(), []
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
            seconds.count(time.time(), (time.perf_counter() - began) * 1000.0, batch, len(rows))
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

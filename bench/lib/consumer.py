"""One consumer process: claim, complete, and note how long each claim took.

Run as a program; its orders come as JSON on standard input:
    dsn, claim, complete (SQL for psycopg), parameters, batch, idle (seconds to wait after a claim that did
    not fill its batch), until (Unix time), out (file to write).
Each line of the file: Unix time at which the claim began, its latency in ms, records claimed, Unix time at
which they were completed.
"""

import json
import signal
import sys
import time

import psycopg
from psycopg.rows import dict_row

stopping = False


def stop(_signum, _frame):
    global stopping  # pylint: disable=global-statement
    stopping = True


def consume(orders, out):
    parameters = orders["parameters"]
    with psycopg.connect(orders["dsn"], autocommit=True, prepare_threshold=0, row_factory=dict_row,
                         options="-c synchronous_commit=off") as conn:
        cursor = conn.cursor()
        while not stopping and time.time() < orders["until"]:
            began, clock = time.time(), time.perf_counter()
            claimed = cursor.execute(orders["claim"], parameters).fetchone()
            latency = (time.perf_counter() - clock) * 1000.0
            if claimed["n"] > 0:
                cursor.execute(orders["complete"], {**parameters, **claimed})
            out.write(f"{began:.6f} {latency:.4f} {claimed['n']} {time.time():.6f}\n")
            if claimed["n"] < orders["batch"]:
                time.sleep(orders["idle"])


def main():
    signal.signal(signal.SIGTERM, stop)
    orders = json.load(sys.stdin)
    with open(orders["out"], "w") as out:
        consume(orders, out)


if __name__ == "__main__":
    main()

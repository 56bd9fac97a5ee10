#!/usr/bin/env python3
"""The smallest worker worth copying: runs a command for each record of a flow.

    python3 worker.py FLOW COMMAND [ARGUMENT...]

The command gets the payload (JSON) on its standard input. What it prints is the record's result, as JSON if it is
JSON and as a string if not. When it ends with another status than 0, the record has failed with its standard error
as the message, and is tried again as the flow's settings say. Connects with the usual PG* variables.
"""

import json
import subprocess
import sys
from datetime import timedelta

import psycopg
from psycopg.types.json import Jsonb

LEASE = timedelta(seconds=30)


def main(flow, command):
    with psycopg.connect("", autocommit=True) as connection:
        while True:
            record = connection.execute(
                "select id, payload, lease_token from tasker.claim_records_batch(%s, 1, null, %s)",
                (flow, LEASE)).fetchone()
            if record is None:
                connection.execute("call tasker.wait_for_records(%s, %s, null)", (flow, timedelta(minutes=1)))
                continue
            try:
                work_off(connection, command, *record)
            except psycopg.errors.ObjectNotInPrerequisiteState as lost:
                print(f"record {record[0]} is not ours any more: {lost}", file=sys.stderr)


def work_off(connection, command, record_id, payload, token):
    """Runs the command, keeps the lease alive while it runs, and reports how it ended."""
    pipe = subprocess.PIPE
    with subprocess.Popen(command, text=True, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        try:
            output, errors = run(connection, process, json.dumps(payload), record_id, token)
        finally:
            process.kill()  # nothing to do, unless we are leaving because the record was taken from us
    if process.returncode == 0:
        connection.execute("select tasker.mark_record_completed(%s, %s, %s)",
                           (record_id, Jsonb(as_json(output)), token))
    else:
        connection.execute("select tasker.mark_record_failed(%s, %s, null, %s)",
                           (record_id, errors.strip() or f"exit status {process.returncode}", token))


def run(connection, process, text, record_id, token):
    """Waits for the command; extends the lease each time that a third of it has gone by."""
    while True:
        try:
            return process.communicate(text, timeout=LEASE.total_seconds() / 3)
        except subprocess.TimeoutExpired:
            text = None  # it is on its way; communicate() takes it only once
            connection.execute("select tasker.extend_lease(array[%s::bigint], %s, array[%s::bigint])",
                               (record_id, LEASE, token))


def as_json(text):
    try:
        return json.loads(text)
    except ValueError:
        return text.strip()


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2:])

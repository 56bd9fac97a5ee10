#!/usr/bin/env python3
"""Worker: claims packages in batches, works out their licences, writes down what it found.

    python3 work.py --name worker-1 [--flow license_audit] [--batch 10] [--lease 60] [--until-done]

Connects with the usual PG* variables. Start as many as you like, on as many machines as you like; stop one with
SIGTERM (it finishes its batch first) or SIGKILL (its records go to others when its lease runs out).
"""

import argparse
import signal
import time
from datetime import timedelta

import psycopg
from psycopg.rows import namedtuple_row
from psycopg.types.json import Jsonb

from licenses import NoLicense, declared_licenses, tagged_licenses

CLAIM = "select id, payload, retry_count, lease_token from tasker.claim_records_batch(%s, %s, %s, %s)"
EXTEND = "select tasker.extend_lease(%s::bigint[], %s, %s::bigint[])"
COMPLETE = "select tasker.mark_records_completed(%s::bigint[], %s::jsonb[], %s::bigint[])"
FAIL = "select tasker.mark_record_failed(%s, %s, null, %s)"
WAIT = "call tasker.wait_for_records(%s, %s, null)"
LEFT = "select coalesce(sum(pending + scheduled + processing), 0) as records from tasker.get_queue_status(%s)"
FIND = """insert into audit.finding (record_id, package, licenses, spdx_tags, files_read, attempt, worker)
          values (%s, %s, %s, %s, %s, %s, %s)"""


class Worker:
    """One connection, one loop: claim, work, complete; wait when there is nothing."""

    def __init__(self, connection, options):
        self.connection = connection  # in autocommit mode: each statement outside of a block is a transaction
        self.flow = options.flow
        self.name = options.name
        self.batch_size = options.batch
        self.lease = timedelta(seconds=options.lease)
        self.stopping = False
        self.idle = False

    def run(self, until_done):
        """Works until it is told to stop, or, with until_done, until the flow has nothing left."""
        while not self.stopping:
            claim = (self.flow, self.batch_size, self.name, self.lease)
            records = self.connection.execute(CLAIM, claim).fetchall()
            if records:
                self.work_off(records)
            elif until_done and self.connection.execute(LEFT, (self.flow,)).fetchone().records == 0:
                return
            else:
                self.wait()

    def work_off(self, records):
        """Audits a batch, then writes all results, and the records' new states, in one transaction."""
        try:
            found, failed = self.audit_all(records)
            with self.connection.transaction():
                self.report(found, failed)
        except psycopg.errors.ObjectNotInPrerequisiteState as lost:
            # We were too slow: our lease ran out, and the records belong to somebody else now. The transaction is
            # gone with all that it wrote, so nothing is done twice.
            print(f"{self.name}: batch of {len(records)} dropped: {lost.diag.message_primary}", flush=True)

    def audit_all(self, records):
        """Does the work, outside of any transaction. Extends the lease each time that a third of it has gone by."""
        found, failed = [], []
        extended = time.monotonic()
        for record in records:
            try:
                found.append((record, audit(record.payload)))
            except Exception as error:  # whatever goes wrong with a record is that record's failure, not the worker's
                failed.append((record, str(error) if isinstance(error, NoLicense) else repr(error)))
            if time.monotonic() - extended > self.lease.total_seconds() / 3:
                tokens = [record.lease_token for record in records]
                self.connection.execute(EXTEND, ([record.id for record in records], self.lease, tokens))
                extended = time.monotonic()
        return found, failed

    def report(self, found, failed):
        """Writes what was found and tells the queue. The tokens prove that the claims are still ours."""
        cursor = self.connection.cursor()
        cursor.executemany(FIND, [
            (record.id, record.payload["package"], finding["licenses"], finding["spdx_tags"], finding["files_read"],
             record.retry_count + 1, self.name)
            for record, finding in found])
        if found:
            cursor.execute(COMPLETE, ([record.id for record, _ in found],
                                      [Jsonb(finding) for _, finding in found],
                                      [record.lease_token for record, _ in found]))
        for record, error in failed:
            cursor.execute(FAIL, (record.id, error, record.lease_token))

    def wait(self):
        """Sleeps until something can be claimed. The server holds no transaction and no snapshot meanwhile."""
        self.idle = True
        self.connection.execute(WAIT, (self.flow, timedelta(seconds=1)))
        self.idle = False

    def stop(self, *_):
        """SIGTERM: finish the batch in hand; when there is none, leave at once."""
        self.stopping = True
        if self.idle:
            raise SystemExit(0)


def audit(payload):
    """The work itself: a package's declared licences, and those that its own files are tagged with."""
    licenses = declared_licenses(payload["copyright"])
    spdx_tags, files_read = tagged_licenses(payload["files"])
    return {"licenses": licenses, "spdx_tags": spdx_tags, "files_read": files_read}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--name", required=True, help="who this worker is; shown beside the records it holds")
    parser.add_argument("--flow", default="license_audit")
    parser.add_argument("--batch", type=int, default=10, help="records to claim at once")
    parser.add_argument("--lease", type=float, default=60, help="seconds until the records go to somebody else")
    parser.add_argument("--until-done", action="store_true", help="end when the flow has nothing left to do")
    options = parser.parse_args()
    with psycopg.connect("", autocommit=True, application_name=options.name,
                         row_factory=namedtuple_row) as connection:
        worker = Worker(connection, options)
        signal.signal(signal.SIGTERM, worker.stop)
        worker.run(options.until_done)


if __name__ == "__main__":
    main()

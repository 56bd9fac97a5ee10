#!/usr/bin/env python3
"""The demo that ./run demo shows: the licence audit of examples/license_audit, driven through two accidents.

Several workers audit the packages of this machine. One is killed with SIGKILL while it holds records; another is
frozen until its lease has run out, then thawed, and must be told that its records are not its own any more. At the
end everything is read back through SQL, and the demo fails unless each package was audited exactly once.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import psycopg

HERE = Path(__file__).resolve().parent
EXAMPLE = HERE.parent / "examples" / "license_audit"
FLOW = "license_audit"
WORKERS = 4
BATCH = 5
LEASE = timedelta(seconds=6)
# How long the background worker may take to find the lost leases.
PATIENCE = timedelta(seconds=15)
DEADLINE = timedelta(minutes=5)


class DemoFailed(Exception):
    """Something did not go as it must."""


def heading(text):
    print(f"\n{text}", flush=True)


class Audit:
    """The database side of the demo."""

    def __init__(self):
        self.connection = psycopg.connect("", autocommit=True, application_name="demo")
        self.began = None
        self.counts = {}

    def query(self, text, *arguments):
        return self.connection.execute(text, arguments).fetchall()

    def value(self, text, *arguments):
        return self.query(text, *arguments)[0][0]

    def prepare(self):
        """Extension, flow and tables."""
        self.connection.execute("create extension tasker")
        self.value("select tasker.create_flow(%s, jsonb_build_object('lease', %s::text, 'max_attempts', 3,"
                   " 'backoff_base', '500 milliseconds', 'backoff_max', '2 seconds'))", FLOW, LEASE)
        self.connection.execute((EXAMPLE / "schema.sql").read_text())

    def refresh(self):
        """Reads the queue's count of the flow."""
        names = ["pending", "scheduled", "processing", "completed", "failed"]
        row = self.query(f"select {', '.join(names)} from tasker.get_queue_status(%s)", FLOW)[0]
        self.counts = dict(zip(names, row))
        return self.counts

    def done(self):
        return self.counts["completed"] + self.counts["failed"]

    def left(self):
        return self.counts["pending"] + self.counts["scheduled"] + self.counts["processing"]

    def show_progress(self):
        print(f"  {time.monotonic() - self.began:5.1f} s  "
              + "   ".join(f"{name} {count:>4}" for name, count in self.counts.items()), flush=True)

    def held_by(self, worker):
        """The records that a worker holds now."""
        return [row[0] for row in self.query(
            "select id from tasker.processing_queue"
            " where flow_name = %s and status = 'processing' and flow_instance_id = %s order by id", FLOW, worker)]

    def session_state(self, worker):
        return self.value("select max(state) from pg_stat_activity where application_name = %s", worker)


class Workers:
    """The worker processes, by name."""

    def __init__(self, count, out):
        self.out = out
        self.processes = {f"worker-{number + 1}": None for number in range(count)}
        for name in self.processes:
            log = open(out / f"{name}.log", "w")
            self.processes[name] = subprocess.Popen(
                [sys.executable, EXAMPLE / "work.py", "--name", name, "--batch", str(BATCH),
                 "--lease", str(LEASE.total_seconds()), "--until-done"],
                stdout=log, stderr=subprocess.STDOUT)

    def send(self, name, what):
        self.processes[name].send_signal(what)

    def catch_in_the_act(self, audit, name):
        """Stops a worker between its claim and its completion; returns the records that it holds, none if missed."""
        if not audit.held_by(name):
            return []
        self.send(name, signal.SIGSTOP)
        # A statement that was on its way when the worker stopped still ends. Only then does the answer stand. It may
        # not even have begun: nothing tells what lies unread in the server's socket, so give it a moment.
        time.sleep(0.05)
        while audit.session_state(name) == "active":
            time.sleep(0.001)
        held = audit.held_by(name) if audit.session_state(name) == "idle" else []
        if not held:  # it was faster, or in the middle of writing its results
            self.send(name, signal.SIGCONT)
        return held

    def catch_any(self, audit, spared):
        """Catches whichever worker is in the middle of a batch: (name, records that it holds), or nothing."""
        for name, process in self.processes.items():
            if name not in spared and process.poll() is None:
                held = self.catch_in_the_act(audit, name)
                if held:
                    return name, held
        return None

    def check(self, killed):
        """Raises when a worker has ended that should not have."""
        for name, process in self.processes.items():
            if name != killed and process.poll() not in (None, 0):
                raise DemoFailed(f"{name} ended with status {process.returncode}:\n{self.log(name)}")

    def log(self, name):
        return (self.out / f"{name}.log").read_text()

    def end(self):
        for process in self.processes.values():
            if process.poll() is None:
                process.kill()
            process.wait()


class Story:
    """What happens when: drives the audit through its two accidents to its end."""

    KILL_AT, FREEZE_AT = 0.15, 0.3  # shares of the records that are done by then

    def __init__(self, audit, workers, total):
        self.audit, self.workers, self.total = audit, workers, total
        self.killed, self.killed_held, self.killed_at = None, [], 0.0
        self.frozen, self.frozen_held, self.frozen_at = None, [], 0.0
        self.recovered_after = None
        self.thawed = False

    def run(self):
        deadline = time.monotonic() + DEADLINE.total_seconds()
        next_line = 0.0
        while not self.at_its_end():
            if time.monotonic() >= next_line:
                self.audit.show_progress()
                next_line = time.monotonic() + 1
            if time.monotonic() > deadline:
                raise DemoFailed(f"the queue is not empty after {DEADLINE}: {self.audit.counts}")
            self.step()
            self.workers.check(self.killed)
        self.audit.show_progress()
        if not (self.killed and self.frozen and self.thawed):
            raise DemoFailed("the queue was empty before the accidents could happen; is the machine very small?")

    def at_its_end(self):
        self.audit.refresh()
        return self.audit.left() == 0 and not (self.frozen and not self.thawed)

    def step(self):
        share = self.audit.done() / self.total
        if not self.killed and share >= self.KILL_AT:
            self.kill_one()
        elif self.killed and not self.frozen and share >= self.FREEZE_AT:
            self.freeze_one()
        else:
            time.sleep(0.01)
        if self.killed and self.recovered_after is None:
            self.watch_recovery()
        if self.frozen and not self.thawed:
            self.thaw_when_lost()

    def kill_one(self):
        caught = self.workers.catch_any(self.audit, spared=())
        if caught:
            self.killed, self.killed_held = caught
            self.killed_at = time.monotonic()
            self.workers.send(self.killed, signal.SIGKILL)
            print(f"           {self.killed} is killed with SIGKILL while it holds {len(self.killed_held)} records",
                  flush=True)

    def freeze_one(self):
        caught = self.workers.catch_any(self.audit, spared=(self.killed,))
        if caught:
            self.frozen, self.frozen_held = caught
            self.frozen_at = time.monotonic()
            print(f"           {self.frozen} is frozen with SIGSTOP while it holds {len(self.frozen_held)} records",
                  flush=True)

    def watch_recovery(self):
        """Notes when the killed worker's records are in the line again."""
        waited = time.monotonic() - self.killed_at
        if not self.audit.held_by(self.killed):
            self.recovered_after = waited
            print(f"           {self.killed}'s {len(self.killed_held)} records were given back"
                  f" {waited:.1f} s after its death (the lease is {LEASE.total_seconds():.0f} s)", flush=True)
        elif waited > PATIENCE.total_seconds():
            raise DemoFailed(f"the records of {self.killed} were not given back within {waited:.0f} s")

    def thaw_when_lost(self):
        """Lets the frozen worker go on once none of its records is its own any more."""
        waited = time.monotonic() - self.frozen_at
        if not self.audit.held_by(self.frozen):
            self.workers.send(self.frozen, signal.SIGCONT)
            self.thawed = True
            print(f"           {self.frozen} is thawed after {waited:.1f} s: it will want to complete records that"
                  " are not its own any more", flush=True)
        elif waited > PATIENCE.total_seconds():
            raise DemoFailed(f"the records of {self.frozen} were not given back within {waited:.0f} s")


def proofs(audit, story, listed):
    """What must hold at the end: (sentence, found, wanted)."""
    status = audit.refresh()
    held = story.killed_held + story.frozen_held
    return [
        ("packages that dpkg lists, and records in the queue", sum(status.values()), listed),
        ("records that are neither completed nor failed", audit.left(), 0),
        ("completed records, and findings written with them",
         audit.value("select count(*) from audit.finding"), status["completed"]),
        ("findings, and different packages among them",
         audit.value("select count(distinct package) from audit.finding"), status["completed"]),
        ("completed records without a finding, or findings without a completed record",
         audit.value("select count(*) from audit.finding f full join"
                     " (select id from tasker.processing_queue where flow_name = %s and status = 'completed') q"
                     " on q.id = f.record_id where q.id is null or f.record_id is null", FLOW), 0),
        ("dead letters with three attempts and an error",
         audit.value("select count(*) from tasker.processing_queue where flow_name = %s and status = 'failed'"
                     " and retry_count = 3 and error_message <> ''", FLOW), status["failed"]),
        (f"records that {story.killed} and {story.frozen} held, finished after all",
         audit.value("select count(*) from tasker.processing_queue where id = any(%s)"
                     " and status in ('completed', 'failed')", held), len(held)),
        (f"findings of {story.killed} among those that it held when it died",
         audit.value("select count(*) from audit.finding where worker = %s and record_id = any(%s)",
                     story.killed, story.killed_held), 0),
        (f"{story.frozen}'s late batch was refused (1: yes)", int("dropped" in story.workers.log(story.frozen)), 1),
    ]


def show_proofs(rows):
    """Prints the proofs; returns how many do not hold."""
    width = max(len(sentence) for sentence, _, _ in rows)
    broken = 0
    for sentence, found, wanted in rows:
        verdict = "ok" if found == wanted else f"WRONG, wanted {wanted}"
        broken += found != wanted
        print(f"  {sentence:<{width}}  {found:>6}  {verdict}")
    return broken


def write_findings(audit, out):
    """The whole audit as a CSV file, for keeps."""
    with open(out / "licenses.csv", "wb") as file, audit.connection.cursor().copy(
            "copy (select package, array_to_string(licenses, '; ') as licenses,"
            " array_to_string(spdx_tags, '; ') as spdx_tags, files_read, worker, found_at"
            " from audit.finding order by package) to stdout (format csv, header)") as rows:
        for data in rows:
            file.write(data)


def main():
    out = Path(os.environ.get("DEMO_OUT") or HERE / "out")
    out.mkdir(parents=True, exist_ok=True)
    audit = Audit()
    heading("1. A queue: create extension tasker; a flow with a lease of "
            f"{LEASE.total_seconds():.0f} s and three attempts")
    audit.prepare()

    heading("2. The producer: one record for each package that is installed here (examples/license_audit/produce.py)")
    subprocess.run([sys.executable, EXAMPLE / "produce.py"], check=True)
    listed = len([line for line in subprocess.run(["dpkg-query", "-W", "-f", "${db:Status-Status}\n"], check=True,
                                                  capture_output=True, text=True).stdout.split()
                  if line == "installed"])

    heading(f"3. {WORKERS} workers (examples/license_audit/work.py): read each package's copyright file and the heads"
            " of its files")
    audit.began = time.monotonic()
    workers = Workers(WORKERS, out)
    try:
        story = Story(audit, workers, listed)
        story.run()
        seconds = time.monotonic() - audit.began
        for name in (name for name in workers.processes if name != story.killed):
            workers.processes[name].wait(timeout=30)
        workers.check(story.killed)
    finally:
        workers.end()

    heading("4. What they found, and what the queue says (examples/license_audit/report.sql)")
    subprocess.run([shutil.which("psql"), "-qX", "-v", f"flow={FLOW}", "-v", "ON_ERROR_STOP=1", "-f",
                    EXAMPLE / "report.sql"], check=True)
    write_findings(audit, out)
    files = audit.value("select sum(files_read) from audit.finding")
    print(f"Throughput: {listed} packages with {files:,} files in {seconds:.1f} s, two accidents included:"
          f" {listed / seconds:,.0f} packages and {files / seconds:,.0f} files a second.\n"
          f"What {story.frozen} was told after its thaw: {workers.log(story.frozen).strip()}")

    heading("5. Nothing was lost, nothing was done twice")
    broken = show_proofs(proofs(audit, story, listed))
    if broken:
        raise DemoFailed(f"{broken} of these do not hold")
    print("\nThe findings of all packages: demo/out/licenses.csv. The programs to copy: examples/license_audit/.")


if __name__ == "__main__":
    try:
        main()
    except DemoFailed as failure:
        sys.exit(f"\nthe demo failed: {failure}")

#!/usr/bin/env python3
"""The demo that ./run demo shows: a licence audit of this machine's packages as a workflow, driven through accidents.

Collect the packages, audit them in as many steps as it takes, aggregate, report. Several workers do the steps. One is
killed with SIGKILL in the middle of a step, another is frozen until its lease has run out, then thawed, and must be told
that its step is not its own any more; and the report fails until it has a folder to write to. At the end the graph of
the finished task is drawn, everything is read back through SQL, and the demo fails unless each package was audited
exactly once.
"""

import os
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import psycopg
from psycopg.types.json import Jsonb

HERE = Path(__file__).resolve().parent
WORKER = HERE.parent / "examples" / "workflow" / "worker.py"
NAMESPACE = "license_audit"
WORKERS = 4
PACKAGES_PER_STEP = 10
LEASE = timedelta(seconds=5)
# How long the background worker may take to find a lost lease.
PATIENCE = timedelta(seconds=30)
DEADLINE = timedelta(minutes=5)


class DemoFailed(Exception):
    """Something did not go as it must."""


def heading(text):
    print(f"\n{text}", flush=True)


class Audit:
    """The database side of the demo."""

    def __init__(self):
        self.connection = psycopg.connect("", autocommit=True, application_name="demo")
        self.task = None
        self.began = None

    def query(self, text, *arguments):
        return self.connection.execute(text, arguments).fetchall()

    def value(self, text, *arguments):
        return self.query(text, *arguments)[0][0]

    def prepare(self):
        self.connection.execute("create extension tasker")
        self.connection.execute((HERE / "audit.sql").read_text())
        self.value("select tasker.register_consumer('tasker.transitions', 'demo')")

    def start(self, out):
        self.began = time.monotonic()
        self.task = self.value("select tasker.create_task(%s, 'audit', %s, tags => '{\"demo\": true}', initiator => 'demo')",
                               NAMESPACE, Jsonb({"packages_per_step": PACKAGES_PER_STEP, "out": str(out)}))

    def state(self):
        return self.value("select tasker.get_current_task_state(%s)", self.task)

    def steps(self, condition="true", *arguments):
        """The steps of the task that fulfil a condition, as name, state, processor, attempts, checkpoint's length."""
        return self.query("select name, current_state, processor, attempts, coalesce(jsonb_array_length(checkpoint), 0),"
                          " workflow_step_uuid from tasker.get_workflow_steps(%s) where " + condition, self.task, *arguments)

    def steps_result(self, name, key):
        return int(self.value("select results ->> %s from tasker.get_workflow_steps(%s) where name = %s", key, self.task, name))

    def held_by(self, worker):
        """The audit that a worker is in the middle of: (name, packages that it has saved, uuid); or nothing."""
        held = self.steps("current_state = 'in_progress' and handler = 'audit' and processor = %s"
                          " and jsonb_array_length(checkpoint) between 1 and jsonb_array_length(inputs -> 'packages') - 1",
                          worker)
        return (held[0][0], held[0][4], held[0][5]) if held else None

    def show_progress(self):
        total, pending, enqueued, running, done, failed, retry = self.query(
            "select total_steps, pending_steps, enqueued_steps, in_progress_steps, completed_steps, failed_steps,"
            " waiting_for_retry_steps from tasker.get_task_execution_context(%s)", self.task)[0]
        print(f"  {time.monotonic() - self.began:5.1f} s  steps {total:>4}   pending {pending}   ready {enqueued:>4}"
              f"   in progress {running}   retry {retry}   in error {failed}   done {done:>4}", flush=True)

    def events(self):
        """Reads the queue of transitions to its end, batch by batch; returns how many changes of state it has told."""
        told = {"task": 0, "step": 0}
        self.value("select tasker.force_tick('tasker.transitions')")
        self.value("select tasker.ticker('tasker.transitions')")
        while (batch := self.value("select tasker.next_batch('tasker.transitions', 'demo')")) is not None:
            for (kind,) in self.query("select ev_type from tasker.get_batch_events(%s)", batch):
                told["step" if "step" in kind else "task"] += 1
            self.value("select tasker.finish_batch(%s)", batch)
        return told


class Workers:
    """The worker processes, by name."""

    def __init__(self, count, logs):
        self.logs = logs
        self.processes = {}
        for number in range(1, count + 1):
            name = f"worker-{number}"
            with open(logs / f"{name}.log", "w", encoding="utf-8") as log:
                self.processes[name] = subprocess.Popen(
                    [sys.executable, WORKER, NAMESPACE, HERE / "handlers.py", "--name", name,
                     "--lease", str(LEASE.total_seconds())], stdout=log, stderr=subprocess.STDOUT)

    def send(self, name, what):
        self.processes[name].send_signal(what)

    def catch(self, audit, spared):
        """Stops whichever worker is in the middle of an audit: (name, what it holds), or nothing."""
        for name in self.processes:
            if name in spared or not audit.held_by(name):
                continue
            self.send(name, signal.SIGSTOP)
            # A statement that was on its way when the worker stopped still ends. Only then does the answer stand.
            time.sleep(0.05)
            while audit.value("select count(*) from pg_stat_activity where application_name = %s and state = 'active'", name):
                time.sleep(0.001)
            held = audit.held_by(name)
            if held:
                return name, held
            self.send(name, signal.SIGCONT)  # it was faster
        return None

    def check(self, killed):
        for name, process in self.processes.items():
            if name != killed and process.poll() is not None:
                raise DemoFailed(f"{name} ended with status {process.returncode}:\n{self.log(name)}")

    def log(self, name):
        return (self.logs / f"{name}.log").read_text(encoding="utf-8")

    def end(self):
        """SIGTERM to all; returns their exit statuses."""
        for process in self.processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.terminate()
        statuses = {}
        for name, process in self.processes.items():
            try:
                statuses[name] = process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                statuses[name] = process.wait()
        return statuses


class Story:
    """What happens when: drives the audit through its accidents to its end."""

    def __init__(self, audit, workers, out):
        self.audit, self.workers, self.out = audit, workers, out
        self.killed, self.killed_held, self.killed_at, self.given_back_after = None, None, 0.0, None
        self.frozen, self.frozen_held, self.frozen_at = None, None, 0.0
        self.thawed = False
        self.report_failures = 0

    def tell(self, text):
        print(f"           {text}", flush=True)

    def run(self):
        deadline = time.monotonic() + DEADLINE.total_seconds()
        next_line = 0.0
        while self.audit.state() != "complete" or (self.frozen and not self.thawed):
            if time.monotonic() >= next_line:
                self.audit.show_progress()
                next_line = time.monotonic() + 1
            if time.monotonic() > deadline:
                raise DemoFailed(f"the task is not done after {DEADLINE}: {self.audit.state()}")
            self.step()
            self.workers.check(self.killed)
        self.audit.show_progress()
        if not (self.killed and self.frozen and self.thawed and self.report_failures):
            raise DemoFailed("the task was done before the accidents could happen; is the machine very small?")

    def step(self):
        if not self.killed:
            self.kill_one()
        elif not self.frozen:
            self.freeze_one()
        else:
            time.sleep(0.02)
        if self.killed and self.given_back_after is None:
            self.watch_return()
        if self.frozen and not self.thawed:
            self.thaw_when_lost()
        if not self.report_failures:
            self.help_report()

    def kill_one(self):
        caught = self.workers.catch(self.audit, spared=())
        if caught:
            self.killed, self.killed_held = caught
            self.killed_at = time.monotonic()
            self.workers.send(self.killed, signal.SIGKILL)
            self.tell(f"{self.killed} is killed with SIGKILL in the middle of \"{self.killed_held[0]}\","
                      f" {self.killed_held[1]} packages into it")

    def freeze_one(self):
        caught = self.workers.catch(self.audit, spared=(self.killed,))
        if caught:
            self.frozen, self.frozen_held = caught
            self.frozen_at = time.monotonic()
            self.tell(f"{self.frozen} is frozen with SIGSTOP in the middle of \"{self.frozen_held[0]}\"")

    def is_lost(self, worker, held):
        return not self.audit.steps("workflow_step_uuid = %s and current_state = 'in_progress' and processor = %s",
                                    held[2], worker)

    def watch_return(self):
        waited = time.monotonic() - self.killed_at
        if self.is_lost(self.killed, self.killed_held):
            self.given_back_after = waited
            self.tell(f"{self.killed}'s step was given back {waited:.1f} s after its death"
                      f" (the lease is {LEASE.total_seconds():.0f} s)")
        elif waited > PATIENCE.total_seconds():
            raise DemoFailed(f"the step of {self.killed} was not given back within {waited:.0f} s")

    def thaw_when_lost(self):
        waited = time.monotonic() - self.frozen_at
        if self.is_lost(self.frozen, self.frozen_held):
            self.workers.send(self.frozen, signal.SIGCONT)
            self.thawed = True
            self.tell(f"{self.frozen} is thawed after {waited:.1f} s: it will go on with a step that is not its own any more")
        elif waited > PATIENCE.total_seconds():
            raise DemoFailed(f"the step of {self.frozen} was not given back within {waited:.0f} s")

    def help_report(self):
        failed = self.audit.steps("name = 'report' and current_state = 'waiting_for_retry'")
        if failed:
            self.report_failures = failed[0][3]
            self.tell("the report has failed: there is no folder for it. Now there is; it will be tried again by itself")
            self.out.mkdir()


def proofs(audit, story, told, listed, statuses):
    """What must hold at the end: (sentence, found, wanted)."""
    packages = audit.value("select count(*) from audit.package")
    killed_step, saved, killed_uuid = story.killed_held[0], story.killed_held[1], story.killed_held[2]
    return [
        ("packages that dpkg lists, and packages collected", packages, listed),
        ("findings", audit.value("select count(*) from audit.finding"), packages),
        ("different packages among them", audit.value("select count(distinct package) from audit.finding"), packages),
        ("packages in the aggregate's result", audit.steps_result("aggregate", "packages"), packages),
        ("steps that are not complete", len(audit.steps("current_state <> 'complete'")), 0),
        ("audits, at so many packages each, and the three other steps", len(audit.steps()),
         -(-packages // PACKAGES_PER_STEP) + 3),
        (f"attempts at \"{killed_step}\", in which {story.killed} died",
         audit.steps("workflow_step_uuid = %s", killed_uuid)[0][3], 2),
        (f"packages of it that {story.killed} had saved, and nobody did again",
         audit.value("select count(*) from audit.finding where step = %s and worker = %s", killed_uuid, story.killed), saved),
        (f"{story.frozen}'s late work was refused (1: yes)",
         int(f"dropping the work for step {story.frozen_held[0]} " in story.workers.log(story.frozen)), 1),
        ("reports that failed before there was a folder, and one that did not", audit.steps("name = 'report'")[0][3],
         story.report_failures + 1),
        ("changes of the task's and of steps' states in the log, and as events",
         told["task"] + told["step"],
         audit.value("select (select count(*) from tasker.task_transitions) + (select count(*) from tasker.workflow_step_transitions)")),
        ("workers that ended with a status other than 0 at SIGTERM, the killed one left out",
         sum(status != 0 for name, status in statuses.items() if name != story.killed), 0),
        ("broken rules in any table (tasker.check_integrity)", audit.value("select count(*) from tasker.check_integrity()"), 0),
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


def show_table(audit, title, query, *arguments):
    print(f"\n  {title}")
    for row in audit.query(query, *arguments):
        print("  " + "  ".join(f"{value:>6,}" if isinstance(value, int) else str(value) for value in row))


def main():
    top = Path(os.environ.get("DEMO_OUT") or HERE / "out")
    top.mkdir(parents=True, exist_ok=True)
    out = top / "report"
    audit = Audit()

    heading("1. A workflow (demo/audit.sql): collect → audit, as many steps as it takes → aggregate → report")
    audit.prepare()
    listed = len([line for line in subprocess.run(["dpkg-query", "-W", "-f", "${db:Status-Status}\n"], check=True,
                                                  capture_output=True, text=True).stdout.split()
                  if line == "installed"])

    heading(f"2. One task of it, and {WORKERS} workers (examples/workflow/worker.py, with demo/handlers.py), which read each"
            " package's copyright file and the heads of its files")
    workers = Workers(WORKERS, top)
    try:
        audit.start(out)
        story = Story(audit, workers, out)
        story.run()
        seconds = time.monotonic() - audit.began
    finally:
        statuses = workers.end()

    heading("3. The finished task: select tasker.task_graph(task_uuid, 'text')")
    print(audit.value("select tasker.task_graph(%s, 'text', 6)", audit.task))
    for form in ("mermaid", "dot"):
        (top / f"graph.{form}").write_text(audit.value("select tasker.task_graph(%s, %s)", audit.task, form), encoding="utf-8")

    heading("4. What was found, and what the planes below have to say")
    show_table(audit, "packages by licence", "select packages, license from audit.total order by 1 desc, 2 limit 8")
    show_table(audit, "packages without a licence that we know, for instance",
               "select package, problem from audit.finding where problem is not null order by 1 limit 3")
    show_table(audit, "who did how many: packages, files", "select count(*), sum(files_read)::int, worker from audit.finding group by 3 order by 3")
    show_table(audit, "the queue, whose records the ready steps were: completed, flow",
               "select completed, flow_name from tasker.get_queue_status() order by 2")
    told = audit.events()
    print(f"\n  the stream, which has the changes of states as events: {told['task']} of the task, {told['step']} of its steps")
    files = audit.value("select sum(files_read) from audit.finding")
    print(f"\n  {listed} packages with {files:,} files in {seconds:.1f} s, with all accidents:"
          f" {listed / seconds:,.0f} packages and {files / seconds:,.0f} files a second")

    heading("5. Nothing was lost, nothing was done twice")
    broken = show_proofs(proofs(audit, story, told, listed, statuses))
    if broken:
        raise DemoFailed(f"{broken} of these do not hold")
    print("\nThe findings of all packages: demo/out/report/licenses.csv; the graph: demo/out/graph.mermaid and graph.dot."
          "\nThe worker to copy: examples/workflow/.")


if __name__ == "__main__":
    try:
        main()
    except DemoFailed as failure:
        sys.exit(f"\nThe demo failed: {failure}")

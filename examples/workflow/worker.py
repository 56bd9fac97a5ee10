#!/usr/bin/env python3
"""A worker for the steps of workflows, made to be copied: one file, nothing but psycopg.

    from worker import GiveUp, Result, Retry, Worker

    worker = Worker("shop")

    @worker.handler("charge_card")
    def charge_card(step):
        receipt = bank.charge(step.context["card"], step.results["price"]["total"])
        return {"receipt": receipt}

    worker.run()

What a handler returns is the step's result; Result(...) says more. Any exception is a failure, and the step is tried
again as its template says; Retry says when, and GiveUp that trying again is of no use. Connects with the usual PG*
variables, or as `conninfo` says.

What it takes care of:
  - It waits for work without polling, and holds no transaction open while it waits or while a handler runs.
  - Leases are extended by a second connection for as long as a handler runs. A worker that dies stops doing so, and
    its steps are given to others soon after.
  - A step that was given to somebody else, cancelled or reset meanwhile is dropped: its token is not valid any more, so
    nothing can be reported twice. Handlers that run long ask step.check() now and then.
  - SIGTERM and SIGINT: steps that have not begun are given back at once, the one under way at its next check() or
    save(), else it is finished first. Given back means that no attempt is lost, and what was saved is kept.
  - When the server goes away, it connects anew, with growing pauses, and reports what was finished meanwhile.
"""

import argparse
import dataclasses
import importlib.util
import logging
import os
import signal
import socket
import sys
import threading
import time
from datetime import timedelta

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

log = logging.getLogger("worker")

FIRST_PAUSE = 0.1  # seconds before the server is tried again; doubled each time
LONGEST_PAUSE = 5.0
LONGEST_WAIT = timedelta(seconds=20)  # in one call; a signal that comes just before the call is seen after it
# What the server says of a step that is done, given to somebody else, cancelled, reset, or gone.
NOT_OURS = (psycopg.errors.ObjectNotInPrerequisiteState, psycopg.errors.UndefinedObject)


class Retry(Exception):
    """The step has failed and is to be tried again after so many seconds, if it has attempts left."""

    def __init__(self, message, after=None):
        super().__init__(message)
        self.after = after


class GiveUp(Exception):
    """The step has failed, and would fail again."""


class LeaseLost(Exception):
    """The step is not ours any more: what was done for it is to be dropped."""


class Stopping(Exception):
    """The worker is to end."""


@dataclasses.dataclass
class Result:
    """What a handler may return instead of a plain value.

    create_steps is for steps of type batch and decision: names, or {"name", "as", "inputs"}. in_transaction is called
    with the connection, inside of the transaction that completes the step: what it writes is there if and only if the
    step is done.
    """

    results: object = None
    create_steps: list = None
    in_transaction: object = None


class Step:
    """A claimed step, as handlers get it."""

    def __init__(self, worker, row):
        self._worker = worker
        self._results = row["dependency_results"]
        self.uuid = row["workflow_step_uuid"]
        self.task_uuid = row["task_uuid"]
        self.task = row["task_name"]
        self.name = row["step_name"]
        self.handler = row["handler"]
        self.attempt = row["attempts"]
        self.inputs = row["inputs"] or {}
        self.context = row["context"]
        self.saved = row["checkpoint"]  # what save() was told last, by whichever attempt
        self.correlation_id = row["correlation_id"]
        self.token = row["lease_token"]
        self.lost = False

    def __str__(self):
        return f"step {self.name} of task {self.task} ({self.uuid}, attempt {self.attempt})"

    @property
    def results(self):
        """The results of the steps that this one depends on, by name. Of very many they are fetched when asked for."""
        if self._results is None:
            rows = self._worker.insist("select step_name, results from tasker.step_results(%s)", self.uuid)
            self._results = {row["step_name"]: row["results"] for row in rows}
        return self._results

    def check(self):
        """Raises LeaseLost when the step is not ours any more, and Stopping when the worker is to end."""
        if self.lost:
            raise LeaseLost(f"{self} was taken away")
        if self._worker.stopping:
            raise Stopping()

    def save(self, checkpoint):
        """Notes how far the step has come, for the attempt that follows if this one does not come to its end."""
        self._worker.insist("select tasker.checkpoint_step(%s, %s, %s)", self.uuid, Jsonb(checkpoint), self.token)
        self.saved = checkpoint
        self.check()


class Heartbeat(threading.Thread):
    """Extends the leases of the steps that the worker holds, on a connection of its own."""

    def __init__(self, conninfo, name, lease):
        super().__init__(name="heartbeat", daemon=True)
        self.conninfo, self.application, self.lease = conninfo, name, lease
        self.held = {}
        self.lock = threading.Lock()
        self.connection = None
        self.ending = threading.Event()

    def hold(self, steps):
        with self.lock:
            self.held = {step.uuid: step for step in steps}

    def let_go(self, step):
        with self.lock:
            self.held.pop(step.uuid, None)

    def run(self):
        while not self.ending.wait(self.lease.total_seconds() / 3):
            with self.lock:
                steps = list(self.held.values())
            try:
                if steps:
                    self.extend(steps)
            except psycopg.OperationalError as error:
                log.warning("leases could not be extended, trying again: %s", error)
                self.connection = None
            except psycopg.Error as error:
                log.warning("leases could not be extended: %s", error)

    def extend(self, steps):
        if self.connection is None or self.connection.closed:
            self.connection = psycopg.connect(self.conninfo, autocommit=True, application_name=self.application)
        try:
            self.connection.execute("select tasker.extend_step_lease(%s::uuid[], %s, %s::bigint[])",
                                    ([step.uuid for step in steps], self.lease, [step.token for step in steps]))
        except NOT_OURS:
            if len(steps) == 1:
                steps[0].lost = True
                self.let_go(steps[0])
            else:  # all or nothing: find out which
                for step in steps:
                    self.extend([step])


class Worker:
    """Claims steps of a namespace and runs the handlers for them, one step after the other."""

    def __init__(self, namespace, conninfo="", name=None, batch=1, lease=timedelta(seconds=30)):
        self.namespace, self.conninfo, self.batch, self.lease = namespace, conninfo, batch, lease
        self.name = name or f"{socket.gethostname()}:{os.getpid()}"
        self.handlers = {}
        self.connection = None
        self.stopping = False
        self.waiting = False
        self.heartbeat = Heartbeat(conninfo, self.name, lease)

    def handler(self, name):
        """Decorator: the function does the steps whose handler has this name."""
        def register(function):
            self.handlers[name] = function
            return function
        return register

    def run(self):
        """Works until SIGTERM or SIGINT."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.stop)
        self.heartbeat.start()
        while not self.stopping:
            try:
                if not self.work_off(self.claim()):
                    self.wait()
            except psycopg.OperationalError as error:
                self.connect_again(error)
        self.heartbeat.ending.set()
        if self.connection is not None:
            self.connection.close()

    def stop(self, number, _frame):
        log.info("signal %s: ending", signal.Signals(number).name)
        signal.signal(number, signal.SIG_DFL)  # who insists gets his way
        self.stopping = True
        if self.waiting:
            self.connection.cancel()

    # --- the server ---------------------------------------------------------------------------------------------

    def connect(self):
        if self.connection is None or self.connection.closed:
            self.connection = psycopg.connect(self.conninfo, autocommit=True, application_name=self.name,
                                              row_factory=dict_row)
        return self.connection

    def query(self, text, *arguments):
        return self.connect().execute(text, arguments).fetchall()

    def insist(self, text, *arguments):
        """The same, again on a new connection when this one breaks; for what may be done twice."""
        while True:
            try:
                return self.query(text, *arguments)
            except NOT_OURS:
                raise
            except psycopg.OperationalError as error:
                self.connect_again(error)
                if self.stopping:
                    raise Stopping() from error

    def connect_again(self, error):
        """Returns when the server is there again, or the worker is to end."""
        log.warning("the server is gone, connecting anew: %s", str(error).strip())
        pause = FIRST_PAUSE
        while not self.stopping:
            try:
                self.close()
                self.connect()
                return
            except psycopg.OperationalError:
                time.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)

    def close(self):
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    def wait(self):
        """Sleeps until a step is ready for one of our handlers; the server wakes us."""
        self.waiting = True
        try:
            if not self.stopping:
                self.connect().execute("call tasker.wait_for_steps(%s, %s, %s)",
                                       (self.namespace, LONGEST_WAIT, list(self.handlers)))
        except psycopg.errors.QueryCanceled:
            if not self.stopping:
                raise
        finally:
            self.waiting = False

    def claim(self):
        rows = self.query("select * from tasker.claim_steps(%s, %s, %s, %s, %s)", self.namespace, self.batch, self.name,
                          self.lease, list(self.handlers))
        return [Step(self, row) for row in rows]

    # --- steps --------------------------------------------------------------------------------------------------

    def work_off(self, steps):
        """Does claimed steps one by one; False when there were none."""
        self.heartbeat.hold(steps)
        for i, step in enumerate(steps):
            if self.stopping:
                self.release(steps[i:])
                break
            try:
                self.do(step)
            except Stopping:
                self.release(steps[i:])
                break
            finally:
                self.heartbeat.let_go(step)
        return bool(steps)

    def do(self, step):
        try:
            result = self.handlers[step.handler](step)
            if not isinstance(result, Result):
                result = Result(result)
        except Stopping:
            raise
        except (LeaseLost, *NOT_OURS) as lost:
            log.warning("dropping the work for %s: %s", step, lost)
        except GiveUp as error:
            self.report(step, self.fail, error, False, None)
        except Retry as error:
            self.report(step, self.fail, error, True, error.after)
        except Exception as error:  # whatever it is, it is the handler's
            log.info("%s failed", step, exc_info=True)
            self.report(step, self.fail, error, True, None)
        else:
            self.report(step, self.complete, result)

    def complete(self, step, result):
        connection = self.connect()
        with connection.transaction():
            if result.in_transaction is not None:
                result.in_transaction(connection)
            connection.execute(
                "select tasker.complete_step(%s, %s, %s, %s)",
                (step.uuid, Jsonb(result.results),
                 None if result.create_steps is None else Jsonb(result.create_steps), step.token))
        log.info("%s is done", step)

    def fail(self, step, error, retryable, after):
        note = {"type": type(error).__name__, "message": str(error)}
        state = self.query("select tasker.fail_step(%s, %s, %s, %s, %s) as state", step.uuid, Jsonb(note), retryable,
                           after, step.token)[0]["state"]
        log.warning("%s failed: %s; it is in state %s now", step, error, state)

    def report(self, step, how, *arguments):
        """Says how a step has ended, on a new connection if need be.

        When the connection breaks in the middle, nobody knows whether the server has heard it. Saying it again does no
        harm: if it has, or if the step has been given to another worker meanwhile, our token is not valid any more.
        """
        while True:
            try:
                how(step, *arguments)
                return
            except NOT_OURS as lost:
                log.warning("dropping the work for %s: %s", step, lost)
                return
            except psycopg.OperationalError as error:
                self.connect_again(error)
                if self.stopping and self.connection is None:
                    return  # its lease will end
            except psycopg.Error as error:  # what the handler has returned or written is refused
                if how == self.fail:
                    raise
                how, arguments = self.fail, (error, True, None)

    def release(self, steps):
        """Gives steps back. Each by itself: one that was taken away must not keep the others."""
        for step in steps:
            try:
                self.query("select tasker.release_steps(array[%s::uuid], array[%s::bigint])", step.uuid, step.token)
                log.info("%s is given back", step)
            except psycopg.Error as error:
                log.warning("%s could not be given back: %s", step, error)
            self.heartbeat.let_go(step)


def main():
    parser = argparse.ArgumentParser(description="Runs the handlers of a Python file, which has a function"
                                                 " register(worker), for the steps of a namespace.")
    parser.add_argument("namespace")
    parser.add_argument("handlers", help="the file")
    parser.add_argument("--name", help="in the logs of the steps; default: host and process")
    parser.add_argument("--batch", type=int, default=1, help="steps that are claimed at once")
    parser.add_argument("--lease", type=float, default=30, help="seconds; steps of a dead worker are lost for so long")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    spec = importlib.util.spec_from_file_location("handlers", options.handlers)
    handlers = importlib.util.module_from_spec(spec)
    sys.modules.setdefault("worker", sys.modules["__main__"])  # "from worker import …" means this very module
    spec.loader.exec_module(handlers)
    worker = Worker(options.namespace, name=options.name, batch=options.batch, lease=timedelta(seconds=options.lease))
    handlers.register(worker)
    worker.run()


if __name__ == "__main__":
    main()

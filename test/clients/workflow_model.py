"""The model test of workflows: random tasks are driven through random histories, and after everything that was
committed the server is asked all it can say of the tasks that were touched, and compared with a model in plain code.

    workflow_model.py CONNINFO [--seed N] [--actions N] [--seconds N] [--sessions N] [--steps N] [--tasks N]
        [--crashes] [--data FOLDER --pg-ctl PROGRAM --log FILE] [--shrink SECONDS]

One program drives several sessions, each in a thread of its own: it begins a call in one of them and goes on when the
call is done or waits for a lock of another session. So transactions interleave at random, and there is an order in
which everything happened. workflow_dags.py makes the definitions, workflow_calls.py the calls, workflow_rules.py is the
model, workflow_answers.py compares. With --crashes backends are killed, also in their COMMIT, and the server is restarted;
what the server then says of a transaction (pg_xact_status) is what has happened.

The seed decides everything but the order in which sessions come on that have waited for the same lock. A difference is
printed with the seed and with all that was done to the task; --shrink then looks for a smaller history with one.
"""

import argparse
import os
import queue
import random
import signal
import subprocess
import sys
import threading
import time

import psycopg
from psycopg.types.json import Jsonb

from workflow_answers import TASK_QUERY, check_ready_tasks, check_task, number_of, step_uuid
from workflow_calls import Difference, Maker
from workflow_dags import NAMESPACES, random_definition
from workflow_rules import FINISHED, LostUpdate, Refused, Task, Template, World

SLACK = 0.002  # between the server's clock and ours, which are the same
STUCK = 60  # seconds after which a call that nobody holds up is taken for stuck
DEADLOCK = "40P01"
SERIALIZATION = "40001"

WEIGHTS = {
    "create": 6,
    "claim": 22,
    "complete": 34,
    "complete_many": 6,
    "fail": 9,
    "checkpoint": 3,
    "extend": 2,
    "release": 2,
    "set_backoff": 2,
    "stop": 2,
    "retry": 6,
    "reset": 5,
    "resolve": 4,
    "lose": 3,
    "wrong": 1,
}


class Mismatch(Exception):
    """What the test is there to find."""

    def __init__(self, text, tasks=()):
        super().__init__(text)
        self.tasks = set(tasks)


class Session:
    """A connection with a thread that runs one thing at a time for it."""

    def __init__(self, name, connect):
        self.name, self.connect = name, connect
        self.inbox = queue.Queue()
        self.done = threading.Event()
        self.connection = None
        self.reset()
        threading.Thread(target=self.work, daemon=True).start()

    def reset(self):
        self.call = None  # what it is doing
        self.operations = []  # what its transaction has done so far
        self.calls = 0
        self.savepoints = []
        self.xid = None
        self.level = None
        self.guarded = False
        self.result = self.error = None

    def work(self):
        while True:
            run = self.inbox.get()
            if run is None:
                return
            self.result = self.error = None
            self.begun = time.time() - SLACK
            try:
                self.result = run(self.connection)
            except psycopg.Error as error:
                self.error = error
            self.ended = time.time() + SLACK
            self.done.set()

    def start(self, run):
        self.done.clear()
        self.inbox.put(run)

    def run(self, run):
        """Something that cannot have to wait."""
        self.start(run)
        self.done.wait()
        if self.error is not None:
            raise self.error
        return self.result

    def open(self):
        self.reset()
        self.connection = self.connect(f"model {self.name}")
        self.pid = self.connection.info.backend_pid

    def lost(self):
        error = self.error
        return error is not None and (
            self.connection.closed or error.sqlstate is None or error.sqlstate.startswith(("57P", "08"))
        )


class Driver:
    def __init__(self, options, seed):
        self.options, self.seed = options, seed
        self.rng = random.Random(seed)
        self.world = World()
        self.history = []  # (text, tasks)
        self.templates = []
        self.handlers = {namespace: set() for namespace in NAMESPACES}
        self.tasks_made = 0
        self.compared = self.actions = self.waits = self.crashes = self.refused = 0
        self.deadlocks = self.serialization = 0
        self.current = self.early = None  # early: what a call saw that had to wait
        self.monitor = None
        self.sessions = []

    # --- connections and templates ----------------------------------------------------------------------------

    def connect(self, name):
        last = time.time() + STUCK
        while True:
            try:
                connection = psycopg.connect(self.options.conninfo, application_name=name, autocommit=True)
                connection.execute("set deadlock_timeout = '20ms'")
                connection.execute("set timezone = 'UTC'")
                return connection
            except psycopg.Error:
                if time.time() > last:
                    raise
                time.sleep(0.02)  # until the server is there: nothing tells us

    def begin(self):
        self.monitor = self.connect("model monitor")
        found = self.monitor.execute("select proname from pg_proc where pronamespace = 'tasker'::regnamespace")
        self.functions = {row[0] for row in found}
        needs = {"stop": "cancel_task", "retry": "retry_task", "reset": "reset_step", "release": "release_steps",
                 "resolve": "resolve_step_manually", "extend": "extend_step_lease", "checkpoint": "checkpoint_step",
                 "set_backoff": "set_step_backoff_atomic"}
        self.weights = {name: weight for name, weight in WEIGHTS.items()
                        if needs.get(name, "create_task") in self.functions}
        for i in range(self.options.templates):
            self.define(NAMESPACES[i // 2 % 2], f"t{i // 2}", f"{i % 2 + 1}.0")
        self.sessions = [Session(f"s{i}", self.connect) for i in range(self.options.sessions)]
        for session in self.sessions:
            session.open()

    def define(self, namespace, name, version):
        definition = random_definition(self.rng, self.options.steps)
        uuid = self.monitor.execute(
            "select tasker.define_task(%s, %s, %s, %s)", (namespace, name, Jsonb(definition), version)
        ).fetchone()[0]
        order = [
            row[0]
            for row in self.monitor.execute(
                "select name from tasker.named_steps where named_task_uuid = %s order by step_order", (uuid,)
            )
        ]
        template = Template(namespace, name, version, definition, order)
        problem = template.check_order()
        if problem:
            raise Mismatch(f"template {name} {version}: {problem}")
        self.templates.append(template)
        self.handlers[namespace] |= {step["handler"] for step in definition["steps"]}

    # --- what calls ask of the driver -------------------------------------------------------------------------

    def view(self):
        """What the session that is acting sees: what is committed, and what it has done itself."""
        if self.early is not None:
            return World(self.early)
        view = World(self.world)
        for operation in self.current.operations:
            view.merge(operation["changes"])
        return view

    def next_index(self):
        self.tasks_made += 1
        return self.tasks_made

    def others_touch(self):
        """Tasks and steps that open transactions of others have touched, or are about to."""
        tasks, steps = set(), set()
        for session in self.sessions:
            if session is self.current:
                continue
            if session.call is not None:
                tasks |= session.call.tasks
                steps |= session.call.steps
            for operation in session.operations:
                tasks |= operation["tasks_touched"]
                steps |= operation["steps_touched"]
        return tasks, steps

    def meeting_points(self):
        """Steps to which open transactions of others have added edges: who completes one now has to notice."""
        points = set()
        for session in self.sessions:
            for operation in session.operations if session is not self.current else ():
                for index, change in operation["changes"].items():
                    for step in () if isinstance(change, Task) else change[2].values():
                        parents = step[0].get("parents", ()) if isinstance(step, tuple) else step.parents
                        points |= {(index, parent) for parent in parents}
        return points

    def in_hand(self, index, number):
        return (index, number) in self.others_touch()[1]

    def somebody_waits(self):
        return any(session.call is not None for session in self.sessions if session is not self.current)

    def judge_claim(self, namespace, batch, worker, lease, handlers, rows, span):
        view = self.view()
        by_uuid = {task.uuid: task for task in view.tasks().values()}
        locked = self.others_touch()[0]
        claimed, picked, tokens = [], set(), set()
        for row in rows:
            task = by_uuid.get(row[1])
            step = task and task.steps.get(number_of(row[0]))
            if step is None or task.template.namespace != namespace:
                raise Difference(f"claimed {row[:4]}, which the model does not have")
            what = f"claimed step {task.index}.{step.number}"
            if task.ready(step, span[0], span[1]) is False:
                raise Difference(f"{what} is {step.state}, {task.remaining(step)} parents left, due {step.due}")
            spec = task.spec(step)
            handler = spec.get("handler", step.named)
            said = row[2:11]
            wanted = (task.template.name, step.name, handler, step.attempts + 1, task.inputs(step),
                      task.facts["context"], task.dependency_results(step), step.checkpoint,
                      task.facts["correlation_id"] or task.uuid)
            if said != wanted:
                raise Difference(f"{what} came as {said}, the model has {wanted}")
            if handlers is not None and handler not in handlers:
                raise Difference(f"{what} is for handler {handler}")
            timeout = spec.get("timeout_seconds")
            length = min([limit for limit in (lease, timeout) if limit is not None], default=None)
            if length is not None and not span[0] + length <= row[12] <= span[1] + length:
                raise Difference(f"{what}: the lease ends at {row[12]}, wanted {span} + {length}")
            claimed.append((task.index, step.number, (row[12], row[12])))
            picked.add((task.index, step.number))
            tokens.add(row[11])
        if len(picked) < len(rows) or len(rows) > batch or len(tokens) > 1:
            raise Difference(f"{len(rows)} rows for {len(picked)} steps, tokens {tokens}, batch {batch}")
        self.judge_what_is_left(view, namespace, batch, handlers, picked, locked, span)
        return {"do": "claim", "steps": claimed, "token": next(iter(tokens), None),
                "worker": worker or f"model {self.current.name}", "span": span}

    def judge_what_is_left(self, view, namespace, batch, handlers, picked, locked, span):
        """What nobody has in hand is claimed, in each flow the highest priorities first."""
        if self.current.call.waiting or self.somebody_waits():
            return  # and what it has passed by may be free by now
        best, worst = {}, {}
        left = 0
        for task in view.tasks().values():
            if task.template.namespace != namespace:
                continue
            for step in task.steps.values():
                handler = task.spec(step).get("handler", step.named)
                if handlers is not None and handler not in handlers:
                    continue
                priority = task.priority(step)
                if (task.index, step.number) in picked:
                    worst[handler] = min(priority, worst.get(handler, priority))
                elif task.index not in locked and task.ready(step, *span) is True and step.state != "in_progress":
                    best[handler] = max(priority, best.get(handler, priority))
                    left += 1
        if left > 0 and len(picked) < batch and not self.stale_records():
            raise Difference(f"{len(picked)} of {batch} claimed, and {left} more are ready")
        for handler, priority in best.items():
            if priority > worst.get(handler, priority):
                raise Difference(f"handler {handler}: priority {worst[handler]} claimed, {priority} is ready")

    def stale_records(self):
        """Are there records in line, or dropped just now, that no step names? They count against a batch."""
        return self.monitor.execute(
            "select exists (select from tasker.queue_record r join tasker.step_flow using (flow_id) where r.status in"
            " ('p', 'r') and not exists (select from tasker.workflow_step s where s.record_id = r.id))"
        ).fetchone()[0]

    def judge_lost(self, said, span):
        count, rows = said
        view = self.view()
        locked = self.others_touch()[0]
        # The leases of its own claims begin with its commit.
        mine = {item[:2] for op in self.current.operations if op["do"] == "claim" for item in op["steps"]}
        lost = []
        running = {
            step_uuid(task, step.number): (index, step.number)
            for index, task in view.tasks().items()
            for step in task.steps.values()
            if step.state == "in_progress"
        }
        for uuid, state, attempts, error in rows:
            if uuid not in running:
                continue
            index, number = running[uuid]
            step = view[index].steps[number]
            is_lost = state != "in_progress" or attempts != step.attempts
            what = f"step {index}.{number}, whose lease ends at {step.lease_end}, {span}"
            if is_lost and step.lease_end[0] > span[1]:
                raise Difference(f"{what}: it is lost already")
            free = index not in locked and (index, number) not in mine
            waited = self.current.call.waiting or self.somebody_waits()
            if not is_lost and step.lease_end[1] < span[0] and free and not waited:
                raise Difference(f"{what}: it is not lost")
            if is_lost:
                if not (isinstance(error, dict) and isinstance(error.get("message"), str)):
                    raise Difference(f"{what}: its error is {error!r}")
                lost.append((index, number, error))
        if count < len(lost):
            raise Difference(f"{len(lost)} leases were lost, it says {count}")
        lost.sort(key=lambda item: item[:2])
        return {"do": "lose", "steps": lost, "span": span}

    # --- one action -------------------------------------------------------------------------------------------

    def say(self, text, tasks):
        self.history.append((f"{self.actions:5} {text}", set(tasks)))
        if self.options.verbose:
            print(self.history[-1][0], flush=True)

    def act(self):
        self.actions += 1
        free = [session for session in self.sessions if session.call is None]
        if not free:
            raise Mismatch("every session waits for another one")
        session = self.current = self.rng.choice(free)
        if self.options.crashes and (self.rng.random() < 0.004 or self.actions == 120):
            self.crash(session)
        elif session.xid is None:
            self.begin_transaction(session)
            self.make_call(session)
        elif session.calls >= 1 and self.rng.random() < 0.5:
            self.end_transaction(session)
        else:
            self.make_call(session)
        self.settle()

    def begin_transaction(self, session):
        session.level = self.rng.choices(["read committed", "repeatable read", "serializable"], [8, 1, 1])[0]

        def run(connection):
            connection.execute(f"begin isolation level {session.level}")
            return connection.execute("select pg_current_xact_id()::text").fetchone()[0]

        session.xid = session.run(run)

    def make_call(self, session):
        maker = Maker(self)
        if session.savepoints and self.rng.random() < 0.15:
            self.roll_back_to_savepoint(session)
            return
        names = list(self.weights)
        live = sum(1 for task in self.world.tasks().values() if task.state not in FINISHED)
        unwanted = set()
        if live >= self.options.tasks or self.tasks_made >= self.options.total:
            unwanted.add("create")
        if session.level != "read committed":
            unwanted.add("lose")  # it could not see what it has done
        weights = [0 if name in unwanted else self.weights[name] for name in names]
        for _ in range(20):
            call = getattr(maker, self.rng.choices(names, weights)[0])()
            if call is not None:
                break
        else:
            call = maker.claim()
        session.guarded = self.rng.random() < 0.3
        if session.guarded:
            session.run(lambda connection: connection.execute(f"savepoint p{len(session.savepoints)}"))
            session.savepoints.append(len(session.operations))
        session.call = call
        view = self.view()
        call.seen = [{index: view[index].copy() for index in call.tasks if index in view}]
        session.calls += 1
        self.say(f"{session.name} {call.text}{' (savepoint)' if session.guarded else ''}", call.tasks)
        session.start(call.run)

    def roll_back_to_savepoint(self, session):
        at = self.rng.randrange(len(session.savepoints))
        session.run(lambda connection: connection.execute(f"rollback to p{at}"))
        self.say(f"{session.name} rollback to its savepoint {at}", self.touched(session))
        del session.operations[session.savepoints[at] :]
        del session.savepoints[at + 1 :]

    def touched(self, session):
        tasks = set()
        for operation in session.operations:
            tasks |= operation["tasks_touched"]
        return tasks

    def settle(self):
        """Goes on when every session is done or waits for another one."""
        last = time.time() + STUCK
        while True:
            busy = [session for session in self.sessions if session.call is not None]
            if not busy:
                return
            # Who commits waits for nobody, and comes first: others that have waited see what was committed.
            committing = [session for session in busy if session.call.commits]
            for session in committing:
                session.done.wait()
                self.finish(session)
            if committing:
                continue
            moving = False
            for session in busy:
                if session.done.wait(0 if session.call.waiting else 0.01):
                    self.finish(session)
                    moving = True
                elif not self.is_blocked(session):
                    session.done.wait(0.001)
                    moving = True
                elif not session.call.waiting:
                    session.call.waiting = True
                    self.waits += 1
                    self.say(f"{session.name} waits", session.call.tasks)
            if not moving:
                if len(busy) == len(self.sessions):
                    time.sleep(0.02)  # a deadlock, which the server has to find
                else:
                    return
            if time.time() > last:
                raise Mismatch(f"{[session.call.text for session in busy]} is stuck",
                               set().union(*[session.call.tasks for session in busy]))

    def is_blocked(self, session):
        return self.monitor.execute("select pg_blocking_pids(%s) <> '{}'", (session.pid,)).fetchone()[0]

    def finish(self, session):
        """Judges what a call has answered."""
        call, self.current = session.call, session
        if call.commits:
            self.finish_commit(session)
            return
        if session.lost():
            raise Mismatch(f"{session.name} lost its connection: {session.error}", call.tasks)
        span = (session.begun, session.ended)
        try:
            if session.error is not None:
                self.judge_error(session, call, span)
            else:
                operation = self.judge(session, call, span)
                self.note_touched(operation)
                session.operations.append(operation)
                answer = session.result
                if operation["do"] in ("claim", "lose"):
                    answer = [item[:2] for item in operation["steps"]]
                self.say(f"{session.name} -> {shorten(answer)}", operation["tasks_touched"])
        except Difference as difference:
            raise Mismatch(f"{session.name} {call.text}: {difference}", call.tasks) from difference
        except Refused as refused:
            raise Mismatch(
                f"{session.name} {call.text}: it must fail with {refused}, and answered {session.result}", call.tasks
            ) from refused
        session.call = None
        if session.error is None and session.level == "read committed" and self.rng.random() < 0.3:
            self.compare_in_transaction(session)

    def judge(self, session, call, span):
        """The operation that a call has carried out. One that had to wait for others on its way over the steps of a
        task may have passed by steps before others changed them: it must fit what there is now, or what there was at
        some moment since it began."""
        problem = None
        for early, late in self.moments(call):
            self.early = early
            call.late = late
            try:
                operation = call.judge(self, session.result, span)
                operation["changes"] = self.view().changes_of(operation)
                if early:
                    self.early = None
                    operation["changes"] = self.view().rebase(operation["changes"], operation.get("target"))
                if not call.waiting or session.level != "read committed" or self.fits(session, operation):
                    return operation
                problem = problem or Difference("it has not done what the model does")
            except (Difference, Refused, LostUpdate) as difference:
                problem = problem or difference
            finally:
                self.early = None
        if call.waiting and call.operation.get("do") in ("retry", "reset"):
            operation = self.judge_mixture(session, call, span)
            if operation is not None:
                return operation
        raise problem if not isinstance(problem, LostUpdate) else Difference(str(problem))

    def judge_mixture(self, session, call, span):
        """One that has passed some steps before others changed them, and come to some after: which, the server says."""
        index = call.operation["task"]
        task, result = self.view()[index], session.result
        said = session.run(
            lambda connection: connection.execute(
                "select workflow_step_uuid::text, current_state, attempts, extract(epoch from next_retry_at)::float8"
                " from tasker.get_step_readiness_status(%s)", (task.uuid,)
            ).fetchall()
        )
        session.result = result
        only = set()
        for uuid, state, attempts, due in said:
            step = task.steps.get(number_of(uuid))
            if step is None:
                return None
            was_due = step.due is None or due is None or step.due[0] - 0.001 <= due <= step.due[1] + 0.001
            if (state, attempts) != (step.state, step.attempts) or not was_due:
                only.add(step.number)
        call.operation["only"] = only
        try:
            operation = call.judge(self, result, span)
            operation["changes"] = self.view().changes_of(operation)
            return operation if self.fits(session, operation) else None
        except (Difference, Refused, LostUpdate):
            return None

    def moments(self, call):
        """The worlds that a call may have seen, None for what there is now; and whether it may have looked at the state
        of the task earlier than at the steps."""
        yield None, False
        if call.waiting:
            for seen in reversed(call.seen):
                world = World(self.view())
                world.own.update({index: task.copy() for index, task in seen.items()})
                yield world, False
            yield None, True

    def note_moment(self):
        """Something was committed: calls that wait may see it on the rest of their way."""
        current = self.current
        for session in self.sessions:
            if session.call is not None and not session.call.commits:
                self.current = session
                view = self.view()
                session.call.seen.append({i: view[i].copy() for i in session.call.tasks if i in view})
        self.current = current

    def fits(self, session, operation):
        """Does the session see what the operation has changed?"""
        view = self.view()
        try:
            view.merge(operation["changes"])
        except LostUpdate:
            return False
        result = session.result
        for index in sorted(session.call.tasks | set(operation["changes"])):
            task = view[index]
            chosen = self.rng.choice(list(task.steps.values()))
            answer, before, after = session.run(lambda connection: self.ask(connection, task, chosen))
            session.result = result
            if check_task(task, answer, chosen, before, after, False):
                return False
        return True

    def judge_error(self, session, call, span):
        error = session.error
        self.say(f"{session.name} -> {error.sqlstate} {error.diag.message_primary}", call.tasks)
        if error.sqlstate == DEADLOCK:
            self.deadlocks += 1
            if all(other.calls <= 1 for other in self.sessions):
                raise Mismatch(f"deadlock of single calls: {error}", call.tasks)
        elif error.sqlstate == SERIALIZATION and session.level != "read committed":
            self.serialization += 1
            self.forget(session, "rollback")
            return
        else:
            try:
                must_fail = getattr(call, "must_fail", None)
                if must_fail is not None:
                    self.must_fail(call, span)
                raise Mismatch(f"{session.name} {call.text}: it failed: {error.sqlstate} {error}", call.tasks)
            except Refused as refused:
                if error.sqlstate not in refused.sqlstates:
                    text = f"{session.name} {call.text}: it failed with {error.sqlstate} {error}, not {refused}"
                    raise Mismatch(text, call.tasks) from refused
            self.refused += 1
        if session.guarded:
            at = len(session.savepoints) - 1
            session.run(lambda connection: connection.execute(f"rollback to p{at}"))
            session.error = error
        else:
            self.forget(session, "rollback")

    def must_fail(self, call, span):
        """Raises Refused where the model refuses the call."""
        for early, _ in self.moments(call):
            self.early = early
            try:
                call.must_fail(self, span)
            finally:
                self.early = None
        if call.waiting and call.operation.get("do") == "retry":
            raise Refused("55000")  # what there was to retry was taken away, and what came was passed already

    def note_touched(self, operation):
        """Tasks and steps that the transaction holds, as far as we know."""
        steps = {item[:2] for item in operation.get("steps", ())}
        for index, change in operation["changes"].items():
            steps |= {(index, number) for number in (change.steps if isinstance(change, Task) else change[2])}
        operation["steps_touched"] = steps
        operation["tasks_touched"] = {index for index, _ in steps} | set(operation["changes"])

    # --- the end of a transaction -----------------------------------------------------------------------------

    def forget(self, session, how):
        """Rolls back, and forgets what was done."""
        touched = self.touched(session)
        error, result = session.error, session.result
        session.run(lambda connection: connection.execute(how))
        connection, pid = session.connection, session.pid
        session.reset()
        session.connection, session.pid, session.error, session.result = connection, pid, error, result
        self.say(f"{session.name} {how}", touched)
        self.compare(touched)

    def end_transaction(self, session):
        if self.rng.random() < 0.2:
            self.forget(session, "rollback")
            return
        session.call = Commit(self.touched(session))
        self.say(f"{session.name} commit", session.call.tasks)
        session.start(lambda connection: connection.execute("commit"))

    def finish_commit(self, session):
        error = session.error
        if error is not None and error.sqlstate == SERIALIZATION and session.level == "serializable":
            self.serialization += 1
            self.forget(session, "rollback")
            return
        if error is not None:
            raise Mismatch(f"{session.name}: its commit failed: {error}", session.call.tasks)
        self.commit(session)
        touched = self.touched(session)
        connection, pid = session.connection, session.pid
        session.reset()
        session.connection, session.pid = connection, pid
        self.compare(touched)

    def commit(self, session):
        try:
            for operation in session.operations:
                self.world.merge(operation["changes"])
        except LostUpdate as lost:
            raise Mismatch(f"{session.name}: {lost}", self.touched(session)) from lost
        self.note_moment()

    # --- comparing --------------------------------------------------------------------------------------------

    def compare(self, indexes):
        for index in sorted(indexes):
            if index in self.world:
                self.compare_task(self.monitor, self.world[index], True)

    def ask(self, connection, task, chosen):
        before = time.time() - SLACK
        answer = connection.execute(TASK_QUERY, {"t": task.uuid, "s": step_uuid(task, chosen.number)}).fetchone()[0]
        return answer, before, time.time() + SLACK

    def compare_task(self, connection, task, keep):
        chosen = self.rng.choice(list(task.steps.values()))
        answer, before, after = self.ask(connection, task, chosen)
        self.compared += 1
        differences = check_task(task, answer, chosen, before, after, keep)
        if differences:
            where = "" if keep else " in an open transaction"
            raise Mismatch(f"task {task.index}{where}:\n    " + "\n    ".join(differences[:20]), [task.index])

    def compare_in_transaction(self, session):
        """The session itself sees what it has done."""
        view = self.view()
        touched = sorted(index for index in self.touched(session) if index in view)
        if touched:
            task = view[self.rng.choice(touched)]
            chosen = self.rng.choice(list(task.steps.values()))
            answer, before, after = session.run(lambda connection: self.ask(connection, task, chosen))
            self.compared += 1
            differences = check_task(task, answer, chosen, before, after, False)
            if differences:
                raise Mismatch(f"task {task.index} as {session.name} sees it:\n    " + "\n    ".join(differences[:20]),
                               [task.index])

    def compare_all(self):
        tasks = self.world.tasks()
        self.compare(tasks)
        limit = self.rng.choice([1, 5, 1000])
        before = time.time() - SLACK
        rows = self.monitor.execute(
            "select coalesce(jsonb_agg(to_jsonb(r) order by ordinality), '[]') from"
            " tasker.get_next_ready_tasks(%s) with ordinality r", (limit,)
        ).fetchone()[0] if "get_next_ready_tasks" in self.functions else None
        after = time.time() + SLACK
        if rows is not None:
            # What is being claimed is not committed, and not offered to others either.
            self.current = None
            busy = self.others_touch()[0]
            if any(session.call is not None for session in self.sessions):
                busy = set(tasks)
            differences = check_ready_tasks(rows, tasks.values(), busy, limit, before, after)
            if differences:
                raise Mismatch("get_next_ready_tasks:\n    " + "\n    ".join(differences[:20]),
                               [task.index for task in tasks.values() if any(task.uuid in d or f"task {task.index}" in d
                                                                             for d in differences)])
        self.compare_counts(tasks)
        if not any(session.xid for session in self.sessions):
            problems = self.monitor.execute("select object, problem from tasker.check_integrity()").fetchall()
            if problems:
                raise Mismatch("check_integrity(): " + "\n    ".join(map(str, problems[:20])),
                               [task.index for task in tasks.values() if any(task.uuid[:27] in p[0] for p in problems)])

    def compare_counts(self, tasks):
        row = self.monitor.execute("select to_jsonb(c) from tasker.get_system_health_counts() c").fetchone()[0]
        wanted = {name: 0 for name in row}
        for task in tasks.values():
            wanted["total_tasks"] += 1
            wanted[f"{task.state}_tasks"] += 1
            for step in task.steps.values():
                wanted["total_steps"] += 1
                wanted[f"{step.state}_steps"] += 1
        if row != wanted:
            wrong = {name: (row[name], wanted[name]) for name in row if row[name] != wanted[name]}
            raise Mismatch(f"get_system_health_counts: (said, wanted) {wrong}")

    # --- crashes ----------------------------------------------------------------------------------------------

    def crash(self, session):
        """A backend is killed, while one commits, or the server is restarted without a checkpoint."""
        self.crashes += 1
        committing = session.xid is not None and session.calls > 0 and self.rng.random() < 0.7
        if committing:
            session.call = Commit(self.touched(session))
            session.start(lambda connection: connection.execute("commit"))
            time.sleep(self.rng.random() * 0.001)
        if self.options.pg_ctl and self.rng.random() < 0.4:
            self.say(f"restart of the server{', ' + session.name + ' commits' if committing else ''}", [])
            command = [self.options.pg_ctl, "-D", self.options.data, "-l", self.options.log, "-m", "immediate", "-w"]
            subprocess.run([*command, "restart"], check=True, stdout=subprocess.DEVNULL)
        else:
            self.say(f"a backend is killed{', ' + session.name + ' commits' if committing else ''}", [])
            # The whole server goes through recovery then; any of them will do.
            os.kill(self.rng.choice(self.sessions).pid, signal.SIGKILL)
        self.recover()

    def recover(self):
        for session in self.sessions:
            if session.call is not None:
                session.done.wait()
        # Until the old connections are gone the server may not yet have noticed.
        last = time.time() + STUCK
        while True:
            try:
                self.monitor.execute("select 1")
                time.sleep(0.01)
            except psycopg.Error:
                break
            if time.time() > last:
                raise Mismatch("a backend was killed, and the server goes on")
        self.monitor = self.connect("model monitor")
        for session in self.sessions:
            if session.call is not None and session.call.commits:
                # One that the server has never heard of has left nothing, not even its number.
                status = self.monitor.execute(
                    "select case when %(x)s::xid8 < pg_snapshot_xmax(pg_current_snapshot())"
                    " then pg_xact_status(%(x)s::xid8) else 'aborted' end", {"x": session.xid}
                ).fetchone()[0]
                self.say(f"the commit of {session.name} is {status}", session.call.tasks)
                if status == "committed":
                    self.commit(session)
                elif session.error is None and any(op["changes"] for op in session.operations):
                    # (One that has written nothing may be forgotten.)
                    text = f"the commit of {session.name} was confirmed, and it is {status}"
                    raise Mismatch(text, session.call.tasks)
        for session in self.sessions:
            session.open()
        self.compare_all()

    # --- all of it --------------------------------------------------------------------------------------------

    def run(self):
        self.begin()
        end = time.time() + self.options.seconds if self.options.seconds else None
        while self.actions < self.options.actions and (end is None or time.time() < end):
            self.act()
            if self.actions % 100 == 0:
                self.compare_all()
        self.finish_all()

    def finish_all(self):
        """Everything is committed, and all is compared while nobody writes."""
        last = time.time() + STUCK
        while any(session.xid is not None for session in self.sessions):
            for session in self.sessions:
                if session.xid is not None and session.call is None:
                    self.current = session
                    self.end_transaction(session)
                    self.settle()
            self.settle()
            if time.time() > last:
                raise Mismatch("transactions do not end")
        self.current = self.sessions[0]
        self.compare_all()

    def close(self):
        for session in self.sessions:
            session.inbox.put(None)
            if session.call is None and session.connection is not None:
                session.connection.close()
        if self.monitor is not None:
            self.monitor.close()

    def report(self):
        states = {}
        for task in self.world.tasks().values():
            states[task.state] = states.get(task.state, 0) + 1
        tasks = self.world.tasks().values()
        made = sum(1 for task in tasks for number in task.steps if number > len(task.template.steps))
        steps = sum(len(task.steps) for task in tasks)
        return (
            f"seed {self.seed}: {self.actions} actions, {self.tasks_made} tasks of {steps} steps, {made} of them"
            f" created while they ran, {self.compared} comparisons, {self.refused} refusals, {self.waits} waits,"
            f" {self.deadlocks} deadlocks of longer transactions, {self.serialization} serialization failures,"
            f" {self.crashes} crashes; tasks {states}"
        )


class Commit:
    """What a session does that commits."""

    commits = True
    waiting = False
    text = "commit"

    def __init__(self, tasks):
        self.tasks, self.steps = tasks, set()


def shorten(value):
    text = str(value)
    return text if len(text) < 160 else text[:157] + "..."


def story(driver, mismatch):
    """What was done to the tasks that are concerned."""
    lines = [text for text, tasks in driver.history if not mismatch.tasks or tasks & mismatch.tasks or not tasks]
    shown = lines if len(lines) < 120 else lines[:20] + ["  ..."] + lines[-100:]
    out = [f"MISMATCH, seed {driver.seed}, action {driver.actions}: {mismatch}", "history of what it concerns:"] + shown
    for index in sorted(mismatch.tasks)[:2]:
        if index in driver.world:
            task = driver.world[index]
            out.append(f"task {index} {task.uuid} of {task.template.namespace}/{task.template.name}, its steps:")
            for step in task.steps.values():
                kind = task.template.type_of(step.named)
                out.append(f"  {step.number} {step.name!r} {kind} {step.state} parents {step.parents}")
            out.append("definition (type, parents):")
            for spec in task.template.steps:
                name = spec["name"]
                kind = task.template.type_of(name)
                out.append(f"  {task.template.index[name] + 1} {name!r} {kind} {task.template.parents[name]}")
    return "\n".join(out)


def one_run(options, seed):
    """Returns the driver, and the mismatch or None."""
    driver = Driver(options, seed)
    try:
        driver.run()
        return driver, None
    except Mismatch as mismatch:
        return driver, mismatch
    finally:
        driver.close()


def shrink(options, driver, mismatch):
    """Looks for a shorter history with a mismatch, each in a database of its own: fewer sessions, smaller tasks, fewer
    of them, and other seeds. Returns the shortest that was found."""
    best = driver, mismatch
    last = time.time() + options.shrink
    conninfo, attempt = options.conninfo, 0
    while time.time() < last:
        attempt += 1
        rng = random.Random(attempt)
        name = f"shrink_{os.getpid()}"
        with psycopg.connect(conninfo, autocommit=True) as connection:
            connection.execute(f"drop database if exists {name} with (force)")
            connection.execute(f"create database {name}")
        options.conninfo = psycopg.conninfo.make_conninfo(conninfo, dbname=name)
        with psycopg.connect(options.conninfo, autocommit=True) as connection:
            connection.execute("create extension tasker")
        options.sessions = rng.choice([1, 1, 2, options.sessions])
        options.steps = rng.choice([4, 8, options.steps])
        options.templates = rng.choice([3, 4])  # both namespaces have some
        options.tasks = rng.choice([1, 2, 4])
        options.actions = best[0].actions - 1
        tried = one_run(options, rng.choice([driver.seed, rng.randrange(1_000_000)]))
        if tried[1] is not None:
            best = tried
    return best


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("conninfo")
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    parser.add_argument("--actions", type=int, default=1000)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--sessions", type=int, default=4)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--tasks", type=int, default=10)
    parser.add_argument("--total", type=int, default=200)
    parser.add_argument("--templates", type=int, default=16)
    parser.add_argument("--crashes", action="store_true")
    parser.add_argument("--data")
    parser.add_argument("--pg-ctl")
    parser.add_argument("--log")
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("--shrink", type=float, metavar="SECONDS")
    options = parser.parse_args()
    driver, mismatch = one_run(options, options.seed)
    if mismatch is not None:
        print(story(driver, mismatch), flush=True)
        if options.shrink:
            options.crashes = False
            print("the shortest that was found:", story(*shrink(options, driver, mismatch)), flush=True)
        sys.exit(1)
    print(driver.report(), flush=True)


if __name__ == "__main__":
    main()

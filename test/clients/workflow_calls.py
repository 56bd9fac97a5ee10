"""The calls of the model test (workflow_model.py): what is asked of the server, and what the model makes of it.

A maker looks at what its session can see and returns a Call, or None where there is nothing of the kind to do. Choices
depend on the seed and on the model alone, so that the same seed makes the same history, as far as nobody had to wait.
"""

import json
import time

from psycopg.types.json import Jsonb

from workflow_answers import step_uuid
from workflow_dags import HANDLERS, NAMESPACES
from workflow_rules import CREATORS, FINISHED, Refused

HOUR = 3600
UNKNOWN = "01890000-0000-7000-8000-000000000001"


class Call:
    """One call: run() is executed in the session's thread and returns rows; judge(model, rows, span) gives the
    operation that the model has to do and what the call must have answered."""

    def __init__(self, text, run, judge, steps=(), tasks=()):
        self.text, self.run, self.judge = text, run, judge
        self.waiting = self.commits = self.late = False
        self.operation = {}
        self.steps = set(steps)  # that it asks for
        self.tasks = set(tasks) | {index for index, _ in self.steps}


class Difference(Exception):
    """The server has answered what the model cannot accept."""


def simple(text, query, parameters, operation, answer=lambda value: value, wanted=lambda value: value, **where):
    """A call with one value, which is what the operation returns."""

    def run(connection):
        return connection.execute(query, parameters).fetchone()[0]

    def judge(model, said, span):
        operation["span"] = span
        operation["late"] = call.late
        model_says = wanted(model.view().apply(operation))
        if answer(said) != model_says:
            raise Difference(f"it answered {said!r}, the model {model_says!r}")
        return operation

    def must_fail(model, span):
        operation["span"] = span
        model.view().apply(operation)

    call = Call(text, run, judge, **where)
    call.must_fail = must_fail
    call.operation = operation
    return call


def shown(value):
    return json.dumps(value, ensure_ascii=False)


def some_json(rng):
    return rng.choice([{"v": rng.randint(0, 999)}, [rng.randint(0, 9)], "text", 3.5, True, {"a": {"b": ["ü", None]}}])


def jsonb(value):
    return None if value is None else Jsonb(value[0])


class Maker:
    """Makes calls for one session. `model` is the driver: rng, view(), templates, free(index, number)."""

    def __init__(self, model):
        self.model, self.rng = model, model.rng

    # --- what to choose from ----------------------------------------------------------------------------------

    def steps(self, test):
        """Steps of the view that pass the test; mostly those that nobody else has in hand."""
        view, rng = self.model.view(), self.rng
        careful = rng.random() < 0.85
        return [
            (task, step)
            for _, task in sorted(view.tasks().items())
            for step in task.steps.values()
            if test(task, step) and not (careful and self.model.in_hand(task.index, step.number))
        ]

    def running(self):
        return self.steps(lambda task, step: step.state == "in_progress")

    def any_task(self, test=lambda task: True):
        found = [task for _, task in sorted(self.model.view().tasks().items()) if test(task)]
        return self.rng.choice(found[-25:]) if found else None

    def one_running(self):
        """A step in progress; now and then any step at all."""
        if self.rng.random() < 0.06:
            task = self.any_task()
            return (task, self.rng.choice(list(task.steps.values()))) if task else None
        found = self.running()
        points = self.model.meeting_points()
        met = [(task, step) for task, step in found if (task.index, step.number) in points]
        if met and self.rng.random() < 0.6:
            return self.rng.choice(met)
        return self.rng.choice(found) if found else None

    def token(self, step):
        chance = self.rng.random()
        if chance < 0.03:
            return (step.token or 0) + 1
        return step.token if chance < 0.6 else None

    # --- creating and claiming --------------------------------------------------------------------------------

    def create(self):
        rng = self.rng
        latest = rng.random() < 0.5
        template = rng.choice(self.model.templates)
        if latest:
            same = [t for t in self.model.templates if (t.namespace, t.name) == (template.namespace, template.name)]
            template = same[-1]
        run_at = rng.choices([None, -HOUR, HOUR, 0.03], [17, 1, 1, 1])[0]
        run_at = None if run_at is None else round(time.time() + run_at, 6)
        facts = {
            "priority": rng.choice([0, 0, rng.randint(0, 9)]),
            "correlation_id": rng.choice([None, None, f"{rng.getrandbits(128):032x}"]),
            "parent_correlation_id": rng.choice([None, None, f"{rng.getrandbits(128):032x}"]),
            "tags": rng.choice([None, {"a": 1}, ["x", "y"]]),
            "initiator": rng.choice([None, "some'one"]),
            "source_system": rng.choice([None, "model"]),
            "reason": rng.choice([None, 'a "reason"']),
            "run_at": run_at,
        }
        for key in ("correlation_id", "parent_correlation_id"):
            text = facts[key]
            if text is not None:
                facts[key] = "-".join([text[:8], text[8:12], text[12:16], text[16:20], text[20:]])
        count = rng.choice([1, 1, 1, 2, 3])
        keys = [rng.choice([None, None, None, f"key {rng.randint(0, 12)}"]) for _ in range(count)]
        contexts = [some_json(rng) for _ in range(count)]
        common = (
            "priority => %(priority)s, correlation_id => %(correlation_id)s, parent_correlation_id =>"
            " %(parent_correlation_id)s, tags => %(json_tags)s, initiator => %(initiator)s, source_system =>"
            " %(source_system)s, reason => %(reason)s, run_at => to_timestamp(%(run_at)s)"
        )
        parameters = dict(facts)
        parameters["json_tags"] = None if facts["tags"] is None else Jsonb(facts["tags"])
        parameters.update(namespace=template.namespace, name=template.name)
        parameters["version"] = None if latest else template.version
        if count == 1:
            query = (
                "select array[tasker.create_task(%(namespace)s, %(name)s, %(context)s, version => %(version)s,"
                f" identity_key => %(key)s, {common})]"
            )
            parameters.update(context=Jsonb(contexts[0]), key=keys[0])
        else:
            query = (
                "select tasker.create_tasks(%(namespace)s, %(name)s, %(contexts)s, version => %(version)s,"
                f" identity_keys => %(keys)s, {common})"
            )
            parameters["contexts"] = [Jsonb(context) for context in contexts]
            parameters["keys"] = None if keys == [None] * count and rng.random() < 0.8 else keys

        def run(connection):
            uuids = [str(uuid) for uuid in connection.execute(query, parameters).fetchone()[0]]
            waiting = connection.execute(
                "select task_uuid::text from tasker.tasks where task_uuid = any(%s::uuid[])"
                " and current_state = 'pending'",
                (uuids,),
            ).fetchall()
            return uuids, {row[0] for row in waiting}

        def judge(model, answer, span):
            said, waiting = answer
            known = {
                task.facts["identity_key"]: task.uuid
                for task in model.view().tasks().values()
                if task.template is template and task.facts["identity_key"] is not None
            }
            tasks = []
            for uuid, key, context in zip(said, keys, contexts):
                if key in known:
                    if uuid != known[key]:
                        raise Difference(f"{key} is task {known[key]}, and it created {uuid}")
                    continue
                if key is not None:
                    known[key] = uuid
                mine = dict(facts, context=context, identity_key=key)
                tasks.append((model.next_index(), uuid, mine))
            if len(said) != count:
                raise Difference(f"{count} tasks were asked for, {len(said)} are there")
            scheduled = set()
            if run_at is not None and run_at > span[1]:
                scheduled = {uuid for _, uuid, _ in tasks}
            elif run_at is not None and run_at >= span[0]:  # then only the server knows
                scheduled = waiting
            return {"do": "create", "tasks": tasks, "template": template, "scheduled": scheduled, "span": span}

        what = f"create {count} of {template.namespace}/{template.name}:{template.version}, keys {keys}"
        return Call(f"{what}, run_at {run_at and round(run_at - time.time(), 2)}", run, judge)

    def claim(self):
        rng = self.rng
        namespace = rng.choice(NAMESPACES)
        batch = rng.choice([1, 2, 5, 10, 40])
        worker = rng.choice([None, "w1", 'w"2'])
        lease = rng.choices([None, 2 * HOUR, 0.001], [5, 4, 2])[0]
        handlers = rng.choice([None, None, None, rng.sample(HANDLERS, 2)])
        # A handler that no step has in this namespace is none.
        handlers = handlers and [h for h in handlers if h in self.model.handlers[namespace]]
        query = (
            "select workflow_step_uuid::text, task_uuid::text, task_name, step_name, handler, attempts, inputs,"
            " context, dependency_results, checkpoint, correlation_id::text, lease_token,"
            " extract(epoch from lease_expires_at)::float8"
            " from tasker.claim_steps(%s, %s, %s, make_interval(secs => %s), %s)"
        )

        def run(connection):
            return connection.execute(query, (namespace, batch, worker, lease, handlers)).fetchall()

        def judge(model, rows, span):
            return model.judge_claim(namespace, batch, worker, lease, handlers, rows, span)

        call = Call(f"claim {batch} of {namespace} by {worker}, lease {lease}, {handlers}", run, judge)
        call.claims = True
        return call

    # --- what workers say -------------------------------------------------------------------------------------

    def choices(self, task, step):
        """What a completion names: mostly what fits. Returns choices for the model and JSON for the server."""
        rng, template = self.rng, task.template
        kind = template.type_of(step.named)
        if kind not in CREATORS:
            if rng.random() < 0.97:
                return None, None
            return rng.choice([([], []), ([(step.named, None, None)], [step.named]), ("nonsense", {"a": 1})])
        if rng.random() < 0.08:
            return None, None
        if rng.random() < 0.04:
            return "nonsense", rng.choice([{"a": 1}, "text", [1], [["x"]], [{"as": "x"}], [{"name": 1}], 7])
        fitting = [name for name in template.children(step.named) if template.is_chosen(name)]
        # One that also depends on what does not exist is refused.
        fitting = [
            name
            for name in fitting
            if rng.random() < 0.04 or all(p == step.named or task.instances(p) for p in template.parents[name])
        ]
        names = [name for name in fitting if rng.random() < 0.6]
        if kind == "batch" and fitting and rng.random() < 0.8:
            names = [rng.choice(fitting) for _ in range(rng.randint(1, 6))]
        if rng.random() < 0.03:
            names.append(rng.choice(list(template.by_name) + ["no such step"]))
        rng.shuffle(names)
        choices, sent = [], []
        for i, name in enumerate(names):
            called = f"{name} no. {task.next_number}.{i}" if rng.random() < 0.2 else None
            if called and rng.random() < 0.2:
                of_template = rng.choice(list(template.by_name))
                called = rng.choice(["the same", f"{name}_{rng.randint(1, 4)}", name, of_template])
            inputs = (some_json(rng),) if rng.random() < 0.3 else None
            choices.append((name, called, inputs))
            if called is None and inputs is None and rng.random() < 0.7:
                sent.append(name)
                continue
            one = {"name": name}
            if called is not None:
                one["as"] = called
            if inputs is not None:
                one["inputs"] = inputs[0]
            sent.append(one)
        return choices, sent

    def complete(self):
        found = self.one_running()
        if found is None:
            return None
        task, step = found
        results = None if self.rng.random() < 0.2 else (some_json(self.rng),)
        choices, sent = self.choices(task, step)
        token = self.token(step)
        operation = {"do": "complete", "steps": [(task.index, step.number, results, choices, token)]}
        return simple(
            f"complete {task.index}.{step.number} {shown(sent)} token {token} results {results}",
            "select tasker.complete_step(%s, %s, %s, %s)",
            (step_uuid(task, step.number), jsonb(results), None if sent is None else Jsonb(sent), token),
            operation,
            steps=[(task.index, step.number)],
        )

    def complete_many(self):
        found = self.running()
        if len(found) < 2:
            return None
        some = self.rng.sample(found, min(len(found), self.rng.randint(2, 8)))
        items = [
            (task.index, step.number, (some_json(self.rng),) if self.rng.random() < 0.7 else None, None, None)
            for task, step in some
        ]
        return simple(
            f"complete {[item[:2] for item in items]}",
            "select tasker.complete_steps(%s::uuid[], %s::jsonb[])",
            ([step_uuid(task, step.number) for task, step in some], [jsonb(item[2]) for item in items]),
            {"do": "complete", "steps": items},
            wanted=lambda state: len(items),
            steps=[item[:2] for item in items],
        )

    def fail(self):
        found = self.one_running()
        if found is None:
            return None
        task, step = found
        rng = self.rng
        error = rng.choice([{"message": "it's broken"}, {"code": 7}, "text", [1, None]])
        retryable = rng.random() < 0.85
        delay = rng.choice([None, None, 0, HOUR])
        token = self.token(step)
        return simple(
            f"fail {task.index}.{step.number} retryable {retryable} backoff {delay} token {token}",
            "select tasker.fail_step(%s, %s, %s, %s, %s)",
            (step_uuid(task, step.number), Jsonb(error), retryable, delay, token),
            {"do": "fail", "task": task.index, "step": step.number, "error": error, "retryable": retryable,
             "backoff": delay, "token": token},
            steps=[(task.index, step.number)],
        )

    def checkpoint(self):
        found = self.one_running()
        if found is None:
            return None
        task, step = found
        checkpoint = self.rng.choice([None, {"at": self.rng.randint(0, 99)}])
        token = self.token(step)
        return simple(
            f"checkpoint {task.index}.{step.number} {checkpoint} token {token}",
            "select tasker.checkpoint_step(%s, %s, %s)",
            (step_uuid(task, step.number), None if checkpoint is None else Jsonb(checkpoint), token),
            {"do": "checkpoint", "task": task.index, "step": step.number, "checkpoint": checkpoint, "token": token},
            answer=lambda said: said or None,
            steps=[(task.index, step.number)],
        )

    def extend(self):
        found = self.running()
        if not found:
            return None
        some = self.rng.sample(found, min(len(found), self.rng.randint(1, 4)))
        items = [(task.index, step.number, self.token(step)) for task, step in some]
        lease = self.rng.choice([HOUR, 4 * HOUR])
        return simple(
            f"extend {items}",
            "select tasker.extend_step_lease(%s::uuid[], make_interval(secs => %s), %s::bigint[])",
            ([step_uuid(task, step.number) for task, step in some], lease, [item[2] for item in items]),
            {"do": "extend", "steps": items, "lease": lease},
            steps=[item[:2] for item in items],
        )

    def release(self):
        found = self.running()
        if not found:
            return None
        some = self.rng.sample(found, min(len(found), self.rng.randint(1, 4)))
        items = [(task.index, step.number) for task, step in some]
        return simple(
            f"release {items}",
            "select tasker.release_steps(%s::uuid[])",
            ([step_uuid(task, step.number) for task, step in some],),
            {"do": "release", "steps": items},
            steps=items,
        )

    def set_backoff(self):
        found = self.steps(lambda task, step: step.state in ("in_progress", "waiting_for_retry"))
        if not found:
            return None
        task, step = self.rng.choice(found)
        delay = self.rng.choice([0, 0, HOUR])
        return simple(
            f"set_step_backoff {task.index}.{step.number} {delay}",
            "select tasker.set_step_backoff_atomic(%s, %s)",
            (step_uuid(task, step.number), delay),
            {"do": "set_backoff", "task": task.index, "step": step.number, "backoff": delay},
            steps=[(task.index, step.number)],
        )

    # --- what people say --------------------------------------------------------------------------------------

    def stop(self):
        task = self.any_task(lambda t: t.state not in FINISHED or self.rng.random() < 0.2)
        if task is None:
            return None
        if self.rng.random() < 0.7:
            return simple(
                f"cancel {task.index}",
                "select tasker.cancel_task(%s, %s)",
                (task.uuid, self.rng.choice([None, "it's over"])),
                {"do": "stop", "task": task.index, "target": "cancelled"},
                tasks=[task.index],
            )
        target = self.rng.choice(["cancelled", "error", "resolved_manually"])
        before = self.rng.choice([task.state, task.state, "blocked_by_failures", "steps_in_process", "complete"])
        return simple(
            f"transition {task.index} {before} -> {target}",
            "select tasker.transition_task_state_atomic(%s, %s, %s, %s)",
            (task.uuid, before, target, UNKNOWN),
            {"do": "stop", "task": task.index, "from": before, "target": target},
            tasks=[task.index],
        )

    def retry(self):
        task = self.any_task(lambda t: t.count("error", "cancelled", "waiting_for_retry") or self.rng.random() < 0.05)
        if task is None:
            return None
        return simple(
            f"retry {task.index}",
            "select tasker.retry_task(%s)",
            (task.uuid,),
            {"do": "retry", "task": task.index},
            tasks=[task.index],
        )

    def reset(self):
        task = self.any_task()
        if task is None:
            return None
        step = self.rng.choice(list(task.steps.values()))
        cascade = self.rng.random() < 0.5
        return simple(
            f"reset {task.index}.{step.number} cascade {cascade}",
            "select tasker.reset_step(%s, %s)",
            (step_uuid(task, step.number), cascade),
            {"do": "reset", "task": task.index, "step": step.number, "cascade": cascade},
            answer=lambda said: said or None,
            tasks=[task.index],
        )

    def resolve(self):
        task = self.any_task(lambda t: t.state not in FINISHED or self.rng.random() < 0.05)
        if task is None:
            return None
        stuck = [step for step in task.steps.values() if step.state in ("error", "waiting_for_retry")]
        step = self.rng.choice(stuck if stuck and self.rng.random() < 0.7 else list(task.steps.values()))
        results = None if self.rng.random() < 0.2 else (some_json(self.rng),)
        return simple(
            f"resolve {task.index}.{step.number}",
            "select tasker.resolve_step_manually(%s, %s, %s, %s)",
            (step_uuid(task, step.number), jsonb(results), "o'person", self.rng.choice([None, "why"])),
            {"do": "resolve", "task": task.index, "step": step.number, "results": results},
            tasks=[task.index],
        )

    def lose(self):
        """Leases that have ended are collected."""
        query = "select tasker.cleanup_orphaned_records('1 day')"
        ask = "select workflow_step_uuid::text, current_state, attempts, error from tasker.workflow_steps"
        soon = time.time() + HOUR
        if not self.steps(lambda _, step: step.state == "in_progress" and step.lease_end[1] < soon):
            return None

        def run(connection):
            count = connection.execute(query).fetchone()[0]
            return count, connection.execute(ask).fetchall()

        def judge(model, said, span):
            return model.judge_lost(said, span)

        return Call("lose leases", run, judge)

    def wrong(self):
        """A step that does not exist."""
        query = self.rng.choice(
            ["select tasker.complete_step(%s)", "select tasker.fail_step(%s, '{}')", "select tasker.step_results(%s)"]
        )
        task = self.any_task()
        uuid = UNKNOWN if task is None else self.rng.choice([UNKNOWN, step_uuid(task, 99999), task.uuid])

        def must_fail(model, span):
            raise Refused("42704")

        def judge(model, said, span):
            raise Difference("it did not fail")

        call = Call(f"{query} {uuid[-8:]}", lambda c: c.execute(query, (uuid,)).fetchall(), judge)
        call.must_fail = must_fail
        return call


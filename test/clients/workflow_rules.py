"""The rules of workflows in plain code, for the model test (workflow_model.py).

A World is what has been committed, as the test itself has recorded it. A step has what has been done to it; everything
that can be said of it beyond that (how many parents are left, whether it is ready, where its task rests) is computed
from scratch whenever it is asked for. Nothing here looks at the database, and nothing is taken from the engine's code:
the rules are those of the documentation.
"""

DONE = ("complete", "resolved_manually")
FINISHED = ("complete", "error", "cancelled", "resolved_manually")
ACTIVE = ("enqueued", "in_progress")
CREATORS = ("decision", "batch")

# What may follow: in the course of work, and when work is done again (tasker-core's states and life cycles).
_TASK_MOVES = {
    "pending": "initializing cancelled error",
    "initializing": "enqueuing_steps waiting_for_dependencies complete cancelled error",
    "enqueuing_steps": "steps_in_process cancelled error",
    "steps_in_process": "evaluating_results waiting_for_retry cancelled error",
    "evaluating_results": "complete enqueuing_steps waiting_for_dependencies blocked_by_failures waiting_for_retry"
    " cancelled error",
    "waiting_for_dependencies": "evaluating_results cancelled error",
    "waiting_for_retry": "enqueuing_steps evaluating_results cancelled error",
    "blocked_by_failures": "error resolved_manually cancelled enqueuing_steps",
    "complete": "pending",
    "error": "resolved_manually pending",
    "cancelled": "pending",
    "resolved_manually": "pending",
}
_STEP_MOVES = {
    "pending": "enqueued in_progress error cancelled resolved_manually",
    "enqueued": "in_progress error cancelled resolved_manually pending",
    "in_progress": "enqueued_for_orchestration enqueued_as_error_for_orchestration complete error cancelled"
    " resolved_manually pending",
    "enqueued_for_orchestration": "complete error cancelled resolved_manually pending",
    "enqueued_as_error_for_orchestration": "waiting_for_retry error cancelled resolved_manually pending",
    "waiting_for_retry": "pending error cancelled resolved_manually",
    "complete": "pending",
    "error": "resolved_manually pending",
    "cancelled": "resolved_manually pending",
    "resolved_manually": "pending",
}
TASK_MOVES = {state: after.split() for state, after in _TASK_MOVES.items()}
STEP_MOVES = {state: after.split() for state, after in _STEP_MOVES.items()}


class Refused(Exception):
    """The call must fail, with one of these SQLSTATEs."""

    def __init__(self, *sqlstates):
        super().__init__(" or ".join(sqlstates))
        self.sqlstates = sqlstates


class LostUpdate(Exception):
    """Two transactions have changed the same, and neither has waited for the other."""


class Template:
    """A definition; the order of its steps is the server's, which has been looked at (check_order)."""

    def __init__(self, namespace, name, version, definition, order):
        self.namespace, self.name, self.version = namespace, name, version
        by_name = {step["name"]: step for step in definition["steps"]}
        self.steps = [by_name[name] for name in order]
        self.by_name = by_name
        self.parents = {name: list(step.get("depends_on", [])) for name, step in by_name.items()}
        self.index = {name: i for i, name in enumerate(order)}
        self.dynamic = set()
        for step in self.steps:
            name = step["name"]
            if any(p in self.dynamic or self.type_of(p) in CREATORS for p in self.parents[name]):
                self.dynamic.add(name)

    def type_of(self, name):
        return self.by_name[name].get("type", "standard")

    def is_chosen(self, name):
        """Is the step created only when a completion names it?"""
        return self.type_of(name) != "deferred" and any(self.type_of(p) in CREATORS for p in self.parents[name])

    def children(self, name):
        return [step["name"] for step in self.steps if name in self.parents[step["name"]]]

    def check_order(self):
        """What must be true of the order: parents first, and what is created later last."""
        for step in self.steps:
            name = step["name"]
            if any(self.index[p] >= self.index[name] for p in self.parents[name]):
                return f"step {name!r} comes before what it depends on"
        flags = [step["name"] in self.dynamic for step in self.steps]
        return None if flags == sorted(flags) else "steps that are created later do not come last"


class Step:
    """One step: what was done to it."""

    __slots__ = (
        "number named name parents path attempts retryable results error checkpoint own_inputs processor backoff"
        " due failed_at attempted_at token lease_end ready_since"
    ).split()

    def __init__(self, number, named, name, parents, own_inputs=None):
        self.number, self.named, self.name = number, named, name
        self.parents = list(parents)
        self.path = ["pending"]
        self.attempts = 0
        self.retryable = True
        self.results = self.error = self.checkpoint = self.processor = self.backoff = None
        self.own_inputs = own_inputs
        # Times are spans of time that they must lie in, (earliest, latest), or None.
        self.due = self.failed_at = self.attempted_at = None
        self.token = self.lease_end = None
        self.ready_since = None

    @property
    def state(self):
        return self.path[-1]

    def copy(self):
        other = Step.__new__(Step)
        for slot in Step.__slots__:
            setattr(other, slot, getattr(self, slot))
        other.parents = list(self.parents)
        other.path = list(self.path)
        return other


class Task:
    """One task: its steps, and what it was created with."""

    def __init__(self, index, uuid, template, facts):
        self.index, self.uuid, self.template, self.facts = index, uuid, template, facts
        self.steps = {}
        self.path = ["pending"]
        self.next_number = len(template.steps) + 1

    def copy(self):
        other = Task.__new__(Task)
        other.__dict__.update(self.__dict__)
        other.steps = {number: step.copy() for number, step in self.steps.items()}
        other.path = list(self.path)
        return other

    @property
    def state(self):
        return self.path[-1]

    def move(self, state):
        if self.state != state:
            self.path.append(state)

    # --- what follows from what was done ----------------------------------------------------------------------

    def spec(self, step):
        return self.template.by_name[step.named]

    def remaining(self, step):
        return sum(1 for p in step.parents if self.steps[p].state not in DONE)

    def children(self, step):
        return [other for other in self.steps.values() if step.number in other.parents]

    def priority(self, step):
        return self.spec(step).get("priority", self.facts["priority"])

    def max_attempts(self, step):
        return self.spec(step).get("max_attempts", 3)

    def inputs(self, step):
        return self.spec(step).get("inputs") if step.own_inputs is None else step.own_inputs[0]

    def retry_eligible(self, step):
        return step.attempts == 0 or (step.retryable and step.attempts < self.max_attempts(step))

    def ready(self, step, before, after):
        """True, False, or None where it becomes ready between the two times."""
        if step.state not in ("enqueued", "waiting_for_retry") or self.remaining(step) > 0:
            return False
        if step.due is None or step.due[1] <= before:
            return True
        return False if step.due[0] > after else None

    def count(self, *states):
        return sum(1 for step in self.steps.values() if step.state in states)

    def resting_state(self):
        if self.count(*ACTIVE):
            return "steps_in_process"
        if self.count("waiting_for_retry"):
            return "waiting_for_retry"
        if self.count("error"):
            return "blocked_by_failures"
        return "complete"

    def levels(self):
        levels = {}

        def level(number):
            if number not in levels:
                levels[number] = 1 + max((level(p) for p in self.steps[number].parents), default=-1)
            return levels[number]

        for number in self.steps:
            level(number)
        return levels

    def depths(self):
        """The distance of each step from the nearest root."""
        depths = {}

        def depth(number):
            if number not in depths:
                parents = self.steps[number].parents
                depths[number] = 1 + min(depth(p) for p in parents) if parents else 0
            return depths[number]

        for number in self.steps:
            depth(number)
        return depths

    def ancestors(self, step):
        """All that the step depends on, with the length of the shortest way."""
        found, ring, distance = {}, list(step.parents), 1
        while ring:
            for number in ring:
                found.setdefault(number, distance)
            ring = [p for number in ring for p in self.steps[number].parents if p not in found]
            distance += 1
        return found

    def dependency_results(self, step):
        if not step.parents:
            return None
        return {self.steps[p].name: self.steps[p].results for p in sorted(step.parents)}

    # --- steps that come to life ------------------------------------------------------------------------------

    def instances(self, named):
        return [step for step in self.steps.values() if step.named == named]

    def add_step(self, number, named, name, parents, own_inputs=None):
        step = Step(number, named, name, sorted(parents), own_inputs)
        step.retryable = self.template.by_name[named].get("retryable", True)
        self.steps[number] = step
        return step

    def enqueue_free(self, span, due=None):
        """What waits for nothing any more goes into the queue."""
        for step in self.steps.values():
            if step.state == "pending" and self.remaining(step) == 0:
                step.path.append("enqueued")
                step.due = due
                step.ready_since = due or span

    def begin(self, scheduled, span, due):
        for i, spec in enumerate(self.template.steps):
            if spec["name"] not in self.template.dynamic:
                parents = [self.template.index[p] + 1 for p in self.template.parents[spec["name"]]]
                self.add_step(i + 1, spec["name"], spec["name"], parents)
        self.enqueue_free(span, due)
        if not scheduled:
            self.move("steps_in_process")

    def awaited(self, named, seen):
        """Decisions still to come that may create the step, which does not exist yet."""
        found = set()
        if named in seen:
            return found
        seen.add(named)
        for parent in self.template.parents[named]:
            existing = self.instances(parent)
            if not existing:
                found |= self.awaited(parent, seen)
            elif self.template.type_of(parent) in CREATORS:
                found |= {step.number for step in existing if step.state not in FINISHED}
        return found

    def parents_of_deferred(self, named):
        parents, seen = set(), set()
        for parent in self.template.parents[named]:
            existing = self.instances(parent)
            parents |= {step.number for step in existing}
            if not existing:
                parents |= self.awaited(parent, seen)
        return parents

    def new_step(self, named, name, parents, own_inputs=None):
        number, self.next_number = self.next_number, self.next_number + 1
        return self.add_step(number, named, name, parents, own_inputs)

    def choose(self, step, choices):
        """Creates the steps that a completion names: choices of (named, as, inputs in a tuple or None)."""
        template, kind = self.template, self.template.type_of(step.named)
        if choices and kind not in CREATORS:
            raise Refused("22023")
        taken = {other.name for other in self.steps.values()}
        for named, called, _ in choices:
            if called is not None:
                if called in taken or (called in template.by_name and (called != named or self.instances(named))):
                    raise Refused("22023")
                taken.add(called)
        for named, _, _ in choices:
            if named not in template.by_name or step.named not in template.parents[named]:
                raise Refused("22023")
            if not template.is_chosen(named):
                raise Refused("22023")
        names = [named for named, _, _ in choices]
        if kind == "decision" and len(set(names)) < len(names):
            raise Refused("22023")
        ordinals = {named: len(self.instances(named)) for named in names}
        several = {named for named in names if ordinals[named] > 0 or names.count(named) > 1}
        for named, called, inputs in sorted(choices, key=lambda choice: template.index[choice[0]]):
            ordinals[named] += 1
            if called is None:
                called = named
                while named in several:  # until the number makes it a name of its own
                    called = f"{named}_{ordinals[named]}"
                    if called not in taken and called not in template.by_name:
                        break
                    ordinals[named] += 1
                taken.add(called)
            parents = {step.number}
            for parent in template.parents[named]:
                if parent != step.named:
                    existing = self.instances(parent)
                    if not existing:
                        raise Refused("22023")
                    parents |= {other.number for other in existing}
            self.new_step(named, called, parents, inputs)

    def create_followers(self, before):
        """What comes after steps that have been created: see the header of src/workflow/expansion.hpp. `before`: the
        steps that there were; a step that waits already gets new ones as parents, and no others."""
        template = self.template
        for spec in template.steps:
            named = spec["name"]
            if named not in template.dynamic or template.is_chosen(named):
                continue
            existing = self.instances(named)
            present = [p for p in template.parents[named] if self.instances(p)]
            if template.type_of(named) == "deferred":
                if not present:
                    continue
                parents = self.parents_of_deferred(named)
                if not existing:
                    self.new_step(named, named, parents)
                for step in existing:
                    if step.state == "pending":  # one that has begun does not wait any more
                        step.parents = sorted(set(step.parents) | (parents - before))
            elif not existing and len(present) == len(template.parents[named]):
                parents = {step.number for p in present for step in self.instances(p)}
                self.new_step(named, named, parents)


def _moves(before, after):
    """States that were gone through, and the one before them."""
    return (before[-1], after[len(before) :])


def _changes(before, after):
    steps = {}
    for number, step in after.steps.items():
        old = before.steps.get(number)
        if old is None:
            steps[number] = step.copy()
            continue
        facts = {
            slot: getattr(step, slot)
            for slot in Step.__slots__
            if slot != "path" and getattr(step, slot) != getattr(old, slot)
        }
        moves = _moves(old.path, step.path)
        if facts or moves[1]:
            steps[number] = (facts, moves)
    return _moves(before.path, after.path), after.next_number - before.next_number, steps


def _go_on(what, path, moves):
    if moves[1] and path[-1] != moves[0]:
        raise LostUpdate(f"{what} was {moves[0]} and went to {moves[1]}, now it is {path[-1]}")
    path.extend(moves[1])


def _merge(task, change):
    moves, added, steps = change
    _go_on(f"task {task.index}", task.path, moves)
    if added and any(number in task.steps for number, step in steps.items() if isinstance(step, Step)):
        raise LostUpdate(f"steps of task {task.index} were created twice")
    task.next_number += added
    for number, step in steps.items():
        if isinstance(step, Step):
            task.steps[number] = step.copy()
            continue
        facts, moves = step
        _go_on(f"step {task.index}.{number}", task.steps[number].path, moves)
        for slot, value in facts.items():
            setattr(task.steps[number], slot, value)


class World:
    """All tasks, by their number; a view on another World copies what it changes."""

    def __init__(self, below=None):
        self.below = below
        self.own = {}

    def tasks(self):
        merged = {} if self.below is None else dict(self.below.tasks())
        merged.update(self.own)
        return merged

    def __getitem__(self, index):
        if index in self.own:
            return self.own[index]
        return self.below[index]

    def __contains__(self, index):
        return index in self.own or (self.below is not None and index in self.below)

    def change(self, index):
        if index not in self.own:
            self.own[index] = self.below[index].copy()
        return self.own[index]

    def apply(self, operation):
        """Does what a call has done, and returns what it must have answered. Raises Refused."""
        return OPERATIONS[operation["do"]](self, operation)

    # What a call has changed is judged by what was there when it had all the locks that it needs. It is kept as the
    # change of single facts, which are carried to the world when the transaction commits: whatever others have
    # committed meanwhile, they cannot have changed the same.

    def changes_of(self, operation):
        """What the operation changes in this world, which stays as it is."""
        after = World(self)
        after.apply(operation)
        changes = {}
        for index, task in after.own.items():
            if index in self:
                changes[index] = _changes(self[index], task)
            else:
                changes[index] = task.copy()
        return changes

    def rebase(self, changes, target=None):
        """The same changes for this world, in which others may have moved the tasks meanwhile: a task goes from where
        it is now to where it rests with them, or to the target. Raises LostUpdate."""
        rebased = {}
        for index, change in changes.items():
            rebased[index] = change
            if not isinstance(change, Task) and index in self:
                task = self[index].copy()
                _merge(task, ((task.state, []), change[1], change[2]))
                state = target or task.resting_state()
                moves = [] if state == task.state else [state]
                rebased[index] = ((task.state, moves), change[1], change[2])
        return rebased

    def merge(self, changes):
        """Raises LostUpdate where others have changed the same meanwhile."""
        for index, change in changes.items():
            if isinstance(change, Task):
                self.own[index] = change.copy()
            else:
                _merge(self.change(index), change)


# --- operations: what each call does ---------------------------------------------------------------------------
#
# An operation is a dictionary; "span" is the time in which it was done. Steps are (task, number).


def _task(world, index):
    if index not in world:
        raise Refused("42704")
    return world.change(index)


def _step(task, number):
    if number not in task.steps:
        raise Refused("42704")
    return task.steps[number]


def _held(task, number, token=None):
    """The step that a worker speaks for."""
    step = _step(task, number)
    if step.state != "in_progress" or (token is not None and token != step.token):
        raise Refused("55000")
    return step


def _let_go(step, *states):
    step.path.extend(states)
    step.token = step.lease_end = None


def _create(world, op):
    for index, uuid, facts in op["tasks"]:
        task = Task(index, uuid, op["template"], facts)
        scheduled = uuid in op["scheduled"]
        task.begin(scheduled, op["span"], (facts["run_at"], facts["run_at"]) if scheduled else None)
        world.own[index] = task


def _claim(world, op):
    for index, number, lease_end in op["steps"]:
        step = _step(_task(world, index), number)
        step.path.append("in_progress")
        step.attempts += 1
        step.attempted_at = op["span"]
        step.due = step.backoff = None  # its record keeps its place in line
        step.processor = op["worker"]
        step.token, step.lease_end = op["token"], lease_end
    for index in {index for index, _, _ in op["steps"]}:
        world[index].move(world[index].resting_state())


def _complete(world, op):
    """Completes steps (task, number, results, choices, token), all or nothing."""
    state = None
    for index in sorted({item[0] for item in op["steps"]}):
        task = _task(world, index)
        mine = sorted((item for item in op["steps"] if item[0] == index), key=lambda item: item[1])
        refused = set()
        before = set(task.steps)
        for _, number, results, choices, token in mine:
            try:
                step = _held(task, number, token)
                _let_go(step, "complete")
                if results is not None:
                    step.results = results[0]
            except Refused as refusal:
                refused.update(refusal.sqlstates)
            try:
                if choices == "nonsense":
                    raise Refused("22023")
                if choices and number in task.steps:
                    # Which of two reasons for a refusal is told is not laid down.
                    (task.copy() if refused else task).choose(task.steps[number], choices)
            except Refused as refusal:
                refused.update(refusal.sqlstates)
        if refused:
            raise Refused(*sorted(refused))
        if any(choices for _, _, _, choices, _ in mine):
            task.create_followers(before)
        task.enqueue_free(op["span"])
        task.move(task.resting_state())
        state = task.state
    return state


def backoff(spec, attempts):
    """The template's delay in seconds before the next attempt: the least and the most."""
    policy = spec.get("backoff", {})
    base = policy.get("base_seconds", 1)
    top = policy.get("max_seconds", max(60, base))
    delay = min(top, base * policy.get("multiplier", 2) ** (attempts - 1))
    jitter = policy.get("jitter", 0.1)
    return delay * (1 - jitter), delay * (1 + jitter)


def _fail_attempt(task, step, error, retryable, delay, span):
    if not retryable:
        step.retryable = False
    step.failed_at, step.error = span, error
    if not step.retryable or step.attempts >= task.max_attempts(step):
        _let_go(step, "error")
        return
    _let_go(step, "waiting_for_retry")
    if task.remaining(step) > 0:  # a parent has been reset meanwhile: it has to wait for that one again
        step.path.append("pending")
        return
    least, most = backoff(task.spec(step), step.attempts) if delay is None else (delay, delay)
    step.due = step.ready_since = (span[0] + least, span[1] + most)


def _fail(world, op):
    task = _task(world, op["task"])
    step = _held(task, op["step"], op["token"])
    delay = step.backoff if op["backoff"] is None else op["backoff"]
    step.backoff = delay
    _fail_attempt(task, step, op["error"], op["retryable"], delay, op["span"])
    task.move(task.resting_state())
    return step.state


def _lose(world, op):
    """Leases that have ended: of steps (task, number, what the server calls the error)."""
    for index, number, error in op["steps"]:
        task = _task(world, index)
        step = _held(task, number)
        _fail_attempt(task, step, error, True, step.backoff, op["span"])
        task.move(task.resting_state())


def _release(world, op):
    for index, number in op["steps"]:
        task = _task(world, index)
        step = _held(task, number)
        step.attempts -= 1
        _let_go(step, "pending")
        if task.remaining(step) == 0:  # it has its old place in line
            step.path.append("enqueued")
        task.move(task.resting_state())
    return len(op["steps"])


def _checkpoint(world, op):
    step = _held(_task(world, op["task"]), op["step"], op["token"])
    step.checkpoint = op["checkpoint"]


def _extend(world, op):
    for index, number, token in op["steps"]:
        task = _task(world, index)
        step = _held(task, number, token)
        end = (op["span"][0] + op["lease"], op["span"][1] + op["lease"])
        timeout = task.spec(step).get("timeout_seconds")
        if timeout is not None:
            end = tuple(min(a, b + timeout) for a, b in zip(end, step.attempted_at))
        step.lease_end = end
    return len(op["steps"])


def _set_backoff(world, op):
    step = _step(_task(world, op["task"]), op["step"])
    if step.state not in ("in_progress", "waiting_for_retry"):
        return False
    step.backoff = op["backoff"]
    if step.state == "waiting_for_retry":
        step.due = step.ready_since = tuple(t + op["backoff"] for t in op["span"])
    return True


def _stop(world, op):
    """Ends a task in one of the ways that leave undone steps behind."""
    task = _task(world, op["task"])
    target = op["target"]
    if op.get("from") is not None:
        if target not in TASK_MOVES[op["from"]] or (target, op["from"]) in FOR_RETRY:
            raise Refused("55000")
        # One that had to wait for a step has looked at the task before.
        if task.state != op["from"] and not (op.get("late") and task.state not in FINISHED):
            return False
    if task.state == target:
        return False
    if task.state in ("complete", "cancelled", "resolved_manually") or (
        task.state == "error" and target != "resolved_manually"
    ):
        raise Refused("55000")
    for step in task.steps.values():
        if step.state not in FINISHED:
            _let_go(step, "cancelled")
            step.due = step.ready_since = None
    task.move(target)
    return True


FOR_RETRY = {("pending", state) for state in ("complete", "error", "cancelled", "resolved_manually")}


def _renew(task, step):
    """All attempts are before it again."""
    step.attempts = 0
    step.retryable = task.spec(step).get("retryable", True)
    step.due = step.backoff = step.ready_since = None


def _retry(world, op):
    task = _task(world, op["task"])
    retried = 0
    only = op.get("only")  # what it has not passed by before others changed it
    for step in task.steps.values():
        if only is not None and step.number not in only:
            continue
        if step.state == "waiting_for_retry":
            step.due = step.ready_since = op["span"]
            retried += 1
        elif step.state in ("error", "cancelled"):
            _renew(task, step)
            _let_go(step, "pending")
            retried += 1
    if retried == 0:
        raise Refused("55000")
    task.enqueue_free(op["span"])
    task.move(task.resting_state())
    return retried


def _descendants(task, step):
    found, open_ones = {}, [step]
    while open_ones:
        for child in task.children(open_ones.pop()):
            if child.number not in found:
                found[child.number] = child
                open_ones.append(child)
    return list(found.values())


def _reset(world, op):
    task = _task(world, op["task"])
    step = _step(task, op["step"])
    if task.state in ("cancelled", "error", "resolved_manually"):
        raise Refused("55000")
    again = [step]
    if op["cascade"]:
        only = op.get("only")
        again += [
            other
            for other in _descendants(task, step)
            if other.state != "pending" and (only is None or other.number in only)
        ]
    for one in again:
        if task.template.type_of(one.named) in CREATORS and one.state in DONE and task.children(one):
            raise Refused("55000")
    waiting_lines = [one for one in again if one.state == "enqueued"]
    for one in again:
        due, since = one.due, one.ready_since
        _renew(task, one)
        one.results = one.checkpoint = one.error = None
        if one in waiting_lines:
            one.due, one.ready_since = due, since
        elif one.state != "pending":
            _let_go(one, "pending")
    for one in task.steps.values():
        if one.state in ("enqueued", "waiting_for_retry") and task.remaining(one) > 0:
            _let_go(one, "pending")
            one.due = one.ready_since = None
    task.enqueue_free(op["span"])
    task.move(task.resting_state())


def _resolve(world, op):
    task = _task(world, op["task"])
    step = _step(task, op["step"])
    if task.state in FINISHED or step.state in DONE:
        raise Refused("55000")
    _let_go(step, "resolved_manually")
    step.due = step.ready_since = None
    if op["results"] is not None:
        step.results = op["results"][0]
    task.enqueue_free(op["span"])
    task.move(task.resting_state())
    return task.state


OPERATIONS = {
    "create": _create,
    "claim": _claim,
    "complete": _complete,
    "fail": _fail,
    "lose": _lose,
    "release": _release,
    "checkpoint": _checkpoint,
    "extend": _extend,
    "set_backoff": _set_backoff,
    "stop": _stop,
    "retry": _retry,
    "reset": _reset,
    "resolve": _resolve,
}

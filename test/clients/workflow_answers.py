"""What the server says of one task, and of all, against the model (workflow_rules.py)."""

import json
import uuid as uuids
from datetime import datetime

from workflow_rules import DONE, STEP_MOVES, TASK_MOVES

# All that is asked of one task, in one snapshot.
TASK_QUERY = """
select jsonb_build_object(
    'readiness', (select jsonb_agg(to_jsonb(r)) from tasker.get_step_readiness_status(%(t)s) r),
    'context', (select jsonb_agg(to_jsonb(c)) from tasker.get_task_execution_context(%(t)s) c),
    'task', (select to_jsonb(t) from tasker.tasks t where t.task_uuid = %(t)s),
    'state', tasker.get_current_task_state(%(t)s),
    'info', (select to_jsonb(i) from tasker.get_task_ready_info(%(t)s) i),
    'steps', (select jsonb_agg(to_jsonb(s)) from tasker.get_workflow_steps(%(t)s) s),
    'edges', (select jsonb_agg(to_jsonb(e)) from tasker.get_workflow_step_edges(%(t)s) e),
    'log', (select jsonb_agg(to_jsonb(l) order by l.sort_key) from tasker.get_task_transitions(%(t)s) l),
    'step_log', (select jsonb_agg(to_jsonb(l) order by l.workflow_step_uuid, l.sort_key)
        from tasker.get_workflow_step_transitions(%(t)s) l),
    'levels', (select jsonb_agg(to_jsonb(l)) from tasker.calculate_dependency_levels(%(t)s) l),
    'relations', (select jsonb_agg(to_jsonb(r)) from tasker.get_step_dag_relationships(%(t)s) r),
    'closure', (select jsonb_agg(to_jsonb(d)) from tasker.get_step_transitive_dependencies(%(s)s) d),
    'results', (select jsonb_agg(to_jsonb(r)) from tasker.step_results(%(s)s) r))
"""


def step_uuid(task, number):
    return str(uuids.UUID(int=uuids.UUID(task.uuid).int | number))


def number_of(step):
    return uuids.UUID(step).int & 0xFFFFFFFF


def seconds(text):
    return None if text is None else datetime.fromisoformat(text).timestamp()


class Differences(list):
    """What is not as the model has it."""

    def same(self, what, said, wanted):
        if said != wanted:
            self.append(f"{what}: the server says {said!r}, the model {wanted!r}")

    def within(self, what, said, span):
        """The server's time lies in the span; a step then keeps it (the caller puts it there)."""
        moment = seconds(said)
        if span is None or moment is None:
            self.same(what, said, None if span is None else f"between {span}")
            return None
        if not span[0] - 0.001 <= moment <= span[1] + 0.001:
            self.append(f"{what}: the server says {said}, {moment}, the model between {span}")
        return (moment, moment)


def _by_number(rows):
    return {number_of(row["workflow_step_uuid"]): row for row in rows or []}


def _distances(moves, terminal):
    """The length of the shortest legal way from each state to each other."""
    table = {}
    for start in moves:
        ring, distance = [start], 0
        table[start, start] = 0
        while ring:
            distance += 1
            ring = [
                after
                for state in ring
                if state == start or state not in terminal
                for after in moves[state]
                if table.setdefault((start, after), distance) == distance
            ]
            ring = list(dict.fromkeys(ring))
    return table


TERMINAL = ("complete", "error", "cancelled", "resolved_manually")
_TASK_WAYS = _distances(TASK_MOVES, TERMINAL)
_STEP_WAYS = _distances(STEP_MOVES, TERMINAL)


def _check_log(differences, what, rows, path, moves, ways):
    """A chain of legal moves without a gap, by the shortest way from each state that it was in to the next."""
    rows = rows or []
    differences.same(f"{what}: sort keys", [row["sort_key"] for row in rows], list(range(1, len(rows) + 1)))
    state = None
    for row in rows:
        differences.same(f"{what}: transition {row['sort_key']} from", row["from_state"], state)
        if state is not None and row["to_state"] not in moves[state]:
            differences.append(f"{what}: transition from {state} to {row['to_state']} is not legal")
        state = row["to_state"]
        differences.same(f"{what}: most_recent of {row['sort_key']}", row["most_recent"], row is rows[-1])
    at, said = 0, [row["to_state"] for row in rows]
    for before, after in zip([None] + path, path):
        at += 1 if before is None else ways[before, after]
        if at > len(said) or said[at - 1] != after:
            break
    else:
        if at == len(said):
            return
    differences.append(f"{what}: the log says {said}, the model wants {path}")


def _check_step(differences, task, step, said, row, before, after):
    what = f"step {step.number} ({step.name})"
    remaining = task.remaining(step)
    differences.same(f"{what}: state", said["current_state"], step.state)
    differences.same(f"{what}: state in the view", row["current_state"], step.state)
    differences.same(f"{what}: name", (said["name"], row["name"]), (step.name, step.name))
    differences.same(f"{what}: attempts", (said["attempts"], row["attempts"]), (step.attempts, step.attempts))
    differences.same(f"{what}: max_attempts", said["max_attempts"], task.max_attempts(step))
    differences.same(f"{what}: total_parents", said["total_parents"], len(step.parents))
    differences.same(f"{what}: completed_parents", said["completed_parents"], len(step.parents) - remaining)
    differences.same(f"{what}: dependencies_satisfied", said["dependencies_satisfied"], remaining == 0)
    differences.same(f"{what}: retry_eligible", said["retry_eligible"], task.retry_eligible(step))
    differences.same(f"{what}: backoff_request_seconds", said["backoff_request_seconds"], step.backoff)
    ready = task.ready(step, before, after)
    if ready is not None:
        differences.same(f"{what}: ready_for_execution", said["ready_for_execution"], ready)
    due = differences.within(f"{what}: next_retry_at", said["next_retry_at"], step.due)
    failed = differences.within(f"{what}: last_failure_at", said["last_failure_at"], step.failed_at)
    attempted = differences.within(f"{what}: last_attempted_at", said["last_attempted_at"], step.attempted_at)
    differences.same(f"{what}: retryable", row["retryable"], step.retryable)
    differences.same(f"{what}: priority", row["priority"], task.priority(step))
    differences.same(f"{what}: results", row["results"], step.results)
    differences.same(f"{what}: error", row["error"], step.error)
    differences.same(f"{what}: checkpoint", row["checkpoint"], step.checkpoint)
    differences.same(f"{what}: inputs", row["inputs"], task.inputs(step))
    if step.processor is None or row["processor"] is None or step.processor not in row["processor"]:
        differences.same(f"{what}: processor", row["processor"], step.processor)
    differences.same(f"{what}: processed", row["processed"], step.state in DONE)
    differences.same(f"{what}: in_process", row["in_process"], step.state == "in_progress")
    differences.same(f"{what}: step_type", row["step_type"], task.template.type_of(step.named))
    differences.same(f"{what}: handler", row["handler"], task.spec(step).get("handler", step.named))
    has_record = step.state in ("enqueued", "in_progress", "waiting_for_retry")
    differences.same(f"{what}: has a record", row["record_id"] != 0, has_record)
    return due, failed, attempted


def wanted_context(task, ready):
    """The execution context; ready: how many steps are."""
    enqueued, running = task.count("enqueued"), task.count("in_progress")
    done, failed, total = task.count(*DONE), task.count("error"), len(task.steps)
    if failed:
        verdict = ("blocked_by_failures", "handle_failures")
    elif ready:
        verdict = ("has_ready_steps", "execute_ready_steps")
    elif running or enqueued:
        verdict = ("processing", "wait_for_completion")
    elif done == total:
        verdict = ("all_complete", "finalize_task")
    else:
        verdict = ("waiting_for_dependencies", "wait_for_dependencies")
    health = "blocked" if failed else "recovering" if task.count("waiting_for_retry") else "healthy"
    return {
        "task_uuid": task.uuid,
        "status": task.state,
        "total_steps": total,
        "pending_steps": task.count("pending"),
        "in_progress_steps": running,
        "completed_steps": done,
        "failed_steps": failed,
        "ready_steps": ready,
        "execution_status": verdict[0],
        "recommended_action": verdict[1],
        "completion_percentage": int((200 * 100 * done + total) / (2 * total)) / 100,
        "health_status": health,
        "enqueued_steps": enqueued,
        "waiting_for_retry_steps": task.count("waiting_for_retry"),
    }


def _check_row(differences, task, row):
    facts = task.facts
    wanted = {
        "complete": task.state in DONE,
        "current_state": task.state,
        "total_steps": len(task.steps),
        "task_name": task.template.name,
        "namespace_name": task.template.namespace,
        "version": task.template.version,
        "correlation_id": facts["correlation_id"] or task.uuid,
        "priority": facts["priority"],
    }
    for key in "parent_correlation_id initiator source_system reason identity_key tags context".split():
        wanted[key] = facts[key]
    for key, value in wanted.items():
        differences.same(f"tasks.{key}", row[key], value)
    differences.same("tasks.completed_at is set", row["completed_at"] is not None, task.state in DONE)
    differences.same("tasks.run_at", seconds(row["run_at"]), facts["run_at"])


def _check_graph(differences, task, answer, chosen):
    edges = sorted((number_of(e["from_step_uuid"]), number_of(e["to_step_uuid"])) for e in answer["edges"] or [])
    wanted = sorted((p, step.number) for step in task.steps.values() for p in step.parents)
    differences.same("edges", edges, wanted)
    levels = {number: row["dependency_level"] for number, row in _by_number(answer["levels"]).items()}
    differences.same("calculate_dependency_levels", levels, task.levels())
    depths = task.depths()
    relations = _by_number(answer["relations"])
    differences.same("steps of get_step_dag_relationships", sorted(relations), sorted(task.steps))
    for number, row in relations.items():
        step = task.steps.get(number)
        if step is None:
            continue
        children = [child.number for child in task.children(step)]
        differences.same(
            f"relations of step {number}",
            (
                sorted(map(number_of, row["parent_step_uuids"])),
                sorted(map(number_of, row["child_step_uuids"])),
                row["parent_count"],
                row["child_count"],
                row["is_root_step"],
                row["is_leaf_step"],
                row["min_depth_from_root"],
            ),
            (
                sorted(step.parents),
                sorted(children),
                len(step.parents),
                len(children),
                not step.parents,
                not children,
                depths[number],
            ),
        )
    closure = [
        (number_of(row["workflow_step_uuid"]), row["distance"], row["results"], row["processed"], row["step_name"])
        for row in answer["closure"] or []
    ]
    ancestors = task.ancestors(chosen)
    wanted = [
        (number, distance, task.steps[number].results, task.steps[number].state in DONE, task.steps[number].name)
        for distance, number in sorted((d, n) for n, d in ancestors.items())
    ]
    differences.same(f"get_step_transitive_dependencies of step {chosen.number}", closure, wanted)
    results = sorted((number_of(r["workflow_step_uuid"]), r["step_name"], json.dumps(r["results"]))
                     for r in answer["results"] or [])
    wanted = [
        (p, task.steps[p].name, json.dumps(task.steps[p].results))
        for p in sorted(chosen.parents)
        if task.steps[p].state in DONE
    ]
    differences.same(f"step_results of step {chosen.number}", results, wanted)


def check_task(task, answer, chosen, before, after, keep):
    """Compares all that was said of a task; with keep the times that the server has told are kept."""
    differences = Differences()
    if answer["task"] is None:
        return Differences(["it does not exist"])
    readiness, rows = _by_number(answer["readiness"]), _by_number(answer["steps"])
    differences.same("steps", sorted(readiness), sorted(task.steps))
    differences.same("steps in the view", sorted(rows), sorted(task.steps))
    if differences:
        names = {number: row["name"] for number, row in rows.items()}
        differences.append(f"names: {names} and {({n: s.name for n, s in task.steps.items()})}")
        return differences
    times = {}
    for number, step in task.steps.items():
        times[number] = _check_step(differences, task, step, readiness[number], rows[number], before, after)
    _check_row(differences, task, answer["task"])
    differences.same("get_current_task_state", answer["state"], task.state)
    _check_graph(differences, task, answer, chosen)
    _check_log(differences, "task", answer["log"], task.path, TASK_MOVES, _TASK_WAYS)
    logs = {}
    for row in answer["step_log"] or []:
        logs.setdefault(number_of(row["workflow_step_uuid"]), []).append(row)
    differences.same("steps in the log", sorted(logs), sorted(task.steps))
    for number, step in task.steps.items():
        _check_log(differences, f"step {number}", logs.get(number), step.path, STEP_MOVES, _STEP_WAYS)
    ready = [task.ready(step, before, after) for step in task.steps.values()]
    if None not in ready:
        said = dict((answer["context"] or [{}])[0])
        said.pop("named_task_uuid", None)
        differences.same("get_task_execution_context", said, wanted_context(task, sum(ready)))
        differences.same("get_task_ready_info", answer["info"]["ready_steps_count"], sum(ready))
    if keep and not differences:
        for number, step in task.steps.items():
            if step.ready_since is not None and step.ready_since == step.due:
                step.ready_since = times[number][0]
            step.due, step.failed_at, step.attempted_at = times[number]
    return differences


def check_ready_tasks(rows, tasks, busy, limit, before, after):
    """get_next_ready_tasks: which tasks, and in which order. All of them are younger than an
    hour. busy: those that others have in hand, of which nothing is certain."""
    differences = Differences()
    certain, possible = {}, {}
    for task in tasks:
        if task.state in TERMINAL:
            continue
        ready = {step.number: task.ready(step, before, after) for step in task.steps.values()}
        if any(r is not False for r in ready.values()):
            possible[task.uuid] = task
        if any(r is True for r in ready.values()) and task.index not in busy:
            certain[task.uuid] = (task, ready)
    said = [row["task_uuid"] for row in rows]
    differences.same("tasks given twice", len(said), len(set(said)))
    differences += [f"{uuid} is not ready" for uuid in said if uuid not in possible]
    if len(said) < min(limit, len(certain)):
        differences.append(f"{len(said)} tasks of at most {limit}, {len(certain)} are ready")
    last = None
    for row in rows:
        if row["task_uuid"] not in certain:
            continue
        task, ready = certain[row["task_uuid"]]
        if None in ready.values():
            continue
        what = f"ready task {task.index}"
        steps = [task.steps[number] for number, is_ready in ready.items() if is_ready]
        priority = max(task.priority(step) for step in steps)
        best = [step for step in steps if task.priority(step) == priority]
        since = (min(s.ready_since[0] for s in best), min(s.ready_since[1] for s in best))
        differences.same(f"{what}: ready_steps_count", row["ready_steps_count"], len(steps))
        differences.same(f"{what}: priority", row["priority"], task.facts["priority"])
        differences.same(f"{what}: state", row["current_state"], task.state)
        differences.same(f"{what}: name", row["task_name"], task.template.name)
        least = priority + max(0, before - since[1]) / 36000 - 1e-5
        most = priority + max(0, after - since[0]) / 36000 + 1e-5
        if not least <= row["computed_priority"] <= most:
            differences.append(f"{what}: computed_priority {row['computed_priority']}, wanted {least} to {most}")
        if last is not None and (priority > last[0] or (priority == last[0] and since[1] + 0.002 < last[1][0])):
            differences.append(f"{what} comes too late: {priority} {since} after {last}")
        last = (priority, since)
    if len(said) == limit:
        for uuid, (task, ready) in certain.items():
            best = max(task.priority(task.steps[n]) for n, is_ready in ready.items() if is_ready)
            if uuid not in said and last is not None and best > last[0]:
                differences.append(f"ready task {task.index} of priority {best} is missing")
    return differences

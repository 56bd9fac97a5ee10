"""Handlers of the example: counts the words of documents. See words.sql for the workflow."""

import time

from worker import GiveUp, Result, Retry


def split(step):
    """Makes a step for every few documents."""
    documents = step.context["documents"]
    if not documents:
        raise GiveUp("there are no documents")
    size = step.inputs.get("documents_per_step", 2)
    bounds = [(first, min(first + size, len(documents))) for first in range(0, len(documents), size)]
    return Result({"documents": len(documents)},
                  [{"name": "count", "as": f"count {first + 1} to {last}", "inputs": {"from": first, "to": last}}
                   for first, last in bounds])


def count(step):
    """Counts the words of its documents; an attempt goes on where the last one had come to."""
    done = step.saved or {"next": step.inputs["from"], "words": 0}
    resumed_at = done["next"]
    for i in range(done["next"], step.inputs["to"]):
        step.check()
        time.sleep(step.context.get("seconds_per_document", 0))  # a document of some length
        done = {"next": i + 1, "words": done["words"] + len(step.context["documents"][i].split())}
        step.save(done)
    return {"words": done["words"], "resumed_at": resumed_at}


def total(step):
    return {"words": sum(part["words"] for part in step.results.values())}


def publish(step):
    """Writes the total into a table of ours, in the transaction that completes the step. The printer is out of paper
    at times."""
    if step.attempt <= step.context.get("failures", 0):
        raise Retry("out of paper", after=0)
    words = step.results["total"]["words"]
    return Result({"published": True}, in_transaction=lambda connection: connection.execute(
        "insert into words.total (task_uuid, words) values (%s, %s)", (step.task_uuid, words)))


def register(worker):
    for function in (split, count, total, publish):
        worker.handler(function.__name__)(function)

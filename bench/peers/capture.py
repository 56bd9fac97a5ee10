"""From a captured statement to a pgbench script."""

import json
import re

PAYLOAD_MARK = "bench_payload"
BATCH_MARK = 7777
FLOW = "bench"
WORKER_MARK = "bench-worker"


def literal(value):
    """A value as an SQL literal without a type, as a driver would send it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, list):
        return literal("{" + ",".join(str(item) for item in value) + "}")
    if isinstance(value, dict):
        value = json.dumps(value)
    return "'" + value.replace("'", "''") + "'"


def placeholder(value, captured):
    """The pgbench variable that stands for a captured value, else the value itself."""
    if value == captured["jobs"]:
        return ":jobs"
    if value == captured["ids"]:
        return ":ids"
    if value == BATCH_MARK:
        return ":batch"
    if value == WORKER_MARK:
        return ":client_id"
    if PAYLOAD_MARK in json.dumps(value):
        return ":payload"
    return literal(value)


def to_script(statement, captured):
    """Put variables and literals in the place of $1, $2 …; comments go, their colons would be variables."""
    text = re.sub(r"--[^\n]*", "", statement["text"])
    values = statement["values"]
    text = re.sub(r"\$(\d+)", lambda found: placeholder(values[int(found.group(1)) - 1], captured), text)
    return text.replace(str(BATCH_MARK), ":batch").strip().rstrip(";")


def split_with(text):
    """Split `with … <statement>` at its top-level statement: ('with …', '<statement>')."""
    depth = 0
    for token in re.finditer(r"'(?:[^']|'')*'|\"[^\"]*\"|[()]|\b(?:select|insert|update|delete)\b", text, re.I):
        word = token.group(0).lower()
        if word == "(":
            depth += 1
        elif word == ")":
            depth -= 1
        elif depth == 0 and word in ("select", "insert", "update", "delete"):
            return text[:token.start()].rstrip(), text[token.start():]
    raise ValueError(f"no statement in: {text[:80]}")


def claim_script(text):
    """Wrap a claim so that it returns one row, its ids and their number, for pgbench's \\gset.

    The claim becomes one more part of its own WITH: a part that changes data may not be nested deeper."""
    head, body = split_with(text)
    # `returning *` of an UPDATE … FROM gives the columns of both tables; those of the updated one are meant.
    target = re.match(r"update\s+\S+\s+as\s+(\w+)", body, re.I)
    if target:
        body = re.sub(r"returning\s+\*\s*$", f"returning {target.group(1)}.*", body, flags=re.I)
    opening = f"{head},\nbench_claimed as (" if head else "with bench_claimed as ("
    return f"{opening}\n{body}\n)\nselect coalesce(array_agg(id), '{{}}') as ids, count(*) as n from bench_claimed \\gset\n"

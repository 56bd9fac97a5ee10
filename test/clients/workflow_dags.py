"""Random definitions of tasks, for the model test of workflows (workflow_model.py)."""

NAMESPACES = ["model", 'the "other" one\'s']
HANDLERS = ["alpha", "beta/2", "g'amma"]
ODD_NAMES = ['a "quoted" step', "it's", "back\\slash", "ünïcode ☃", "with space", "{}", "null", "%s %d"]

CREATORS = ("decision", "batch")


def _parents(rng, i, span, density):
    if i == 0 or rng.random() < 0.12:
        return []
    wanted = 1
    while rng.random() < density and wanted < 6:
        wanted += 1
    near = list(range(max(0, i - span), i))
    return sorted(rng.sample(near, min(wanted, len(near))))


def _types(rng, parents, share):
    """Types at random, then those that may not stand there made standard ones."""
    count = len(parents)
    has_children = {p for of_one in parents for p in of_one}
    types = []
    for i in range(count):
        kind = "standard"
        if rng.random() < share:
            kind = rng.choice(["decision", "decision", "batch", "deferred", "deferred"])
        if kind in CREATORS and i not in has_children:
            kind = "standard"
        types.append(kind)
    dynamic = [False] * count
    for i in range(count):
        dynamic[i] = any(dynamic[p] or types[p] in CREATORS for p in parents[i])
        if types[i] == "deferred" and not dynamic[i]:
            types[i] = "standard"
        elif dynamic[i] and types[i] == "standard" and share > 0 and len(parents[i]) > 1 and rng.random() < 0.6:
            types[i] = "deferred"
    return types


def random_definition(rng, largest=40):
    """A definition, with its steps in no order."""
    count = rng.randint(1, rng.choice([min(4, largest), min(12, largest), largest]))
    share = rng.choice([0, 0.25, 0.5, 0.7])
    span = rng.choice([1, 2, 4, 10, largest])
    density = rng.choice([0.1, 0.4, 0.7])
    parents = [_parents(rng, i, span, density) for i in range(count)]
    types = _types(rng, parents, share)
    odd = rng.sample(ODD_NAMES, len(ODD_NAMES))
    names = [odd.pop() if odd and rng.random() < 0.1 else f"s{i}" for i in range(count)]
    steps = []
    for i in range(count):
        step = {"name": names[i], "handler": rng.choice(HANDLERS)}
        if parents[i]:
            step["depends_on"] = [names[p] for p in parents[i]]
        if types[i] != "standard" or rng.random() < 0.2:
            step["type"] = types[i]
        step["max_attempts"] = rng.choice([1, 2, 2, 3, 4])
        if rng.random() < 0.15:
            step["retryable"] = False
        # No delay, or one that does not end in this test: the history must not depend on the clock.
        step["backoff"] = rng.choice(
            [
                {"base_seconds": 0},
                {"base_seconds": 0, "max_seconds": 0, "jitter": 1},
                {"base_seconds": 0},
                {"base_seconds": 7200, "max_seconds": 20000, "multiplier": 2, "jitter": rng.choice([0, 0.5])},
            ]
        )
        if rng.random() < 0.2:
            step["timeout_seconds"] = rng.choice([600, 1200])
        if rng.random() < 0.3:
            step["priority"] = rng.randint(0, 9)
        if rng.random() < 0.3:
            step["inputs"] = rng.choice([{"n": i}, {}, {"it's": {"deep": [None, True]}}])
        steps.append(step)
    rng.shuffle(steps)
    return {"description": "random", "steps": steps}

"""Taking turns: several figures of one run, round by round."""

from bench.lib.report import Row


def alternate(ctx, contestants, rounds, label, measure):
    """Call `measure(contestant)` for all in turn, round by round, beginning with another one each time; it returns
    {figure's name: value}. Returns {figure's name: {contestant: [value per round]}}."""
    found = {}
    for number in range(rounds):
        turn = number % len(contestants)
        for contestant in contestants[turn:] + contestants[:turn]:
            figures = measure(contestant)
            for name, value in figures.items():
                found.setdefault(name, {}).setdefault(contestant.name, []).append(value)
            shown = ", ".join(f"{name} {value:,.2f}" for name, value in figures.items())
            ctx.say(f"{label}, round {number + 1}/{rounds}, {contestant.label}: {shown}")
    return found


def add_rows(ctx, benchmark, found, variants):
    """Add one row per figure; `variants` is {figure's name: (variant, unit)}. Returns {figure's name: row}."""
    return {name: ctx.report.add(Row(benchmark, variant, unit, found[name]))
            for name, (variant, unit) in variants.items() if name in found}

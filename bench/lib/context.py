"""What a benchmark gets: the server, the contestants, the options, and where its results go."""

import time
from dataclasses import dataclass
from pathlib import Path

from bench.lib.contestant import Unavailable
from bench.lib.process import CommandFailed
from bench.lib.progress import Progress
from bench.lib.report import Report


@dataclass
class Options:
    """What the command line asked for. Times are in seconds."""

    quick: bool = False
    rounds: int = 3
    seconds: float = 5
    clients: int = 4
    scale: float = 1.0
    held_minutes: float = 10.0


class Context:
    def __init__(self, server, options, report, out, work, progress=None):
        self.server = server
        self.options: Options = options
        self.report: Report = report
        self.out = Path(out)
        self.work = Path(work)
        self.progress = progress or Progress()
        self.contestants = {}
        self.fixtures = {}  # what benchmarks made and may share

    def say(self, text):
        self.progress.say(text)

    def admit(self, contestant):
        """Let a contestant take part, or note why it cannot."""
        try:
            contestant.prepare()
        except Unavailable as reason:
            self.report.skip(contestant.label, str(reason))
            self.say(f"skipped {contestant.label}: {reason}")
            return
        self.contestants[contestant.name] = contestant
        self.report.labels[contestant.name] = contestant.label

    def able(self, *operations, only=None):
        """The contestants that have all these operations (and, if given, whose names are listed)."""
        return [c for c in self.contestants.values()
                if all(c.can(operation) for operation in operations) and (only is None or c.name in only)]

    def subject(self):
        """The contestant that the bars are about, None when it is not installed."""
        return self.contestants.get(self.report.subject)

    def scaled(self, size, least=1):
        """A size of the full benchmark, shrunk by --scale."""
        return max(least, int(size * self.options.scale))

    def interleaved(self, contestants, rounds, label, measure):
        """Measure all contestants in turn, round by round, beginning with another one each time, so that a
        disturbance of the machine does not fall on one of them alone. Returns {name: [figure per round]}."""
        found = {contestant.name: [] for contestant in contestants}
        for number in range(rounds):
            turn = number % len(contestants) if contestants else 0
            for contestant in contestants[turn:] + contestants[:turn]:
                began = time.monotonic()
                if contestant.name not in found:
                    continue
                try:
                    figure = measure(contestant)
                except CommandFailed as failure:
                    if not contestant.optional:
                        raise
                    del found[contestant.name]
                    self.report.skip(f"{contestant.label} in {label}", str(failure).splitlines()[0])
                    self.say(f"{label}, {contestant.label} is left out: {failure}")
                    continue
                found[contestant.name].append(figure)
                self.say(f"{label}, round {number + 1}/{rounds}, {contestant.label}: {figure:,.1f} "
                         f"({time.monotonic() - began:.0f} s)")
        return found

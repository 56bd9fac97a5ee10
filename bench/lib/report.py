"""The result of a run: a table on the terminal, CSV files and one JSON summary."""

import csv
import json
import math
import operator
from dataclasses import asdict, dataclass, field

from bench.lib import figures

OPERATORS = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}
SIGNS = {">=": "≥", "<=": "≤", ">": ">", "<": "<"}


@dataclass
class Bar:
    """One thing that must be reached: a value against a limit. No value: it could not be measured."""

    text: str
    value: float | None
    sign: str
    limit: float
    unit: str = "×"

    @property
    def verdict(self):
        if self.value is None or math.isnan(self.value):
            return "n/a"
        return "PASS" if OPERATORS[self.sign](self.value, self.limit) else "MISS"

    def describe(self):
        return f"{self.text} {SIGNS[self.sign]} {number(self.limit)} {self.unit}".rstrip()


@dataclass
class Row:
    """One measurement: for each contestant the figures of all rounds."""

    benchmark: str
    variant: str
    unit: str
    figures: dict[str, list[float]]
    bars: list[Bar] = field(default_factory=list)
    note: str = ""

    def value(self, contestant):
        """The median of a contestant's rounds, None when it did not take part."""
        values = self.figures.get(contestant)
        return figures.median(values) if values else None

    def ratio(self, one, other):
        a, b = self.value(one), self.value(other)
        return a / b if a is not None and b else None


def number(value):
    """A figure for people: three significant digits, thousands separated."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    if value == int(value):
        return f"{value:.0f}"
    return f"{value:.3g}" if abs(value) < 1 else f"{value:.2f}".rstrip("0").rstrip(".")


class Report:
    """Collects rows and prints or writes them. `subject` is the contestant that the bars are about."""

    def __init__(self, plane, subject, labels):
        self.plane = plane
        self.subject = subject
        self.labels = labels
        self.rows = []
        self.skipped = []
        self.environment = {}
        self.options = {}

    def add(self, row):
        self.rows.append(row)
        return row

    def skip(self, what, why):
        self.skipped.append({"what": what, "why": why})

    def ratio_bar(self, row, baseline, limit, sign=">="):
        """The bar `subject / baseline`, stated with the baseline's label."""
        row.bars.append(Bar(f"× {self.labels.get(baseline, baseline)}", row.ratio(self.subject, baseline), sign, limit))

    def ahead_bar(self, row, names):
        """The bar 'ahead of every peer': the ratio to the best of those that took part."""
        present = [name for name in names if row.value(name) is not None]
        if not present or row.value(self.subject) is None:
            row.bars.append(Bar("ahead of every peer", None, ">=", 1.0))
            return
        best = max(present, key=row.value)
        row.bars.append(Bar(f"ahead of the best peer ({self.labels[best]})", row.ratio(self.subject, best), ">=", 1.0))

    def bars(self):
        return [(row, bar) for row in self.rows for bar in row.bars]

    # -- terminal ----------------------------------------------------------------------------------------------

    def _columns(self):
        present = {name for row in self.rows for name in row.figures}
        return [name for name in self.labels if name in present]

    def text(self):
        """The whole report as text."""
        lines = [f"Tasker benchmark, plane {self.plane}", ""]
        lines += [f"  {name}: {value}" for name, value in self.environment.items()]
        lines += [f"  {name}: {value}" for name, value in self.options.items()]
        for entry in self.skipped:
            lines.append(f"  skipped: {entry['what']}: {entry['why']}")
        lines.append("")
        lines += self._table()
        lines += ["", *self._bar_lines()]
        return "\n".join(lines)

    def _figure_cells(self):
        names = self._columns()
        head = ["benchmark", "variant", "unit"] + [self.labels[name] for name in names]
        body = [[row.benchmark, row.variant, row.unit] + [number(row.value(name)) for name in names]
                for row in self.rows]
        return head, body

    def _bar_cells(self):
        body = [[row.benchmark, row.variant, bar.describe(), f"{number(bar.value)} {bar.unit}".strip(), bar.verdict]
                for row, bar in self.bars()]
        return ["benchmark", "variant", "bar", "reached", "verdict"], body

    def _table(self):
        head, body = self._figure_cells()
        return layout(head, body, left=3)

    def _bar_lines(self):
        head, body = self._bar_cells()
        if not body:
            return []
        passed = sum(1 for line in body if line[4] == "PASS")
        missed = sum(1 for line in body if line[4] == "MISS")
        lines = layout(head, body, left=5)
        return lines + ["", f"{passed} bars passed, {missed} missed, {len(body) - passed - missed} not measured"]

    def markdown(self):
        """Bars and figures as two Markdown tables, for a document to take in."""
        return "\n\n".join(markdown_table(*cells) for cells in (self._bar_cells(), self._figure_cells()))

    # -- files -------------------------------------------------------------------------------------------------

    def write(self, folder):
        """Write summary.txt, summary.md, figures.csv, bars.csv and summary.json."""
        (folder / "summary.txt").write_text(self.text() + "\n")
        (folder / "summary.md").write_text(self.markdown() + "\n")
        write_csv(folder / "figures.csv",
                  ["benchmark", "variant", "unit", "contestant", "median", "min", "max", "rounds"],
                  [[row.benchmark, row.variant, row.unit, name, row.value(name), min(values), max(values),
                    " ".join(f"{v:.6g}" for v in values)]
                   for row in self.rows for name, values in row.figures.items() if values])
        write_csv(folder / "bars.csv", ["benchmark", "variant", "bar", "value", "unit", "verdict"],
                  [[row.benchmark, row.variant, bar.describe(), bar.value, bar.unit, bar.verdict]
                   for row, bar in self.bars()])
        (folder / "summary.json").write_text(json.dumps(self.as_dict(), indent=2, ensure_ascii=False) + "\n")

    def as_dict(self):
        return {
            "plane": self.plane,
            "environment": self.environment,
            "options": self.options,
            "skipped": self.skipped,
            "rows": [{**asdict(row),
                      "medians": {name: row.value(name) for name in row.figures},
                      "bars": [{**asdict(bar), "verdict": bar.verdict} for bar in row.bars]}
                     for row in self.rows],
        }


def layout(head, body, left):
    """Lines of a table: the first `left` columns flush left, the others flush right."""
    widths = [max(len(line[i]) for line in [head, *body]) for i in range(len(head))]
    def line(cells):
        return "  ".join(cell.ljust(w) if i < left else cell.rjust(w)
                         for i, (cell, w) in enumerate(zip(cells, widths))).rstrip()
    return [line(head), "  ".join("-" * w for w in widths), *[line(cells) for cells in body]]


def markdown_table(head, body):
    """A Markdown table."""
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, ["---"] * len(head), *body])


def write_csv(path, head, rows):
    """Write one CSV file."""
    with open(path, "w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(head)
        writer.writerows(rows)

"""From a report's rows to SVG files: one plot of bars for each benchmark and unit."""

from bench.lib import figures, plot


def draw_figures(report, folder):
    """Draw one plot per benchmark and unit into `folder`."""
    groups = {}
    for row in report.rows:
        found = {name: (figures.median(values), min(values), max(values))
                 for name, values in row.figures.items() if values}
        if found:
            groups.setdefault((row.benchmark, row.unit), []).append((row.variant, found))
    for (benchmark, unit), bars in groups.items():
        name = "".join(letter if letter.isalnum() else "_" for letter in unit)
        plot.grouped_bars(folder / f"{benchmark}_{name}.svg", benchmark, unit, bars, report.labels)

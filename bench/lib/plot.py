"""SVG plots. Matplotlib is optional: without it the figures are still in the CSV files."""

import math

try:
    import matplotlib
    matplotlib.use("svg")
    from matplotlib import pyplot
except ImportError:
    pyplot = None

# One colour per contestant in every plot; the subject stands out.
PALETTE = ["#1b6ca8", "#c0504d", "#7f7f7f", "#e0a030", "#6aa84f", "#8e63ce", "#45b8ac", "#a0522d"]


def colours(names):
    return {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(names)}


def _save(figure, path):
    figure.tight_layout()
    figure.savefig(path, format="svg", metadata={"Date": None})
    pyplot.close(figure)


def grouped_bars(path, title, unit, groups, labels, log=False):
    """Bars side by side. `groups` is a list of (group label, {contestant: (median, min, max)})."""
    if pyplot is None:
        return False
    names = [name for name in labels if any(name in found for _, found in groups)]
    figure, axes = pyplot.subplots(figsize=(max(6.0, 1.0 + 0.35 * len(groups) * (len(names) + 1)), 4.2))
    width = 0.8 / max(1, len(names))
    tint = colours(list(labels))
    for seat, name in enumerate(names):
        at = [i + (seat - (len(names) - 1) / 2) * width for i, (_, found) in enumerate(groups) if name in found]
        middle = [found[name][0] for _, found in groups if name in found]
        low = [found[name][0] - found[name][1] for _, found in groups if name in found]
        high = [found[name][2] - found[name][0] for _, found in groups if name in found]
        axes.bar(at, middle, width * 0.92, yerr=[low, high], label=labels[name], color=tint[name], capsize=2,
                 error_kw={"linewidth": 0.8})
    axes.set_xticks(range(len(groups)), [label.replace(", ", "\n") for label, _ in groups], fontsize=8)
    axes.set_ylabel(unit)
    axes.set_title(title)
    if log:
        axes.set_yscale("log")
    axes.legend(fontsize=8)
    axes.grid(axis="y", linewidth=0.3)
    axes.set_axisbelow(True)
    _save(figure, path)
    return True


def lines(path, title, panels, labels, marks=()):
    """Time series. `panels` is a list of (y label, {contestant: [one value per second]}, log scale); `marks` are
    seconds at which something changed."""
    if pyplot is None:
        return False
    figure, stack = pyplot.subplots(len(panels), 1, figsize=(9, 2.6 * len(panels)), sharex=True, squeeze=False)
    tint = colours(list(labels))
    for axes, (label, found, log) in zip(stack[:, 0], panels):
        for name in labels:
            if name in found:
                clean = [value if value is not None and not math.isnan(value) else None for value in found[name]]
                axes.plot(range(len(clean)), [v if v is not None else float("nan") for v in clean],
                          label=labels[name], color=tint[name], linewidth=1.2)
        for second in marks:
            axes.axvline(second, color="#444444", linewidth=0.8, linestyle=":")
        axes.set_ylabel(label)
        axes.grid(linewidth=0.3)
        if log:
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0)
    stack[0, 0].set_title(title)
    stack[0, 0].legend(fontsize=8)
    stack[-1, 0].set_xlabel("seconds")
    _save(figure, path)
    return True


def curves(path, across, unit, panels, labels):
    """A figure against a size, both in powers of ten. `panels` is a list of (title, {contestant: [(size, value)]})."""
    if pyplot is None:
        return False
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure, grid = pyplot.subplots(rows, columns, figsize=(3.6 * columns, 3.0 * rows), sharex=True, squeeze=False)
    tint = colours(list(labels))
    for axes, (title, found) in zip(grid.flat, panels):
        for name in labels:
            if name in found:
                axes.plot(*zip(*found[name]), label=labels[name], color=tint[name], linewidth=1.2, marker="o", markersize=3)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_title(title, fontsize=9)
        axes.grid(linewidth=0.3)
    for axes in grid[-1]:
        axes.set_xlabel(across)
    for axes in grid[:, 0]:
        axes.set_ylabel(unit)
    grid[0, 0].legend(fontsize=8)
    _save(figure, path)
    return True

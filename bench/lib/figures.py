"""Small statistics: medians of rounds and percentiles of latencies."""

import numpy


def median(values):
    return float(numpy.median(values))


def percentile(values, which):
    """A percentile by the nearest rank, in the unit of the values; NaN when there are none."""
    if len(values) == 0:
        return float("nan")
    return float(numpy.percentile(values, which, method="inverted_cdf"))


def series(times, values, start, seconds, how):
    """One figure per second: `how` applied to the values whose time falls into each second from `start`."""
    seats = numpy.floor(numpy.asarray(times) - start).astype(int)
    values = numpy.asarray(values)
    return [how(values[seats == second]) for second in range(int(seconds))]

#!/usr/bin/python3
"""Benchmarks: `bench.py PLANE [options]`. See bench/README.md."""

import argparse
import importlib
import json
import os
import sys
import tempfile
import time
import traceback
from pathlib import Path

# The repository's root takes the place of this folder in the module path: `bench/queue` must not be seen as
# the standard library's `queue`.
ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

from bench.lib import chart, cluster, database, process  # noqa: E402
from bench.lib.context import Context, Options  # noqa: E402
from bench.lib.report import Report  # noqa: E402

PLANES = ("queue", "partition", "stream", "workflow")


def parse(arguments):
    parser = argparse.ArgumentParser(prog="bench.py", description=__doc__)
    parser.add_argument("plane", choices=PLANES, nargs="?", default="queue")
    parser.add_argument("--quick", action="store_true",
                        help="short runs on small data: shows that everything works, proves little")
    parser.add_argument("--only", metavar="NAME,...", help="these benchmarks only")
    parser.add_argument("--list", action="store_true", help="print the benchmarks' names and end")
    parser.add_argument("--out", type=Path, help="folder for results (default: $BENCH_OUT/PLANE or bench/out/PLANE)")
    parser.add_argument("--rounds", type=int, help="rounds per figure (default 3)")
    parser.add_argument("--seconds", type=float, help="length of a run (default 5, quick: 2)")
    parser.add_argument("--clients", type=int, default=4, help="clients where a benchmark does not say (default 4)")
    parser.add_argument("--scale", type=float, help="factor on the sizes of data (default 1, quick: 0.02)")
    parser.add_argument("--held-minutes", type=float, help="how long the snapshot is held (default 10, quick: 1)")
    parser.add_argument("--peers", metavar="NAME,...|none", help="peers to measure beside it (default: all there are)")
    parser.add_argument("--contestants", metavar="NAME,...", help="only these take part (default: all)")
    parser.add_argument("--peer-cache", type=Path, help="where peers are installed (default: bench/out/peers)")
    server = parser.add_argument_group("server", "by default a private one is made and removed")
    server.add_argument("--bindir", default=os.environ.get("BENCH_BINDIR"),
                        help="folder of initdb, pg_ctl, pgbench (default: $BENCH_BINDIR or pg_config --bindir)")
    server.add_argument("--data-parent", type=Path, default=os.environ.get("BENCH_TMP"),
                        help="where the private server's folder is made (default: $BENCH_TMP or /tmp)")
    server.add_argument("--set", action="append", default=[], metavar="NAME=VALUE",
                        help="a setting of the private server; may be repeated")
    server.add_argument("--socket", help="use a running server with its socket in this folder instead")
    server.add_argument("--port", type=int, default=5432)
    server.add_argument("--user", default="postgres")
    return parser.parse_args(arguments)


def make_options(asked, plane):
    """Fill in what was not asked for; --quick changes the defaults, and a plane may have its own for it."""
    quick = {"rounds": 3, "seconds": 2, "scale": 0.02, "held_minutes": 1.0, **getattr(plane, "QUICK", {})}
    full = {"rounds": 3, "seconds": 5, "scale": 1.0, "held_minutes": 10.0}
    chosen = {name: value for name in full if (value := getattr(asked, name)) is not None}
    return Options(quick=asked.quick, clients=asked.clients, **{**(quick if asked.quick else full), **chosen})


def make_server(asked, plane):
    """The server to measure on, as a context manager."""
    bindir = cluster.find_bindir(asked.bindir)
    if asked.socket:
        return cluster.Server(bindir, asked.socket, asked.port, asked.user)
    settings = dict(pair.split("=", 1) for pair in asked.set)
    preload = plane.PRELOAD if cluster.has_extension(bindir, plane.PRELOAD) else None
    return cluster.PrivateCluster(bindir, settings, preload, parent=asked.data_parent)


def chosen_benchmarks(asked, plane):
    if not asked.only:
        return dict(plane.BENCHMARKS)
    names = [name.strip() for name in asked.only.split(",") if name.strip()]
    unknown = [name for name in names if name not in plane.BENCHMARKS]
    if unknown:
        sys.exit(f"bench: unknown benchmark {', '.join(unknown)}; there are: {', '.join(plane.BENCHMARKS)}")
    return {name: plane.BENCHMARKS[name] for name in names}


def chosen_peers(asked, plane):
    if asked.peers is None:
        return plane.PEERS
    names = [] if asked.peers == "none" else asked.peers.split(",")
    unknown = [name for name in names if name not in plane.PEERS]
    if unknown:
        sys.exit(f"bench: unknown peer {', '.join(unknown)}; there are: {', '.join(plane.PEERS)}")
    return names


def chosen_contestants(asked, contestants):
    if asked.contestants is None:
        return contestants
    names = asked.contestants.split(",")
    unknown = set(names) - {contestant.name for contestant in contestants}
    if unknown:
        sys.exit(f"bench: unknown contestant {', '.join(sorted(unknown))}")
    return [contestant for contestant in contestants if contestant.name in names]


def run_benchmarks(ctx, benchmarks):
    """Run them one after the other. One that fails is reported and does not stop the others."""
    failed = 0
    for name, benchmark in benchmarks.items():
        ctx.say(f"== {name}")
        began = time.monotonic()
        try:
            benchmark(ctx)
        except Exception as failure:  # pylint: disable=broad-except
            failed += 1
            ctx.report.skip(name, f"failed: {str(failure).strip().splitlines()[0] if str(failure) else failure!r}")
            ctx.say(f"{name} failed:\n{traceback.format_exc()}")
        ctx.say(f"== {name} took {time.monotonic() - began:.0f} s")
        ctx.report.write(ctx.out)
    return failed


def load_average():
    """Whether somebody else was at work on the machine; at the end our own load is in it."""
    return ", ".join(f"{value:.1f}" for value in os.getloadavg())


def measure(asked, plane, options, out, work):
    """Start the server, admit the contestants, run; return the report and the number of failures."""
    report = Report(asked.plane, plane.SUBJECT, {})
    with make_server(asked, plane) as server:
        ctx = Context(server, options, report, out, work)
        report.environment = database.describe(server)
        report.environment["load average at start"] = load_average()
        report.options = {"options": json.dumps(vars(options))}
        for name, value in {**report.environment, **report.options}.items():
            ctx.say(f"{name}: {value}")
        cache = asked.peer_cache or ROOT / "bench" / "out" / "peers"
        for contestant in chosen_contestants(asked, plane.make_contestants(server, work, cache, chosen_peers(asked, plane))):
            ctx.admit(contestant)
        try:
            failed = run_benchmarks(ctx, chosen_benchmarks(asked, plane))
            report.environment["load average at end"] = load_average()
        finally:
            if asked.socket:
                for contestant in ctx.contestants.values():
                    contestant.discard()
                for fixture in ctx.fixtures.values():
                    database.drop_database(server, fixture.dbname)
    return report, failed


def main():
    asked = parse(sys.argv[1:])
    plane = importlib.import_module(f"bench.{asked.plane}.plane")
    if asked.list:
        print("\n".join(plane.BENCHMARKS))
        return 0
    chosen_benchmarks(asked, plane)
    chosen_peers(asked, plane)
    out = asked.out or Path(os.environ.get("BENCH_OUT", ROOT / "bench" / "out")) / asked.plane
    out.mkdir(parents=True, exist_ok=True)
    process.install_signal_handlers()
    try:
        with tempfile.TemporaryDirectory(prefix="tasker-bench-work-") as work:
            report, failed = measure(asked, plane, make_options(asked, plane), out, Path(work))
    except process.Interrupted as interrupted:
        print(f"bench: interrupted by {interrupted}; the server was removed", file=sys.stderr)
        return 128 + interrupted.signum
    report.write(out)
    chart.draw_figures(report, out)
    print(report.text())
    print(f"\nwritten to {out}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

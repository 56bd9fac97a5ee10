"""Benchmarks of Tasker. Run `python3 bench/bench.py --help`."""

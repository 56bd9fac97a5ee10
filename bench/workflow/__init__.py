"""Benchmarks of the workflow plane."""

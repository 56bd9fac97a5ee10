"""Benchmarks of the partition plane."""

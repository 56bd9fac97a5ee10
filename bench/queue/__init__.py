"""Benchmarks of the queue plane."""

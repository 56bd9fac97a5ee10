"""Benchmarks of the stream plane."""

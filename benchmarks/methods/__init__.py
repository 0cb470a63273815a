"""Benchmarks of methods, against peers and the bare model."""

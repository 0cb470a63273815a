"""Benchmarks of whole runs: start, reading, memory, durability, importance."""

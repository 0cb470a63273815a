"""Slices: expressions, bins, and the rows that belong to each."""

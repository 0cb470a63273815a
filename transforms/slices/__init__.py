"""Slices: columns, conditions and bins, and the rows that belong to each slice."""

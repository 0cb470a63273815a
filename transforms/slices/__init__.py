"""Slices: subgroups of the rows, by columns, conditions, bins and intersections of these."""

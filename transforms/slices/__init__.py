"""Slices of the rows by columns, conditions and bins, and which rows belong to each slice."""

"""Parquet: columns, row groups, and the readable rows of damaged files."""

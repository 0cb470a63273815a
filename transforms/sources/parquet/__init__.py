"""Parquet: columns, row groups, and what can be had of a damaged file."""

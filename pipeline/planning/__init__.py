"""Preflight: everything a run checks and decides before its first row."""

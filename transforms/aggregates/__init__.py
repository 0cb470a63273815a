"""Mergeable aggregates over all rows: importance, samples, quality, interactions."""

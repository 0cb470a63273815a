"""Mergeable aggregates over all rows: importance, samples, quality, positions; and interactions."""

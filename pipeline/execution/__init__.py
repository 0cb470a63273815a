"""Executing a run: the Beam graph, progress, and the commit."""

"""Engines: the only place that names a runner."""

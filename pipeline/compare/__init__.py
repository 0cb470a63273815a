"""Compares two committed runs by their aggregates, in seconds for any number of rows."""

from __future__ import annotations

from pipeline.compare.as_json import to_json
from pipeline.compare.comparison import Comparison, compare

__all__ = ["Comparison", "compare", "to_json"]

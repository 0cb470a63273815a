"""What changed between two committed runs, from their aggregates: seconds, however many rows they have."""

from __future__ import annotations

from pipeline.compare.as_json import to_json
from pipeline.compare.comparison import Comparison, compare

__all__ = ["Comparison", "compare", "to_json"]

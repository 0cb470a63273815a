"""Random boosted trees, a bounded number, against their library's own prediction and all coalitions."""

from __future__ import annotations

import math

from tests.fuzz.fuzz_trees import run


def test_random_models_are_explained_or_refused() -> None:
    outcomes, findings = run(seed=7, count=16, seconds=math.inf)
    assert findings == []
    assert outcomes.total() == 16
    assert outcomes["explained"] >= 6  # else nothing is tested

"""Lists of words with padding, for models that mask it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.support.models.cut_worlds import ops

STEPS, VOCABULARY, WIDTH = 6, 20, 4

Tail = Callable[[Any, Any], Any]


def mask_of(ids: Any) -> Any:
    return ops.not_equal(ids, 0)


def sentences(rng: np.random.Generator, *lengths: int) -> np.ndarray:
    ids = rng.integers(1, VOCABULARY, (len(lengths), STEPS)).astype(np.int32)
    ids[np.arange(STEPS) >= np.array(lengths)[:, None]] = 0
    return ids


ROWS = sentences(np.random.default_rng(1), 2, 5, 6)
BASES = sentences(np.random.default_rng(2), 4, 6)
PADDED = ROWS == 0

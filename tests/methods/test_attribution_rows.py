"""Rows of an attribution: selecting them by number, and joining parts."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest

from transforms.methods.base import Attribution


@pytest.mark.parametrize("full", [True, False])
def test_rows_that_are_taken_and_joined_are_the_rows(full: bool) -> None:
    rng = np.random.default_rng(3)
    score = [rng.normal(size=(5, 2)).astype(np.float32) for _ in range(5)]
    values = {"a": rng.normal(size=(5, 2, 3)), "b": rng.normal(size=(5, 2, 4, 1))}
    whole = Attribution(
        values,
        *score[:3],
        score[3] if full else None,
        {name: abs(value) for name, value in values.items()} if full else None,
        np.arange(5) % 2 == 0,
        score[4] if full else None,
    )
    parts = [whole.take(np.array(rows)) for rows in ([4], [0, 2], [1, 3])]
    again = Attribution.joined(parts).take(np.array([1, 3, 2, 4, 0]))
    assert all(part.convergence_delta is None for part in parts) is not full
    for field in fields(Attribution):
        one, other = getattr(whole, field.name), getattr(again, field.name)
        if isinstance(one, dict):
            assert list(one) == list(other)
            assert all(np.array_equal(one[name], other[name]) for name in one)
        else:
            assert np.array_equal(one, other) if one is not None else other is None

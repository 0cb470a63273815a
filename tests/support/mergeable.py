"""What every state that merges must do, driven in one place: merge = add one by one, identity, any order."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

S = TypeVar("S")


def check_merging(
    empty: Callable[[], S],
    parts: Sequence[Callable[[S], None]],
    summary: Callable[[S], Any],
    same: Callable[[Any, Any], None],
    seed: int,
    round_trip: Callable[[S], S] = lambda state: pickle.loads(pickle.dumps(state)),
) -> S:
    """Adds parts in one state, and as states that are merged as a random tree; `same` compares the summaries.

    Args:
      empty: A state of nothing.
      parts: Each adds some data to a state.
      summary: What a state says in the end.
      same: Asserts that two summaries are equal.
      seed: Of the orders.
      round_trip: Through the form that a state is stored in.
    Returns:
      The state that every part was added to.
    """
    whole = empty()
    for part in parts:
        part(whole)
    expected = summary(whole)

    def state_of(part: Callable[[S], None]) -> S:
        state = empty()
        part(state)
        return state

    rng = np.random.default_rng(seed)
    for _ in range(2):
        states = [round_trip(state_of(part)) for part in parts]
        states.insert(int(rng.integers(len(states) + 1)), empty())
        merged: list[tuple[S, bytes]] = []
        while len(states) > 1:
            one, other = (states.pop(int(rng.integers(len(states)))) for _ in range(2))
            merged.append((other, pickle.dumps(other)))
            one.merge(other)  # type: ignore[attr-defined]
            states.append(one)
        same(summary(states[0]), expected)
        # Neither merging nor what was merged into the sum later reaches into an argument.
        assert all(pickle.dumps(other) == before for other, before in merged), "merge mutated its argument"
    for identity in (empty(), round_trip(empty())):
        state = round_trip(whole)
        state.merge(identity)  # type: ignore[attr-defined]
        same(summary(state), expected)
        identity.merge(state)  # type: ignore[attr-defined]
        same(summary(identity), expected)
    return whole

"""Players that change nothing: who they are, against a plain loop; and fits that leave them out."""

from __future__ import annotations

import numpy as np

from transforms.methods.masking.unchanged_players import at_zero, still_players
from transforms.models.players import HELD, Players
from transforms.models.reference import Reference


def test_who_stands_still_is_who_has_no_value_that_differs() -> None:
    """Groups over several inputs, held values, strings, −0, NaN; against a loop over rows and players."""
    rng = np.random.default_rng(0)
    words = np.array([b"a", b"b"], object)
    for trial in range(40):
        size = int(rng.integers(1, 4))

        def draw(rows: int) -> dict[str, np.ndarray]:
            numbers = rng.choice(np.array([0.0, -0.0, 1.0, np.nan], np.float32), (rows, 2, 2))
            return {
                "x": numbers,
                "w": rng.choice(words, (rows, 1)),
                "n": rng.integers(0, 2, (rows, 3)).astype(np.int64),
            }

        rows, background = draw(9), draw(size)
        for value in background.values():
            if trial % 2:  # more that all of the background shares
                value[:] = value[:1]
        of = {
            "x": rng.integers(HELD, 4, 4),
            "w": rng.integers(0, 4, 1),
            "n": rng.integers(0, 4, 3),
        }
        players = Players(("a", "b", "c", "d"), {k: v.shape[1:] for k, v in rows.items()}, of)
        reference = Reference(background, np.zeros((size, 1)), np.ones(1), players=players)
        expected = np.ones((9, 4), bool)
        for name, value in rows.items():
            for row, own in enumerate(value.reshape(9, -1)):
                for other in background[name].reshape(size, -1):
                    for player, mine, theirs in zip(of[name], own, other, strict=True):
                        if player != HELD and repr(mine) != repr(theirs):
                            expected[row, player] = False
        found = still_players(rows, reference)
        np.testing.assert_array_equal(np.zeros_like(expected) if found is None else found, expected)


def test_a_fit_without_them_is_the_fit_under_that_condition() -> None:
    """Least squares with a given sum and some values at 0, by numpy, each row for itself."""
    rng = np.random.default_rng(1)
    design = rng.normal(size=(30, 5))
    gram = design.T @ design
    ones = np.ones((5, 5)) / 5
    centre = np.eye(5) - ones
    inverse = np.linalg.pinv(centre @ gram @ centre)
    values = rng.normal(size=(7, 2, 5))
    still = rng.random((7, 5)) < 0.4
    still[0], still[1] = False, [True, True, True, True, False]
    found = at_zero(values, still, inverse)
    assert (found[np.broadcast_to(still[:, None], found.shape)] == 0).all()
    np.testing.assert_array_equal(found[0], values[0])
    for row in range(7):
        free = np.flatnonzero(~still[row])
        if not len(free):  # then the sum is nothing as well
            continue
        for target in range(2):
            phi = values[row, target]
            # The nearest in the metric of the Gram matrix: Lagrange's conditions for the sum.
            top = np.block(
                [[gram[np.ix_(free, free)], np.ones((len(free), 1))], [np.ones((1, len(free))), 0]]
            )
            right = np.append((gram @ phi)[free], phi.sum())
            nearest = np.linalg.solve(top, right)[:-1]
            np.testing.assert_allclose(found[row, target, free], nearest, atol=1e-9)

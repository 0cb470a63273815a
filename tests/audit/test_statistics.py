"""Agreement of orders and shares on an even scale, against scikit-learn, scipy and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kendalltau
from sklearn.metrics import ndcg_score

from transforms.statistics.rank_agreement import agreement
from transforms.statistics.shares import angle, angle_error, share_of


@pytest.mark.parametrize("seed", range(5))
def test_agreement_is_that_of_the_libraries(seed: int) -> None:
    usual, tonight = np.random.default_rng(seed).random((2, 12))
    assert agreement("ndcg", usual, tonight, 10) == pytest.approx(ndcg_score([usual], [tonight]))
    assert agreement("kendall", usual, tonight, 10) == pytest.approx(kendalltau(usual, tonight).statistic)


def test_overlap_counts_the_features_that_both_orders_have_first() -> None:
    usual, tonight = np.array([4.0, 3.0, 2.0, 1.0]), np.array([4.0, 1.0, 3.0, 2.0])
    assert [agreement("overlap", usual, tonight, top) for top in (1, 2, 3, 9)] == [1.0, 0.5, 2 / 3, 1.0]


def test_the_same_order_agrees_wholly() -> None:
    usual = np.array([0.5, 0.25, 0.0])
    assert [agreement(measure, usual, usual, 2) for measure in ("ndcg", "kendall", "overlap")] == [1.0] * 3


def test_angles_of_shares_have_the_sampling_error_that_is_stated() -> None:
    rng, rows = np.random.default_rng(0), 400
    for share in (0.1, 0.5, 0.9):
        drawn = angle(rng.binomial(rows, share, 20_000) / rows)
        assert drawn.std() == pytest.approx(angle_error(np.array(rows)), rel=0.05)
    np.testing.assert_allclose(share_of(angle(np.array([0.0, 0.3, 1.0]))), [0.0, 0.3, 1.0], atol=1e-12)
    np.testing.assert_array_equal(share_of(np.array([-0.2, 2.0])), [0.0, 1.0])

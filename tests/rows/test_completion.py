"""Lists of some features, completed in one way or not at all; baselines that say nothing; keys in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.planning.baseline_checks import degenerate_baseline
from pipeline.planning.method.allowed_values import allowed_values
from transforms.errors import UserError
from transforms.methods import METHODS
from transforms.models.base import InputSpec, Signature
from transforms.rows.resolve.completion import completed, completion_note
from transforms.rows.resolve.feature import FeatureRequest
from transforms.rows.resolve.resolve import ColumnRequest, resolve

NUMBER, TEXT = pa.float64(), pa.string()
TEN = {f"c{at}": NUMBER for at in range(10)}
VECTOR = Signature((InputSpec("x", (10,), "float32"),), ())
NAMED = Signature((InputSpec("x", (10,), "float32", values=tuple(f"c{9 - at}" for at in range(10))),), ())
SEVERAL = Signature(tuple(InputSpec(name, (1,), "float32") for name in ("age", "load", "wind")), ())


def asked(*features: FeatureRequest | str, **parts: Any) -> ColumnRequest:
    listed = tuple(FeatureRequest(f) if isinstance(f, str) else f for f in features)
    given = {"groups": {}, "id": None, "slices": (), "target": None, **parts}
    return ColumnRequest(listed or None, **given)


def names(
    request: ColumnRequest, signature: Signature, columns: Mapping[str, pa.DataType]
) -> list[tuple[str, Any]]:
    schema = resolve(completed(request, signature, columns), signature, columns)
    return [(feature.name, feature.fill) for feature in schema.features]


def filled(order: Sequence[str], **fills: float) -> list[tuple[str, float | None]]:
    return [(name, fills.get(name)) for name in order]


FILLED = FeatureRequest("c4", fill=7)


def test_one_of_ten_with_a_fill() -> None:
    assert names(asked(FILLED), VECTOR, TEN) == filled(list(TEN), c4=7)
    # By name it is the model's order, as it is where nothing is listed.
    assert names(asked(FILLED), NAMED, TEN) == filled(list(NAMED.inputs[0].values), c4=7)
    assert names(asked(), NAMED, TEN) == filled(list(NAMED.inputs[0].values))
    columns = {"wind": NUMBER, "age": NUMBER, "load": NUMBER, "note": TEXT}
    assert names(asked(FeatureRequest("load", fill=2)), SEVERAL, columns) == filled(
        ["age", "load", "wind"], load=2
    )


def test_columns_with_another_part_are_no_features() -> None:
    columns = {"id": NUMBER, "c0": NUMBER, "y": NUMBER, "region": NUMBER, "w": NUMBER, "text": TEXT, **TEN}
    parts = {"id": "id", "target": "y", "slices": ("region",), "weight": "w"}
    assert names(asked(FILLED, **parts), VECTOR, columns) == filled(list(TEN), c4=7)
    # A slice that is listed is a feature, too.
    assert names(asked(FILLED, **{**parts, "slices": ("region", "c4")}), VECTOR, columns) == filled(
        list(TEN), c4=7
    )


@pytest.mark.parametrize(
    ("listed", "columns"),
    [
        (("c4", "c2"), TEN),  # another order than the file's: whose is meant?
        (("c4",), {**TEN, "more": NUMBER}),  # eleven numbers for ten values
        (("c4",), {name: TEN[name] for name in list(TEN)[:9]}),
    ],
)
def test_what_is_ambiguous_is_an_error_that_says_to_list_all(
    listed: tuple[str, ...], columns: Mapping[str, pa.DataType]
) -> None:
    request = asked(*listed)
    assert completed(request, VECTOR, columns) is request
    with pytest.raises(UserError, match="list the columns that the model was trained on, in its order"):
        names(request, VECTOR, columns)


def test_a_whole_list_keeps_its_order() -> None:
    order = list(TEN)[::-1]
    assert names(asked(*order), VECTOR, {**TEN, "more": NUMBER}) == filled(order)


def test_names_that_the_model_does_not_have_are_told() -> None:
    with pytest.raises(UserError, match="left over: humid"):
        names(asked("humid"), SEVERAL, {"age": NUMBER, "load": NUMBER, "wind": NUMBER, "humid": NUMBER})
    with pytest.raises(UserError, match="wind are not among the features") as caught:
        names(asked("age"), SEVERAL, {"age": NUMBER, "load": NUMBER, "winds": NUMBER})
    assert "did you mean winds for wind" in str(caught.value)
    assert "load for load" not in str(caught.value)


def test_a_column_under_another_name_feeds_what_it_says() -> None:
    columns = {"years": NUMBER, "load": NUMBER, "wind": NUMBER, "age": NUMBER}
    request = asked(FeatureRequest("years", input="age"))
    assert names(request, SEVERAL, columns) == filled(["years", "load", "wind"])


def test_names_that_the_library_spells_in_its_own_way() -> None:
    """LightGBM writes underscores for spaces; other libraries' names are taken as they are."""
    vector = InputSpec("x", (3,), "float32", values=("a_b", "c", "d"), respelled=True)
    columns = {"a b": NUMBER, "c": NUMBER, "d": NUMBER}
    request = asked(FeatureRequest("c", fill=1))
    assert names(request, Signature((vector,), ()), columns) == filled(["a b", "c", "d"], c=1)
    with pytest.raises(UserError, match="the model's features a_b are not among"):
        names(request, Signature((replace(vector, respelled=False),), ()), columns)
    # Two columns of one spelling: neither is taken, unless it is listed.
    both = {"a b": NUMBER, "a_b": NUMBER, "c": NUMBER, "d": NUMBER}
    with pytest.raises(UserError, match="a_b"):
        names(request, Signature((vector,), ()), both)
    listed = asked(FeatureRequest("a b", fill=2))
    assert names(listed, Signature((vector,), ()), both) == [("a b", 2), ("c", None), ("d", None)]


def test_it_is_said() -> None:
    assert completion_note(asked(FILLED), VECTOR, list(TEN)) == (
        "1 of 10 features are listed: the others are taken as they are, and all are in the file's order"
    )
    assert "by the model's names" in str(completion_note(asked(FILLED), NAMED, list(TEN)))
    assert completion_note(asked(), VECTOR, list(TEN)) is None
    assert completion_note(asked(*TEN), VECTOR, list(TEN)) is None
    assert completion_note(asked(FILLED), None, ["c4"]) is None


def test_a_function_takes_what_is_listed() -> None:
    request = asked(FILLED)
    assert completed(request, None, TEN) is request


# -- baselines that say nothing ------------------------------------------------------------------------------


ONE, SAME = np.array([1.0, np.nan]), np.array([b"x", b"x"], object)


@pytest.mark.parametrize(
    ("kind", "method", "background", "first", "says"),
    [
        ("sample", "exact_shap", ONE[:1], ONE[:1], "the input's one row is the baseline itself"),
        ("mean", "integrated_gradients", ONE[:1], ONE[:1], "the input's one row is the baseline itself"),
        (
            "sample",
            "exact_shap",
            np.ones(5),
            np.ones(30),
            "all inspected rows are the",
        ),
        ("sample", "exact_shap", SAME, SAME, "all inspected rows are the"),
        ("sample", "exact_shap", ONE[1:], ONE[1:], "the baseline itself"),
        ("sample", "exact_shap", np.ones(1), np.arange(9.0), "the background of exact_shap is one row"),
        ("file", "kernel_shap", np.ones(7), np.arange(9.0), "is 7 identical rows"),
        ("zeros", "exact_shap", np.zeros(1), np.arange(9.0), None),
        ("mean", "integrated_gradients", np.ones(1), np.arange(9.0), None),
        ("sample", "exact_shap", np.arange(3.0), np.arange(3.0), None),
        ("sample", "exact_shap", np.arange(3.0), None, None),
        ("sample", "saliency", ONE[:1], ONE[:1], None),  # a gradient at the row, wherever the baseline is
        ("sample", "smoothgrad", ONE[:1], ONE[:1], None),
        ("sample", "lime", ONE[:1], ONE[:1], "every φ is 0"),
        ("sample", "expected_gradients", ONE[:1], ONE[:1], "every φ is 0"),
    ],
)
def test_a_baseline_that_says_nothing_is_a_warning(
    kind: str, method: str, background: np.ndarray, first: np.ndarray | None, says: str | None
) -> None:
    found = degenerate_baseline(
        kind, METHODS[method](), {"a": background}, None if first is None else {"a": first}
    )
    if says is None:
        assert found == ()
    else:
        (line,) = found
        assert says in line
        assert line.startswith("baseline: ")


# -- what keys may be ----------------------------------------------------------------------------------------


def test_keys_are_told_with_what_they_may_be() -> None:
    assert allowed_values(METHODS["kernel_shap"]) == {
        "n_samples": "auto | a whole number, 4 to 1,000,000",
        "sampling": "leverage | shapley",
        "tolerance": "a number, above 0, at most 1,000,000 | none",
        "standard_error": "true | false",
    }
    assert allowed_values(METHODS["tree_shap"]) == {"perturbation": "interventional | path_dependent"}
    assert allowed_values(METHODS["occlusion"])["window"].startswith(
        "a list; each item is a whole number, at least 1"
    )
    for name, method in METHODS.items():
        assert all(allowed_values(method).values()), name

"""LightGBM models: text files of Booster.save_model and pickles, scored by LightGBM itself."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from transforms.arrow.types import is_text
from transforms.errors import UserError
from transforms.models.categories import Categories
from transforms.models.forest.arrays import Forest, Tree, plant
from transforms.models.kinds.trees.base import (
    TreeModel,
    TreeScores,
    as_classes,
    missing_library,
    missing_package,
    tree_signature,
)
from transforms.models.kinds.trees.frames import frame_of
from transforms.models.kinds.trees.lightgbm_categories import lists_in_order
from transforms.models.kinds.trees.lightgbm_text import whole_text

if TYPE_CHECKING:
    import pyarrow as pa

#: Objectives for which the raw score is the model's output; "" stands for a custom objective.
_IDENTITY = (
    "", "custom", "regression", "regression_l1", "huber", "fair", "quantile", "mape", "lambdarank",
    "rank_xendcg",
)  # fmt: skip
#: Masks for bits 0 and 1 of a decision_type, and a value of its bits 2 and 3. These bits say which values
#: count as missing: 0 none, 1 zeros and NaN, 2 NaN.
_CATEGORICAL, _DEFAULT_LEFT, _MISSING_ZERO = 1, 2, 1


class LightGBMModel:
    """A LightGBM booster; like LightGBM's own predict, it uses the trees up to the best iteration.

    Categories are converted to codes by the file's lists, as LightGBM does for a data frame. If the file has
    no lists, features must hold codes.

    Args:
      path: A local file.
      allow_unsafe: Ignored, because a LightGBM file holds no code.
      booster: The booster, if it is already loaded.
      estimator: The LightGBM estimator (scikit-learn interface) to which the booster belongs, if any.
    Raises:
      UserError: LightGBM is not installed or does not load, the file is damaged or does not load, or it
        holds no trees.
    """

    kind = "lightgbm"

    def __init__(
        self, path: str, *, allow_unsafe: bool = False, booster: Any = None, estimator: Any = None
    ) -> None:
        try:
            import lightgbm
        except ImportError as error:
            raise missing_package("lightgbm", "a LightGBM model", path) from error
        except OSError as error:  # LightGBM's wheel needs libgomp, which slim images do not have
            raise (
                missing_library(error, "a LightGBM model", path)
                or UserError(f"LightGBM does not load: {error}", path, "install it again")
            ) from error
        self.path, self._estimator = path, estimator
        if booster is None:
            text = whole_text(path)
            try:
                booster = lightgbm.Booster(model_file=path if text is None else None, model_str=text)
            except lightgbm.basic.LightGBMError as error:
                raise UserError(f"LightGBM cannot load the model: {str(error)[:200]}", path) from error
        self._booster = booster
        if not booster.num_trees():
            raise UserError("holds no trees: it was trained for no rounds", path, "train it for some rounds")
        self._text = str(booster.model_to_string())
        header = self._text.partition("\nTree=")[0]
        self._categories = lists_in_order(booster, header, self._text, path)
        # A random forest returns the mean of its trees, but its raw score is their sum.
        averaged = re.search(r"^average_output", header, re.MULTILINE) is not None
        self._grown = int(booster.num_model_per_iteration())
        self._over = self._text.count("\nTree=") // self._grown if averaged else 1
        self.scores = self._scored(header)
        names: Sequence[str] = list(booster.feature_name())
        if names == [f"Column_{index}" for index in range(len(names))] and self._categories is None:
            names = ()  # the names that LightGBM makes up if the training data has none
        signature = tree_signature(
            names, booster.num_feature(), "float64", self.scores, nan=True, categories=self._categories
        )
        self.signature = replace(signature, inputs=(replace(signature.inputs[0], respelled=True),))

    def _scored(self, header: str) -> TreeScores:
        line = re.search(r"^objective=(.*)$", header, re.MULTILINE)
        words = line[1].split() if line else []
        objective = words[0] if words else ""
        identity = objective in _IDENTITY and "sqrt" not in words
        output = None if identity else lambda rows: self._predict(rows, raw=False)
        kind = "output" if identity else "margin"
        sigmoid = next((float(word[8:]) for word in words if word.startswith("sigmoid:")), 1.0)

        def margin(rows: np.ndarray) -> np.ndarray:
            return self._predict(rows, raw=True)

        own = getattr(self._estimator, "classes_", None)
        classes = None if own is None else as_classes(own)
        if objective in ("binary", "cross_entropy") and (classes is None or len(classes) == 2):
            return TreeScores(
                margin,
                output,
                kind,
                2,
                classes=classes or (0, 1),
                probabilities=True,
                factor=sigmoid,
                mirrored=True,
            )
        if objective in ("multiclass", "multiclassova"):
            classes = classes or tuple(range(self._grown))
            return TreeScores(
                margin, output, kind, self._grown, classes=classes, probabilities=True, factor=sigmoid
            )
        return TreeScores(margin, output, kind, self._grown)

    def public_prediction(self, rows: pa.RecordBatch, inputs: Mapping[str, np.ndarray]) -> np.ndarray | None:
        """The prediction of LightGBM's own interface; see `PublicPrediction`."""
        import lightgbm

        (taken,) = inputs.values()
        places: Mapping[int, Categories] = {}
        if self._categories is not None:
            places = self._categories.at([is_text(column.type) for column in rows.columns])
        frame = frame_of(rows, taken, self._booster.feature_name(), places, {})
        if frame is None and places:
            return None
        data: Any = taken if frame is None else frame
        estimator = self._estimator
        try:
            with warnings.catch_warnings():
                # scikit-learn warns that an array has no feature names.
                warnings.simplefilter("ignore")
                if estimator is None:
                    predicted = np.asarray(self._booster.predict(data, num_threads=1))
                elif hasattr(estimator, "predict_proba"):
                    return np.asarray(estimator.predict_proba(data))
                else:
                    predicted = np.asarray(estimator.predict(data))
        except (lightgbm.basic.LightGBMError, ValueError, TypeError) as error:
            what = f"LightGBM's own prediction fails: {str(error)[:200]}"
            remedy = "check that the model predicts these rows in the environment of its training"
            raise UserError(what, self.path, remedy) from error
        return np.stack([1 - predicted, predicted], axis=1) if self.scores.mirrored else predicted

    def scored(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        score: str,
        *,
        affine_prefix: bool,
        example: Mapping[str, np.ndarray],
    ) -> TreeModel:
        """Makes the scored model."""
        return TreeModel(self, score, example)

    def _predict(self, rows: np.ndarray, *, raw: bool) -> np.ndarray:
        # One thread per call: our own threads share the rows.
        scores: np.ndarray = self._booster.predict(rows, raw_score=raw, num_threads=1)
        return scores / self._over if raw else scores

    def forest(self) -> Forest:
        """Returns the trees; see `TreeAdapter.forest`."""
        blocks = self._text.partition("\nend of trees")[0].split("\nTree=")[1:]
        trees = [
            _tree(block, number % self._grown, self._over, self.path) for number, block in enumerate(blocks)
        ]
        return plant(trees, self._booster.num_feature(), self._grown)


def _tree(block: str, group: int, over: int, path: str) -> Tree:
    fields = dict(line.partition("=")[::2] for line in block.splitlines() if "=" in line)

    def numbers(key: str, dtype: Any) -> np.ndarray:
        return np.array(fields.get(key, "").split(), np.float64).astype(dtype)

    if fields.get("is_linear", "0") != "0":
        raise UserError(
            "its leaves hold linear models (linear_tree), which tree_shap does not support",
            path,
            "use permutation_shap or kernel_shap, or train with linear_tree: false",
        )
    leaf_value = numbers("leaf_value", np.float64) / over
    inner = len(leaf_value) - 1
    if not inner:
        return Tree.leaf(group, leaf_value, 1.0)
    # LightGBM numbers splits 0, 1, … and leaves -1, -2, …. Here leaves are numbered after the splits.
    children = [numbers(side, np.int64) for side in ("left_child", "right_child")]
    left, right = (
        np.r_[np.where(side >= 0, side, inner + ~side), np.full(inner + 1, -1)] for side in children
    )
    kind = np.r_[numbers("decision_type", np.int64), np.zeros(inner + 1, np.int64)]
    threshold = np.r_[_precise(fields["threshold"]), np.zeros(inner + 1)]
    categorical = kind & _CATEGORICAL != 0
    missing = (kind >> 2) & 3
    default_left = kind & _DEFAULT_LEFT != 0
    # If no values count as missing, NaN goes where 0 goes. At a split between categories, NaN is in no set.
    goes_left = np.where(missing == 0, threshold >= 0, default_left) & ~categorical
    sets: list[np.ndarray] | None = None
    if categorical.any():
        sets = [np.zeros(0, np.uint32)] * len(kind)
        bounds = numbers("cat_boundaries", np.int64)
        words = np.array([int(word) for word in fields["cat_threshold"].split()], np.uint32)
        for node in np.flatnonzero(categorical):
            number = int(threshold[node])
            sets[node] = words[bounds[number] : bounds[number + 1]]
    return Tree(
        group,
        left,
        right,
        np.r_[numbers("split_feature", np.int64), np.zeros(inner + 1, np.int64)],
        threshold,
        goes_left,
        np.r_[np.zeros(inner), leaf_value].reshape(-1, 1),
        np.r_[numbers("internal_count", np.float64), numbers("leaf_count", np.float64)],
        zero_missing=(missing == _MISSING_ZERO) & ~categorical,
        members_left=categorical,
        categories=sets,
    )


def _precise(text: str) -> np.ndarray:
    return np.array([float(word) for word in text.split()])

"""scikit-learn's decision trees, forests and gradient boosting as models."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from transforms.errors import UserError
from transforms.models.categories import Categories, Placed, known_as_one_kind
from transforms.models.forest.arrays import Forest, Tree, plant
from transforms.models.kinds.trees.base import (
    INPUT,
    TreeModel,
    TreeScores,
    Written,
    as_classes,
    tree_signature,
)
from transforms.wording import names_in_words

if TYPE_CHECKING:
    import pyarrow as pa

_FORESTS = ("RandomForest", "ExtraTrees", "DecisionTree", "ExtraTree")
_BOOSTED = ("GradientBoosting", "HistGradientBoosting")


def is_tree_model(model: Any) -> bool:
    """True if an object is one of scikit-learn's own tree estimators."""
    own = type(model)
    return own.__module__.partition(".")[0] == "sklearn" and own.__name__.startswith((*_FORESTS, *_BOOSTED))


class SklearnModel:
    """A tree estimator of scikit-learn.

    Args:
      path: The file that the estimator was loaded from.
      model: The estimator, for which `is_tree_model` must be true; it is not changed.
      written: The versions of scikit-learn, if another version than the installed one wrote the estimator.
    Raises:
      UserError: The estimator is not fitted, does not predict, or is a classifier with several outputs.

    Attributes:
      written: The argument `written`.
      warnings: Warnings about the model that do not stop a run.
    """

    kind = "sklearn"

    def __init__(self, path: str, model: Any, written: Written | None = None) -> None:
        self.path, self._public, self.written = path, model, written
        self.warnings = () if written is None else (f"{written}: predictions may differ between versions",)
        name = type(model).__name__
        self._boosted = name.startswith(_BOOSTED)
        self._histogram = name.startswith("Hist")
        self._model = model = copy.copy(model)
        self._check_fitted()
        # Maps the numbers of features in the trees to the model's features.
        self._order = np.arange(int(model.n_features_in_))
        if hasattr(model, "n_jobs"):
            model.n_jobs = 1  # our own threads share the rows
        self._classifies = hasattr(model, "classes_")
        names = getattr(model, "feature_names_in_", None)
        if names is not None:
            # With names, scikit-learn would warn in every call that our rows are plain arrays.
            del model.feature_names_in_
        categories = self._categories() if self._histogram else None
        self.scores = self._scored()
        dtype = "float64" if self._histogram else "float32"
        self.signature = tree_signature(
            [] if names is None else [str(name) for name in names],
            int(model.n_features_in_),
            dtype,
            self.scores,
            nan=self._takes_nan(dtype),
            categories=categories,
        )

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

    def public_prediction(self, rows: pa.RecordBatch, inputs: Mapping[str, np.ndarray]) -> np.ndarray | None:
        """The estimator's own prediction of a data frame; see `PublicPrediction`."""
        given = self._as_frame(rows, inputs[INPUT])
        if not self._classifies:
            return np.asarray(self._public.predict(given)).reshape(len(inputs[INPUT]), -1)
        probabilities: np.ndarray = self._public.predict_proba(given)
        return probabilities[:, -self.scores.width :]

    def _as_frame(self, rows: pa.RecordBatch, decoded: np.ndarray) -> Any:
        """Rows in the form on which the estimator was fitted: a data frame, or an array."""
        import pandas as pd

        names = getattr(self._public, "feature_names_in_", None)
        places = self.signature.inputs[0].categories
        known = {} if places is None else places.at([False] * decoded.shape[1])
        if rows.num_columns != decoded.shape[1]:  # the features come as vectors, without categories
            return decoded if names is None else pd.DataFrame(decoded, columns=names)
        columns: dict[Any, Any] = {}
        for place, column in enumerate(rows.columns):
            if place in known:
                values = column.to_pandas()
                filled = values.isna().to_numpy() & ~np.isnan(decoded[:, place])
                if filled.any():
                    words = known[place].of_codes(decoded[:, place]).to_pandas()
                    values = values.astype(object).where(~filled, words)
            else:
                values = _as_numbers(column)
                values = np.where(np.isfinite(values), values, decoded[:, place])
            columns[place if names is None else names[place]] = values
        frame = pd.DataFrame(columns)
        return frame if names is not None else frame.to_numpy()

    def _scored(self) -> TreeScores:
        model = self._model
        if not self._classifies:
            width = 1 if self._boosted else int(model.n_outputs_)
            if self._histogram and model.loss not in ("squared_error", "absolute_error", "quantile"):
                return TreeScores(model._raw_predict, model.predict, "margin", width)
            return TreeScores(model.predict, None, "output", width)
        if not self._boosted and int(model.n_outputs_) > 1:
            raise UserError("has several outputs to classify", self.path, "save a model for each of them")
        classes = as_classes(model.classes_)
        count = len(classes)
        if count == 1 and self._boosted:
            what = f"was fitted on rows of a single class, {model.classes_[0]}, and predicts nothing"
            raise UserError(what, self.path, "fit it on at least two classes")
        if not self._boosted:
            return TreeScores(model.predict_proba, None, "probability", count, classes, probabilities=True)
        if count == 2:  # the trees sum to a single margin, that of the second class
            return TreeScores(
                model.decision_function,
                lambda rows: model.predict_proba(rows)[:, 1],
                "margin",
                2,
                classes,
                probabilities=True,
                # With the exponential loss, the logit is twice the margin.
                factor=2.0 if model.loss == "exponential" else 1.0,
                mirrored=True,
            )
        return TreeScores(
            model.decision_function, model.predict_proba, "margin", count, classes, probabilities=True
        )

    def _check_fitted(self) -> None:
        from sklearn.exceptions import NotFittedError
        from sklearn.utils.validation import check_is_fitted

        name = type(self._model).__name__
        try:
            check_is_fitted(self._model)
            fitted = hasattr(self._model, "n_features_in_")
        except NotFittedError:
            fitted = False
        if not fitted:
            raise UserError(f"holds a {name} that is not fitted", self.path, "fit it before saving it")

    def _categories(self) -> Placed | None:
        """The categories of a histogram gradient boosting model; also makes the model take their codes.

        The model itself encodes categories, moves the features with categories to the front, and treats
        unknown categories as missing. Here its encoder is replaced by one that only moves the features.

        Raises:
          UserError: The categories are neither all strings nor all numbers.
        """
        encoded = getattr(self._model, "is_categorical_", None)
        if encoded is None or not np.any(encoded):
            return None
        self._order = np.r_[np.flatnonzero(encoded), np.flatnonzero(~encoded)]
        encoder = self._model._preprocessor.named_transformers_["encoder"]
        places = []
        for place, known in zip(np.flatnonzero(encoded), encoder.categories_, strict=True):
            values = [value for value in known.tolist() if value is not None and value == value]
            if all(isinstance(value, float) and value.is_integer() for value in values):
                values = [int(value) for value in values]
            one_kind = known_as_one_kind(values)
            if one_kind is None:
                kinds = names_in_words(sorted({type(value).__name__ for value in values}))
                raise UserError(
                    f"its categories are {kinds}, but strings or numbers are needed",
                    self.path,
                    "fit it on strings or numbers, or use a python: function",
                )
            places.append((int(place), Categories(one_kind, reject=False)))
        self._model._preprocessor = _Ordered(self._order)
        return Placed(tuple(places))

    def _takes_nan(self, dtype: str) -> bool:
        """True if the estimator accepts NaN; also checks that it can score a row of zeros.

        Raises:
          UserError: The estimator cannot predict, or its probabilities do not sum to 1.
        """
        shape = 1, int(self._model.n_features_in_)
        try:
            scores = self.scores.score(np.zeros(shape, dtype))
        # An estimator of another scikit-learn version may lack attributes and raise any exception.
        except Exception as error:
            line = next((row for row in str(error).splitlines() if row.strip()), "").strip()[:200]
            raise self._useless(f"does not predict: {type(error).__name__}: {line}") from error
        if self.scores.kind == "probability" and not np.allclose(np.sum(scores, axis=1), 1):
            raise self._useless("gives probabilities that do not sum to 1")
        try:
            self._model.predict(np.full(shape, np.nan, dtype))
        except ValueError:  # scikit-learn's error for NaN
            return False
        return True

    def _useless(self, what: str) -> UserError:
        if self.written is None:
            return UserError(what, self.path, "fit and save it again")
        return UserError(
            f"{what}: {self.written}", self.path, "fit and save it again here, or install the other version"
        )

    def forest(self) -> Forest:
        """Returns the trees; see `TreeAdapter.forest`."""
        model = self._model
        if self._histogram:
            trees = [self._predictor(p, k) for stage in model._predictors for k, p in enumerate(stage)]
        elif self._boosted:
            self._check_start()
            trees = [
                _tree(estimator.tree_, k, float(model.learning_rate))
                for stage in model.estimators_
                for k, estimator in enumerate(stage)
            ]
        else:
            members = getattr(model, "estimators_", [model])
            trees = [_tree(member.tree_, 0, 1 / len(members)) for member in members]
        return plant(trees, int(model.n_features_in_), self.scores.columns)

    def _check_start(self) -> None:
        """Refuses gradient boosting that starts from another model's predictions, which differ by row."""
        start = self._model.init_
        if not isinstance(start, str) and not type(start).__name__.startswith("Dummy"):
            raise UserError(
                f"starts from a {type(start).__name__} (init), which tree_shap does not see",
                self.path,
                "use permutation_shap or kernel_shap, which call the model itself",
            )

    def _predictor(self, predictor: Any, group: int) -> Tree:
        nodes = predictor.nodes
        leaf = nodes["is_leaf"].astype(bool)
        between = nodes["is_categorical"].astype(bool) & ~leaf
        sets = None
        if between.any():
            sets = [np.zeros(0, np.uint32)] * len(nodes)
            for node in np.flatnonzero(between):
                sets[node] = predictor.raw_left_cat_bitsets[nodes["bitset_idx"][node]].astype(np.uint32)
        left, right = (np.where(leaf, -1, nodes[side].astype(np.int64)) for side in ("left", "right"))
        return Tree(
            group,
            left,
            right,
            self._order[nodes["feature_idx"].astype(np.int64)],
            nodes["num_threshold"],
            nodes["missing_go_to_left"].astype(bool),
            np.where(leaf, nodes["value"], 0.0).reshape(-1, 1),
            nodes["count"].astype(np.float64),
            members_left=between,
            categories=sets,
        )


class _Ordered:
    """Replaces the encoder of a histogram gradient boosting model: only reorders the columns."""

    def __init__(self, order: np.ndarray) -> None:
        self._order = order

    def transform(self, rows: np.ndarray) -> np.ndarray:
        return np.asarray(rows, np.float64)[:, self._order]


def _as_numbers(column: pa.Array) -> np.ndarray:
    """A column of numbers or booleans as floats, `[B]` float64; null becomes NaN."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    numbers: np.ndarray = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return numbers.astype(np.float64)


def _tree(tree: Any, group: int, weight: float) -> Tree:
    value = tree.value
    if tree.n_outputs == 1:
        value = value[:, 0, :]  # [nodes, classes], or [nodes, 1] for a regression
        if tree.max_n_classes > 1:
            value = value / value.sum(axis=1, keepdims=True)
    else:
        value = value[:, :, 0]
    return Tree(
        group,
        tree.children_left,
        tree.children_right,
        tree.feature,
        tree.threshold,
        tree.missing_go_to_left.astype(bool),
        value * weight,
        tree.weighted_n_node_samples,
    )

"""scikit-learn's trees, forests and gradient boosting, and pickles of XGBoost's and LightGBM's estimators."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from typing import Any

import numpy as np

from transforms.errors import UserError
from transforms.models.base import ModelAdapter
from transforms.models.forest import Forest, Tree, plant
from transforms.models.trees import TreeModel, TreeScores, missing_package, tree_signature

_FORESTS = ("RandomForest", "ExtraTrees", "DecisionTree", "ExtraTree")
_KNOWN = "scikit-learn's trees, forests and gradient boosting, XGBoost's and LightGBM's models"


def load_pickle(path: str, *, allow_unsafe: bool = False) -> ModelAdapter:
    """A pickled tree model.

    Args:
      path: A local file.
      allow_unsafe: Loading a pickle runs whatever code its author put into it: nothing is loaded without it.
    Raises:
      UserError: It may not be loaded, does not load, or holds no tree model.
    """
    if not allow_unsafe:
        raise UserError(
            "is a pickle, and loading a pickle runs whatever code its author put into it",
            path,
            "set model.allow_unsafe: true if you trust whoever made the file",
        )
    model = _unpickled(path)
    library, name = type(model).__module__.partition(".")[0], type(model).__name__
    if library == "xgboost":
        from transforms.models.xgboost import XGBoostModel

        return XGBoostModel(path, booster=model if name == "Booster" else model.get_booster())  # type: ignore[return-value]
    if library == "lightgbm":
        from transforms.models.lightgbm import LightGBMModel

        return LightGBMModel(path, booster=model if name == "Booster" else model.booster_)  # type: ignore[return-value]
    return SklearnModel(path, model)  # type: ignore[return-value]


def _unpickled(path: str) -> Any:
    try:
        if path.lower().endswith(".joblib"):
            try:
                import joblib
            except ImportError as error:
                raise missing_package("scikit-learn", "a .joblib file", path) from error
            return joblib.load(path)
        with open(path, "rb") as file:
            return pickle.load(file)
    except ModuleNotFoundError as error:
        extra = "pip install 'attribeam[trees]'" if error.name in ("sklearn", "xgboost", "lightgbm") else ""
        raise UserError(
            f"the pickle needs {error.name}, which is not installed",
            path,
            extra or "name it in model.modules",
        ) from error
    except UserError:
        raise
    except (
        Exception
    ) as error:  # pickles raise whatever their classes raise; all of it means: it does not load
        line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"the pickle does not load: {line[:200]}", path, "save the model again") from error


class SklearnModel:
    """An estimator of scikit-learn that is made of trees.

    Args:
      path: Where it came from.
      model: The estimator.
    Raises:
      UserError: It is no such estimator, it is not fitted, or it classifies several things at once.
    """

    kind = "sklearn"

    def __init__(self, path: str, model: Any) -> None:
        self.path, self._model = path, model
        name = type(model).__name__
        self._boosted = name.startswith(("GradientBoosting", "HistGradientBoosting"))
        if (
            not (self._boosted or name.startswith(_FORESTS))
            or type(model).__module__.partition(".")[0] != "sklearn"
        ):
            raise UserError(f"holds a {name}, which is none of {_KNOWN}", path, "use a python: function")
        if not hasattr(model, "n_features_in_"):
            raise UserError(f"holds a {name} that is not fitted", path, "fit it before saving it")
        if hasattr(model, "n_jobs"):
            model.n_jobs = 1  # rows are shared out among threads of our own
        self._histogram = name.startswith("Hist")
        self._classifies = hasattr(model, "classes_")
        names = getattr(model, "feature_names_in_", None)
        if names is not None:
            # Rows come as plain arrays, in the order of these names; scikit-learn would warn at each call.
            del model.feature_names_in_
        self.scores = self._scored()
        dtype = "float64" if self._histogram else "float32"
        self.signature = tree_signature(
            [] if names is None else [str(name) for name in names],
            int(model.n_features_in_),
            dtype,
            self.scores,
            nan=self._takes_nan(dtype),
        )

    def scored(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        score: str,
        *,
        affine_prefix: bool,
        example: Mapping[str, np.ndarray],
    ) -> TreeModel:
        """The model with its score."""
        return TreeModel(self, score, example)

    def _scored(self) -> TreeScores:
        model = self._model
        if not self._classifies:
            width = 1 if self._boosted else int(model.n_outputs_)
            if self._histogram and model.loss not in ("squared_error", "absolute_error", "quantile"):
                return TreeScores(model._raw_predict, model.predict, "margin", width)
            return TreeScores(model.predict, None, "output", width)
        if not self._boosted and int(model.n_outputs_) > 1:
            raise UserError("classifies several things at once", self.path, "save a model for each of them")
        count = len(model.classes_)
        labels = tuple(map(str, model.classes_)) if model.classes_.dtype.kind in "UO" else ()
        if not self._boosted:
            return TreeScores(model.predict_proba, None, "probability", count, labels, classes=True)
        if count == 2:  # one margin, that of the second class
            return TreeScores(
                model.decision_function,
                lambda rows: model.predict_proba(rows)[:, 1],
                "margin",
                1,
                classes=True,
            )
        return TreeScores(model.decision_function, model.predict_proba, "margin", count, labels, classes=True)

    def _takes_nan(self, dtype: str) -> bool:
        row = np.full((1, int(self._model.n_features_in_)), np.nan, dtype)
        try:
            self._model.predict(row)
        except ValueError:  # what scikit-learn raises on NaN
            return False
        return True

    def forest(self) -> Forest:
        """The trees; see `TreeAdapter.forest`."""
        model = self._model
        if self._histogram:
            trees = [self._predictor(p, k) for stage in model._predictors for k, p in enumerate(stage)]
        elif self._boosted:
            trees = [
                _tree(estimator.tree_, k, float(model.learning_rate))
                for stage in model.estimators_
                for k, estimator in enumerate(stage)
            ]
        else:
            members = getattr(model, "estimators_", [model])
            trees = [_tree(member.tree_, 0, 1 / len(members)) for member in members]
        return plant(trees, int(model.n_features_in_), self.scores.width)

    def _predictor(self, predictor: Any, group: int) -> Tree:
        nodes = predictor.nodes
        if nodes["is_categorical"].any():
            raise UserError(
                "splits between categories, which tree_shap does not take of a HistGradientBoosting model",
                self.path,
                "use permutation_shap or kernel_shap",
            )
        leaf = nodes["is_leaf"].astype(bool)
        left, right = (np.where(leaf, -1, nodes[side].astype(np.int64)) for side in ("left", "right"))
        return Tree(
            group,
            left,
            right,
            nodes["feature_idx"].astype(np.int64),
            nodes["num_threshold"],
            nodes["missing_go_to_left"].astype(bool),
            np.where(leaf, nodes["value"], 0.0).reshape(-1, 1),
            nodes["count"].astype(np.float64),
        )


def _tree(tree: Any, group: int, weight: float) -> Tree:
    value = tree.value
    if tree.n_outputs == 1:
        value = value[:, 0, :]  # [nodes, classes], or [nodes, 1] of a regression
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

"""XGBoost models: .ubj and .json files and pickles, scored by XGBoost itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from transforms.errors import UserError
from transforms.models.categories import Categories, Placed
from transforms.models.forest.arrays import Forest, Tree, bit_set, plant
from transforms.models.kinds.trees.base import TreeModel, TreeScores, missing_package, tree_signature
from transforms.models.kinds.trees.frames import frame_of

if TYPE_CHECKING:
    import pyarrow as pa

#: Objectives for which the margin is the model's output.
_IDENTITY = (
    "reg:squarederror", "reg:absoluteerror", "reg:quantileerror", "reg:pseudohubererror", "binary:logitraw",
    "rank:ndcg", "rank:pairwise", "rank:map",
)  # fmt: skip
_LOGISTIC = ("binary:logistic", "reg:logistic")
_SOFTMAX = ("multi:softprob", "multi:softmax")
_UNSAID = (
    "model.missing: the file does not say which number means missing, so only NaN does; if the model was "
    "trained with another `missing`, give that number"
)


class XGBoostModel:
    """An XGBoost booster.

    If XGBoost's scikit-learn interface saved the file, the rounds up to the best iteration are used, as that
    interface does. If a Booster saved the file, all rounds are used, as a Booster does. Categories are
    converted to codes by the file's lists, as XGBoost does for a data frame. If the file has no lists,
    features must hold codes.

    Args:
      path: A local file.
      allow_unsafe: Ignored, because an XGBoost file holds no code.
      booster: The booster, if it is already loaded.
      estimator: The XGBoost estimator (scikit-learn interface) to which the booster belongs, if any.
    Raises:
      UserError: XGBoost is not installed, the file does not load, or it holds no trees.

    Attributes:
      missing: A number that the model treats as missing, as it treats NaN; None if there is no such number.
      notes: Remarks, shown in a plan, about facts that the file does not state.
    """

    kind = "xgboost"

    def __init__(
        self, path: str, *, allow_unsafe: bool = False, booster: Any = None, estimator: Any = None
    ) -> None:
        try:
            import xgboost
        except ImportError as error:
            raise missing_package("xgboost", "an XGBoost model", path) from error
        self.path, self._estimator = path, estimator
        if booster is None:
            try:
                # Loaded from memory: given a path, XGBoost would warn about a suffix that it does not know.
                booster = xgboost.Booster()
                with open(path, "rb") as file:
                    booster.load_model(bytearray(file.read()))
            except xgboost.core.XGBoostError as error:
                what = f"XGBoost cannot load the model: {_reason(error)}"
                raise UserError(what, path, "copy or save it again, with save_model") from error
        # One thread per call: our own threads share the rows.
        booster.set_param({"nthread": 1})
        self._booster = booster
        try:
            learner = json.loads(bytes(booster.save_raw("json")))["learner"]
        except xgboost.core.XGBoostError as error:
            raise UserError(f"XGBoost cannot write the model: {_reason(error)}", path) from error
        grower = learner["gradient_booster"]
        if grower["name"] == "gblinear":
            raise UserError("holds a linear model (gblinear), not trees", path, "train gbtree or dart")
        # Dart stores the weights of its trees in `weight_drop`: inside the model from XGBoost 3.4 on, next to
        # the model in older versions.
        self._grower: Mapping[str, Any] = grower["gbtree"] if grower["name"] == "dart" else grower
        drops = grower.get("weight_drop", self._grower["model"].get("weight_drop"))
        self._drops = np.asarray(drops, np.float64) if drops else None
        self._objective = str(learner["objective"]["name"])
        self._rounds = self._used_rounds()
        if not self._rounds or not self._grower["model"]["trees"]:
            raise UserError("holds no trees: it was trained for no rounds", path, "train it for some rounds")
        own = getattr(estimator, "missing", None)
        self.missing = None if own is None or np.isnan(own) else float(own)
        self.notes = () if estimator is not None else (_UNSAID,)
        self._places = _categories(self._grower["model"].get("cats", {}), path)
        self.scores = self._scored()
        self.signature = tree_signature(
            booster.feature_names or (),
            booster.num_features(),
            "float32",
            self.scores,
            nan=True,
            categories=self._places,
            missing=self.missing,
        )

    def _scored(self) -> TreeScores:
        probe = np.zeros((1, self._booster.num_features()), np.float32)
        width = self._predict(probe, "margin").size
        output = None if self._objective in _IDENTITY else self._output
        kind = "output" if output is None else "margin"

        def margin(rows: np.ndarray) -> np.ndarray:
            return self._predict(rows, "margin")

        classifies = _type_of(self._booster, self._estimator) == "classifier"
        two = ("binary:logistic", "binary:hinge", *(_LOGISTIC if classifies else ()))
        logistic = self._objective in (*_LOGISTIC, *_SOFTMAX)
        if width == 1 and self._objective in two:
            return TreeScores(margin, output, kind, 2, classes=(0, 1), probabilities=logistic, mirrored=True)
        classes = tuple(range(width)) if self._objective in _SOFTMAX else ()
        return TreeScores(margin, output, kind, width, classes=classes, probabilities=logistic)

    def take_missing(self, value: float) -> None:
        """Makes the model treat the number `value` as missing, since the file does not store this number.

        Raises:
          UserError: The model is a pickle, which stores another number.
        """
        if self._estimator is not None and self.missing != (None if np.isnan(value) else value):
            raise UserError(
                f"the pickle itself treats {'NaN' if self.missing is None else self.missing} as missing",
                "model.missing",
                "leave it out",
            )
        self.missing, self.notes = None if np.isnan(value) else value, ()
        (spec,) = self.signature.inputs
        self.signature = replace(self.signature, inputs=(replace(spec, missing=self.missing),))

    def public_prediction(self, rows: pa.RecordBatch, inputs: Mapping[str, np.ndarray]) -> np.ndarray | None:
        """The prediction of XGBoost's own interface; see `PublicPrediction`."""
        import xgboost

        (taken,) = inputs.values()
        booster, missing = self._booster, np.nan if self.missing is None else self.missing
        places = {} if self._places is None else dict(self._places.places)
        names = booster.feature_names or ()
        frame = frame_of(rows, taken, names, places, self._types(places))
        types = booster.feature_types
        if places and frame is None:
            return None
        data: Any = frame
        if not places:  # without lists, categories are given by their codes
            data = taken if frame is None else frame.to_numpy(np.float64)
        try:
            estimator = self._as_estimator()
            if estimator is None or (not places and types and "c" in types):
                own = {} if places else {"feature_names": names or None, "feature_types": types or None}
                matrix = xgboost.DMatrix(data, missing=missing, enable_categorical=True, nthread=1, **own)
                softmax = self._objective == "multi:softmax"
                predicted = booster.predict(matrix, output_margin=softmax, iteration_range=(0, self._rounds))
                return self._shares(predicted) if softmax else self._both(predicted)
            if hasattr(estimator, "predict_proba"):
                return np.asarray(estimator.predict_proba(data, validate_features=False))
            return self._both(np.asarray(estimator.predict(data, validate_features=False)))
        except (xgboost.core.XGBoostError, ValueError, TypeError) as error:
            what = f"XGBoost's own prediction fails: {_reason(error)}"
            remedy = "check that the model predicts these rows in the environment of its training"
            raise UserError(what, self.path, remedy) from error

    def _types(self, places: Mapping[int, Categories]) -> dict[int, Any]:
        """The numpy types of numeric categories, by place: XGBoost requires the training frame's types."""
        if not places:
            return {}
        known = self._booster.get_categories(export_to_arrow=True).to_arrow()
        return {
            place: values.type.to_pandas_dtype()
            for place, (_, values) in enumerate(known)
            if place in places and not places[place].strings
        }

    def _as_estimator(self) -> Any:
        """The estimator (scikit-learn interface) that the model was saved from; None for a Booster."""
        if self._estimator is not None or self._booster.attr("scikit_learn") is None:
            return self._estimator
        import xgboost

        kinds = {"classifier": xgboost.XGBClassifier, "ranker": xgboost.XGBRanker}
        maker = kinds.get(_type_of(self._booster, None) or "", xgboost.XGBRegressor)
        estimator = maker(missing=np.nan if self.missing is None else self.missing, n_jobs=1)
        estimator.load_model(self._booster.save_raw("ubj"))
        return estimator

    def _both(self, predicted: np.ndarray) -> np.ndarray:
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

    def _used_rounds(self) -> int:
        """The number of rounds that XGBoost's own predict uses."""
        best = self._booster.attr("best_iteration")
        if best is not None and (
            self._estimator is not None or self._booster.attr("scikit_learn") is not None
        ):
            return int(best) + 1
        return int(self._booster.num_boosted_rounds())

    def _predict(self, rows: np.ndarray, kind: str) -> np.ndarray:
        scores: np.ndarray = self._booster.inplace_predict(
            rows,
            iteration_range=(0, self._rounds),
            predict_type=kind,
            missing=np.nan if self.missing is None else self.missing,
            validate_features=False,
            strict_shape=True,
        )
        return scores

    def _output(self, rows: np.ndarray) -> np.ndarray:
        if self._objective == "multi:softmax":  # XGBoost would return the class instead of probabilities
            return self._shares(self._predict(rows, "margin"))
        return self._predict(rows, "value")

    def _shares(self, margin: np.ndarray) -> np.ndarray:
        margin = margin.astype(np.float64)
        grown = np.exp(margin - margin.max(axis=1, keepdims=True))
        shares: np.ndarray = grown / grown.sum(axis=1, keepdims=True)
        return shares

    def forest(self) -> Forest:
        """Returns the trees; see `TreeAdapter.forest`."""
        model = self._grower["model"]
        groups = [int(group) for group in model["tree_info"]]
        starts = [int(start) for start in model["iteration_indptr"]]
        trees = []
        for number in range(starts[self._rounds]):
            weight = 1.0 if self._drops is None else float(self._drops[number])
            trees.append(_tree(model["trees"][number], groups[number], weight, self.path))
        return plant(trees, self._booster.num_features(), self.scores.columns)


def _tree(tree: Mapping[str, Any], group: int, weight: float, path: str) -> Tree:
    if int(tree["tree_param"]["size_leaf_vector"]) > 1:
        raise UserError(
            "its leaves hold several values (multi_output_tree), which tree_shap does not support",
            path,
            "use permutation_shap or kernel_shap, or train with one_output_per_tree",
        )
    left = np.asarray(tree["left_children"], np.int64)
    conditions = np.asarray(tree["split_conditions"], np.float32)
    sets: list[np.ndarray] | None = None
    if len(tree["categories_nodes"]):
        sets = [np.zeros(0, np.uint32)] * len(left)
        for node, first, size in zip(
            tree["categories_nodes"], tree["categories_segments"], tree["categories_sizes"], strict=True
        ):
            sets[node] = bit_set(tree["categories"][first : first + size])
    # XGBoost goes left if x < threshold, `Forest` if x <= threshold: ours is the next smaller float32.
    below = np.nextafter(conditions, np.float32(-np.inf)).astype(np.float64)
    # Leaves are multiplied by the tree's weight in single precision, as XGBoost's dart does.
    value = np.where(left < 0, conditions * np.float32(weight), np.float32(0))
    return Tree(
        group,
        left,
        np.asarray(tree["right_children"], np.int64),
        np.asarray(tree["split_indices"], np.int64),
        below,
        np.asarray(tree["default_left"], bool),
        value.astype(np.float64).reshape(-1, 1),
        np.asarray(tree["sum_hessian"], np.float64),
        categories=sets,
    )


def _type_of(booster: Any, estimator: Any) -> str | None:
    """The type of estimator in the scikit-learn interface (regressor, classifier or ranker), or None.

    None means that a Booster saved the model.
    """
    if estimator is not None:
        return "classifier" if hasattr(estimator, "predict_proba") else "regressor"
    state = booster.attr("scikit_learn")
    name = None if state is None else json.loads(state).get("_estimator_type")
    return None if name is None else str(name)


def _categories(stored: Mapping[str, Any], path: str) -> Placed | None:
    """The categories that a booster stores; None if it was not trained on a data frame with categories.

    Raises:
      UserError: Names of categories are not ASCII, and so are cut off: from a pandas frame, XGBoost stores
        only as many bytes of a name as the name has letters.
    """
    places = []
    for place, encoded in enumerate(stored.get("enc", ())):
        values = encoded["values"]
        if "offsets" in encoded:  # concatenated strings, as signed bytes (−128 to 127)
            bounds, letters = encoded["offsets"], np.array(values, np.int8).tobytes()
            if not letters.isascii():
                raise UserError(
                    "its categories are not all ASCII, and XGBoost, which counts their letters as bytes, has "
                    "cut their names",
                    path,
                    "train it on names in ASCII or on their codes, or use a python: function that calls it",
                )
            values = [letters[a:b].decode() for a, b in pairwise(bounds)]
        if values:
            places.append((place, Categories(tuple(values), reject=True)))
    return Placed(tuple(places)) if places else None


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and "Stack trace" not in line]
    return lines[0][-200:] if lines else type(error).__name__

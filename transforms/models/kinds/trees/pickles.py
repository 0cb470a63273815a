"""Models saved with pickle or joblib, and errors for pickles that do not load or do not hold a tree model."""

from __future__ import annotations

import importlib.util
import mmap
import pickle
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from transforms.errors import UserError
from transforms.models.base import ModelAdapter
from transforms.models.kinds.detect import is_packed, printed_by, unpacked_whole
from transforms.models.kinds.trees.base import Written, missing_library, missing_package
from transforms.wording import names_in_words

#: Packages of the supported libraries: the name to import, and the name to install.
_LIBRARIES = {"sklearn": "scikit-learn", "xgboost": "xgboost", "lightgbm": "lightgbm"}
#: Packages that have different names to import and to install.
_PIP = {**_LIBRARIES, "imblearn": "imbalanced-learn", "interpret": "interpret-core", "cv2": "opencv-python"}
#: Finds the version of scikit-learn that wrote an estimator, in the bytes of its pickle.
_VERSION = re.compile(
    rb"_sklearn_version.{0,14}?(\d+\.\d+(?:\.\d+)?(?:(?:a|b|rc|\.dev|\.post)\d+)?)", re.DOTALL
)
#: Every joblib pickle with arrays holds one of these names; the name depends on the version of joblib.
_JOBLIB = (b"numpy_pickle", b"NDArrayWrapper")
_REFIT = "fit and save it again with the installed scikit-learn, or install the other version"


def load_pickle(path: str, *, allow_unsafe: bool = False) -> ModelAdapter:
    """Loads a tree model from a file that pickle or joblib wrote; its name may have any suffix.

    Args:
      path: A local file.
      allow_unsafe: Whether the file may be loaded; a pickle runs whatever code its author put into it.
    Raises:
      UserError: Loading is not permitted, the file does not load, or it holds no tree model.
    """
    if not allow_unsafe:
        raise UserError(
            "is a pickle, and loading a pickle runs whatever code its author put into it",
            path,
            "set model.allow_unsafe: true if you trust whoever made the file",
        )
    model, written = _unpickled(path)
    library, name = type(model).__module__.partition(".")[0], type(model).__name__
    if library == "xgboost" and hasattr(model, "get_booster" if name != "Booster" else "predict"):
        from transforms.models.kinds.trees.xgboost import XGBoostModel

        own = name == "Booster"
        booster = model if own else _fitted(model, name, "get_booster", path)
        return XGBoostModel(path, booster=booster, estimator=None if own else model)
    if library == "lightgbm" and (name == "Booster" or hasattr(type(model), "booster_")):
        from transforms.models.kinds.trees.lightgbm import LightGBMModel

        if name == "Booster":
            return LightGBMModel(path, booster=model)
        return LightGBMModel(path, booster=_fitted(model, name, "booster_", path), estimator=model)
    from transforms.models.kinds.trees.sklearn import SklearnModel, is_tree_model

    if not is_tree_model(model):
        raise _no_model(model, path)
    return SklearnModel(path, model, written)


def _fitted(model: Any, name: str, attribute: str, path: str) -> Any:
    """The booster of an estimator.

    Raises:
      UserError: The estimator is not fitted.
    """
    from sklearn.exceptions import NotFittedError

    try:
        booster = getattr(model, attribute)
        return booster() if attribute == "get_booster" else booster
    except NotFittedError as error:
        raise UserError(f"holds a {name} that is not fitted", path, "fit it before saving it") from error


def _unpickled(path: str) -> tuple[Any, Written | None]:
    """Loads the object of a pickle; also returns `Written` if another version of scikit-learn wrote it.

    Raises:
      UserError: The pickle does not load; the message names both versions of scikit-learn if they differ.
    """
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model = _read(path)
    except UserError:
        raise
    # Loading runs the code of classes in the pickle, which may raise any exception.
    except Exception as error:
        raise _not_loaded(path, error) from error
    written = None
    for warning in caught:
        there = getattr(warning.message, "original_sklearn_version", None)
        if there is None:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
        else:
            written = Written(str(there), str(getattr(warning.message, "current_sklearn_version", "another")))
    return model, written


def _read(path: str) -> Any:
    if not _is_joblib(path):
        with open(path, "rb") as file:
            return pickle.load(file)
    try:
        import joblib
    except ImportError as error:
        raise missing_package("joblib", "a pickle that joblib wrote", path) from error
    return joblib.load(path)


def _is_joblib(path: str) -> bool:
    """True if a pickle needs joblib to load: it is compressed, or holds arrays in joblib's format."""
    with open(path, "rb") as file:
        if is_packed(file.read(8)):
            return True
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return any(data.find(word) >= 0 for word in _JOBLIB)


def _not_loaded(path: str, error: Exception) -> UserError:
    """The error to raise for a pickle that does not load, with the reason in one line."""
    lacking = missing_library(error, "the pickle", path)
    if lacking is not None:
        return lacking
    line = next((row for row in str(error).splitlines() if row.strip()), type(error).__name__)
    line = re.sub(r" from '[^']*'", "", line).strip(" :")[:200]
    module = error.name or "" if isinstance(error, ModuleNotFoundError) else ""
    package = module.partition(".")[0]
    # A private name is not a missing package: scikit-learn 1.7 wrote `_loss` for `sklearn._loss._loss`.
    if module and not package.startswith("_") and importlib.util.find_spec(package) is None:
        if package in _LIBRARIES:
            return missing_package(_LIBRARIES[package], "the pickle", path)
        known = package in _PIP or package in ("dill", "cloudpickle", "catboost", "ydf", "torch", "imblearn")
        remedy = f"pip install {_PIP.get(package, package)}" if known else "put it on PYTHONPATH"
        what = f"the pickle needs the module {module}, which is not installed"
        return UserError(what, path, remedy if known else f"install it, or {remedy}")
    there = _version_in(path)
    if there is not None:
        here = _version_here()
        if here is None:
            return missing_package("scikit-learn", "the pickle", path)
        if there != here:
            return UserError(f"does not load: {Written(there, here)} ({line})", path, _REFIT)
    if module:
        what = f"the pickle needs {module}, which the installed {package} does not have"
        return UserError(what, path, "install the version that wrote it, or save the model again")
    if isinstance(error, AttributeError) and (
        lacking_name := re.search(r"'(\w+)' on <module '[\w.]*__main__'", line)
    ):
        what = f"the pickle needs {lacking_name[1]}, which was defined in the script that wrote it (__main__)"
        return UserError(what, path, "define it in a module, name that in model.modules, and save it again")
    return UserError(f"the pickle does not load: {line}", path, "save the model again")


def _version_in(path: str) -> str | None:
    """The scikit-learn version that wrote a pickle, as stated in the file; None if the file states none."""
    with open(path, "rb") as file:
        data = file.read()
    match = _VERSION.search(unpacked_whole(data))
    return None if match is None else match[1].decode()


def _version_here() -> str | None:
    try:
        import sklearn
    except ImportError:
        return None
    return str(sklearn.__version__)


def _no_model(model: Any, path: str) -> UserError:
    """The error to raise for a pickle that does not hold a tree model: what it holds, and a remedy."""
    name, module = type(model).__name__, type(model).__module__.partition(".")[0]
    alone = f"save the model alone, or {printed_by('sklearn')}"
    if isinstance(model, Mapping):
        keys = names_in_words([str(key) for key in model], 6)
        return UserError(f"holds a {name} of {keys}, not a model", path, alone)
    if isinstance(model, Sequence) and not isinstance(model, str | bytes):
        kinds = names_in_words([type(item).__name__ for item in model], 6)
        return UserError(f"holds a {name} of {kinds or 'nothing'}, not a model", path, alone)
    if isinstance(model, type):
        return UserError(
            f"holds the class {model.__name__}, not an instance of it", path, "save a fitted one"
        )
    if name == "CVBooster" and module == "lightgbm":
        count = len(getattr(model, "boosters", ()))
        what = f"holds a CVBooster, the {count} models of a cross-validation"
        return UserError(what, path, "save one of its boosters, or one that is trained on all rows")
    if module in ("numpy", "pandas", "polars", "pyarrow", "builtins", "scipy") or not hasattr(
        model, "predict"
    ):
        what = "None" if model is None else _a(name)
        return UserError(f"holds {what}, not a model", path, "save the model itself")
    if module == "xgboost" or module == "lightgbm":
        return UserError(f"holds {_a(name)} of {module}", path, "save its booster, trained in one process")
    if hasattr(model, "best_estimator_"):
        inner = type(model.best_estimator_).__name__
        what = f"holds a {name}, the search that found a {inner}"
        remedy = "save its best_estimator_" if inner != "Pipeline" else printed_by("sklearn")
        return UserError(what, path, remedy)
    if hasattr(model, "steps"):
        steps = names_in_words([type(step).__name__ for _, step in model.steps], 6)
        return UserError(f"holds a {name} of {steps}", path, printed_by("sklearn"))
    function = {"catboost": "catboost", "interpret": "ebm", "ydf": "ydf"}.get(module, "sklearn")
    if module == "keras":
        return UserError(f"holds a {name} of Keras", path, "save it with model.save('model.keras')")
    return UserError(
        f"holds {_a(name)}, which is neither one of scikit-learn's trees, forests and gradient boosting nor "
        "a model of XGBoost or LightGBM",
        path,
        printed_by(function),
    )


def _a(name: str) -> str:
    """The name of a class with the article "a" or "an"."""
    return f"{'an' if name[:1] in 'aeiouAEIOU' else 'a'} {name}"

"""One column as a feature: its kind, type and shape, from the config, the model and the file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.types as pt

from transforms.arrow.types import extents, in_same_order, is_list, is_number, leaf, storage, width
from transforms.errors import UserError
from transforms.models.base import InputSpec
from transforms.models.categories import Categories
from transforms.rows.encodings import SELF_DESCRIBING
from transforms.rows.schema import FeatureSpec, Fill, misfit

FEATURES = "input.features"
#: An input that takes numbers or strings.
_ANY = InputSpec("", (), "float32")
TRAINED_ON = "list the columns that the model was trained on, in its order"


@dataclass(frozen=True)
class FeatureRequest:
    """A feature as the config describes it; `kind` and `shape` may be left open.

    Args:
      name: The column's name.
      kind: numeric | categorical | image.
      fill: Replaces null and non-finite values.
      shape: Shape of a row's value.
      fixed: Held at the row's value by masking methods.
      missing: reject | keep; None: as the model takes missing values.
      input: The model's input that the column feeds, or the named value of a vector; None: the one of the
        column's name.
      dtype: Type of the raw values in a column of bytes.
      pad: Fills shorter lists at their end.
    """

    name: str
    kind: str | None = None
    fill: Fill = None
    shape: tuple[int, ...] | None = None
    fixed: bool = False
    missing: str | None = None
    input: str | None = None
    dtype: str | None = None
    pad: Fill = None

    @property
    def feeds(self) -> str:
        """The name of the model's input or value that the column feeds."""
        return self.name if self.input is None else self.input


def feature_spec(
    request: FeatureRequest,
    spec: InputSpec,
    stored: pa.DataType,
    start: int,
    alone: tuple[int | None, ...] | None,
    categories: Categories | None = None,
) -> FeatureSpec:
    """A column as a part of a model input.

    Args:
      request: The feature as the config describes it.
      spec: The model's input.
      stored: The column's type.
      start: Position of its first value in the input.
      alone: The input's shape, if this column is all of it.
      categories: The categories in which its values are looked up.
    Raises:
      UserError: Type, size or fill do not fit.
    """
    where = f"{FEATURES} {request.name}"
    if categories is not None:
        return _categorical(request, spec, stored, start, categories, where)
    kind = request.kind
    if kind is None:
        pictured = is_picture(spec, stored) and alone is not None and request.dtype is None
        kind = "image" if pictured else "categorical" if spec.dtype == "string" else "numeric"
    encoding = _encoding(request, kind, spec, stored, where)
    if encoding is not None:
        pass  # `with_encodings` checks the content of the bytes instead
    elif kind == "image":
        _check_image(spec, stored, where)
    elif not type_fits(spec, stored):
        wants = "strings" if spec.dtype == "string" else f"{spec.dtype} numbers"
        what = f"the column holds {stored}, but the model's input {spec.name!r} takes {wants}"
        raise UserError(what, where, _mend(spec, stored))
    shape = _shape(request, encoding is not None or kind == "image", spec, stored, alone, where)
    if request.fill is not None and (better := misfit(request.fill, spec.dtype)):
        missing = isinstance(request.fill, float) and math.isnan(request.fill)
        mend = "give missing: keep instead, which passes null and NaN to the model" if missing else None
        what = f"fill: {request.fill!r}, but the model takes {spec.dtype}"
        raise UserError(what, where, mend or f"give {better}")
    return FeatureSpec(
        request.name,
        kind,
        spec.dtype,
        shape,
        stored,
        request.fill,
        spec.name,
        start,
        request.fixed,
        _keeps_missing(request, kind, spec, where),
        encoding=encoding,
        missing=spec.missing,
        pad=_pad(request, kind, spec, stored, shape, where),
        open=request.pad is not None and alone is not None and alone[:1] == (None,),
        kept=request.missing == "keep",
    )


def _pad(
    request: FeatureRequest,
    kind: str,
    spec: InputSpec,
    stored: pa.DataType,
    shape: tuple[int, ...],
    where: str,
) -> Fill:
    """The value that pads lists of varying length; None if the config gives none."""
    if request.pad is None:
        return None
    if kind == "image" or not shape or not is_list(storage(stored)):
        what = f"pad: {request.pad!r} is for lists of numbers or strings, but the column holds {stored}"
        raise UserError(what, where, "leave pad out")
    if better := misfit(request.pad, spec.dtype):
        raise UserError(f"pad: {request.pad!r}, but the model takes {spec.dtype}", where, f"give {better}")
    return request.pad


def _encoding(
    request: FeatureRequest, kind: str, spec: InputSpec, stored: pa.DataType, where: str
) -> str | None:
    """The encoding of tensors in a column of bytes: the config's dtype, or SELF_DESCRIBING."""
    holds_bytes = pt.is_binary(storage(stored))
    if request.dtype is None:
        holds_tensors = holds_bytes and kind != "image" and spec.dtype != "string"
        return SELF_DESCRIBING if holds_tensors else None
    if spec.dtype == "string":
        what = f"dtype: {request.dtype} reads bytes as numbers, but the model takes strings"
        raise UserError(what, where, "leave dtype out")
    if not holds_bytes and not pt.is_null(storage(stored)):
        what = f"dtype: {request.dtype} is for a column of bytes, but this one holds {stored}"
        raise UserError(what, where, "leave dtype out: numbers are converted to what the model takes")
    return request.dtype


def _mend(spec: InputSpec, stored: pa.DataType) -> str:
    """The remedy for a column of another type than the model takes."""
    held = leaf(stored)
    if pt.is_temporal(held):
        return (
            "store what the model was trained on: the hour, or the days since a date, in a column of its own"
        )
    if pt.is_nested(held):
        return "store the part of it that the model takes in a column of its own"
    if spec.dtype == "string":
        return "store it as strings" if is_number(held) else "give a column of strings"
    if pt.is_binary(held):
        return "store one value of bytes per row"
    if pt.is_string(held):
        return "store it as the numbers that the model was trained on, or leave it out"
    return "give a column of numbers"


def _keeps_missing(request: FeatureRequest, kind: str, spec: InputSpec, where: str) -> bool:
    """True if null and NaN are passed to the model: as the config says, else as the model takes them.

    Raises:
      UserError: The config keeps missing values, but the model's input cannot take them.
    """
    if request.missing is None:
        return spec.nan
    if request.missing == "reject":
        return False
    if kind == "image":
        raise UserError(
            "missing: keep, but a model cannot take a missing picture", where, "leave missing out"
        )
    if not spec.nan and (spec.dtype == "string" or np.dtype(spec.dtype).kind != "f"):
        takes = f"the model's input {spec.name!r} takes {spec.dtype}"
        what = f"missing: keep, but {takes}, which has no missing value"
        raise UserError(what, where, "give fill instead")
    return True


def _categorical(
    request: FeatureRequest, spec: InputSpec, stored: pa.DataType, start: int, known: Categories, where: str
) -> FeatureSpec:
    """The feature of a column whose values the model was trained on as categories."""
    if request.kind not in (None, "categorical") or int(np.prod(request.shape or (1,), dtype=np.int64)) != 1:
        what = "the model was trained on it as a category, which is one value per row"
        raise UserError(what, where, "leave kind and shape out")
    if better := known.misfit(stored):
        raise UserError(
            f"the column holds {stored}, but the model's categories are {known.words()}",
            where,
            f"store {better}, as they were when the model was trained",
        )
    if request.fill is not None and known.code(request.fill) is None:
        what = f"fill: {request.fill!r} is not one of the model's categories"
        raise UserError(what, where, f"give one of {known.words()}")
    return FeatureSpec(
        request.name,
        "categorical",
        spec.dtype,
        (),
        stored,
        request.fill,
        spec.name,
        start,
        request.fixed,
        _keeps_missing(request, "categorical", spec, where),
        known,
        missing=spec.missing,
        kept=request.missing == "keep",
    )


def free_input(request: FeatureRequest, stored: pa.DataType) -> InputSpec:
    """The input of a function that one column feeds, with the column's type, widened, and shape.

    If missing values are kept, whole numbers and booleans become float64, as in a pandas frame with a null.

    Raises:
      UserError: The column holds neither numbers nor strings.
    """
    held, keeps = leaf(stored), request.missing == "keep"
    shape: tuple[int | None, ...] = (None,)
    if request.dtype is not None and request.shape is None:
        raise UserError(
            f"dtype: {request.dtype} without a shape does not say what the bytes are",
            f"{FEATURES} {request.name}",
            "give its shape",
        )
    if request.pad is not None and request.shape is not None:
        shape = (None, *request.shape[1:])
    elif request.shape is not None:
        shape = request.shape
    elif width(stored) is not None:
        shape = extents(stored)
    unknown = pt.is_binary(storage(stored)) and request.dtype is None and request.kind != "image"
    if unknown and len(shape) < 3 and size_of(shape) not in (None, 1):
        raise UserError(
            f"the column holds bytes, and the shape {shown(shape)} does not say what numbers they are",
            f"{FEATURES} {request.name}",
            "give their dtype as well, such as dtype: float32; for pictures give kind: image",
        )
    if request.dtype is not None:
        dtype = "float32" if request.dtype == "bfloat16" else request.dtype
    elif request.kind == "image" or (pt.is_binary(held) and len(shape) == 3):
        dtype = "uint8"
    elif pt.is_string(held) or pt.is_binary(held):
        dtype = "string"
    elif keeps and (pt.is_boolean(held) or pt.is_integer(held)):
        dtype = "float64"
    elif pt.is_boolean(held):
        dtype = "bool"
    elif pt.is_integer(held):
        dtype = "uint64" if pt.is_uint64(held) else "int64"
    elif is_number(held):
        dtype = "float32" if pt.is_float32(held) or pt.is_float16(held) else "float64"
    else:
        raise UserError(
            f"the column holds {stored}, but a function takes numbers or strings",
            f"{FEATURES} {request.name}",
            f"list the columns that it takes, or {_mend(_ANY, stored)}",
        )
    may_miss = dtype == "string" or np.dtype(dtype).kind == "f"
    return InputSpec(request.feeds, shape, dtype, nan=keeps and may_miss)


def _check_image(spec: InputSpec, stored: pa.DataType, where: str) -> None:
    if spec.dtype == "string" or (np.dtype(spec.dtype).kind != "f" and np.iinfo(spec.dtype).max < 255):
        raise UserError(
            f"kind: image gives 0 to 255, but the model takes {spec.dtype}", where, "leave kind out"
        )
    held, many = leaf(stored), is_list(storage(stored))
    if not (many and is_number(held)) and not pt.is_binary(storage(stored)) and not pt.is_null(held):
        mend = "store one picture per row" if many and pt.is_binary(held) else "leave kind out"
        raise UserError(f"the column holds {stored}, but an image is bytes or a list of numbers", where, mend)


def _shape(
    request: FeatureRequest,
    in_bytes: bool,
    spec: InputSpec,
    stored: pa.DataType,
    alone: tuple[int | None, ...] | None,
    where: str,
) -> tuple[int, ...]:
    """The shape of a feature's value: the config's, else the model's, else the column's."""
    values = None if in_bytes and pt.is_binary(storage(stored)) else width(stored)
    wanted = None if alone is None else size_of(alone)
    if request.shape is not None:
        shape = tuple(request.shape)
    elif alone is not None and None not in alone:
        # One value per row is a scalar, although Keras gives it the shape [1].
        shape = () if wanted == 1 and values in (1, None) else tuple(extent or 0 for extent in alone)
    elif values is not None:
        shape = extents(stored)
    else:
        raise UserError(
            f"neither the column ({stored}) nor the model's input {spec.name!r} {shown(spec.shape)} says "
            "how many values a row has",
            where,
            _shape_remedy(stored),
        )
    size = int(np.prod(shape, dtype=np.int64))
    if wanted is not None and (size != wanted or not in_same_order(shape, alone or ())):
        held, takes = (f"has {size} values", wanted) if size != wanted else ("is given", shown(spec.shape))
        raise UserError(
            f"shape {list(shape)} {held}, but the model's input {spec.name!r} takes {takes}",
            where,
            f"give the shape {shown(spec.shape)}",
        )
    if values is not None and values != size:
        raise UserError(
            f"the column holds {values} value{'s' * (values != 1)} per row, but {size} are needed",
            where,
            TRAINED_ON,
        )
    if values is not None and not in_same_order(extents(stored), shape):
        raise UserError(
            f"the column holds the shape {list(extents(stored))}, but {list(shape)} is needed",
            where,
            "store it in that order",
        )
    return shape


def _shape_remedy(stored: pa.DataType) -> str:
    if not is_list(storage(stored)):
        return "give its shape"
    return "give its shape, or pad, the value that fills shorter lists at their end, such as pad: 0"


def full_shape(spec: InputSpec, features: Sequence[FeatureSpec]) -> tuple[int, ...]:
    """The model input's shape, with open extents taken from the features."""
    if None not in spec.shape:
        return tuple(extent or 0 for extent in spec.shape)
    if len(spec.shape) == 1:
        return (sum(feature.size for feature in features),)
    shape = features[0].shape
    if len(shape) == len(spec.shape) and all(
        own in (None, given) for own, given in zip(spec.shape, shape, strict=True)
    ):
        return shape
    raise UserError(
        f"its shape is {list(shape)}, but the model's input {spec.name!r} takes {shown(spec.shape)}",
        f"{FEATURES} {features[0].name}",
        "give it a shape of that form",
    )


def size_of(shape: Sequence[int | None]) -> int | None:
    """The number of values in a row; None if an extent is open."""
    return None if None in shape else int(np.prod([extent or 0 for extent in shape], dtype=np.int64))


def shown(shape: Sequence[int | None]) -> str:
    """A shape as text, with `any` for open extents."""
    return f"[{', '.join('any' if extent is None else str(extent) for extent in shape)}]"


def is_number_type(dtype: str) -> bool:
    """True for the type of a model input that takes numbers."""
    try:
        return np.dtype(dtype).kind in "biuf"
    except TypeError:
        return False


def type_fits(spec: InputSpec, kind: pa.DataType) -> bool:
    """True if a column's values can be converted to the input's type."""
    held = leaf(kind)
    if spec.dtype == "string":
        return bool(pt.is_string(held) or pt.is_binary(held) or pt.is_null(held))
    return is_number(held)


def is_picture(spec: InputSpec, kind: pa.DataType) -> bool:
    """True for a column of bytes that is an image, judged by the input's shape."""
    return bool(pt.is_binary(storage(kind)) and len(spec.shape) == 3 and spec.dtype != "string")


def fits(spec: InputSpec, kind: pa.DataType, wanted: int | None) -> bool:
    """True if one column can fill the whole input."""
    if is_picture(spec, kind):
        return True
    return type_fits(spec, kind) and (wanted is None or width(kind) in (None, wanted))

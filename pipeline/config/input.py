"""The `input` block of a config, and the texts of its features."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from pipeline.config.values import Label, Path, Scalar, Shape
from transforms.errors import UserError
from transforms.rows.encodings import DTYPES
from transforms.slices.slicings import BinsRequest, SliceRequest

_MOST_BINS, _MOST_PARTS = 1000, 8


class Strict(BaseModel):
    """A block that refuses unknown keys and values of wrong types."""

    # The string below a key is its description: the reference in docs/ is generated from it.
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _leave_out_empty(cls, value: Any) -> Any:
        # `limits:` with nothing below it means the same as leaving it out.
        if isinstance(value, dict):
            known = cls.model_fields
            return {key: item for key, item in value.items() if item is not None or key not in known}
        return value


class FeatureTexts(Strict):
    """An entry of `features`: texts for readers on a feature or a group."""

    label: Label | None = None
    """Its name in words."""
    vocabulary: Path | None = None
    """For a text of ids: a file with one word per line, starting with id 0."""

    @model_serializer(mode="wrap")
    def _without_none(self, keys: SerializerFunctionWrapHandler) -> dict[str, str]:
        return {key: value for key, value in keys(self).items() if value is not None}


class Feature(Strict):
    """An item of `input.features`; its label is moved to the config's `features`."""

    name: str
    """The column; a field of a struct is written `weather.temp`."""
    input: str | None = None
    """The model's input that the column feeds; by default the input with the column's name. Several
    columns with one `input` fill a vector, in the config's order."""
    kind: Literal["numeric", "categorical", "image"] | None = None
    """How the column is read; by default worked out from the model and the file."""
    fill: Scalar | None = None
    """The value that replaces a null or non-finite value. Without it, such a row is rejected."""
    missing: Literal["reject", "keep"] | None = None
    """`reject` a row with a null or NaN, or `keep` it for the model. Trees keep by default, others reject."""
    shape: Shape | None = None
    """Shape of a row's value, for pictures, tensors in bytes and lists; for lists of varying length the
    longest."""
    dtype: Literal[DTYPES] | None = None  # type: ignore[valid-type]
    """Element type of raw little-endian bytes (`np.tobytes()`), which may be compressed as zlib streams."""
    pad: Scalar | None = None
    """Allows lists of varying length: the value that pads shorter lists at their end."""
    fixed: bool = False
    """Hold the feature at the row's value and attribute nothing to it, as for a mask."""
    label: Label | None = Field(default=None, exclude=True)
    """Its name in words, as in `features`."""

    @model_validator(mode="after")
    def _one_of_both(self) -> Feature:
        if self.missing == "keep" and self.fill is not None:
            raise ValueError(
                f"fill: {self.fill!r} and missing: keep exclude each other: one replaces what the other keeps"
            )
        return self


class Bins(Strict):
    """An item of `input.slices` that cuts a number into bins: `{column: age, bins: [18, 35]}`."""

    column: str
    """The column of numbers."""
    bins: (
        Annotated[int, Field(ge=2, le=_MOST_BINS)]
        | Annotated[list[float], Field(min_length=1, max_length=_MOST_BINS)]
    )
    """The inner edges, or a number of bins that hold about equally many rows each."""

    @field_validator("bins", mode="after")
    @classmethod
    def _increasing(cls, value: int | list[float]) -> int | list[float]:
        if isinstance(value, list):
            for low, high in pairwise(value):
                if not low < high:
                    raise ValueError(f"edges must increase, and {high:g} comes after {low:g}")
            if not all(map(math.isfinite, value)):
                raise ValueError("edges must be finite: the first and the last bin have no end")
        return value


def _several(parts: list[str | Bins]) -> list[str | Bins]:
    if not 2 <= len(parts) <= _MOST_PARTS:
        raise ValueError(f"an intersection takes 2 to {_MOST_PARTS} slicings, not {len(parts)}")
    return parts


#: A column, a condition, bins, or an intersection of several of these.
Slice = str | Bins | Annotated[list[str | Bins], AfterValidator(_several)]


class Input(Strict):
    """The `input` block."""

    format: Literal["parquet", "tfrecord"] | None = None
    """Format of the files; by default worked out from their suffix."""
    files: Path | Annotated[list[Path], Field(min_length=1)]
    """A glob, a file, a folder (all files below it), or a list of these."""
    partitioning: Literal["hive", "none"] = "hive"
    """`hive`: folders called `name=value` are columns."""
    id: str | None = None
    """The column of row ids; by default ids are `<file>:<row>`."""
    weight: str | None = None
    """A column of numbers ≥ 0: a row of weight 2 counts twice in the importance."""
    features: Annotated[list[Feature], Field(min_length=1)] | None = None
    """The features by name. Keys are needed only to override what the model and the files say."""
    groups: dict[str, Annotated[list[str], Field(min_length=1)]] = {}
    """Features to be attributed as one, by the group's name."""
    slices: list[Slice] = []
    """The slices of the importance: columns, conditions, bins, and intersections of these."""

    @field_validator("features", mode="before")
    @classmethod
    def _names_alone(cls, value: Any) -> Any:
        # Both `[distance, carrier]` and `{distance: {fill: 0}}` are short forms.
        if isinstance(value, list):
            return [{"name": item} if isinstance(item, str) else item for item in value]
        if isinstance(value, dict):
            return [_named(name, keys) for name, keys in value.items()]
        return value

    @model_validator(mode="after")
    def _no_twins(self) -> Input:
        slices = [item for item in self.slices if isinstance(item, str)]
        for key, names in (("features", [f.name for f in self.features or []]), ("slices", slices)):
            twins = sorted({name for name in names if names.count(name) > 1})
            if twins:
                raise ValueError(f"{key} names {twins[0]!r} twice")
        return self

    @property
    def slice_requests(self) -> tuple[SliceRequest, ...]:
        """The slicings that `slices` requests."""
        return tuple(
            tuple(map(_request, item)) if isinstance(item, list) else _request(item) for item in self.slices
        )


def _named(name: Any, keys: Any) -> Any:
    """Turns an entry of a mapping of features into an item of a list."""
    if keys is not None and not isinstance(keys, dict):
        problem = f"must be a mapping, not {keys!r:.100}"
        raise UserError(problem, f"input.features.{name}", "write for example {fill: 0}")
    if keys and "name" in keys:
        raise UserError("unknown key", f"input.features.{name}.name", "the key of the mapping is the name")
    return {"name": name, **(keys or {})}


def _request(item: str | Bins) -> str | BinsRequest:
    if isinstance(item, str):
        return item
    return BinsRequest(item.column, item.bins if isinstance(item.bins, int) else tuple(item.bins))


def all_labels(texts: Mapping[str, FeatureTexts], features: list[Feature]) -> dict[str, FeatureTexts]:
    """Merges the labels of `features` and of the items of `input.features`, by name.

    Raises:
      UserError: A feature has two different labels.
    """
    labelled = dict(texts)
    for feature in features:
        if feature.label is None:
            continue
        known = labelled.get(feature.name, FeatureTexts())
        if known.label not in (None, feature.label):
            problem = f"{known.label!r} here, and {feature.label!r} in input.features"
            raise UserError(problem, f"features.{feature.name}.label", "give the label once")
        labelled[feature.name] = known.model_copy(update={"label": feature.label})
    return labelled

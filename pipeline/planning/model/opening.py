"""Opens the model of a plan with its schema, its background and the first rows, and checks them in order.

The checks, in their order: the model loads and the columns fit it; the files have the columns; the baseline
can be made; the model accepts rows of these shapes; the model is sound (each row has one score, equal to the
library's own prediction); the model accepts the baseline; the method supports the model. Errors of the model
come before those of the method, because a model error would remain with every other method.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa

from pipeline.planning.device_batches import forward_batch_size
from pipeline.planning.method.requirements import Unfit, check_players, fitting, held_for_method
from pipeline.planning.model.checks import check_model
from pipeline.planning.model.failures import methods_own, models_own, refused_baseline, taken
from pipeline.planning.model.targets import Target, is_yes_or_no
from transforms.methods.base import AttributionMethod
from transforms.models.base import ScoredModel
from transforms.models.categories import NO_OR_YES
from transforms.models.kinds.function import FunctionModel
from transforms.models.load import ModelRequest
from transforms.rows.baselines.baselines import BaselineRequest, first_rows, make_background
from transforms.rows.decode import Rows
from transforms.rows.padding import with_lengths
from transforms.rows.resolve.bytes_columns import with_encodings
from transforms.rows.resolve.completion import completed
from transforms.rows.resolve.folder_columns import resolve_with_paths, slicings_with_paths
from transforms.rows.resolve.missing_features import with_absent
from transforms.rows.resolve.resolve import ColumnRequest
from transforms.rows.schema import ExampleSchema, columns_of
from transforms.sources.base import TFRECORD, Column, InputFile
from transforms.sources.read import check_columns
from transforms.worker.device_batch import DeviceBatchSize

#: Number of first rows of the input on which spreads and times are measured.
FIRST_ROWS = 4096
#: Number of first rows for a check of the model alone.
_FEW_ROWS = 256


@dataclass(frozen=True)
class ProbeRequest:
    """What a plan asks of a model.

    Args:
      model: The model to load.
      score: auto | output | logit | probability.
      target: Index, name of a class or a head, "predicted", "all"; None if absent, or if a column names it.
      columns: The roles of columns in the config.
      types: Types of the input's columns.
      files: The input.
      method: The method; None leaves it to the model.
      baseline: The kind of baseline, with its values; without a kind, the method decides.
      baseline_files: The files of a baseline of kind `file`.
      device_batch_size: The config's device batch size; None leaves it to the plan.
      seed: The seed of the run.
      threads: TensorFlow's threads in this process.
      measure: Measure the time per row.
      drawn_from: The input files from which a baseline is drawn; None draws from all.
      paths: Columns that are in the names of folders rather than in the files.
      edges: Edges of bins of an earlier run, by column and number of bins.
    """

    model: ModelRequest
    score: str
    target: Target
    columns: ColumnRequest
    types: Mapping[str, pa.DataType]
    files: Sequence[InputFile]
    method: AttributionMethod | None
    baseline: BaselineRequest
    baseline_files: Sequence[InputFile]
    device_batch_size: int | None
    seed: int
    threads: int | None = None
    measure: bool = False
    drawn_from: Sequence[InputFile] | None = None
    paths: frozenset[str] = frozenset()
    edges: Mapping[tuple[str, int], tuple[float, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Opened:
    """A sound model with its schema, background and first rows.

    Args:
      schema: The schema, as the files determine it, for any method.
      model: The model with its score.
      background: Rows that the model accepts, `[R, *shape]` by feature.
      first: The first rows of the input, refused ones included; None if none is usable.
      baseline: The kind of the background.
    """

    schema: ExampleSchema
    model: ScoredModel
    background: Mapping[str, np.ndarray]
    first: Rows | None
    baseline: str


def open_model(request: ProbeRequest, other: Opened | None = None) -> Opened:
    """Loads the model, makes its schema and its background, and checks that the model is sound.

    Args:
      request: The request; without a method, no method-specific checks are made.
      other: The same model, opened for another method; the model is not checked again.
    Raises:
      UserError: Model, columns and baseline do not fit each other, or the model is not sound.
      Unfit: The model is sound, but the method cannot handle its number of players.
    Cost: a pass over the input for the baseline; see `check_model`.
    """
    if other is not None and other.baseline == request.baseline.kind:
        return other
    schema = _schema_of_files(request)
    if request.method is not None:
        _check_room(request, request.method, schema)
    drawn_from = request.drawn_from or request.files
    background = make_background(request.baseline, schema, request.baseline_files or drawn_from, request.seed)
    model = _scored(request, schema, background)
    if request.columns.target is not None and is_yes_or_no(model):
        schema = replace(schema, classes=NO_OR_YES)
    if other is None:
        # Files added later must not change the rows on which a one-row baseline's spread is measured.
        first = first_rows(drawn_from, schema, FIRST_ROWS)
        if first is not None:
            check_model(model, first, schema, request.device_batch_size)
    else:
        first = other.first
    # Rows that the model refuses will be rejected; they must not enter the background or measurements.
    device_batch = DeviceBatchSize(request.device_batch_size or forward_batch_size(model))
    kept, reason = taken(model, schema.assemble(background), device_batch)
    if not kept.any():
        raise refused_baseline(model, reason, first, schema)
    if not kept.all():  # skipped if all rows are kept: indexing by a mask copies
        background = {name: value[kept] for name, value in background.items()}
    return Opened(schema, model, background, first, request.baseline.kind)


def fit(
    request: ProbeRequest, opened: Opened, method: AttributionMethod
) -> tuple[ExampleSchema, ScoredModel]:
    """The schema and the model for a method, with inputs that serve only as masks held at the row's values.

    Raises:
      Unfit: The method does not work on the model.
    """
    background = opened.background
    with fitting(), methods_own(method, opened.schema):
        return held_for_method(
            opened.model,
            background,
            method,
            opened.schema,
            lambda held: _scored(request, held, background),
        )


def _check_room(request: ProbeRequest, method: AttributionMethod, schema: ExampleSchema) -> None:
    """Checks the number of players, before the whole input is read for a baseline.

    Raises:
      UserError: The model is not sound, which is reported first.
      Unfit: The method cannot handle the number of players.
    """
    try:
        with fitting():
            check_players(method, schema)
    except Unfit:
        alone = replace(schema, id=None, slices=(), slicings=(), target=None, weight=None)
        first = first_rows(request.drawn_from or request.files, alone, _FEW_ROWS)
        if first is not None:
            model = _scored(request, alone, first.features)
            check_model(model, first, alone, request.device_batch_size)
        raise


def _schema_of_files(request: ProbeRequest) -> ExampleSchema:
    """The schema with the files' own types, after checking that all files have its columns."""
    kind, schema, types = open_schema(request)
    common = check_columns(request.files, columns_of(schema))
    if kind == FunctionModel.kind and any(common[f.name] != f.stored for f in schema.features):
        # A function receives one type: floats if some files have integers and others floats.
        _, schema, types = open_schema(replace(request, types={**request.types, **common}))
    if schema.slicings:  # conditions must fit the types of every file
        all_types = {**types, **common}
        slices = tuple((name, common[name]) for name, _ in schema.slices)
        slicings = slicings_with_paths(request.columns.slices, all_types, request.paths, request.files)
        schema = replace(schema, slices=slices, slicings=slicings)
    if request.baseline.kind == "file":
        wanted = [
            Column(f.name, f.stored, "baseline.path", from_path=f.name in schema.from_path)
            for f in schema.features
        ]
        check_columns(request.baseline_files, wanted)
    return schema


def _scored(request: ProbeRequest, schema: ExampleSchema, rows: Mapping[str, np.ndarray]) -> ScoredModel:
    from transforms.worker import runtime as worker

    inputs = schema.assemble(rows)
    with models_own("on rows of the columns' shapes"):
        return worker.scored_model(request.model, inputs, request.score, request.threads, held=schema.held)


def open_schema(request: ProbeRequest) -> tuple[str, ExampleSchema, Mapping[str, pa.DataType]]:
    """Loads the model; returns its kind, the schema as far as types determine it, and columns' types."""
    from transforms.worker import runtime as worker

    loaded = worker.adapter(request.model, request.threads)
    types = request.types
    if request.files[0].format == TFRECORD:
        types = with_absent(request.columns, loaded.signature, types)
    columns = completed(request.columns, loaded.signature, types)
    columns, types = with_lengths(columns, loaded.signature, types, request.files)
    schema = resolve_with_paths(columns, loaded.signature, types, request.paths, request.files)
    return loaded.kind, with_encodings(schema, request.files), types

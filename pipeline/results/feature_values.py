"""The feature values of explained examples, from the run's table or else from its input files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from pipeline.run_directory.increments import cut_increments, in_run_order, increments_of
from pipeline.run_directory.kept_baseline import categories_of
from transforms.arrow.nested import as_tensor
from transforms.errors import UserError
from transforms.models.categories import Categories
from transforms.rows.decode import decode
from transforms.rows.padding import any_length
from transforms.rows.resolve.missing_features import assumed
from transforms.rows.schema import ExampleSchema, FeatureSpec, columns_of
from transforms.sources import globs
from transforms.sources.base import PARQUET, TFRECORD, Piece
from transforms.sources.inspection import inspect_files
from transforms.sources.partitions import partition_types
from transforms.sources.read import describe_input, read_piece

if TYPE_CHECKING:
    from pipeline.results.tables import RunTables

_BATCH = 16_384
_REMEDY = "set output.features: true to keep the feature values with a run"


def feature_values(run: RunTables, table: pa.Table, places: np.ndarray) -> dict[str, np.ndarray]:
    """The feature values that the model was given, `[n, *shape]` by feature; strings as str objects.

    Args:
      run: The run.
      table: Rows of the attributions table.
      places: The (part, example within the part) of each row of `table`, `[n, 2]`, in ascending order.
    Raises:
      UserError: The run keeps no feature values and its input is gone or has changed.
    Cost: without `output.features`, reads the ranges of the input that contain the rows.
    """
    if "feature" in table.column_names:
        struct = table["feature"].combine_chunks()
        return {field.name: as_tensor(struct.field(field.name)) for field in struct.type}
    values, known = _from_input(run, places), categories_of(run.manifest)
    for name, value in values.items():
        if name in known:
            values[name] = known[name].of_codes(value).to_numpy(zero_copy_only=False)
        elif value.dtype == object:
            values[name] = _as_text(value)
    return values


def _as_text(values: np.ndarray) -> np.ndarray:
    texts = [
        value.decode("utf-8", "replace") if isinstance(value, bytes) else value and str(value)
        for value in values.flat
    ]
    result = np.empty(len(texts), object)
    result[:] = texts
    return result.reshape(values.shape)


def _from_input(run: RunTables, places: np.ndarray) -> dict[str, np.ndarray]:
    manifest = run.manifest
    config = manifest["config"]["input"]
    patterns = [config["files"]] if isinstance(config["files"], str) else config["files"]
    try:
        matched = globs.expand(patterns, manifest["config_folder"], config["format"])
        inspected = inspect_files(
            matched, config["format"], hive=config.get("partitioning", "hive") == "hive"
        )
    except UserError as error:
        problem = f"the feature values must be read from the input, which is gone: {error}"
        raise UserError(problem, run.path, _REMEDY) from error
    inputs = in_run_order(inspected, manifest)
    if inputs is None:
        raise _changed(run)
    shards = cut_increments(inputs, increments_of(manifest))
    described = describe_input(inspected, [item["name"] for item in manifest["schema"]])
    types = dict(described.types)
    if described.paths:
        as_numbers = partition_types(inspected, padded_are_text=False)
        of_numbers = [item["name"] for item in manifest["schema"] if item["dtype"] != "string"]
        types |= {name: as_numbers[name] for name in described.paths.intersection(of_numbers)}
    if inspected[0].format == TFRECORD:
        padded = [item["name"] for item in manifest["schema"] if item.get("pad") is not None]
        types |= {name: any_length(types[name]) for name in padded if name in types}
    schema = ExampleSchema(_specs(manifest["schema"], types), {}, {}, from_path=tuple(described.paths))
    numbers = [int(path.rsplit("-", 1)[1].split(".")[0]) for path in run.parts()]
    refused = _refused(run)
    parts: dict[str, list[np.ndarray]] = {spec.name: [] for spec in schema.features}
    for number in np.unique(places[:, 0]):
        wanted, first = places[places[:, 0] == number, 1], 0
        for piece in shards[numbers[number]].pieces:
            rows = np.arange(piece.start, piece.start + piece.rows)
            kept = rows[~np.isin(rows, refused.get(piece.name, ()))]
            mine = kept[wanted[(wanted >= first) & (wanted < first + len(kept))] - first]
            first += len(kept)
            if len(mine):
                _read_rows(piece, mine, schema, parts)
    values = {name: np.concatenate(found_parts) for name, found_parts in parts.items()}
    if any(len(value) != len(places) for value in values.values()):
        raise _changed(run)
    return values


def _changed(run: RunTables) -> UserError:
    return UserError("the input has changed since it was explained", run.path, _REMEDY)


def _refused(run: RunTables) -> dict[str, np.ndarray]:
    """Numbers of the rejected rows, by file name."""
    frame = run.rejected().select(["file", "row"]).to_pandas()
    return {str(name): rows.to_numpy() for name, rows in frame.groupby("file")["row"]}


def _specs(schema: Sequence[Mapping[str, Any]], types: Mapping[str, pa.DataType]) -> tuple[FeatureSpec, ...]:
    """The manifest's `schema` as feature specs, with the types of the input's columns."""
    return tuple(
        FeatureSpec(
            item["name"],
            item["kind"],
            item["dtype"],
            tuple(item["shape"]),
            types[item["name"]]
            if item["name"] in types
            else assumed(_held(item), item["kind"], item["shape"]),
            item["fill"],
            item["input"],
            item["start"],
            item.get("fixed", False),  # missing in manifests of older runs
            item.get("nan", False),
            Categories.from_json(item.get("categories")),
            missing=item.get("missing"),
            encoding=item.get("encoding"),
            pad=item.get("pad"),
        )
        for item in schema
    )


def _held(item: Mapping[str, Any]) -> str:
    """The type name of a feature's values in the input, before any encoding."""
    known = Categories.from_json(item.get("categories"))
    stored: str = item["dtype"] if known is None else "string" if known.strings else "int64"
    return stored


def _read_rows(
    piece: Piece, rows: np.ndarray, schema: ExampleSchema, parts: dict[str, list[np.ndarray]]
) -> None:
    """Appends the values of `rows` to `parts`; reads the piece from the first of `rows` to the last."""
    columns = columns_of(schema)
    ahead = int(rows[0]) - piece.start
    stretch = replace(
        piece,
        start=int(rows[0]),
        rows=int(rows[-1] - rows[0]) + 1,
        ordinal=piece.ordinal + ahead,
        skip=piece.skip if piece.format == PARQUET else piece.skip + ahead,
    )
    for raw in read_piece(stretch, columns, _BATCH):
        decoded, _ = decode(raw, schema, piece.name, 0, 1)
        chosen = np.isin(decoded.rows, rows)
        if chosen.any():
            for name, value in decoded.features.items():
                parts[name].append(value[chosen])

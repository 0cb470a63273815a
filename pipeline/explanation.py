"""A shap.Explanation of a sample of a run, with the feature values beside the attributions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from transforms import files
from transforms.decode import decode
from transforms.errors import UserError
from transforms.read import Column, describe_columns, read_piece
from transforms.schema import ExampleSchema, FeatureSpec
from transforms.shards import Piece, cut, inspect_files

if TYPE_CHECKING:
    from pipeline.results import Run

_BATCH = 16_384


def make_explanation(run: Run, rows: int | None, target: int | str | None, seed: int) -> Any:
    """See `Run.explanation`."""
    counts = run.manifest["counts"]
    index = run.target_index(target)
    if index is None and counts["attributions"] != counts["rows_attributed"]:
        names = run.manifest["target_names"]
        raise UserError(
            f"the run explains {len(names)} outputs a row", "target", f"give one of {', '.join(names[:12])}"
        )
    table, places = _sample(run, rows, index, seed)
    if "attribution" not in table.column_names:
        raise UserError("the run holds no attributions in full", run.path, "set output.attributions: all")
    values, names = _columns(table["attribution"].combine_chunks(), run.features)
    data, display = _values(run, table, places)
    return _explanation(values, table["base_value"].to_numpy(), data, display, names)


def _sample(run: Run, rows: int | None, target: int | None, seed: int) -> tuple[pa.Table, np.ndarray]:
    """Rows of the table, and the part and the example within it of each, `[n, 2]`."""
    from pipeline.results import draw

    parts = run.parts()
    if not parts:
        raise UserError("the run holds no attributions", run.path, "set output.attributions: all")
    targets = [_read(part, ["target"])["target"].to_numpy() for part in parts]
    counts = run.manifest["counts"]
    per_example = counts["attributions"] // max(counts["rows_attributed"], 1)
    kept = [np.flatnonzero(t == target) if target is not None else np.arange(len(t)) for t in targets]
    sizes = [len(k) for k in kept]
    chosen = draw(sum(sizes), rows, seed)
    tables, places = [], []
    first = 0
    for number, part in enumerate(parts):
        mine = chosen[(chosen >= first) & (chosen < first + sizes[number])] - first
        first += sizes[number]
        if len(mine):
            positions = kept[number][mine]
            tables.append(_read(part, None).take(pa.array(positions)))
            places.append(np.column_stack([np.full(len(positions), number), positions // per_example]))
    if not tables:
        raise UserError("the run has no such rows", run.path)
    return pa.concat_tables(tables), np.concatenate(places)


def _read(path: str, columns: Sequence[str] | None) -> pa.Table:
    return pq.read_table(files.local_copy(path), columns=columns)


def _columns(struct: pa.StructArray, names: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """A struct of numbers and fixed-size lists as `[n, columns]`, with a name for each column."""
    found, labels = [], []
    for name in names:
        array, shape = struct.field(name), []
        while pa.types.is_fixed_size_list(array.type):
            shape.append(array.type.list_size)
            array = array.flatten()
        value = array.to_numpy(zero_copy_only=False).reshape(len(struct), -1)
        found.append(value)
        labels += [name] if not shape else [f"{name}{list(i)}" for i in np.ndindex(*shape)]
    return np.concatenate(found, axis=1), labels


def _explanation(
    values: np.ndarray, base: np.ndarray, data: np.ndarray, display: np.ndarray | None, names: list[str]
) -> Any:
    import shap

    return shap.Explanation(
        values=values.astype(np.float64),
        base_values=base.astype(np.float64),
        data=data,
        display_data=display,
        feature_names=names,
    )


def _values(run: Run, table: pa.Table, places: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Feature values `[n, columns]`; strings as codes, with the strings themselves to display."""
    specs = feature_specs(run.manifest["schema"], {})
    groups = run.manifest["config"]["input"]["groups"]
    if "feature" in table.column_names:
        struct = table["feature"].combine_chunks()
        by_name = {spec.name: _from_arrow(struct.field(spec.name), spec) for spec in specs}
    else:
        by_name = _from_input(run, places)
    members = {member for names in groups.values() for member in names}
    columns: list[np.ndarray] = []
    shown: list[np.ndarray] = []
    for name in run.features:
        if name in groups:
            # A group has no value of its own; its members are what it stands for.
            columns.append(np.full((len(table), 1), np.nan))
            shown.append(np.full((len(table), 1), " · ".join(groups[name]), object))
            continue
        value = by_name[name].reshape(len(table), -1)
        if value.dtype == object:
            texts = np.array([[_text(item) for item in row] for row in value], object)
            columns.append(np.unique(texts, return_inverse=True)[1].reshape(texts.shape).astype(np.float64))
            shown.append(texts)
        else:
            columns.append(value.astype(np.float64))
            shown.append(value.astype(object))
    strings = any(column.dtype == object for column in by_name.values()) or bool(members)
    return np.concatenate(columns, axis=1), np.concatenate(shown, axis=1) if strings else None


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _from_arrow(array: pa.Array, spec: FeatureSpec) -> np.ndarray:
    rows = len(array)
    while pa.types.is_fixed_size_list(array.type):
        array = array.flatten()
    found: np.ndarray = array.to_numpy(zero_copy_only=False).reshape(rows, *spec.shape)
    return found


def feature_specs(schema: Sequence[Mapping[str, Any]], types: Mapping[str, pa.DataType]) -> tuple[FeatureSpec, ...]:
    """The manifest's `schema` as feature specs, with the stored types of the input where they are known."""
    return tuple(
        FeatureSpec(
            item["name"],
            item["kind"],
            item["dtype"],
            tuple(item["shape"]),
            types.get(item["name"], pa.null()),
            item["fill"],
            item["input"],
            item["start"],
        )
        for item in schema
    )


def _from_input(run: Run, places: np.ndarray) -> dict[str, np.ndarray]:
    """Feature values read again from the input, for examples given by part and position."""
    manifest = run.manifest
    config = manifest["config"]["input"]
    patterns = [config["files"]] if isinstance(config["files"], str) else config["files"]
    try:
        found = inspect_files(files.expand(patterns, manifest["config_folder"]), config["format"])
    except UserError as error:
        raise UserError(
            f"the feature values are to be had from the input, and that is gone: {error}", run.path, _REMEDY
        ) from error
    now = [[f.name, f.rows, f.bytes] for f in found]
    if now != [[f["file"], f["rows"], f["bytes"]] for f in manifest["inputs"]]:
        raise UserError("the input is not what it was when it was explained", run.path, _REMEDY)
    shards = cut(found, manifest["shard_rows"], manifest["rows"])
    types = describe_columns(found)
    specs = feature_specs(manifest["schema"], types)
    schema = ExampleSchema(specs, {}, {})
    numbers = [int(path.rsplit("-", 1)[1].split(".")[0]) for path in run.parts()]
    rejected = run.rejected()
    refused = set(zip(rejected["file"].to_pylist(), rejected["row"].to_pylist(), strict=True))
    parts: dict[str, list[np.ndarray]] = {spec.name: [] for spec in specs}
    for number in np.unique(places[:, 0]):
        wanted = places[places[:, 0] == number, 1]
        pieces = shards[numbers[number]].pieces
        accepted = [
            (piece, row)
            for piece in pieces
            for row in range(piece.start, piece.start + piece.rows)
            if (piece.name, row) not in refused
        ]
        for piece, rows in _by_piece([accepted[position] for position in wanted]):
            _read_rows(piece, rows, schema, parts)
    return {name: np.concatenate(found_parts) for name, found_parts in parts.items()}


_REMEDY = "set output.features: true to keep the feature values with a run"


def _by_piece(places: Sequence[tuple[Piece, int]]) -> list[tuple[Piece, list[int]]]:
    grouped: list[tuple[Piece, list[int]]] = []
    for piece, row in places:
        if not grouped or grouped[-1][0] is not piece:
            grouped.append((piece, []))
        grouped[-1][1].append(row)
    return grouped


def _read_rows(piece: Piece, rows: Sequence[int], schema: ExampleSchema, parts: dict[str, list[np.ndarray]]) -> None:
    columns = [Column(name, kind) for name, kind in schema.columns]
    wanted = np.array(rows)
    for raw in read_piece(piece, columns, _BATCH):
        decoded, _ = decode(raw, schema, piece.name, 0, 1)
        chosen = np.isin(decoded.rows, wanted)
        for name, value in decoded.features.items():
            if chosen.any():
                parts[name].append(value[chosen])



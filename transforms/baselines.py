"""The baseline (one reference row) or background (many), drawn from the input, a file or the config."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from transforms.decode import Rows, decode, join
from transforms.errors import UserError
from transforms.methods.random import row_keys
from transforms.read import Column, read_piece
from transforms.schema import ExampleSchema, FeatureSpec, Fill
from transforms.shards import InputFile, Piece, cut

KINDS = ("zeros", "constant", "mean", "median", "mode", "sample", "file")
#: Statistics and draws use all rows of an input up to this many and this much memory; beyond it, evenly spread windows.
_POOL_ROWS = 1_000_000
_POOL_BYTES = 256 << 20
_WINDOWS = 64
_BLOCK_ROWS = 16_384


@dataclass(frozen=True)
class BaselineRequest:
    """The `baseline` block of a config, with its paths resolved."""

    kind: str
    rows: int | None = None
    value: Fill | Mapping[str, Fill] = None


@dataclass(frozen=True)
class Artifact:
    """Background rows by feature with what the whole run computes of them once.

    Args:
      features: `[R, *shape]` by feature.
      scores: Their scores, `[R, T]`.
      spread: Of the score, `[T]`.
      noise: Standard deviation of the model's entries, for smoothgrad.
    """

    features: Mapping[str, np.ndarray]
    scores: np.ndarray
    spread: np.ndarray
    noise: tuple[np.ndarray, ...] = field(default=())

    def to_bytes(self) -> bytes:
        """An uncompressed npz without pickles."""
        buffer = io.BytesIO()
        arrays = {f"feature:{name}": _storable(value) for name, value in self.features.items()}
        arrays |= {f"noise:{index}": value for index, value in enumerate(self.noise)}
        np.savez(buffer, scores=self.scores, spread=self.spread, **arrays)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Artifact:
        """Undoes `to_bytes`."""
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            features = {
                name.removeprefix("feature:"): _restored(arrays[name])
                for name in arrays.files
                if name.startswith("feature:")
            }
            noise = [arrays[f"noise:{i}"] for i in range(sum(n.startswith("noise:") for n in arrays.files))]
            return cls(features, arrays["scores"], arrays["spread"], tuple(noise))

    @property
    def digest(self) -> str:
        """SHA-256 over the background rows."""
        found = hashlib.sha256()
        for name in sorted(self.features):
            value = _storable(self.features[name])
            found.update(f"{name}:{value.dtype}:{value.shape}".encode())
            found.update(np.ascontiguousarray(value).tobytes())
        return f"sha256:{found.hexdigest()}"


def _storable(value: np.ndarray) -> np.ndarray:
    # Bytes objects as fixed-width bytes: numpy stores objects only as pickles.
    return value.astype("S") if value.dtype == object else value


def _restored(value: np.ndarray) -> np.ndarray:
    return value.astype(object) if value.dtype.kind == "S" else value


def read_rows(
    pieces: Sequence[Piece], schema: ExampleSchema, batch_size: int, targets: int = 1 << 31
) -> Iterator[Rows]:
    """The usable rows of some pieces, in order."""
    columns = [Column(name, kind) for name, kind in schema.columns]
    for piece in pieces:
        for raw in read_piece(piece, columns, batch_size):
            rows, _ = decode(raw, schema, piece.name, piece.ordinal - piece.start, targets)
            if len(rows):
                yield rows


def first_rows(files: Sequence[InputFile], schema: ExampleSchema, count: int) -> Rows | None:
    """The first `count` usable rows of the input, None where there is none."""
    parts: list[Rows] = []
    held = 0
    for shard in cut(files, _BLOCK_ROWS):
        for rows in read_rows(shard.pieces, schema, count):
            part = rows.take(slice(0, count - held))
            parts.append(part)
            held += len(part)
            if held >= count:
                return join(parts)
    return join(parts) if parts else None


def make_background(
    request: BaselineRequest, schema: ExampleSchema, files: Sequence[InputFile], seed: int
) -> dict[str, np.ndarray]:
    """The background rows by feature, `[R, *shape]`.

    Args:
      request: What the config asks for.
      schema: Of the examples.
      files: The input, or, for kind `file`, the baseline's own files.
      seed: Of the run.
    Raises:
      UserError: Nothing usable to draw from, or a value that does not fit a feature.
    Cost: reads the input once, at most a million rows of it.
    """
    if request.kind == "zeros":
        return {feature.name: _constant(feature, _zero(feature)) for feature in schema.features}
    if request.kind == "constant":
        return _constants(request, schema)
    rows = request.rows if request.rows is not None else (100 if request.kind == "sample" else None)
    drawn = _draw(files, schema, rows, seed)
    if request.kind in ("sample", "file"):
        return drawn.features
    return {f.name: _statistic(request.kind, f, drawn.features[f.name]) for f in schema.features}


def _zero(feature: FeatureSpec) -> Fill:
    return "" if feature.dtype == "string" else 0


def _constant(feature: FeatureSpec, value: Fill) -> np.ndarray:
    if feature.dtype == "string":
        return np.full((1, *feature.shape), str(value).encode(), object)
    return np.full((1, *feature.shape), value, feature.dtype)


def _constants(request: BaselineRequest, schema: ExampleSchema) -> dict[str, np.ndarray]:
    names = [feature.name for feature in schema.features]
    by_name = request.value if isinstance(request.value, Mapping) else dict.fromkeys(names, request.value)
    missing, unknown = [n for n in names if n not in by_name], [n for n in by_name if n not in names]
    if missing or unknown:
        what = f"no value for {', '.join(missing)}" if missing else f"{', '.join(unknown)} is no feature"
        raise UserError(what, "baseline.value", "give a value for each feature, or one number for all")
    for feature in schema.features:
        value = by_name[feature.name]
        if value is None or isinstance(value, str) != (feature.dtype == "string"):
            wants = "a string" if feature.dtype == "string" else "a number"
            raise UserError(f"{value!r} does not fit {feature.name}", "baseline.value", f"it takes {wants}")
    return {feature.name: _constant(feature, by_name[feature.name]) for feature in schema.features}


def _statistic(kind: str, feature: FeatureSpec, values: np.ndarray) -> np.ndarray:
    """Mean, median or mode, `[1, *shape]`; of categories and whole numbers always the most frequent value."""
    measured = np.dtype(feature.dtype).kind == "f" if feature.dtype != "string" else False
    if kind == "mode" or feature.kind == "categorical" or not measured:
        flat = values.reshape(len(values), -1)
        modes = [_mode(flat[:, column]) for column in range(flat.shape[1])]
        return np.array(modes, values.dtype).reshape(1, *feature.shape)
    wide = values.astype(np.float64)
    found = wide.mean(axis=0) if kind == "mean" else np.median(wide, axis=0)
    return found.astype(feature.dtype)[None]


def _mode(values: np.ndarray) -> object:
    """The most frequent value; the smallest of equally frequent ones."""
    found, counts = np.unique(values, return_counts=True)
    return found[counts.argmax()]


def _draw(files: Sequence[InputFile], schema: ExampleSchema, rows: int | None, seed: int) -> Rows:
    """Usable rows of the input: `rows` at random without replacement, or all of the pool.

    A row's chance rests on (seed, row number), so that both formats of the same rows give the same draw.
    """
    total = sum(file.rows for file in files)
    row_bytes = sum(f.size * (32 if f.dtype == "string" else np.dtype(f.dtype).itemsize) for f in schema.features)
    pool = _pool(total, max(1_000, min(_POOL_ROWS, _POOL_BYTES // max(row_bytes, 1))))
    if rows is None:
        wanted = pool
    else:
        order = pool[np.argsort(row_keys(seed, pool), kind="stable")]
        wanted = order[: rows + rows // 4 + 16]
    while True:
        found = _read_ordinals(files, schema, np.sort(wanted))
        if found is None and len(wanted) == len(pool):
            raise UserError(
                "no usable row to draw from", "baseline", "see which rows are rejected, or use kind: zeros"
            )
        usable = 0 if found is None else len(found)
        if rows is None or usable >= rows or len(wanted) == len(pool):
            break
        wanted = order[: 2 * len(wanted)]
    assert found is not None  # noqa: S101 - for the type checker: the loop ends only with rows
    if rows is None:
        return found
    first = np.argsort(row_keys(seed, found.ordinals), kind="stable")[:rows]
    return found.take(np.sort(first))


def _pool(total: int, most: int) -> np.ndarray:
    if total <= most:
        return np.arange(total)
    width = most // _WINDOWS
    starts = (np.arange(_WINDOWS) * total) // _WINDOWS
    return (starts[:, None] + np.arange(width)).reshape(-1)


def _read_ordinals(files: Sequence[InputFile], schema: ExampleSchema, wanted: np.ndarray) -> Rows | None:
    parts = []
    for piece in _pieces_with(files, wanted):
        for rows in read_rows([piece], schema, _BLOCK_ROWS):
            chosen = np.isin(rows.ordinals, wanted, assume_unique=True)
            if chosen.any():
                parts.append(rows.take(chosen))
    return join(parts) if parts else None


def _pieces_with(files: Sequence[InputFile], wanted: np.ndarray) -> list[Piece]:
    """Stretches of files that hold some of the wanted rows; neighbours are joined, so that nothing is read twice."""
    found: list[Piece] = []
    for shard in cut(files, _BLOCK_ROWS):
        for piece in shard.pieces:
            low, high = np.searchsorted(wanted, [piece.ordinal, piece.ordinal + piece.rows])
            if low == high:
                continue
            last = found[-1] if found else None
            if last is not None and last.path == piece.path and last.start + last.rows == piece.start:
                found[-1] = Piece(
                    last.path, last.name, last.format, last.start, last.rows + piece.rows, last.ordinal,
                    last.offset, last.skip,
                )  # fmt: skip
            else:
                found.append(piece)
    return found

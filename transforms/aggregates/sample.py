"""A sample of a run's rows for its report: drawn at random, and those of the largest and smallest scores."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from transforms.outputs.layout import TableSpec, attribution_schema
from transforms.rows.schema import ExampleSchema

#: Most bytes of a sample, which limit its rows, and the fewest rows that it has nevertheless.
_SAMPLE_BYTES, _FEWEST = 4 << 20, 16
#: Bytes of a row besides its values: ids, names, slices.
_BESIDE = 200
#: Most characters of a text.
_LONGEST_TEXT = 1000
#: Number of rows with the largest scores, and with the smallest, for each target.
_EXTREMES = 3
_LAST_KEY = (1 << 64) - 1
#: Margin of the expected number of drawn rows, in standard deviations, so that enough of them are drawn.
_MARGIN = 6.0

_KEY, _KIND = "key", b"attribeam.kind"

#: Kinds of rows: drawn at random, and with the largest and the smallest scores of each target.
KINDS = ("sample", "largest", "smallest")


@dataclass(frozen=True)
class SampleSpec:
    """The numbers of rows in a sample.

    Args:
      rows: Number of rows drawn at random; 0 keeps no rows of any kind.
      upto: Largest key that is drawn, so that each of many shards keeps few rows.
      extremes: Number of rows with the largest scores, and with the smallest, for each target.
      bytes: The most memory of all these rows.
    """

    rows: int = 0
    upto: int = _LAST_KEY
    extremes: int = 0
    bytes: int = 0

    @classmethod
    def of(
        cls, schema: ExampleSchema, *, wanted: int, total: int, per_example: int, targets: int
    ) -> SampleSpec:
        """The spec of a run's sample: the wanted number of rows, or fewer if rows are wide.

        Args:
          schema: The examples' schema.
          wanted: The most rows.
          total: Number of rows in the whole run.
          per_example: Number of targets for which each row is explained.
          targets: Number of the model's outputs that may be explained.
        """
        if not wanted:
            return cls()
        values = sum(int(np.prod(schema.attributed_shape(name))) for name in schema.attributed)
        row = per_example * (4 * values + schema.row_bytes)
        rows = min(wanted, max(_FEWEST, _SAMPLE_BYTES // row))
        share = (rows + _MARGIN * rows**0.5) / max(total, 1)
        extremes = _EXTREMES if 2 * _EXTREMES * targets * row <= _SAMPLE_BYTES else 0
        size = (rows + 2 * extremes * targets) * (row + per_example * _BESIDE)
        return cls(rows, min(_LAST_KEY, int(share * _LAST_KEY)), extremes, size)


#: The columns kept of each row: all φ, and the feature values.
WHOLE = TableSpec(features=True)


def sample_schema(schema: ExampleSchema, metadata: Mapping[str, str]) -> pa.Schema:
    """The schema of the rows: an attributions table with all columns, whatever the run itself writes."""
    return attribution_schema(schema, WHOLE, metadata)


def shortened(table: pa.Table) -> pa.Table:
    """The rows, with texts among the features cut to the length that a report shows."""
    struct = table["feature"].combine_chunks()
    names = [struct.type.field(at).name for at in range(struct.type.num_fields)]
    fields = [_cut(struct.field(at)) for at in range(len(names))]
    cut = pa.StructArray.from_arrays(fields, fields=list(struct.type)) if names else struct
    return table.set_column(table.column_names.index("feature"), table.schema.field("feature"), cut)


def _cut(values: pa.Array) -> pa.Array:
    if not pa.types.is_string(values.type):
        return values
    long = pc.greater(pc.utf8_length(values), _LONGEST_TEXT)
    if not pc.any(long).as_py():
        return values
    begin = pc.utf8_slice_codeunits(values, 0, _LONGEST_TEXT)
    return pc.if_else(long, pc.binary_join_element_wise(begin, "…", ""), values)


def narrowed(table: pa.Table, names: Collection[str], groups: Mapping[str, Sequence[str]]) -> pa.Table:
    """The rows with only some of their features.

    Args:
      table: The rows of a sample.
      names: Features and groups to keep; others than those in the table have no effect.
      groups: Members by group; a group keeps its members' values.
    """
    values = set(names).union(*(groups[name] for name in names if name in groups))
    for column, kept in (("attribution", set(names)), ("feature", values)):
        if column in table.column_names:
            struct = table[column].combine_chunks()
            at = [k for k in range(struct.type.num_fields) if struct.type.field(k).name in kept]
            fields = [struct.type.field(k) for k in at]
            part = pa.StructArray.from_arrays([struct.field(k) for k in at], fields=fields)
            place = table.column_names.index(column)
            table = table.set_column(place, pa.field(column, part.type), part)
    return table


@dataclass
class Sample:
    """Rows by kind, as a mergeable state: any order and any sharding give exactly the same rows.

    The rows drawn at random are those with the smallest keys, which are hashes of the row. `update` and
    `merge` mutate only the state that they are called on.

    Args:
      spec: The numbers of rows to keep.
    """

    spec: SampleSpec = SampleSpec()
    _held: dict[str, pa.Table] = field(default_factory=dict)

    def update(
        self,
        keys: np.ndarray,
        scores: np.ndarray,
        targets: np.ndarray,
        table: Callable[[np.ndarray], pa.Table],
    ) -> None:
        """Adds a batch.

        Args:
          keys: Key of each row, `[B]` uint64, unique in a run.
          scores: `[B, T]`.
          targets: Output index of each, `[B, T]`.
          table: Makes the table of rows, given by number, in the layout of the attributions table, T lines
            each.
        Cost: comparisons; a table is made only of rows that belong to the sample so far.
        """
        if not self.spec.rows:
            return
        width = targets.shape[1]
        rows = np.flatnonzero(keys <= np.uint64(self._last_key()))
        chosen = {"sample": (rows[:, None] * width + np.arange(width)).reshape(-1)}
        by_entry = np.repeat(keys, width), scores.reshape(-1), targets.reshape(-1)
        for kind in KINDS[1:] if self.spec.extremes else ():
            chosen[kind] = self._extreme(kind, *by_entry)
        for kind, entries in chosen.items():
            if len(entries):
                rows, place = np.unique(entries // width, return_inverse=True)
                made = _taken(table(rows), place * width + entries % width)
                self._add(kind, made.append_column(_KEY, pa.array(by_entry[0][entries])))

    def merge(self, other: Sample) -> None:
        """Adds another state, without changing it; an empty state takes over its spec."""
        if not self.spec.rows:
            self.spec = other.spec
        for kind, held in other._held.items():
            self._add(kind, held)

    def to_table(self) -> pa.Table | None:
        """The rows with their `kind`, those drawn at random first, by key; None if there are none."""
        tables = [
            self._held[kind]
            .drop_columns([_KEY])
            .add_column(0, "kind", pa.array([kind] * len(self._held[kind])))
            for kind in KINDS
            if kind in self._held
        ]
        return pa.concat_tables(tables).combine_chunks() if tables else None

    def to_bytes(self) -> bytes:
        """Encodes the state, compressed, in Arrow's stream format."""
        sink = pa.BufferOutputStream()
        options = pa.ipc.IpcWriteOptions(compression="zstd")
        spec = json.dumps(asdict(self.spec)).encode() + b"\n"
        for kind, held in self._held.items():
            named = held.replace_schema_metadata({**(held.schema.metadata or {}), _KIND: kind.encode()})
            with pa.ipc.new_stream(sink, named.schema, options=options) as stream:
                stream.write_table(named)
        return spec + bytes(sink.getvalue())

    @classmethod
    def from_bytes(cls, data: bytes) -> Sample:
        """Undoes `to_bytes`."""
        spec, _, rest = data.partition(b"\n")
        source, held = pa.BufferReader(rest), {}
        while source.tell() < len(rest):
            table = pa.ipc.open_stream(source).read_all()
            metadata = dict(table.schema.metadata)
            kind = metadata.pop(_KIND).decode()
            held[kind] = table.replace_schema_metadata(metadata or None)
        return cls(SampleSpec(**json.loads(spec)), held)

    def _add(self, kind: str, more: pa.Table) -> None:
        held = self._held.get(kind)
        whole = more if held is None else pa.concat_tables([held, more])
        if held is None or len(whole) > len(held):
            self._held[kind] = _taken(whole, self._kept(kind, whole)).combine_chunks()

    def _kept(self, kind: str, table: pa.Table) -> np.ndarray:
        """Numbers of the lines that stay, in order."""
        keys, targets = table[_KEY].to_numpy(), table["target"].to_numpy()
        if kind == "sample":
            order = np.lexsort((targets, keys))
            last = np.unique(keys)[: self.spec.rows][-1]
            return order[keys[order] <= last]
        return _first(keys, table["prediction"].to_numpy(), targets, kind, self.spec.extremes)

    def _last_key(self) -> int:
        """The largest key with which a row can still be drawn."""
        held = self._held.get("sample")
        if held is None:
            return self.spec.upto
        keys = np.unique(held[_KEY].to_numpy())
        return min(self.spec.upto, int(keys[-1])) if len(keys) >= self.spec.rows else self.spec.upto

    def _extreme(self, kind: str, keys: np.ndarray, scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Numbers of the entries of a batch that may be among the extremes."""
        candidates = np.arange(len(scores))
        held = self._held.get(kind)
        if held is not None:
            sign = 1 if kind == "largest" else -1
            worst = np.full(int(max(targets.max(), pc.max(held["target"]).as_py())) + 1, -np.inf)
            known, count = np.unique(held["target"].to_numpy(), return_counts=True)
            # Lines are sorted by target, the most extreme first: the last of each target is the one to beat.
            full = count == self.spec.extremes
            worst[known[full]] = sign * held["prediction"].to_numpy()[np.cumsum(count) - 1][full]
            candidates = np.flatnonzero(sign * scores >= worst[targets])
        if not len(candidates):
            return candidates
        chosen = _first(keys[candidates], scores[candidates], targets[candidates], kind, self.spec.extremes)
        return candidates[chosen]


def _taken(table: pa.Table, lines: np.ndarray) -> pa.Table:
    """Lines of a table by number; without a copy, which is slow for wide tables, if they are all in order."""
    if len(lines) == len(table) and (lines == np.arange(len(lines))).all():
        return table
    return table.take(pa.array(lines))


def _first(keys: np.ndarray, scores: np.ndarray, targets: np.ndarray, kind: str, count: int) -> np.ndarray:
    """Numbers of the first `count` entries of each target, ordered by score, then by key."""
    order = np.lexsort((keys, -scores if kind == "largest" else scores, targets))
    _, starts, counts = np.unique(targets[order], return_index=True, return_counts=True)
    return order[np.arange(len(order)) - np.repeat(starts, counts) < count]

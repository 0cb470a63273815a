"""Some rows of a run for its report: drawn at random, and those of the largest and smallest scores."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from transforms.outputs.layout import TableSpec, attribution_schema
from transforms.rows.schema import ExampleSchema

#: What the rows of a sample may take before it holds fewer of them, and the fewest that it then holds.
_SAMPLE_BYTES, _FEWEST = 4 << 20, 16
#: Bytes of a line beside its values: ids, names, slices.
_BESIDE = 200
#: Characters of a text that are kept.
_LONGEST_TEXT = 1000
#: Rows of the largest score, and of the smallest, of each target.
_EXTREMES = 3
_LAST_KEY = (1 << 64) - 1
#: More than five standard deviations: of so many rows expected, no fewer than the wanted ones will come.
_MARGIN = 6.0

_KEY, _KIND = "key", b"attribeam.kind"

#: Drawn at random, and of the largest and the smallest score of each target.
KINDS = ("sample", "largest", "smallest")


@dataclass(frozen=True)
class SampleSpec:
    """How many rows are kept.

    Args:
      rows: Drawn at random; 0 keeps none of any kind.
      upto: Rows of larger keys are not drawn, so that a shard of many holds few.
      extremes: Rows of the largest score, and of the smallest, of each target.
      bytes: Memory of all of these, at most.
    """

    rows: int = 0
    upto: int = _LAST_KEY
    extremes: int = 0
    bytes: int = 0

    @classmethod
    def of(
        cls, schema: ExampleSchema, *, wanted: int, total: int, per_example: int, targets: int
    ) -> SampleSpec:
        """The sample of a run: as many rows as are wanted, and fewer where rows are wide.

        Args:
          schema: Of the examples.
          wanted: Rows at most.
          total: Rows of the whole run.
          per_example: Targets that each row is explained for.
          targets: Outputs of the model that may be explained.
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


#: What is kept of each row: all φ, and the feature values.
WHOLE = TableSpec(features=True)


def sample_schema(schema: ExampleSchema, metadata: Mapping[str, str]) -> pa.Schema:
    """The schema of the rows: the attributions table's, whatever the run writes there."""
    return attribution_schema(schema, WHOLE, metadata)


def shortened(table: pa.Table) -> pa.Table:
    """The rows with texts among the features cut, where they are longer than a report shows."""
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
    """The rows with some of their features alone.

    Args:
      table: Of a sample.
      names: Features and groups to keep, of any number of those that the table has.
      groups: Members by group: their values stay with it.
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
    """Rows by kind, as a state that merges exactly: in any order and any sharding it holds the same rows.

    Those drawn at random are the ones of the smallest keys, keys being hashes of the row. `update` and
    `merge` mutate the state that they are called on and nothing else.

    Args:
      spec: How many rows.
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
          keys: Of the rows, `[B]` uint64, no two alike in a run.
          scores: `[B, T]`.
          targets: Output index of each, `[B, T]`.
          table: The rows of these numbers in the layout of the attributions table, T lines each.
        Cost: comparisons; rows are made into a table only where they belong to the sample so far.
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
        """Adds another, which stays as it is; a state of nothing takes the other's spec."""
        if not self.spec.rows:
            self.spec = other.spec
        for kind, held in other._held.items():
            self._add(kind, held)

    def to_table(self) -> pa.Table | None:
        """The rows, each after its kind: those drawn at random first, by key; None of none."""
        tables = [
            self._held[kind]
            .drop_columns([_KEY])
            .add_column(0, "kind", pa.array([kind] * len(self._held[kind])))
            for kind in KINDS
            if kind in self._held
        ]
        return pa.concat_tables(tables).combine_chunks() if tables else None

    def to_bytes(self) -> bytes:
        """The state, compressed, in Arrow's stream format."""
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
        """The lines that stay, in their order."""
        keys, targets = table[_KEY].to_numpy(), table["target"].to_numpy()
        if kind == "sample":
            order = np.lexsort((targets, keys))
            last = np.unique(keys)[: self.spec.rows][-1]
            return order[keys[order] <= last]
        return _first(keys, table["prediction"].to_numpy(), targets, kind, self.spec.extremes)

    def _last_key(self) -> int:
        """The largest key that a row may have to be drawn."""
        held = self._held.get("sample")
        if held is None:
            return self.spec.upto
        keys = np.unique(held[_KEY].to_numpy())
        return min(self.spec.upto, int(keys[-1])) if len(keys) >= self.spec.rows else self.spec.upto

    def _extreme(self, kind: str, keys: np.ndarray, scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """The entries of a batch that may be among the extremes, by number."""
        candidates = np.arange(len(scores))
        held = self._held.get(kind)
        if held is not None:
            sign = 1 if kind == "largest" else -1
            worst = np.full(int(max(targets.max(), pc.max(held["target"]).as_py())) + 1, -np.inf)
            of, count = np.unique(held["target"].to_numpy(), return_counts=True)
            # Lines stand by target, the most extreme first: the last of each is the one to be better than.
            full = count == self.spec.extremes
            worst[of[full]] = sign * held["prediction"].to_numpy()[np.cumsum(count) - 1][full]
            candidates = np.flatnonzero(sign * scores >= worst[targets])
        if not len(candidates):
            return candidates
        chosen = _first(keys[candidates], scores[candidates], targets[candidates], kind, self.spec.extremes)
        return candidates[chosen]


def _taken(table: pa.Table, lines: np.ndarray) -> pa.Table:
    """Lines of a table by number; all of them in order without the copy, which takes long of a wide table."""
    if len(lines) == len(table) and (lines == np.arange(len(lines))).all():
        return table
    return table.take(pa.array(lines))


def _first(keys: np.ndarray, scores: np.ndarray, targets: np.ndarray, kind: str, count: int) -> np.ndarray:
    """So many entries of each target that come first by score, then by key, by number and in that order."""
    order = np.lexsort((keys, -scores if kind == "largest" else scores, targets))
    _, starts, counts = np.unique(targets[order], return_index=True, return_counts=True)
    return order[np.arange(len(order)) - np.repeat(starts, counts) < count]

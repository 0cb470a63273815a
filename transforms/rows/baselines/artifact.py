"""The baseline of a run as a file: its rows, with what the whole run computes of them once."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Artifact:
    """Background rows by feature with what the whole run computes of them once.

    Args:
      features: `[R, *shape]` by feature.
      scores: Their scores, `[R, T]`.
      spread: Of the score, `[T]`.
      noise: Standard deviation of the model's entries, for smoothgrad.
      yardstick: What convergence is measured by, `[T]`, see `aggregates.quality`; None: the spread.
    """

    features: Mapping[str, np.ndarray]
    scores: np.ndarray
    spread: np.ndarray
    noise: tuple[np.ndarray, ...] = field(default=())
    yardstick: np.ndarray | None = None

    def to_bytes(self) -> bytes:
        """An uncompressed npz without pickles."""
        buffer = io.BytesIO()
        arrays: dict[str, Any] = {f"noise_{at}": value for at, value in enumerate(self.noise)}
        scalars: dict[str, list[np.ndarray]] = {}
        told: list[tuple[str, str, Any]] = []
        for at, (name, value) in enumerate(self.features.items()):
            if value.dtype == object:
                # numpy stores objects as pickles, and cuts zeros off fixed-width bytes.
                arrays[f"lengths_{at}"], arrays[f"feature_{at}"] = _packed(value)
                told.append((name, "packed", value.shape))
            elif value.ndim == 1:
                # One array a type: of thousands of columns, an archive's entry each would take seconds.
                same = scalars.setdefault(value.dtype.str, [])
                told.append((name, "scalar", (list(scalars).index(value.dtype.str), len(same))))
                same.append(value)
            else:
                arrays[f"feature_{at}"] = value
                told.append((name, "array", None))
        arrays |= {f"scalars_{at}": np.stack(values) for at, values in enumerate(scalars.values())}
        header = json.dumps({"features": told, "noise": len(self.noise), "scalars": len(scalars)})
        arrays["header"] = np.frombuffer(header.encode(), np.uint8)
        if self.yardstick is not None:
            arrays["yardstick"] = self.yardstick
        np.savez(buffer, scores=self.scores, spread=self.spread, **arrays)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Artifact:
        """Undoes `to_bytes`."""
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            header = json.loads(arrays["header"].tobytes())
            scalars = [arrays[f"scalars_{at}"] for at in range(header["scalars"])]
            features = {}
            for at, (name, how, where) in enumerate(header["features"]):
                if how == "scalar":
                    features[name] = scalars[where[0]][where[1]]
                    continue
                value = arrays[f"feature_{at}"]
                if how == "packed":
                    value = _unpacked(arrays[f"lengths_{at}"], value, where)
                features[name] = value
            noise = tuple(arrays[f"noise_{at}"] for at in range(header["noise"]))
            yardstick = arrays["yardstick"] if "yardstick" in arrays.files else None
            return cls(features, arrays["scores"], arrays["spread"], noise, yardstick)

    @property
    def digest(self) -> str:
        """SHA-256 over the background rows."""
        found = hashlib.sha256()
        for name in sorted(self.features):
            value = self.features[name]
            found.update(f"{name}:{value.dtype}:{value.shape};".encode())
            for part in _packed(value) if value.dtype == object else (value,):
                found.update(np.ascontiguousarray(part).tobytes())
        return f"sha256:{found.hexdigest()}"


def _packed(value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bytes objects as their lengths, −1 for None, and their bytes, one after another."""
    items = value.reshape(-1).tolist()
    lengths = np.array([-1 if item is None else len(item) for item in items], np.int64)
    return lengths, np.frombuffer(b"".join(item for item in items if item is not None), np.uint8)


def _unpacked(lengths: np.ndarray, data: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Undoes `_packed`."""
    whole, stops = data.tobytes(), np.cumsum(np.maximum(lengths, 0)).tolist()
    found = np.empty(len(stops), object)
    found[:] = [
        None if length < 0 else whole[stop - length : stop]
        for stop, length in zip(stops, lengths.tolist(), strict=True)
    ]
    return found.reshape(shape)

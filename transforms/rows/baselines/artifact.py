"""The baseline of a run as a file: background rows, and values computed from them once per run."""

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
    """Background rows, and values computed from them once per run.

    Args:
      features: `[R, *shape]` by feature.
      scores: Scores of the rows, `[R, T]`.
      spread: Spread of each target's score, `[T]`.
      noise: Standard deviation of each value where gradients begin, for smoothgrad.
      yardstick: The unit of convergence, `[T]`, see `aggregates.quality`; None: the spread.
    """

    features: Mapping[str, np.ndarray]
    scores: np.ndarray
    spread: np.ndarray
    noise: tuple[np.ndarray, ...] = field(default=())
    yardstick: np.ndarray | None = None

    def to_bytes(self) -> bytes:
        """Encodes the artifact as an uncompressed npz without pickles."""
        buffer = io.BytesIO()
        arrays: dict[str, Any] = {f"noise_{number}": value for number, value in enumerate(self.noise)}
        scalars: dict[str, list[np.ndarray]] = {}
        layout: list[tuple[str, str, Any]] = []
        for number, (name, value) in enumerate(self.features.items()):
            if value.dtype == object:
                # numpy would store objects as pickles, and strips trailing zeros from fixed-width bytes.
                arrays[f"lengths_{number}"], arrays[f"feature_{number}"] = _packed(value)
                layout.append((name, "packed", value.shape))
            elif value.ndim == 1:
                # One array per type: an archive entry for each of thousands of columns would take seconds.
                same = scalars.setdefault(value.dtype.str, [])
                layout.append((name, "scalar", (list(scalars).index(value.dtype.str), len(same))))
                same.append(value)
            else:
                arrays[f"feature_{number}"] = value
                layout.append((name, "array", None))
        arrays |= {f"scalars_{number}": np.stack(values) for number, values in enumerate(scalars.values())}
        header = json.dumps({"features": layout, "noise": len(self.noise), "scalars": len(scalars)})
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
            scalars = [arrays[f"scalars_{number}"] for number in range(header["scalars"])]
            features = {}
            for number, (name, how, where) in enumerate(header["features"]):
                if how == "scalar":
                    features[name] = scalars[where[0]][where[1]]
                    continue
                value = arrays[f"feature_{number}"]
                if how == "packed":
                    value = _unpacked(arrays[f"lengths_{number}"], value, where)
                features[name] = value
            noise = tuple(arrays[f"noise_{number}"] for number in range(header["noise"]))
            yardstick = arrays["yardstick"] if "yardstick" in arrays.files else None
            return cls(features, arrays["scores"], arrays["spread"], noise, yardstick)

    @property
    def digest(self) -> str:
        """SHA-256 over the background rows."""
        hashed = hashlib.sha256()
        for name in sorted(self.features):
            value = self.features[name]
            hashed.update(f"{name}:{value.dtype}:{value.shape};".encode())
            for part in _packed(value) if value.dtype == object else (value,):
                hashed.update(np.ascontiguousarray(part).tobytes())
        return f"sha256:{hashed.hexdigest()}"


def _packed(value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bytes objects as two arrays: their lengths, −1 for None, and their concatenated bytes."""
    items = value.reshape(-1).tolist()
    lengths = np.array([-1 if item is None else len(item) for item in items], np.int64)
    return lengths, np.frombuffer(b"".join(item for item in items if item is not None), np.uint8)


def _unpacked(lengths: np.ndarray, data: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Undoes `_packed`."""
    whole, stops = data.tobytes(), np.cumsum(np.maximum(lengths, 0)).tolist()
    values = np.empty(len(stops), object)
    values[:] = [
        None if length < 0 else whole[stop - length : stop]
        for stop, length in zip(stops, lengths.tolist(), strict=True)
    ]
    return values.reshape(shape)

"""Arrays as PNG within a page: palettes, colours and greys of eight bits, and pictures made smaller."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence

import numpy as np

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Colour types of the format.
_GREY = 0
_RGB = 2
_PALETTE = 3


def png(pixels: np.ndarray, palette: np.ndarray | None = None) -> bytes:
    """A picture as a PNG file.

    Args:
      pixels: `[height, width]` greys, or indexes of the palette; or `[height, width, 3]` colours; uint8.
      palette: `[n, 3]` colours, uint8.
    Raises:
      ValueError: The array has another shape or type.
    Reference: PNG specification, third edition, https://www.w3.org/TR/png-3/
    """
    if (
        pixels.dtype != np.uint8
        or pixels.ndim not in (2, 3)
        or 0 in pixels.shape
        or pixels.shape[2:]
        not in (
            (),
            (3,),
        )
    ):
        raise ValueError(f"{pixels.dtype} {pixels.shape} is not a picture")
    kind = _RGB if pixels.ndim == 3 else _GREY if palette is None else _PALETTE
    height, width = pixels.shape[:2]
    lines = pixels.reshape(height, -1)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0))]
    if palette is not None:
        chunks.append((b"PLTE", palette.astype(np.uint8).tobytes()))
    filtered = _unfiltered(lines) if kind == _PALETTE else _filtered(lines, 3 if kind == _RGB else 1)
    chunks += [(b"IDAT", zlib.compress(filtered.tobytes())), (b"IEND", b"")]
    return _SIGNATURE + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


def _unfiltered(lines: np.ndarray) -> np.ndarray:
    return np.pad(lines, ((0, 0), (1, 0)))


def _filtered(lines: np.ndarray, step: int) -> np.ndarray:
    """Filters each line: unchanged, minus the left pixels, or minus those above, whichever is smallest."""
    left, above = np.zeros_like(lines), np.zeros_like(lines)
    left[:, step:], above[1:] = lines[:, :-step], lines[:-1]
    candidates = np.stack([lines, lines - left, lines - above])
    cost = np.abs(candidates.view(np.int8).astype(np.int64)).sum(axis=2)
    best = cost.argmin(axis=0).astype(np.uint8)
    chosen = candidates[best, np.arange(len(lines))]
    return np.column_stack([best, chosen])


def data_uri(file: bytes) -> str:
    """A PNG file as a data: URL."""
    return f"data:image/png;base64,{base64.b64encode(file).decode()}"


def reduced(values: np.ndarray, side: int) -> tuple[np.ndarray, int]:
    """Reduces a picture to means over squares.

    Args:
      values: `[height, width, …]`.
      side: The most rows and columns of the result.
    Returns:
      Float64 `[height', width', …]`, and the side of the squares: 1 if the picture was small enough.
    """
    size = -(-max(values.shape[:2]) // side)
    means = values.astype(np.float64)
    if size == 1:
        return means, 1
    for axis in (0, 1):
        starts = np.arange(0, values.shape[axis], size)
        counts = np.diff([*starts, values.shape[axis]])
        shape = [-1 if at == axis else 1 for at in range(values.ndim)]
        means = np.add.reduceat(means, starts, axis=axis) / counts.reshape(shape)
    return means, size


def colours(stops: Sequence[str], count: int = 256) -> np.ndarray:
    """A palette, `[count, 3]` uint8, that interpolates between colours `#rrggbb` at equal distances."""
    known = np.array([[int(stop[at : at + 2], 16) for at in (1, 3, 5)] for stop in stops], np.float64)
    at = np.linspace(0, len(stops) - 1, count)
    channels = [np.interp(at, np.arange(len(stops)), known[:, channel]) for channel in range(3)]
    return np.rint(np.column_stack(channels)).astype(np.uint8)

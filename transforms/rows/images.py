"""Decoding pictures to pixels: PNG, JPEG, GIF and BMP, as training pipelines decode them, or raw values."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

_MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8")
_CALL = 256  # pictures per call of the decoder, which holds all of them
_NOISE = re.compile(r"\{\{.*?\}\}\s*|\s*\[Op:.*", re.DOTALL)


def is_picture_data(data: bytes) -> bool:
    """True if the bytes begin like an encoded picture."""
    return data.startswith((*_MAGIC, b"BM"))


def decode_images(data: Sequence[bytes | None], shape: Sequence[int]) -> tuple[np.ndarray, dict[int, str]]:
    """Decodes the pictures of a batch.

    Args:
      data: Encoded pictures, or raw row-major values of one byte each; None is skipped.
      shape: Shape of each, `[height, width, channels]` or `[height, width]`; raw values may have any.
    Returns:
      `[B, *shape]` uint8, unscaled, with zeros where there is no picture; and,
      by row, the reason why there is none.
    Cost: 10 µs per small PNG. One TensorFlow call decodes many, because a call costs ten times as much.
    """
    size = int(np.prod(shape, dtype=np.int64))
    pixels = np.zeros((len(data), *shape), np.uint8)
    reasons: dict[int, str] = {}
    encoded: list[int] = []
    for row, item in enumerate(data):
        if item is None:
            continue
        if item.startswith(_MAGIC):
            encoded.append(row)
        elif len(item) == size:
            pixels[row] = np.frombuffer(item, np.uint8).reshape(shape)
        elif item.startswith(b"BM"):
            encoded.append(row)
        else:
            reasons[row] = (
                f"is not PNG or JPEG, and its {len(item)} bytes are not the {size} of a raw picture"
            )
    for start in range(0, len(encoded), _CALL):
        _decode(encoded[start : start + _CALL], data, pixels, reasons)
    return pixels, reasons


def _decode(
    rows: list[int], data: Sequence[bytes | None], pixels: np.ndarray, reasons: dict[int, str]
) -> None:
    """Decodes many pictures at once; if that fails, halves them until each damaged one is alone."""
    import tensorflow as tf

    shape = pixels.shape[1:]
    if len(shape) not in (2, 3) or shape[2:] not in ((), (1,), (3,), (4,)):
        reason = f"is an encoded picture, which cannot have the shape {list(shape)}"
        reasons.update(dict.fromkeys(rows, reason))
        return
    if len(rows) == 1:
        decoded = _decode_one(data[rows[0]], shape)
        if isinstance(decoded, str):
            reasons[rows[0]] = decoded
        else:
            pixels[rows[0]] = decoded
        return
    try:
        decoded = _decoder(shape)(tf.constant([data[row] for row in rows])).numpy()
    except (tf.errors.InvalidArgumentError, tf.errors.ResourceExhaustedError):
        middle = len(rows) // 2
        _decode(rows[:middle], data, pixels, reasons)
        _decode(rows[middle:], data, pixels, reasons)
    else:
        pixels[rows] = decoded.reshape(-1, *shape)


def _decode_one(data: bytes | None, shape: tuple[int, ...]) -> np.ndarray | str:
    """A picture's pixels, or the reason why it cannot be used."""
    import tensorflow as tf

    channels = shape[2] if len(shape) == 3 else 1
    try:
        decoded = tf.io.decode_image(data, channels=channels, expand_animations=False).numpy()
    except (tf.errors.InvalidArgumentError, tf.errors.ResourceExhaustedError) as error:
        return f"could not be decoded: {_NOISE.sub('', error.message).strip()[:160]}"
    if decoded.shape != (*shape[:2], channels):
        return f"is a picture of {list(decoded.shape)}, not {list(shape)}"
    pixels: np.ndarray = decoded.reshape(shape)
    return pixels


@functools.cache
def _decoder(shape: tuple[int, ...]) -> Any:
    """A TensorFlow function that decodes a batch of pictures of one shape."""
    import tensorflow as tf

    whole = (*shape[:2], shape[2] if len(shape) == 3 else 1)

    def one(data: Any) -> Any:
        picture = tf.io.decode_image(data, channels=whole[2], expand_animations=False)
        return tf.ensure_shape(picture, whole)

    def many(data: Any) -> Any:
        return tf.map_fn(one, data, fn_output_signature=tf.TensorSpec(whole, tf.uint8))

    return tf.function(many, input_signature=[tf.TensorSpec([None], tf.string)], autograph=False)

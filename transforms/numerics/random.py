"""A counter-based generator of random numbers that depend only on the seed and the row.

Each number is a hash of the row's key and a counter, so that a row has the same numbers in any shard, worker,
batch or order.
"""

from __future__ import annotations

from typing import Any

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX2 = np.uint64(0x94D049BB133111EB)


def mix(keys: np.ndarray) -> np.ndarray:
    """Hashes uint64 to uint64 by SplitMix64's finaliser (Steele et al. 2014, doi:10.1145/2660193.2660195)."""
    with np.errstate(over="ignore"):
        keys = (keys ^ (keys >> np.uint64(30))) * _MIX1
        keys = (keys ^ (keys >> np.uint64(27))) * _MIX2
    return keys ^ (keys >> np.uint64(31))


def row_keys(seed: int, ordinals: np.ndarray) -> np.ndarray:
    """The key of each row, `[B]` uint64, from the run's seed and the row's number in the whole input."""
    with np.errstate(over="ignore"):
        start = mix(np.array([seed % 2**64], np.uint64) * _GOLDEN + _GOLDEN)
        return mix(ordinals.astype(np.uint64) * _GOLDEN + start)


def stream(keys: np.ndarray, name: int) -> np.ndarray:
    """A key for each row, `[B]` uint64; keys of different streams (numbered by `name`) are independent."""
    with np.errstate(over="ignore"):
        return mix(keys + np.uint64(name + 1) * _GOLDEN)


def uniforms(keys: np.ndarray, first: int, count: int) -> np.ndarray:
    """Uniform numbers in [0, 1), `[count, B]` float64, for the counters first to first + count − 1."""
    counters = np.arange(first + 1, first + count + 1, dtype=np.uint64)
    with np.errstate(over="ignore"):
        hashed = mix(keys[None, :] + counters[:, None] * _GOLDEN)
    uniform: np.ndarray = (hashed >> np.uint64(11)) * 2.0**-53
    return uniform


def normals(keys: np.ndarray, first: int, copies: int, size: int) -> Any:
    """Standard normal numbers by Box–Muller, as a tensor `[copies, B, size]` float32.

    Each number takes two 32-bit hashes (Wellons' lowbias32). They are computed on the device, because every
    value of the model inputs needs a number.

    Args:
      keys: Key of each row, `[B]` uint64.
      first: Number of the first copy; copy c of a row is the same in every call.
      copies: Number of copies.
      size: Number of random numbers per row and copy.
    """
    import tensorflow as tf

    low = (keys & np.uint64(0xFFFFFFFF)).astype(np.uint32)
    high = (keys >> np.uint64(32)).astype(np.uint32)
    with np.errstate(over="ignore"):
        copy = np.arange(first, first + copies, dtype=np.uint32) * np.uint32(0x9E3779B9)
        element = np.arange(size, dtype=np.uint32) * np.uint32(0x85EBCA6B)
    return _box_muller(tf.constant(low), tf.constant(high), tf.constant(copy), tf.constant(element))


def _box_muller(low: Any, high: Any, copy: Any, element: Any) -> Any:
    import tensorflow as tf

    def hashed(key: Any) -> Any:
        per_copy = _lowbias32(tf.bitwise.bitwise_xor(key[None, :], copy[:, None]))
        return _lowbias32(tf.bitwise.bitwise_xor(per_copy[:, :, None], element[None, None, :]))

    scale = 2.0**-24
    first = tf.cast(tf.bitwise.right_shift(hashed(low), _u32(8)), tf.float32) * scale + scale / 2
    second = tf.cast(tf.bitwise.right_shift(hashed(high), _u32(8)), tf.float32) * scale
    return tf.sqrt(-2.0 * tf.math.log(first)) * tf.cos(np.float32(2 * np.pi) * second)


def _lowbias32(x: Any) -> Any:
    import tensorflow as tf

    xor, shift = tf.bitwise.bitwise_xor, tf.bitwise.right_shift
    x = xor(x, shift(x, _u32(16))) * _u32(0x7FEB352D)
    x = xor(x, shift(x, _u32(15))) * _u32(0x846CA68B)
    return xor(x, shift(x, _u32(16)))


def _u32(value: int) -> Any:
    import tensorflow as tf

    return tf.constant(value, tf.uint32)

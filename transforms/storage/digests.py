"""The digest of files, parts and inputs: BLAKE2b-256."""

from __future__ import annotations

import hashlib


def new_digest(data: bytes | memoryview = b"") -> hashlib.blake2b:
    """A new BLAKE2b-256 hash object, updated with `data`."""
    return hashlib.blake2b(data, digest_size=32)


def digest_of(data: bytes | memoryview) -> str:
    """The BLAKE2b-256 digest of data, in hexadecimal digits."""
    return new_digest(data).hexdigest()

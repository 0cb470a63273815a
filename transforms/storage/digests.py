"""The digest of every file, of parts and of inputs: BLAKE2b-256."""

from __future__ import annotations

import hashlib


def new_digest(data: bytes | memoryview = b"") -> hashlib.blake2b:
    """The digest of all files, of parts and of inputs: BLAKE2b-256."""
    return hashlib.blake2b(data, digest_size=32)


def digest_of(data: bytes | memoryview) -> str:
    """The digest of a file's content; see `Part`."""
    return new_digest(data).hexdigest()

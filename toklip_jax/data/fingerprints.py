"""Hashes which sample is at which index of a source.

The order of training is a function of the step and of the number of samples, and rows that were
encoded are kept by their index. So data that grew, or stand in another order, are other data.
"""

import hashlib
import json
from typing import Any

from toklip_jax.data.paths import open_file


def data_fingerprint(source: Any) -> str:
    """Returns a hash of a source's `identity()`, or of its length where it has none."""
    identity = source.identity() if hasattr(source, "identity") else None
    return hash_of([len(source), identity])


def hash_of_file(path: str) -> str:
    """Returns the SHA-256 of a file's content, in hex."""
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_of(value: Any) -> str:
    """Returns the SHA-256 of plain json data, in hex."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()

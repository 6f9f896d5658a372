"""Files of named arrays, read and written without ever being held whole."""

from toklip_jax.files.lazy import (
    AnyLazy,
    LazyArray,
    is_finite,
    is_same,
    lazy_stack,
    read_array,
    releasing,
)
from toklip_jax.files.mapped import AnyMapped, MappedFile, MappedFiles
from toklip_jax.files.safetensors import read_safetensors, write_safetensors
from toklip_jax.files.sharded import find_sharded, is_index, read_sharded, write_sharded

__all__ = [
    "AnyLazy",
    "AnyMapped",
    "LazyArray",
    "MappedFile",
    "MappedFiles",
    "find_sharded",
    "is_finite",
    "is_index",
    "is_same",
    "lazy_stack",
    "read_array",
    "read_safetensors",
    "read_sharded",
    "releasing",
    "write_safetensors",
    "write_sharded",
]

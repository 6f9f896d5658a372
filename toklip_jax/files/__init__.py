"""Files of named arrays, read and written without ever being held whole."""

from toklip_jax.files.lazy import AnyLazy, LazyArray, lazy_stack
from toklip_jax.files.mapped import MappedFile
from toklip_jax.files.safetensors import read_safetensors, write_safetensors

__all__ = [
    "AnyLazy",
    "LazyArray",
    "MappedFile",
    "lazy_stack",
    "read_safetensors",
    "write_safetensors",
]

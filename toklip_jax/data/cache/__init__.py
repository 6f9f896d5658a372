"""A cache on disk of what frozen models make of a data set."""

from toklip_jax.data.cache.header import (
    ENCODE,
    HEADER,
    Field,
    Header,
    expect_complete,
    lay_out,
    load_header,
)
from toklip_jax.data.cache.parquet import METADATA, export_parquet

__all__ = [
    "ENCODE",
    "HEADER",
    "METADATA",
    "Field",
    "Header",
    "expect_complete",
    "export_parquet",
    "lay_out",
    "load_header",
]

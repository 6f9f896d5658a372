"""A cache on disk of what frozen models make of a data set."""

from toklip_jax.data.cache.fields import Field, id_dtype, lay_out
from toklip_jax.data.cache.header import DATA, ENCODE, HEADER, Header, expect_complete, load_header
from toklip_jax.data.cache.parquet import (
    METADATA,
    expect_whole,
    export_parquet,
    ids_table,
    write_table,
)

__all__ = [
    "DATA",
    "ENCODE",
    "HEADER",
    "METADATA",
    "Field",
    "Header",
    "expect_complete",
    "expect_whole",
    "export_parquet",
    "id_dtype",
    "ids_table",
    "lay_out",
    "load_header",
    "write_table",
]

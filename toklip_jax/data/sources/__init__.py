"""Data sources: one file a kind, and the config that names one."""

from toklip_jax.data.sources.array_record import ArrayRecordSource, write_array_record
from toklip_jax.data.sources.base import (
    ARRAYS,
    ENCODED,
    IDS,
    PARTS,
    Source,
    SourceConfig,
    SourceKind,
    register,
    registered,
)
from toklip_jax.data.sources.cache import CacheSource, PickCrop
from toklip_jax.data.sources.image_folder import ImageFolderSource
from toklip_jax.data.sources.karpathy import KarpathySource
from toklip_jax.data.sources.mixture import Mixture
from toklip_jax.data.sources.registry import KINDS
from toklip_jax.data.sources.synthetic import ArraySource
from toklip_jax.data.sources.table import TableSource
from toklip_jax.data.sources.tfds import TfdsSource
from toklip_jax.data.sources.webdataset import WebDatasetSource

__all__ = [
    "ARRAYS",
    "ENCODED",
    "IDS",
    "KINDS",
    "PARTS",
    "ArrayRecordSource",
    "ArraySource",
    "CacheSource",
    "ImageFolderSource",
    "KarpathySource",
    "Mixture",
    "PickCrop",
    "Source",
    "SourceConfig",
    "SourceKind",
    "TableSource",
    "TfdsSource",
    "WebDatasetSource",
    "register",
    "registered",
    "write_array_record",
]

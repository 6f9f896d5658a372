"""Sources by their config as a mapping, {"kind": ..., and the kind's own arguments}."""

from collections.abc import Mapping
from typing import Any

from toklip_jax.data.sources.base import ENCODED, Source, SourceConfig
from toklip_jax.data.text import TextTokenizer


def build_source(config: Mapping[str, Any], tokenizer: TextTokenizer | None = None) -> Source:
    """Opens the source that a config describes; see `SourceConfig.open`."""
    return SourceConfig.from_plain(config).open(tokenizer)


def is_raw(config: Mapping[str, Any]) -> bool:
    """Says whether samples are records that `images.Decode` must turn into arrays."""
    return SourceConfig.from_plain(config).gives == ENCODED


def cache_directories(config: Mapping[str, Any]) -> list[str]:
    """Returns where the caches are that samples come from; see `SourceConfig`."""
    return SourceConfig.from_plain(config).cache_directories


def source_texts(config: Mapping[str, Any]) -> list[str] | None:
    """Returns the texts to train a tokenizer on; see `SourceConfig.texts`."""
    return SourceConfig.from_plain(config).texts()

"""Training a generator from a cache of ids: checks that it fits the run, and what it needs not."""

import pathlib
from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp

from toklip_jax.core.errors import UserError
from toklip_jax.data.cache import Header, load_header
from toklip_jax.data.text import TextTokenizer
from toklip_jax.models.generator.config import vq_of
from toklip_jax.tasks.base import StageConfig
from toklip_jax.tasks.generator.objective import TEXT_ENCODER, GeneratorObjective, vq_params
from toklip_jax.tasks.toklip.cached import (
    ENCODE_AGAIN,
    TRACED_ROWS,
    check_transform,
    expect_hash,
    expect_vq,
    untouched,
)
from toklip_jax.tasks.toklip.encode_config import CAPTIONS
from toklip_jax.training.state import Params
from toklip_jax.weights.fingerprints import fingerprint_params


def check_caches(
    stage: StageConfig,
    objective: GeneratorObjective,
    params: Params,
    tokenizer_path: pathlib.Path | None,
) -> list[str]:
    """Compares the caches that a stage trains on with the run; returns their features.

    Captions' features of a text encoder that the run doesn't name are taken as they are, if all
    caches have the same.

    Raises:
        ValueError: ids of another tokenizer, grid or crops, texts of another text tokenizer or
            encoder, or no condition among the fields.
    """
    features: list[str] = []
    encoder = None
    if objective.text_encoder is not None:
        encoder = fingerprint_params(params[TEXT_ENCODER])
    vq = vq_of(objective.model_config.tokenizer)
    digest = fingerprint_params(vq_params(params))
    for directory in stage.source.cache_directories:
        header = load_header(directory)
        _check_sizes(header, directory, objective)
        expect_vq(header, directory, vq)
        expect_hash(header, directory, "vq", digest, "init.tokenizer")
        objective.expect_cached(header.names)
        num_classes = objective.model_config.gpt.num_classes
        if num_classes and len(header.classes) > num_classes:
            raise UserError(
                f"expected a cache of at most {num_classes} classes, the generator's, got "
                f"{len(header.classes)} in {directory}: set model.num_classes"
            )
        check_transform(header, directory, stage, objective.compute)
        if CAPTIONS in header.names:
            features = [CAPTIONS]
            encoder = encoder or header.hashes.get(TEXT_ENCODER, "")
            expect_hash(header, directory, TEXT_ENCODER, encoder, f"init.{TEXT_ENCODER}")
        if objective.text_config is not None and tokenizer_path is not None:
            text = TextTokenizer.load(tokenizer_path, header.context_length)
            expect_hash(header, directory, "tokenizer", text.fingerprint, "text.tokenizer")
    return features


def cached_rows(
    objective: GeneratorObjective, features: Collection[str], batch_size: int
) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes of a batch from a cache that holds `features`."""
    gpt = objective.model_config.gpt
    rows: dict[str, tuple[Any, Any]] = {"ids": (gpt.ids_shape, jnp.int32)}
    if not gpt.caption_dim:
        rows["labels"] = (), jnp.int32
    elif CAPTIONS in features:
        rows[CAPTIONS] = (gpt.caption_length, gpt.caption_dim), jnp.bfloat16
        rows["valid"] = (gpt.caption_length,), jnp.bool_
    else:
        rows["token_ids"] = (gpt.caption_length,), jnp.int32
    return {
        name: jax.ShapeDtypeStruct((batch_size, *shape), dtype)
        for name, (shape, dtype) in rows.items()
    }


def unused_parameters(
    objective: GeneratorObjective, params: Params, features: Collection[str]
) -> set[str]:
    """Returns the slash paths of the parameters that no step on a cache touches."""
    rows = cached_rows(objective, features, TRACED_ROWS)
    return untouched(lambda p, rows: objective.loss(p, rows, jax.random.key(0)), params, rows)


def _check_sizes(header: Header, directory, objective):
    gpt = objective.model_config.gpt
    ours = {"grid": gpt.grid, "codebook_sizes": gpt.codebook_sizes}
    if gpt.caption_dim:
        ours["context_length"] = gpt.caption_length
    for name, value in ours.items():
        if getattr(header, name) != value:
            raise UserError(
                f"expected a cache with {name} {value}, the generator's, got "
                f"{getattr(header, name)} in {directory}: {ENCODE_AGAIN}"
            )
    for field in header.fields:
        if field.name == CAPTIONS and field.shape[-1] != gpt.caption_dim:
            raise UserError(
                f"expected a cache with captions' features of {gpt.caption_dim}, the generator's "
                f"caption_dim, got {field.shape[-1]} in {directory}: set model.caption_dim to "
                f"that, or {ENCODE_AGAIN}"
            )

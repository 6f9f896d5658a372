"""Training from a cache: checks that it fits the run, and finds parameters that are not needed."""

import json
import pathlib
from collections.abc import Callable, Collection
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
from jax.extend import core

from toklip_jax.core.errors import UserError
from toklip_jax.core.fields import check_name
from toklip_jax.data.cache import ENCODE, Header, load_header
from toklip_jax.data.text import TextTokenizer
from toklip_jax.models.registry import VQConfig, ids_shape
from toklip_jax.models.serialization import config_from_dict
from toklip_jax.nn.config import Compute
from toklip_jax.tasks.base import StageConfig
from toklip_jax.tasks.toklip.objective import CACHED, TokLIPObjective, parts_of
from toklip_jax.training.state import Params, partition
from toklip_jax.weights.fingerprints import fingerprint_params

TRACED_ROWS = 2  # of the batch that shows what a step uses; any number would do
ENCODE_AGAIN = f"encode again with `{ENCODE}` and this config"


def check_caches(
    stage: StageConfig,
    objective: TokLIPObjective,
    params: Params,
    tokenizer_path: pathlib.Path | None,
) -> list[str]:
    """Compares the caches that a stage trains on with the run.

    Args:
        stage: whose `augment` made the crops.
        params: all, as read, before any is cast.

    Returns:
        The features of `CACHED` that they hold; all have the same.

    Raises:
        ValueError: a difference in models, tokenizer, sizes or transform, or a field that the loss
            needs and the cache lacks; says what to change.
    """
    hashes: dict[str, str] = {}
    features: list[str] = []
    for directory in stage.source.cache_directories:
        header = load_header(directory)
        features = [name for name in CACHED if name in header.names]
        _check_sizes(header, directory, objective)
        expect_vq(header, directory, objective.model_config.vq)
        objective.expect_cached(header.names)
        trainable, _ = partition(params, objective.trainable)
        if "text_feature" in features and "text_tower" in trainable:
            raise UserError(
                f"expected no text_feature in a cache where the text tower is trained, got one in "
                f"{directory}: encode with encode.features=('teacher_feature',), or freeze it"
            )
        check_transform(header, directory, stage, objective.compute)
        for part in parts_of(header.names):
            if part not in hashes:
                hashes[part] = fingerprint_params(params[part])
            where = "init.vq" if part == "vq" else "init.teacher"
            expect_hash(header, directory, part, hashes[part], where)
        if tokenizer_path is not None:
            text = TextTokenizer.load(tokenizer_path, header.context_length)
            expect_hash(header, directory, "tokenizer", text.fingerprint, "text.tokenizer")
    return features


def expect_vq(header: Header, directory: str | pathlib.Path, vq: VQConfig) -> None:
    """Checks that a cache's ids are those of a VQ tokenizer of this config.

    The same weights give other ids to another family, or at unit length.

    Raises:
        ValueError: they are another's.
    """
    if not header.vq:
        return
    theirs = config_from_dict(header.vq, f"the VQ tokenizer of {directory}")
    if theirs != vq:
        raise UserError(
            f"expected a cache of ids of {vq}, the model's VQ tokenizer, got those of {theirs} in "
            f"{directory}: name in init.vq what it was made with, or {ENCODE_AGAIN}"
        )


def cached_rows(
    objective: TokLIPObjective,
    features: Collection[str],
    batch_size: int,
    dtype: str = "bfloat16",
) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes of a batch from a cache that holds `features`, some of `CACHED`."""
    config = objective.model_config
    shapes = {
        "ids": ids_shape(config.vq, config.vision.grid),
        "token_ids": (config.text.context_length,),
    }
    widths = {"teacher_feature": config.vision.width, "text_feature": config.text.embed_dim}
    rows = {n: jax.ShapeDtypeStruct((batch_size, *s), jnp.int32) for n, s in shapes.items()}
    for name in features:
        rows[check_name("a feature", name, CACHED)] = jax.ShapeDtypeStruct(
            (batch_size, widths[name]), jnp.dtype(dtype)
        )
    return rows


def unused_parameters(objective: TokLIPObjective, params: Params, features: Collection[str]) -> set:
    """Returns the slash paths of the parameters that no step on a cache with `features` touches.

    Args:
        params: arrays, or their shapes.
    """
    rows = cached_rows(objective, features, TRACED_ROWS)
    return untouched(lambda p, rows: objective.loss(p, rows, jax.random.key(0)), params, rows)


def untouched(function: Callable[..., Any], params: Params, *others: Any) -> set[str]:
    """Returns the slash paths of parameters that `function(params, *others)` does not use.

    It is traced, not run.
    """
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in flat.values()]

    def of_leaves(leaves, *others):
        named = dict(zip(flat, leaves, strict=True))
        return function(flax.traverse_util.unflatten_dict(named, sep="/"), *others)

    jaxpr = jax.make_jaxpr(of_leaves)(shapes, *others).jaxpr
    read = [*jaxpr.outvars, *(v for equation in jaxpr.eqns for v in equation.invars)]
    touched = {v for v in read if not isinstance(v, core.Literal)}
    leaves = jaxpr.invars[: len(flat)]
    return {name for name, leaf in zip(flat, leaves, strict=True) if leaf not in touched}


def _check_sizes(header: Header, directory, objective):
    config = objective.model_config
    ours = {
        "image_size": config.vision.image_size,
        "grid": config.vision.grid,
        "codes_per_place": config.vq.codes_per_place,
        "codebook_sizes": config.vq.codebook_sizes,
        "context_length": config.text.context_length,
    }
    for name, value in ours.items():
        if getattr(header, name) != value:
            raise UserError(
                f"expected a cache with {name} {value}, the model's, got {getattr(header, name)} "
                f"in {directory}: {ENCODE_AGAIN}"
            )


def check_transform(
    header: Header, directory: str | pathlib.Path, stage: StageConfig, compute: Compute
) -> None:
    """Raises ValueError for a cache of other crops than a stage's, or computed in another type."""
    if header.transform.get("resize"):
        raise UserError(
            f"expected a cache of random crops to train on, got whole pictures in {directory}: "
            f"encode with encode.resize=''"
        )
    augment = json.loads(json.dumps(dict(stage.augment)))
    if (theirs := header.transform.get("augment")) != augment:
        raise UserError(
            f"expected a cache of crops by the stage's augment {augment}, got {theirs} in "
            f"{directory}: {ENCODE_AGAIN}, or set augment to that"
        )
    expect_dtype(header, directory, compute)


def expect_dtype(header: Header, directory: str | pathlib.Path, compute: Compute) -> None:
    """Raises ValueError for a cache of ids that were computed in another type than a run's."""
    if (theirs := header.compute.get("vq_dtype")) != compute.vq_dtype:
        raise UserError(
            f"expected ids computed in compute.vq_dtype {compute.vq_dtype}, got {theirs} in "
            f"{directory}: {ENCODE_AGAIN}, or set vq_dtype to that"
        )


def expect_hash(
    header: Header, directory: str | pathlib.Path, part: str, ours: str, where: str
) -> None:
    """Raises ValueError for a cache that another model's part, or another tokenizer, made."""
    theirs = header.hashes.get(part, "")
    if theirs != ours:
        raise UserError(
            f"expected a cache made with this run's {part} (SHA-256 {ours[:12]}...), got one of "
            f"{theirs[:12] or 'none'}... in {directory}: name in {where} what it was made with, or "
            f"{ENCODE_AGAIN}"
        )

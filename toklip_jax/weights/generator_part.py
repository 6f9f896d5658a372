"""Joins a generator's weights and those of its tokenizer, which LlamaGen publishes apart."""

import dataclasses

from toklip_jax.core.errors import UserError
from toklip_jax.models.base import family_of
from toklip_jax.weights.base import Weights


def join_tokenizer(generator: Weights, tokenizer: Weights) -> Weights:
    """Returns a generator's weights with those of the tokenizer that its ids are of.

    Raises:
        ValueError: the first are no generator's, or hold a tokenizer; the second are no
            tokenizer's, or one of another vocabulary or grid.
    """
    family = family_of(generator.config)
    if family.role != "generator":
        raise UserError(f"expected vq with a generator's weights only, got those of {family.title}")
    if generator.config.tokenizer is not None:
        raise UserError("expected no vq with a generator whose weights hold a tokenizer, got one")
    config = dataclasses.replace(generator.config, tokenizer=tokenizer.config)
    tokenizer = tokenizer.with_layout(generator.is_scanned)
    params = generator.params | {"tokenizer": tokenizer.params}
    return dataclasses.replace(
        generator,
        config=config,
        params=params,
        tokenizer_path=tokenizer.tokenizer_path,
        source=f"{generator.source}, with {tokenizer.source}",
    )

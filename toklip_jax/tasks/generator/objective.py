"""The objective of an image generator: each id's likelihood, given those before and a condition."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from toklip_jax.core.errors import UserError
from toklip_jax.data.images import simplest
from toklip_jax.evaluation.models import Model, Models
from toklip_jax.losses.plain import cross_entropy
from toklip_jax.models.base import place_size
from toklip_jax.models.generator.config import GeneratorConfig, vq_of
from toklip_jax.models.generator.gpt import left_padded
from toklip_jax.models.generator.model import GeneratorModel
from toklip_jax.models.registry import family_of, init_params
from toklip_jax.nn.config import Compute
from toklip_jax.ops.pixels import to_unit_range
from toklip_jax.tasks.cache_layout import CacheLayout, map_crops
from toklip_jax.tasks.model_objective import ModelObjective
from toklip_jax.training.objective import Batch, Encoded, count_rows, sum_rows
from toklip_jax.training.state import Params

FROZEN_BUFFER = "condition/uncond"  # the null caption: drawn once, never trained, as LlamaGen's
KEPT = ("labels", "captions", "valid", "mask", "is_dropped")  # of a batch
GPT_ALONE = (rf"gpt/(?!{FROZEN_BUFFER}).*",)


@dataclasses.dataclass(frozen=True)
class GeneratorObjective(ModelObjective):
    """Mean of -log p(id_i | ids before it, condition), nats, as LlamaGen trains (arXiv 2406.06525).

    Batches: `ids` int [b, n] or [b, n, q] from a cache, or `images`, whose ids the frozen tokenizer
    gives; and `labels` int [b], the classes, or `captions` float [b, p, c] with perhaps `valid`
    bool [b, p], or `token_ids` [b, t], whose captions' features are the tokens of TokLIP's text
    tower. Perhaps `mask` bool [b]: the rows that count; and `is_dropped` bool [b]: the rows whose
    condition is dropped, which is drawn otherwise.

    Attributes:
        condition_dropout: share of rows whose condition is replaced by the null one, so that the
            model learns both halves of guidance.
        trainable: patterns of trained parameters; by default the GPT alone. With
            "tokenizer/token_encoder/.*" beside it the token encoder is tuned too.
    """

    model_config: GeneratorConfig
    compute: Compute
    condition_dropout: float = 0.1
    trainable: tuple[str, ...] = GPT_ALONE

    def __post_init__(self):
        if not 0 <= self.condition_dropout <= 1:
            raise UserError(f"expected a condition_dropout in [0, 1], got {self.condition_dropout}")

    @property
    def model(self) -> GeneratorModel:
        return GeneratorModel(self.model_config, self.compute)

    @property
    def text_config(self) -> Any | None:
        return getattr(self.model_config.tokenizer, "text", None) if self.reads_texts else None

    @property
    def reads_texts(self) -> bool:
        """Whether the condition is the tokens of TokLIP's own text tower."""
        gpt, text = self.model_config.gpt, getattr(self.model_config.tokenizer, "text", None)
        sizes = (gpt.caption_dim, gpt.caption_length)
        return text is not None and sizes == (text.width, text.context_length)

    @property
    def image_size(self) -> tuple[int, ...]:
        """(height, width) of the images that have the generator's grid of ids."""
        gpt, place = self.model_config.gpt, place_size(vq_of(self.model_config.tokenizer))
        return tuple(side * pixels for side, pixels in zip(gpt.grid, place, strict=True))

    def init(self, rng: jax.Array) -> Params:
        return init_params(self.model_config, self.compute, rng)

    def prepare(self, params: Params, batch: Batch) -> Batch:
        kept = {name: batch[name] for name in KEPT if name in batch}
        if "ids" in batch:
            ids = batch["ids"].astype(jnp.int32)
        else:
            ids = self._apply(params, to_unit_range(batch["images"]), method="tokenize")
        if self.model_config.gpt.caption_dim and "captions" not in batch:
            kept["captions"] = self._apply(params, batch["token_ids"], method="text_tokens")
        if "valid" in kept:
            kept["captions"], kept["valid"] = left_padded(kept["captions"], kept["valid"])
        return jax.lax.stop_gradient(kept | {"ids": ids})

    def encode(self, params: Params, batch: Batch, rng: jax.Array) -> Encoded:
        null_key, dropout_key = jax.random.split(rng)
        condition = self._condition(params, batch, null_key)
        losses = self.token_losses(
            params, batch["ids"], condition, batch.get("valid"), dropout_key
        )  # [b, n, q]
        mask, rows = batch.get("mask"), jnp.mean(losses, axis=(1, 2))
        metrics = {"nats_per_id": sum_rows(rows, mask)}
        return Encoded({}, sum_rows(rows, mask), count_rows(batch), metrics)

    def token_losses(
        self,
        params: Params,
        ids: Any,
        condition: Any,
        valid: Any = None,
        dropout_key: jax.Array | None = None,
    ) -> Float[Array, "b n q"]:
        """Returns -log p of every id, nats; differentiable."""
        out = self._apply(params, ids, condition, valid, dropout_key, method="hidden")
        codes = self.model_config.gpt.codes_per_place
        places = ids if codes > 1 else ids[..., None]
        logits = [self._apply(params, out, i, places, method="logits_of") for i in range(codes)]
        losses = [cross_entropy(x, places[..., i]) for i, x in enumerate(logits)]
        return jnp.stack(losses, axis=-1)

    @property
    def evaluated_models(self) -> Models:
        models = Models.from_configs(self.compute, {})
        tokenizer = self.model_config.tokenizer
        if tokenizer is not None:
            models = Models.from_configs(self.compute, {family_of(tokenizer).role: tokenizer})
        model = Model(self.model, None)
        return Models(self.compute, {**models.by_name, "generator": model})

    def evaluated_params(self, params: Params) -> Mapping[str, Params]:
        found = {"generator": params}
        if "tokenizer" in params:
            found[family_of(self.model_config.tokenizer).role] = params["tokenizer"]
        return found

    def expect_cached(self, fields: Collection[str]) -> None:
        """Raises ValueError if the loss needs more than these fields of a cache."""
        if self.model_config.gpt.caption_dim and not self.reads_texts:
            raise UserError(
                "expected a source with captions' features, got a cache, which holds none: train "
                "on a source of your own that gives `captions`, or on TokLIP's text tower's tokens"
            )
        needed = "token_ids" if self.reads_texts else "labels"
        if needed not in fields:
            raise UserError(
                f"expected {needed} in the cache, the condition, got {sorted(fields)}: encode a "
                f"source that has them"
            )

    @property
    def cache_layout(self) -> CacheLayout:
        """The sizes of what a cache holds: ids, and the labels beside them."""
        vocab_size = self.text_config.vocab_size if self.reads_texts else 0
        vq, grid = vq_of(self.model_config.tokenizer), self.model_config.gpt.grid
        return CacheLayout(vq, simplest(self.image_size), grid, vocab_size)

    def cached_parts(self, params: Params, features: Collection[str]) -> dict[str, Params]:
        """Returns the parameters that make a cache: the VQ tokenizer's."""
        del features
        return {"vq": vq_params(params)}

    def cached_fields(self, section: Any, params: Params, batch: Batch) -> dict[str, jax.Array]:
        """Returns the ids of a batch's crops, [b, crops, n] or [b, crops, n, q]; traceable."""
        del section

        def of_images(images):
            return {"ids": self._apply(params, to_unit_range(images), method="tokenize")}

        return map_crops(of_images, batch["images"])

    def expect_encodable(self, params: Params, features: Collection[str]) -> None:
        """Raises ValueError for features, which a generator's cache has none of."""
        del params
        if features:
            raise UserError(
                f"expected encode.features=() with a generator, which needs none, got "
                f"{tuple(features)}"
            )

    def _condition(self, params, batch, key):
        """The rows' conditions, some replaced by the null one."""
        gpt = self.model_config.gpt
        if gpt.caption_dim:
            condition = batch["captions"]
            null = jax.lax.stop_gradient(self._apply(params, method="null_caption"))
        else:
            condition, null = known_labels(batch["labels"], gpt.num_classes), gpt.null_class
        is_dropped = batch.get("is_dropped")
        if is_dropped is None:
            is_dropped = jax.random.bernoulli(key, self.condition_dropout, (len(condition),))
        if not gpt.caption_dim:  # a label that is no class is one in rows without condition too
            is_dropped = is_dropped & (condition >= 0)
        is_dropped = is_dropped.reshape(-1, *(1,) * (condition.ndim - 1))
        return jnp.where(is_dropped, null, condition)

    def _apply(self, params, *inputs, method):
        return self.model.apply({"params": params}, *inputs, method=method)


def known_labels(labels: Int[Array, " b"], num_classes: int) -> Int[Array, " b"]:
    """Returns labels, -1 for those that are no class: the loss is then NaN, and no step is made."""
    labels = labels.astype(jnp.int32)
    return jnp.where((labels >= 0) & (labels < num_classes), labels, -1)


def vq_params(params: Params) -> Params:
    """Returns the VQ tokenizer's parameters: the tokenizer's own, or those within TokLIP."""
    return params["tokenizer"].get("vq", params["tokenizer"])

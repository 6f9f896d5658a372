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
from toklip_jax.models.registry import build_model, family_of, init_params
from toklip_jax.nn.config import Compute
from toklip_jax.ops.pixels import to_unit_range
from toklip_jax.tasks.cache_layout import CacheLayout, map_crops
from toklip_jax.tasks.model_objective import ModelObjective
from toklip_jax.tasks.toklip.encode_config import CAPTIONS
from toklip_jax.training.objective import Batch, Encoded, count_rows, sum_rows
from toklip_jax.training.state import Params

FROZEN_BUFFER = "condition/uncond"  # the null caption: drawn once, never trained, as LlamaGen's
TEXT_ENCODER = "text_encoder"  # in `init`, among the parameters, and in a cache's hashes
KEPT = ("labels", "captions", "valid", "mask", "is_dropped")  # of a batch
GPT_ALONE = (rf"gpt/(?!{FROZEN_BUFFER}).*",)


@dataclasses.dataclass(frozen=True)
class GeneratorObjective(ModelObjective):
    """Mean of -log p(id_i | ids before it, condition), nats, as LlamaGen trains (arXiv 2406.06525).

    Batches: `ids` int [b, n] or [b, n, q] from a cache, or `images`, whose ids the frozen tokenizer
    gives; and `labels` int [b], the classes, or `captions` float [b, p, c] with perhaps `valid`
    bool [b, p], or `token_ids` [b, t], whose captions' features are the tokens of the frozen
    `text_encoder`, or of TokLIP's text tower where there is none. Perhaps `mask` bool [b]: the rows
    that count; and `is_dropped` bool [b]: the rows whose condition is dropped, which is drawn
    otherwise.

    Attributes:
        condition_dropout: share of rows whose condition is replaced by the null one, so that the
            model learns both halves of guidance.
        trainable: patterns of trained parameters; by default the GPT alone. With
            "tokenizer/token_encoder/.*" beside it the token encoder is tuned too.
        text_encoder: the config of the text encoder whose tokens captions are; None for TokLIP's
            text tower, or where batches hold captions' features.
    """

    model_config: GeneratorConfig
    compute: Compute
    condition_dropout: float = 0.1
    trainable: tuple[str, ...] = GPT_ALONE
    text_encoder: Any = None

    def __post_init__(self):
        if not 0 <= self.condition_dropout <= 1:
            raise UserError(f"expected a condition_dropout in [0, 1], got {self.condition_dropout}")

    @property
    def model(self) -> GeneratorModel:
        return GeneratorModel(self.model_config, self.compute)

    @property
    def sharding(self):
        if self.text_encoder is None:
            return super().sharding
        theirs = family_of(self.text_encoder).sharding
        return *super().sharding, *((f"{TEXT_ENCODER}/{path}", axes) for path, axes in theirs)

    @property
    def text_config(self) -> Any | None:
        if self.text_encoder is not None:
            return CaptionTexts(self.text_encoder.vocab_size, self.model_config.gpt.caption_length)
        return getattr(self.model_config.tokenizer, "text", None) if self.reads_texts else None

    @property
    def keeps_text_tokenizer(self) -> bool:
        return self.reads_texts

    @property
    def reads_texts(self) -> bool:
        """Whether the condition is the tokens of TokLIP's own text tower."""
        if self.text_encoder is not None:
            return False
        gpt, text = self.model_config.gpt, getattr(self.model_config.tokenizer, "text", None)
        sizes = (gpt.caption_dim, gpt.caption_length)
        return text is not None and sizes == (text.width, text.context_length)

    @property
    def image_size(self) -> tuple[int, ...]:
        """(height, width) of the images that have the generator's grid of ids."""
        gpt, place = self.model_config.gpt, place_size(vq_of(self.model_config.tokenizer))
        return tuple(side * pixels for side, pixels in zip(gpt.grid, place, strict=True))

    def init(self, rng: jax.Array) -> Params:
        params = init_params(self.model_config, self.compute, rng)
        if self.text_encoder is not None:
            params |= {TEXT_ENCODER: init_params(self.text_encoder, self.compute, rng)}
        return params

    def model_params(self, params: Params) -> Params:
        return {name: value for name, value in params.items() if name != TEXT_ENCODER}

    def prepare(self, params: Params, batch: Batch) -> Batch:
        kept = {name: batch[name] for name in KEPT if name in batch}
        if "ids" in batch:
            ids = batch["ids"].astype(jnp.int32)
        else:
            ids = self._apply(params, to_unit_range(batch["images"]), method="tokenize")
        if self.model_config.gpt.caption_dim and "captions" not in batch:
            kept |= self._captions(params, batch["token_ids"])
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
        found = {"generator": self.model_params(params)}
        if "tokenizer" in params:
            found[family_of(self.model_config.tokenizer).role] = params["tokenizer"]
        return found

    def expect_cached(self, fields: Collection[str]) -> None:
        """Raises ValueError if the loss needs other fields of a cache than these."""
        needed = "labels"
        if self.model_config.gpt.caption_dim:
            needed = "token_ids" if self.reads_texts else CAPTIONS
        if needed not in fields:
            raise UserError(
                f"expected {needed} in the cache, the condition, got {sorted(fields)}: encode a "
                f"source that has them"
                + (f", with encode.features=('{CAPTIONS}',)" if needed == CAPTIONS else "")
            )
        if self.reads_texts and CAPTIONS in fields:
            raise UserError(
                f"expected no {CAPTIONS} in the cache of a generator that reads the tokens of "
                f"TokLIP's text tower, got those of another text encoder: name it in "
                f"init.{TEXT_ENCODER}, or encode again with encode.features=()"
            )

    @property
    def cache_layout(self) -> CacheLayout:
        """The sizes of what a cache holds: ids, and labels or captions beside them."""
        text, gpt = self.text_config, self.model_config.gpt
        vocab_size = 0 if text is None else text.vocab_size
        vq, widths = vq_of(self.model_config.tokenizer), {CAPTIONS: gpt.caption_dim}
        return CacheLayout(vq, simplest(self.image_size), gpt.grid, vocab_size, widths)

    def cached_parts(self, params: Params, features: Collection[str]) -> dict[str, Params]:
        """Returns the parameters that make a cache, by the parts' names."""
        parts = {"vq": vq_params(params)}
        return parts | ({TEXT_ENCODER: params[TEXT_ENCODER]} if CAPTIONS in features else {})

    def cached_fields(self, section: Any, params: Params, batch: Batch) -> dict[str, jax.Array]:
        """Returns the ids of a batch's crops, [b, crops, n] or [b, crops, n, q]; traceable.

        With captions, also their features [b, texts, p, c], 0 where nothing stands, and which of
        them count, `valid` [b, texts, p].
        """

        def of_images(images):
            return {"ids": self._apply(params, to_unit_range(images), method="tokenize")}

        made = map_crops(of_images, batch["images"])
        if CAPTIONS in section.features:
            made |= map_crops(lambda ids: self._captions(params, ids), batch["token_ids"])
        return made

    def expect_encodable(self, params: Params, features: Collection[str]) -> None:
        """Raises ValueError for other features than a generator of this condition reads."""
        del params
        is_read = bool(self.model_config.gpt.caption_dim) and not self.reads_texts
        needed = (CAPTIONS,) if is_read else ()
        if tuple(features) != needed:
            raise UserError(
                f"expected encode.features={needed} with this generator, got {tuple(features)}"
            )
        if is_read and self.text_encoder is None:
            raise UserError(
                f"expected the weights of a text encoder in init.{TEXT_ENCODER}, to encode "
                f"captions by, got none"
            )

    def _captions(self, params, token_ids):
        """Captions' features [b, p, c], and which of them count where the encoder says it."""
        if self.text_encoder is None:
            return {CAPTIONS: self._apply(params, token_ids, method="text_tokens")}
        encoder = build_model(self.text_encoder, self.compute)
        out = encoder.apply({"params": params[TEXT_ENCODER]}, token_ids)
        tokens = jnp.where(out.valid[..., None], out.tokens, 0)
        return {CAPTIONS: tokens, "valid": out.valid}

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
        return self.model.apply({"params": self.model_params(params)}, *inputs, method=method)


@dataclasses.dataclass(frozen=True)
class CaptionTexts:
    """What a text tokenizer has to fit: the ids and the length of captions."""

    vocab_size: int
    context_length: int


def known_labels(labels: Int[Array, " b"], num_classes: int) -> Int[Array, " b"]:
    """Returns labels, -1 for those that are no class: the loss is then NaN, and no step is made."""
    labels = labels.astype(jnp.int32)
    return jnp.where((labels >= 0) & (labels < num_classes), labels, -1)


def vq_params(params: Params) -> Params:
    """Returns the VQ tokenizer's parameters: the tokenizer's own, or those within TokLIP."""
    return params["tokenizer"].get("vq", params["tokenizer"])

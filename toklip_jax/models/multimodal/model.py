"""The multimodal language model: images stand in the sequence as the language model reads them."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from toklip_jax.core.errors import UserError
from toklip_jax.models.base import family_of
from toklip_jax.models.multimodal.config import (
    CODES,
    IDS,
    PIXELS,
    TOKENS,
    MultimodalConfig,
)
from toklip_jax.models.multimodal.projector import Projector
from toklip_jax.models.siglip.model import ImageTower
from toklip_jax.models.toklip.config import TokLIPConfig
from toklip_jax.models.toklip.token_encoder import init_encoder_cache
from toklip_jax.nn.cache import KVCache
from toklip_jax.nn.config import Compute
from toklip_jax.nn.lora import adapted
from toklip_jax.ops.products import table_products
from toklip_jax.parallel.sharding import BATCH_AXES, constrain

INIT_STD = 0.02  # of image ids' embeddings and head: the language models' own


class Multimodal(nn.Module):
    """A language model, a projector for each kind of feature it reads, and the frozen tokenizer.

    The sequence is text ids, in which places of images hold what `image_inputs` makes of the image.
    Where ids of images are read, they are also predicted: id i has the number vocab_size + i in one
    vocabulary, after those of text.
    """

    config: MultimodalConfig
    compute: Compute

    def setup(self):
        config, dtype = self.config, self.compute.jax_dtype
        build = family_of(config.language_model).build
        self.language_model = build(config.language_model, self.compute)
        self.projector = {name: Projector(config.width, dtype) for name in config.feature_dims}
        if config.tokenizer is not None:
            self.tokenizer = family_of(config.tokenizer).build(config.tokenizer, self.compute)
        if config.image_tower is not None:
            self.image_tower = ImageTower(config.image_tower, self.compute)
        if config.predicts_images:
            normal = nn.initializers.normal(INIT_STD)
            shape = config.num_image_ids, config.width
            self.image_table = self.param("image_embed", normal, shape, jnp.float32)
            if not config.language_model.is_tied:
                self.image_kernel = self.param("image_head", normal, shape[::-1], jnp.float32)

    def __call__(self, ids: Int[Array, "b t"], *inputs: jax.Array) -> Float[Array, "b t v"]:
        """Runs every parameter: what initialisation calls.

        Args:
            inputs: those of the tokenizer, then the images of the image tower.
        """
        config, inputs = self.config, list(inputs)
        if config.image_tower is not None:
            self.image_tower(inputs.pop())
        if config.tokenizer is not None:
            self.tokenizer(*inputs)
        for name, width in config.feature_dims.items():
            self.project({name: jnp.zeros((1, 1, width))})
        return self.logits(ids)

    def features(
        self,
        image_ids: Int[Array, "m n *q"] | None = None,
        images: Float[Array, "m h w 3"] | None = None,
    ) -> dict[str, Array]:
        """Returns what `project` takes of images, by name: what frozen parameters give.

        Args:
            image_ids: ids, int32; needed for all but "pixels".
            images: RGB in [-1, 1]; needed for "pixels".

        Raises:
            ValueError: what the model reads is not given.
        """
        self._expect_given(image_ids, images)
        found: dict[str, Array] = {}
        for name in self.config.reads:
            if name == TOKENS:
                found[name] = self.tokenizer.semantic_tokens(image_ids)
            elif name == CODES:
                found[name] = self.tokenizer.code_vectors(image_ids)
            elif name == PIXELS:
                found[name] = self.image_tower.tokens(images)
            else:
                found[name] = image_ids
        return found

    def project(self, features: Mapping[str, Array]) -> Float[Array, "*m d"]:
        """Returns the sum of projected features and embedded ids: what stands for an image.

        Args:
            features: [*m, c] by name, and "ids", int32 [*m].
        """
        parts = [
            self._embed_image_ids(x) if name == IDS else self.projector[name](x)
            for name, x in features.items()
        ]
        return sum(parts[1:], parts[0])

    def image_inputs(
        self,
        image_ids: Int[Array, "m n *q"] | None = None,
        images: Float[Array, "m h w 3"] | None = None,
    ) -> Float[Array, "m n d"]:
        """Returns what the language model reads in an image's places; see `features`."""
        return self.project(self.features(image_ids, images))

    def read_images(self, images: Float[Array, "m h w 3"]) -> Float[Array, "m n d"]:
        """Returns `image_inputs` of RGB images in [-1, 1], whatever the model reads of them."""
        config = self.config
        image_ids = self.tokenize(images) if config.needs_ids else None
        return self.image_inputs(image_ids, images if PIXELS in config.reads else None)

    def embed(
        self,
        ids: Int[Array, "b t"],
        image_places: Int[Array, "b t"] | None = None,
        image_inputs: Float[Array, "..."] | None = None,
    ) -> Float[Array, "b t d"]:
        """Returns embeddings: those of text ids, and image inputs in the places of images.

        Args:
            ids: text ids; what stands at an image's place is not looked at.
            image_places: -1 for text; else the place, counted through all images that
                `image_inputs` holds for the row. A place past them gives NaN.
            image_inputs: [m, n, d], images of the whole batch, or [b, k, n, d], those of each row.
        """
        x = self.language_model.embed(ids)
        if image_inputs is None:
            return x
        if image_inputs.ndim == 4:  # each row's own, so that no device needs another's
            flat = image_inputs.reshape(len(ids), -1, x.shape[-1])
            found = jnp.take_along_axis(flat, image_places[..., None], axis=1, mode="fill")
        else:
            flat = image_inputs.reshape(-1, x.shape[-1])
            found = jnp.take(flat, image_places, axis=0, mode="fill")
        return jnp.where(image_places[..., None] >= 0, found.astype(x.dtype), x)

    def hidden(
        self,
        x: Float[Array, "b t d"],
        segment_ids: Int[Array, "b t"] | None = None,
        positions: Int[Array, "b t"] | None = None,
    ) -> Float[Array, "b t d"]:
        """Returns the language model's outputs after its final norm; arguments are its own."""
        with self._adapted():
            return self.language_model.hidden(x, segment_ids, positions)

    def head(self, x: Float[Array, "*b d"]) -> Float[Array, "*b v"]:
        """Returns float32 logits of text ids."""
        return self.language_model.head(x)

    def image_head(self, x: Float[Array, "*b d"]) -> Float[Array, "*b z"]:
        """Returns float32 logits of ids of images.

        Raises:
            ValueError: the model does not read "ids".
        """
        if not self.config.predicts_images:
            raise UserError(
                f"expected a model that reads 'ids', which predicts ids of images, got one that "
                f"reads {self.config.reads}"
            )
        x = x.astype(self.compute.jax_dtype)
        if self.config.language_model.is_tied:
            logits = table_products(x, jnp.asarray(self.image_table, x.dtype))
        else:
            kernel = jnp.asarray(self.image_kernel, x.dtype)
            logits = jnp.matmul(x, kernel, preferred_element_type=jnp.float32)
        return constrain(logits, BATCH_AXES, *(None,) * (logits.ndim - 2), "tensor")

    def all_logits(self, x: Float[Array, "*b d"]) -> Float[Array, "*b v"]:
        """Returns float32 logits of the whole vocabulary: text, and then ids of images if any."""
        if not self.config.predicts_images:
            return self.head(x)
        return jnp.concatenate([self.head(x), self.image_head(x)], axis=-1)

    def logits(
        self,
        ids: Int[Array, "b t"],
        image_places: Int[Array, "b t"] | None = None,
        image_inputs: Float[Array, "..."] | None = None,
        segment_ids: Int[Array, "b t"] | None = None,
        positions: Int[Array, "b t"] | None = None,
    ) -> Float[Array, "b t v"]:
        """Returns float32 logits of what follows each place; see `embed` and `hidden`."""
        x = self.embed(ids, image_places, image_inputs)
        return self.all_logits(self.hidden(x, segment_ids, positions))

    def prefill(
        self,
        x: Float[Array, "b t d"],
        cache: KVCache,
        positions: Int[Array, "b t"] | None = None,
    ) -> tuple[Float[Array, "b d"], KVCache]:
        """Returns the output of the last place, and the cache; see the language model's."""
        with self._adapted():
            return self.language_model.prefill(x, cache, positions)

    def step(
        self, ids: Int[Array, " b"], cache: KVCache, positions: Int[Array, " b"] | None = None
    ) -> tuple[Float[Array, "b d"], KVCache]:
        """Returns the output after one more text id of each row, and the cache."""
        with self._adapted():
            return self.language_model.step(ids, cache, positions)

    def image_step(
        self,
        image_ids: Int[Array, " b"],
        caches: "Caches",
        positions: Int[Array, " c"],
        copies: int = 1,
    ) -> tuple[Float[Array, "c d"], "Caches"]:
        """Returns the output after one more id of an image that is being drawn, and the caches.

        Args:
            image_ids: one id of each image, which the token encoder sees once.
            positions: its place in each of the language model's sequences.
            copies: sequences that each image has, one after another in the batch: 2 under guidance.
        """
        place, encoder = image_ids[:, None], caches.encoder
        features: dict[str, Array] = {}
        for name in self.config.reads:
            if name == TOKENS:
                at = jnp.broadcast_to(encoder.length, place.shape)
                features[name], encoder = self.tokenizer.semantic_extend(place, at, encoder)
            else:
                features[name] = self.tokenizer.code_vectors(place) if name == CODES else place
        x = jnp.tile(self.project(features), (copies, 1, 1))
        output, cache = self.prefill(x, caches.language_model, positions[:, None])
        return output, Caches(cache, encoder)

    @nn.nowrap
    def init_cache(self, batch_size: int, size: int) -> KVCache:
        """Returns an empty cache of the language model for `size` places of each row."""
        build = family_of(self.config.language_model).build
        return build(self.config.language_model, self.compute).init_cache(batch_size, size)

    @nn.nowrap
    def init_caches(self, batch_size: int, size: int, copies: int = 1) -> "Caches":
        """Returns empty caches to draw images with; see `init_cache` and `image_step`."""
        encoder = None
        if TOKENS in self.config.reads:
            vision = self.config.tokenizer.vision
            encoder = init_encoder_cache(vision, self.compute, batch_size)
        return Caches(self.init_cache(batch_size * copies, size), encoder)

    def tokenize(self, images: Float[Array, "b h w 3"]) -> Int[Array, "b n *q"]:
        """Returns ids, int32, of RGB images in [-1, 1]."""
        return self.tokenizer.tokenize(images)

    def detokenize(self, ids: Int[Array, "b n *q"]) -> Float[Array, "b h w 3"]:
        """Returns images, float32, nominally in [-1, 1]."""
        is_toklip = isinstance(self.config.tokenizer, TokLIPConfig)
        vq = self.tokenizer.vq if is_toklip else self.tokenizer
        return vq.detokenize(ids, self.config.grid)

    def _embed_image_ids(self, ids):
        rows = jnp.take(self.image_table, ids, axis=0, mode="clip")
        return rows.astype(self.compute.jax_dtype)

    def _adapted(self):
        """The context in which the language model's kernels have LoRA's additions."""
        return adapted(self.config.lora_rank, self.config.lora_scale)

    def _expect_given(self, image_ids, images):
        if (image_ids is None) == self.config.needs_ids or (images is None) == (
            PIXELS in self.config.reads
        ):
            raise UserError(
                f"expected {'image_ids' if self.config.needs_ids else 'no image_ids'} and "
                f"{'images' if PIXELS in self.config.reads else 'no images'} with reads "
                f"{self.config.reads}"
            )


@flax.struct.dataclass
class Caches:
    """What drawing an image keeps: the language model's cache, and the token encoder's or None."""

    language_model: Any
    encoder: Any

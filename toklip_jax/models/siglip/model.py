"""The teacher: an ordinary SigLIP 2 model, image tower with patch embedding and text tower."""

import flax.linen as nn
from jaxtyping import Array, Float, Int

from toklip_jax.core.errors import UserError
from toklip_jax.models.siglip.config import TeacherConfig, VisionConfig
from toklip_jax.models.siglip.text_tower import TextTower
from toklip_jax.nn.config import Compute
from toklip_jax.nn.norms import build_norm
from toklip_jax.nn.pooling import build_pool
from toklip_jax.nn.transformer import Stack
from toklip_jax.parallel.sharding import BATCH_AXES, constrain

SIGLIP_LOGIT_SCALE, SIGLIP_LOGIT_BIAS = 2.302585092994046, -10.0  # ln 10 (SigLIP, section 3.2)


class Teacher(nn.Module):
    """An image tower and a text tower, with the scale and bias of their similarity."""

    config: TeacherConfig
    compute: Compute

    def setup(self):
        self.image_tower = ImageTower(self.config.vision, self.compute)
        if self.config.text is None:
            return
        self.text_tower = TextTower(self.config.text, self.compute)
        constant = nn.initializers.constant
        self.logit_scale = self.param("logit_scale", constant(SIGLIP_LOGIT_SCALE), ())
        if self.config.has_logit_bias:
            self.logit_bias = self.param("logit_bias", constant(SIGLIP_LOGIT_BIAS), ())

    def __call__(
        self, images: Float[Array, "b *size 3"], token_ids: Int[Array, "b t"] | None = None
    ):
        """Returns (image features, text features), not normalised: what initialisation runs."""
        text = None if token_ids is None else self.text_features(token_ids)
        return self.image_features(images), text

    def image_features(self, images: Float[Array, "b *size 3"]) -> Float[Array, "b d"]:
        """Returns pooled features of RGB images in [-1, 1], not normalised."""
        return self.image_tower(images)

    def tokens(self, images: Float[Array, "b *size 3"]) -> Float[Array, "b n d"]:
        """Returns the tokens after the image tower's final norm."""
        return self.image_tower.tokens(images)

    def text_features(self, token_ids: Int[Array, "b t"]) -> Float[Array, "b d"]:
        """Returns text features, not normalised."""
        return self.text_tower(token_ids)


class ImageTower(nn.Module):
    """Patch embedding, position table, blocks, final norm and pooling, of images or videos."""

    config: VisionConfig
    compute: Compute

    def setup(self):
        config, dtype = self.config, self.compute.jax_dtype
        self.patch_embed = nn.Conv(
            config.width, config.patch, config.patch, padding="VALID", dtype=dtype
        )
        init = nn.initializers.normal(config.width**-0.5)
        self.pos_embed = self.param("pos_embed", init, (config.num_tokens, config.width))
        self.stack = Stack(config, self.compute)
        self.norm = build_norm(config, dtype, None)
        self.pool = build_pool(config.pool, config, self.compute)

    def __call__(self, images: Float[Array, "b *size 3"]) -> Float[Array, "b d"]:
        """Returns the pooled feature of RGB images in [-1, 1], not normalised."""
        return self.pool(self.tokens(images))

    def image_features(self, images: Float[Array, "b *size 3"]) -> Float[Array, "b d"]:
        """Returns pooled features, not normalised: as `Teacher`, where the tower stands alone."""
        return self(images)

    def tokens(self, images: Float[Array, "b *size 3"]) -> Float[Array, "b n d"]:
        """Returns the tokens after the final norm, row by row of the grid.

        Raises:
            ValueError: the images have another size than the config's.
        """
        expected = (*self.config.size, 3)
        if images.shape[1:] != expected:
            shown = ", ".join(map(str, expected))
            raise UserError(f"expected images [b, {shown}], got {images.shape}: resize them")
        images = constrain(images, BATCH_AXES, *(None,) * (images.ndim - 1))
        x = self.patch_embed(images)
        x = x.reshape(len(x), -1, x.shape[-1])  # [b, n, d]
        x = x + self.pos_embed.astype(self.compute.jax_dtype)
        return self.norm(self.stack(x)[0])

    def pool_tokens(self, tokens: Float[Array, "b n d"]) -> Float[Array, "b d"]:
        """Returns the pooled feature of `tokens`, not normalised."""
        return self.pool(tokens)

"""The objective of a VQ tokenizer that also compares what a frozen image tower sees."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from toklip_jax.core.fields import check_not_negative
from toklip_jax.models.siglip.config import VisionConfig
from toklip_jax.models.siglip.model import ImageTower
from toklip_jax.nn.transformer import Block
from toklip_jax.ops.normalize import l2_normalize
from toklip_jax.ops.resample import fit_images
from toklip_jax.tasks.vq.objective import VQObjective
from toklip_jax.training.state import Params

TEACHER = "teacher"  # the tower's name among the parameters


@dataclasses.dataclass(frozen=True)
class PerceptualVQObjective(VQObjective):
    """`VQObjective`, and the distance between what a frozen image tower makes of both images.

    LPIPS (arXiv 1801.03924) with this tower in place of VGG, and no weights learned from people's
    judgements: after each block the tokens are normalised to length 1, and the squared distance of
    corresponding ones is averaged over places and blocks. The tower's parameters are under
    `teacher`; images of another size than its own are resized bilinearly.

    Attributes:
        teacher_config: the image tower's.
        perceptual_weight: weight of this distance, "perceptual".
    """

    teacher_config: VisionConfig = dataclasses.field(kw_only=True)
    perceptual_weight: float = 1.0
    trainable: tuple[str, ...] = (f"(?!{TEACHER}/).*",)

    def __post_init__(self):
        super().__post_init__()
        check_not_negative(self, "perceptual_weight")

    @property
    def teacher(self) -> ImageTower:
        return ImageTower(self.teacher_config, self.compute)

    @property
    def weights(self) -> dict[str, float]:
        return super().weights | {"perceptual": self.perceptual_weight}

    def init(self, rng: jax.Array) -> Params:
        images = jnp.zeros((1, *self.teacher_config.size, 3))
        return super().init(rng) | {TEACHER: self.teacher.init(rng, images)["params"]}

    def image_losses(
        self, params: Params, images: Float[Array, "b *size 3"], made: Float[Array, "b *size 3"]
    ) -> dict[str, Float[Array, "b"]]:
        before, after = (self._seen(params[TEACHER], pixels) for pixels in (images, made))
        perceptual = jnp.mean(jnp.sum((after - before) ** 2, axis=-1), axis=(0, 2))
        return super().image_losses(params, images, made) | {"perceptual": perceptual}

    def model_params(self, params: Params) -> Params:
        params = super().model_params(params)
        return {name: value for name, value in params.items() if name != TEACHER}

    def _seen(self, params, images) -> Float[Array, "layers b n d"]:
        """The tokens after each block, normalised, float32."""
        _, state = self.teacher.apply(
            {"params": params},
            fit_images(images, self.teacher_config.size),
            method="tokens",
            capture_intermediates=lambda module, _: isinstance(module, Block),
            mutable=["intermediates"],
        )
        # A block's outputs are its tokens and a cache, which is None here.
        layers = jax.tree.leaves(state["intermediates"]["stack"])
        return l2_normalize(layers[0] if self.compute.is_scanned else jnp.stack(layers))

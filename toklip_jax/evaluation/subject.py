"""What is judged: models, and everything that can be made of a batch of images, or of its ids.

Each output is a function of the batch, computed once however many evaluations ask for it; all that
is asked of a batch is one compiled program.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from toklip_jax.evaluation.fid import inception_features
from toklip_jax.metrics import psnr, ssim
from toklip_jax.models.inception.config import InceptionConfig
from toklip_jax.models.registry import VQConfig, build_model
from toklip_jax.models.siglip.config import TextConfig, VisionConfig
from toklip_jax.models.siglip.model import ImageTower
from toklip_jax.models.siglip.text_tower import TextTower
from toklip_jax.models.toklip.config import TokLIPConfig
from toklip_jax.models.toklip.model import TokLIP
from toklip_jax.nn.config import Compute
from toklip_jax.ops.normalize import l2_normalize
from toklip_jax.ops.resample import resize_images

Params = dict[str, Any]
PREFIXES = (25, 50, 75, 100)  # per cent of the ids


@dataclasses.dataclass(frozen=True)
class Subject:
    """The models that are there; their parameters are passed to each function.

    Parameters are a dict: `toklip`, TokLIP's; `teacher`, an image tower's; `vq`, a VQ tokenizer's
    where there is no TokLIP; `text`, a text tower's where there is no TokLIP; `inception`.

    Attributes:
        compute: of all but Inception, which is float32.
        toklip: TokLIP, whose text tower all features are compared with.
        teacher: the teacher's image tower.
        vq: a VQ tokenizer alone; where there is a TokLIP, its own is taken.
        text: a text tower, where there is no TokLIP.
        inception: for rFID.
    """

    compute: Compute
    toklip: TokLIPConfig | None = None
    teacher: VisionConfig | None = None
    vq: VQConfig | None = None
    text: TextConfig | None = None
    inception: InceptionConfig | None = None

    def has(self, output: str) -> bool:
        """Whether the models that `output` takes are there."""
        return OUTPUTS[output] is None or OUTPUTS[output] in self._parts

    def only(self, outputs: Sequence[str]) -> tuple[str, ...]:
        """Returns those of `outputs` that can be had."""
        return tuple(output for output in outputs if self.has(output))

    def outputs(self, names: Sequence[str], params: Params, batch: Params) -> dict[str, Array]:
        """Returns the outputs `names` of a batch; traceable.

        Args:
            names: of `OUTPUTS`.
            params: as above.
            batch: `images` uint8, or float in [-1, 1], [b, h, w, 3]; or `ids` int [b, n], for what
                takes no pixels; and what is handed on (`labels`, `token_ids`).
        """
        with self._precision():
            made = _Made(self, params, batch)
            return {name: getattr(made, name) for name in names}

    def text_features(self, params: Params, token_ids: Array) -> Float[Array, "b d"]:
        """Returns normalised text features, float32; traceable."""
        config = self.toklip.text if self.toklip else self.text
        weights = params["toklip"]["text_tower"] if self.toklip else params["text"]
        with self._precision():
            tower = TextTower(config, self.compute)
            return l2_normalize(tower.apply({"params": weights}, token_ids))

    @property
    def image_size(self) -> int | None:
        """Side in pixels of the images that the models take; None where any fits."""
        vision = self.toklip.vision if self.toklip else self.teacher
        return vision and vision.image_size

    @property
    def vq_config(self) -> VQConfig | None:
        """The VQ tokenizer's, TokLIP's own or alone."""
        return self.toklip.vq if self.toklip else self.vq

    @property
    def _parts(self):
        parts = {"toklip": self.toklip, "teacher": self.teacher, "inception": self.inception}
        return {name for name, part in parts.items() if part} | (
            {"vq"} if self.vq_config else set()
        )

    def _precision(self):
        # Float32 is meant as such: accelerators would otherwise round products to bfloat16.
        is_exact = self.compute.dtype == "float32"
        return jax.default_matmul_precision("highest" if is_exact else None)


# Output -> the model that it takes; None for what only hands the batch on.
OUTPUTS = {
    "labels": None,
    "token_ids": None,
    "pixels": None,  # uint8
    "text": None,  # features of the batch's own token ids
    "ids": "vq",
    "code": "vq",  # mean of the ids' code vectors
    "token": "toklip",  # mean of the token encoder's output
    "image": "toklip",  # pooled feature, normalised
    "prefix": "toklip",  # [b, 4, d], pooled features of PREFIXES, normalised
    "prefix_token": "toklip",  # [b, 4, d], means of their tokens
    "teacher": "teacher",  # pooled feature, normalised
    "psnr": "vq",
    "ssim": "vq",
    "inception": "inception",  # [b, 2048] of the images
    "inception_restored": "inception",
}
NEED_PIXELS = ("pixels", "teacher", "psnr", "ssim", "inception", "inception_restored")
FEATURES = {"teacher": "teacher", "image": "TokLIP"}  # what is compared with texts, and its name


class _Made:
    """What is made of one batch: each property once, and only if it is asked for."""

    def __init__(self, subject, params, batch):
        self._subject, self._params, self._batch = subject, params, batch

    @property
    def labels(self):
        return self._field("labels", "name its labels in the source")

    @property
    def token_ids(self):
        return self._field("token_ids", "name its captions in the source")

    @property
    def pixels(self):
        return self._batch["images"]

    @functools.cached_property
    def text(self):
        return self._subject.text_features(self._params, self.token_ids)

    @functools.cached_property
    def ids(self):
        if "ids" in self._batch:
            return self._batch["ids"].astype(jnp.int32)
        return self._vq("tokenize", self._images)

    @functools.cached_property
    def code(self):
        return jnp.mean(self._vq("code_vectors", self.ids), axis=1)

    @functools.cached_property
    def token(self):
        return jnp.mean(self._tokens.astype(jnp.float32), axis=1)

    @functools.cached_property
    def image(self):
        return l2_normalize(self._toklip("pool_tokens", self._tokens))

    @functools.cached_property
    def prefix(self):
        return l2_normalize(self._toklip("prefix_features", self.ids, self._counts))

    @functools.cached_property
    def prefix_token(self):
        tokens = self._tokens.astype(jnp.float32)
        return jnp.stack([jnp.mean(tokens[:, :k], axis=1) for k in self._counts], axis=1)

    @functools.cached_property
    def teacher(self):
        config, images = self._subject.teacher, self._images
        if images.shape[1] != config.image_size:  # as in training
            images = resize_images(images, config.image_size, config.image_size)
        tower = ImageTower(config, self._subject.compute)
        return l2_normalize(tower.apply({"params": self._params["teacher"]}, images))

    @functools.cached_property
    def psnr(self):
        return psnr(self._images, self._restored)

    @functools.cached_property
    def ssim(self):
        return ssim(self._images, self._restored)

    @functools.cached_property
    def inception(self):
        return self._inception(self._images)

    @functools.cached_property
    def inception_restored(self):
        return self._inception(self._restored)

    def _field(self, name, advice):
        if name not in self._batch:
            raise ValueError(f"expected {name} in a data set, got {list(self._batch)}: {advice}")
        return self._batch[name]

    @functools.cached_property
    def _images(self):
        images = self._batch["images"]
        if images.dtype == jnp.uint8:
            return (images.astype(jnp.float32) / 255 - 0.5) / 0.5
        return images.astype(jnp.float32)

    @functools.cached_property
    def _restored(self):
        return jnp.clip(self._vq("detokenize", self.ids).astype(jnp.float32), -1, 1)

    @functools.cached_property
    def _tokens(self):
        return self._toklip("semantic_tokens", self.ids)

    @functools.cached_property
    def _counts(self):
        return prefix_counts(self._subject.toklip.vision.num_tokens)

    def _vq(self, method, inputs):
        if self._subject.toklip:
            return self._toklip(method, inputs)
        module = build_model(self._subject.vq, self._subject.compute)
        return module.apply({"params": self._params["vq"]}, inputs, method=method)

    def _toklip(self, method, *inputs):
        module = TokLIP(self._subject.toklip, self._subject.compute)
        return module.apply({"params": self._params["toklip"]}, *inputs, method=method)

    def _inception(self, images):
        params, config = self._params["inception"], self._subject.inception
        return inception_features(params, images, config).pool


def prefix_counts(num_tokens: int) -> tuple[int, ...]:
    """Returns how many ids each of `PREFIXES` is, rounded, at least one."""
    return tuple(max(1, round(num_tokens * share / 100)) for share in PREFIXES)

"""The objective of a multimodal language model: the likelihood of the answers, token by token."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from toklip_jax.core.errors import UserError
from toklip_jax.core.fields import check_not_negative
from toklip_jax.evaluation.models import Model, Models
from toklip_jax.losses.next_token import next_token_sums, targets_of
from toklip_jax.models.base import family_of, place_size
from toklip_jax.models.multimodal.config import IDS, MultimodalConfig
from toklip_jax.models.multimodal.model import Multimodal
from toklip_jax.models.registry import init_params
from toklip_jax.nn.config import Compute
from toklip_jax.ops.pixels import to_unit_range
from toklip_jax.tasks.model_objective import ModelObjective
from toklip_jax.training.objective import Batch, Encoded
from toklip_jax.training.state import Params

PROJECTOR = (r"projector_\w+/.*",)  # LLaVA's stage 1
LORA = r".*/lora_(down|up)"
KEPT = ("ids", "labels", "segment_ids", "positions", "image_places", "mask")  # of a batch
FEATURES, IMAGE_IDS = "features", "image_ids"


@dataclasses.dataclass(frozen=True)
class MultimodalObjective(ModelObjective):
    """Mean of -log p(token | what stands before it) over all trained tokens of the batch, nats.

    The mean is over tokens, not over rows, however many chunks or hosts a batch is computed in.

    Batches: lines of conversations, `ids`, `labels` and `image_places` int32 [b, t], `labels` -100
    where nothing is trained and not shifted, `image_places` -1 for text and else counted through
    the line's own images; perhaps `segment_ids` and `positions` int32 [b, t]. Images are
    `image_ids` int32 [b, k, n] or [b, k, n, q], or `images` [b, k, h, w, 3], uint8 or in [-1, 1],
    whose ids the frozen tokenizer gives; or else `features`, what `Multimodal.features` gives,
    [b, k, n, c] by name. Perhaps `mask` bool [b]: the rows that count.

    Attributes:
        image_weight: weight of ids of images in the mean, where the model predicts them; 0 doesn't
            train them.
        z_loss: see `losses.next_token`.
        loss_block: places of each row whose logits are held at once; 0 holds all.
        trainable: patterns of trained parameters; by default the projectors alone. The tokenizer
            and the image tower stay as they are.
    """

    model_config: MultimodalConfig
    compute: Compute
    image_weight: float = 1.0
    z_loss: float = 0.0
    loss_block: int = 256
    trainable: tuple[str, ...] = PROJECTOR

    def __post_init__(self):
        check_not_negative(self, "image_weight", "z_loss", "loss_block")

    @property
    def model(self) -> Multimodal:
        return Multimodal(self.model_config, self.compute)

    @property
    def image_size(self) -> tuple[int, ...]:
        """(height, width) of the images that have the model's grid."""
        config = self.model_config
        if config.image_tower is not None:
            return tuple(config.image_tower.size)
        place = place_size(config.vq)
        return tuple(side * pixels for side, pixels in zip(config.grid, place, strict=True))

    def init(self, rng: jax.Array) -> Params:
        return init_params(self.model_config, self.compute, rng)

    def without_recomputation(self) -> "MultimodalObjective":
        return dataclasses.replace(super().without_recomputation(), loss_block=0)

    def prepare(self, params: Params, batch: Batch) -> Batch:
        kept = {name: batch[name] for name in KEPT if name in batch}
        if FEATURES in batch:
            return kept | {FEATURES: batch[FEATURES]}
        config, images, image_ids = self.model_config, batch.get("images"), batch.get(IMAGE_IDS)
        lead = (images if image_ids is None else image_ids).shape[:2]
        images = None if images is None else to_unit_range(_flat(images))
        image_ids = None if image_ids is None else _flat(image_ids).astype(jnp.int32)
        if config.needs_ids and image_ids is None:
            image_ids = self._apply(params, images, method="tokenize")
        pixels = images if config.image_tower is not None else None
        features = self._apply(params, image_ids, pixels, method="features")
        features = {name: x.reshape(*lead, *x.shape[1:]) for name, x in features.items()}
        return jax.lax.stop_gradient(kept | {FEATURES: features})

    def encode(self, params: Params, batch: Batch, rng: jax.Array) -> Encoded:
        del rng
        inputs = self._apply(params, batch[FEATURES], method="project")  # [b, k, n, d]
        places, segments = batch["image_places"], batch.get("segment_ids")
        x = self._apply(params, batch["ids"], places, inputs, method="embed")
        x = self._apply(params, x, segments, batch.get("positions"), method="hidden")
        targets, weights = self._targets(batch)

        def head(x):
            return self._apply(params, x, method="all_logits")

        sums = next_token_sums(x, targets, weights, head, z_loss=self.z_loss, block=self.loss_block)
        metrics = {"nats_per_token": sums.nats, "accuracy": sums.correct}
        return Encoded({}, sums.loss, sums.weight, metrics)

    def model_params(self, params: Params) -> Params:
        """Returns all parameters: weights hold the projectors, language model and tokenizer."""
        return params

    @property
    def evaluated_models(self) -> Models:
        models = Models.from_configs(self.compute, {})
        tokenizer = self.model_config.tokenizer
        if tokenizer is not None:
            models = Models.from_configs(self.compute, {family_of(tokenizer).role: tokenizer})
        return Models(self.compute, {**models.by_name, "multimodal": Model(self.model, None)})

    def evaluated_params(self, params: Params) -> Mapping[str, Params]:
        found = {"multimodal": params}
        if "tokenizer" in params:
            found[family_of(self.model_config.tokenizer).role] = params["tokenizer"]
        return found

    def expect_frozen(self, trained: set[str]) -> None:
        """Raises ValueError if parameters of the tokenizer or image tower are among the trained."""
        if wrong := sorted(n for n in trained if n.startswith(("tokenizer/", "image_tower/"))):
            raise UserError(
                f"expected patterns in loss.trainable that leave tokenizer and image_tower as they "
                f"are, got ones that match {wrong[0]}: name projector_.* and language_model/.*"
            )

    def _targets(self, batch):
        """What each place has to predict, and the weight of that, float32; [b, t] both."""
        labels, places = batch["labels"], batch["image_places"]
        config = self.model_config
        first = config.language_model.vocab_size  # ids of images follow those of text
        if config.predicts_images and self.image_weight:
            of_images = batch[FEATURES][IDS].reshape(len(labels), -1)  # [b, k * n]
            found = jnp.take_along_axis(of_images, jnp.maximum(places, 0), axis=1, mode="clip")
            labels = jnp.where(places >= 0, first + found, labels)
        targets, counts = targets_of(labels, batch.get("segment_ids"))
        if "mask" in batch:
            counts &= batch["mask"][:, None]
        weights = jnp.where(targets >= first, self.image_weight, 1.0)
        return targets, jnp.where(counts, weights, 0)

    def _apply(self, params, *inputs, method):
        return self.model.apply({"params": params}, *inputs, method=method)


def _flat(x):
    """[b, k, ...] -> [b * k, ...]."""
    return x.reshape(-1, *x.shape[2:])

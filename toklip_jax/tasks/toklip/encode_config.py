"""The config's section `encode`."""

import dataclasses

from toklip_jax.core.errors import UserError
from toklip_jax.core.fields import check_name
from toklip_jax.data.images import RESIZES
from toklip_jax.tasks.toklip.objective import CACHED

CAPTIONS = "captions"  # a text encoder's features of a caption, which a generator reads
FEATURES = (*CACHED, CAPTIONS)


@dataclasses.dataclass(frozen=True)
class EncodeConfig:
    """The config's section `encode`.

    Attributes:
        stage: the toklip stage whose models and augmentation are used.
        crops: the number of crops of each image; training takes one at random every epoch.
        features: those of `FEATURES` to be stored besides ids.
        feature_dtype: bfloat16, or float32.
        has_text: whether texts are stored; a cache without can be evaluated on, not trained on.
        has_labels: whether labels are stored, where every sample of the source has one.
        resize: "" for random crops; or "squash" or "crop": whole images as evaluations see them.
        batch_size: images that a process encodes at once, one crop after another.
        records_per_shard: images in a file; a process that is killed loses at most as many.
    """

    stage: str = "toklip"
    crops: int = 1
    features: tuple[str, ...] = CACHED
    feature_dtype: str = "bfloat16"
    has_text: bool = True
    has_labels: bool = True
    resize: str = ""
    batch_size: int = 256
    records_per_shard: int = 16_384

    def __post_init__(self):
        for feature in self.features:
            check_name("encode.features", feature, FEATURES)
        check_name("encode.feature_dtype", self.feature_dtype, ("bfloat16", "float32"))
        check_name("encode.resize", self.resize, ("", *RESIZES))
        if min(self.crops, self.batch_size, self.records_per_shard) < 1:
            raise UserError(
                f"expected encode.crops, batch_size and records_per_shard of at least 1, got {self}"
            )
        if self.resize and self.crops > 1:
            raise UserError(
                f"expected encode.crops 1 with resize {self.resize!r}, got {self.crops}"
            )
        if self.records_per_shard % self.batch_size:
            raise UserError(
                f"expected encode.records_per_shard to be a multiple of encode.batch_size "
                f"{self.batch_size}, got {self.records_per_shard}"
            )
        of_texts = [name for name in ("text_feature", CAPTIONS) if name in self.features]
        if of_texts and not self.has_text:
            raise UserError(
                f"expected no {of_texts[0]} in encode.features without has_text, got it"
            )

"""The checked fields of a config that concern the data."""

import dataclasses

from toklip_jax.core.errors import UserError
from toklip_jax.data.images.sizes import sides_of

IMAGE_SIZE_OF_THE_MODEL = 0
LENGTH_OF_THE_MODEL = 0  # of texts


@dataclasses.dataclass(frozen=True)
class TextDataConfig:
    """The texts of a run.

    Attributes:
        tokenizer: a Hugging Face `tokenizer.json`, a directory that holds one, or a hub id; "" for
            one that is trained on the source's texts, or that the weights came with.
        vocab_size: the vocabulary size of a tokenizer that is trained.
        context_length: tokens of a text; longer ones are cut. 0 for the model's.
    """

    tokenizer: str = ""
    vocab_size: int = 0
    context_length: int = LENGTH_OF_THE_MODEL

    def __post_init__(self):
        if self.context_length < 0 or self.vocab_size < 0:
            raise UserError(
                f"expected no negative text.context_length and text.vocab_size, got "
                f"{self.context_length} and {self.vocab_size}: leave them out, or set 0 for the "
                f"model's context_length"
            )


@dataclasses.dataclass(frozen=True)
class ReadingConfig:
    """The settings for reading images.

    Attributes:
        image_size: pixels, the side of square images or (height, width); 0 for the model's.
        num_workers: processes that read images; 0 reads in the main one.
        exif_orientation: turns encoded images as their EXIF data say, for training, encoding and
            evaluation alike; the released models saw them as they are stored.
    """

    image_size: int | tuple[int, ...] = IMAGE_SIZE_OF_THE_MODEL
    num_workers: int = 0
    exif_orientation: bool = False

    def __post_init__(self):
        if self.image_size != IMAGE_SIZE_OF_THE_MODEL:
            sides_of(self.image_size)
        if self.num_workers < 0:
            raise UserError(f"expected num_workers of at least 0, got {self.num_workers}")

"""The settings that all evaluations share."""

import dataclasses

from toklip_jax.core.errors import UserError
from toklip_jax.core.fields import check_name
from toklip_jax.data.images import DEFAULT_RESIZE, RESIZES


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """The config's fields `evaluation_batch_size` and `evaluation_resize`.

    Attributes:
        batch_size: images encoded at once, by all devices; it changes no figure.
        resize: how encoded images are resized, one of `data.images.RESIZES`.
    """

    batch_size: int = 256
    resize: str = DEFAULT_RESIZE

    def __post_init__(self):
        if self.batch_size < 1:
            raise UserError(f"expected evaluation_batch_size of at least 1, got {self.batch_size}")
        check_name("evaluation_resize", self.resize, RESIZES)

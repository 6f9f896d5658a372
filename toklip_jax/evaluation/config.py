"""The settings that all evaluations share."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """The config's fields `evaluation_batch_size` and `evaluation_resize`.

    Attributes:
        batch_size: images encoded at once, by all devices; it changes no figure.
        resize: how encoded images are resized, "squash" or "crop".
    """

    batch_size: int = 256
    resize: str = "squash"

    def __post_init__(self):
        if self.batch_size < 1:
            raise ValueError(f"expected evaluation_batch_size of at least 1, got {self.batch_size}")
        if self.resize not in ("squash", "crop"):
            raise ValueError(
                f"expected evaluation_resize of 'squash' or 'crop', got {self.resize!r}"
            )

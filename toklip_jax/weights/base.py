"""A model's weights in memory, or as views of the files that they are in."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from toklip_jax.files import AnyMapped
from toklip_jax.models.base import family_of
from toklip_jax.nn.layout import to_scanned, to_unrolled


@dataclasses.dataclass(frozen=True)
class Weights:
    """A model's config and parameters.

    Attributes:
        config: the config of a registered model family.
        params: nested dict of arrays.
        is_scanned: whether layers are stacked.
        carried: tensors of a PyTorch file that are no parameters, by its names.
        dropped: reasons for leaving tensors of a PyTorch file aside, by its names.
        tokenizer_path: the path of the text tokenizer, a `tokenizer.json`, or None.
        source: a note for people on what it was converted or trained from.
        file: the mapped file or files that the parameters are views of, or None.
        beside: paths of other files that belong to them: see `Family.files`.
    """

    config: Any
    params: dict[str, Any]
    is_scanned: bool
    carried: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    tokenizer_path: pathlib.Path | None = None
    source: str = ""
    training: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    file: AnyMapped | None = None
    dropped: Mapping[str, str] = dataclasses.field(default_factory=dict)
    beside: tuple[pathlib.Path, ...] = ()

    def with_layout(self, is_scanned: bool, stack: Callable = np.stack) -> "Weights":
        """Returns the same weights with layers stacked, by `stack`, or apart."""
        if is_scanned == self.is_scanned:
            return self
        params = to_scanned(self.params, stack) if is_scanned else to_unrolled(self.params)
        return dataclasses.replace(self, params=params, is_scanned=is_scanned)

    def release(self) -> None:
        """Lets go of the memory that reading the files took."""
        if self.file is not None:
            self.file.release()


def files_beside(directory: pathlib.Path, config: Any) -> tuple[pathlib.Path, ...]:
    """Returns the files in a directory that belong to weights of this config in it."""
    paths = (directory / name for name in family_of(config).files)
    return tuple(path for path in paths if path.is_file())

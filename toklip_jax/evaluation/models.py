"""The models that are evaluated, found by the role they play."""

import contextlib
import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax

from toklip_jax.core.errors import UserError
from toklip_jax.models.registry import VQConfig, build_model, family_of
from toklip_jax.nn.config import Compute

Params = Mapping[str, Any]  # a model's name -> its parameters

# Role -> the models that can play it, the first that is there.
PLAYERS = {"vq": ("toklip", "vq"), "text": ("toklip", "teacher")}
SIZED = ("toklip", "teacher")  # the roles whose models take images of one size


@dataclasses.dataclass(frozen=True)
class Model:
    """One model.

    Attributes:
        module: has the methods of its role: a VQ tokenizer's are listed in `models.base.VQConfig`;
            a teacher has `image_features`, and `text_features` if its texts are compared with;
            TokLIP has those of a VQ tokenizer, `text_features`, `semantic_tokens` and
            `pool_tokens`.
        size: (height, width), or (frames, height, width), of what it takes; None where any fits.
    """

    module: nn.Module
    size: tuple[int, ...] | None = None


@dataclasses.dataclass(frozen=True)
class Models:
    """The models that are there; their parameters, by the same names, go to each function.

    Attributes:
        compute: settings of all models but Inception, which is float32.
        by_name: "toklip", "teacher", "vq", "inception", or another role that outputs ask for. A
            TokLIP stands for its own VQ tokenizer and text tower.
    """

    compute: Compute
    by_name: Mapping[str, Model]

    @classmethod
    def from_configs(cls, compute: Compute, configs: Mapping[str, Any]) -> "Models":
        """Returns the models of whole configs of registered families, by name."""
        return cls(compute, {name: _model(config, compute) for name, config in configs.items()})

    def has(self, role: str) -> bool:
        """Says whether a model plays the role."""
        return self._player(role) is not None

    def apply(self, params: Params, role: str, method: str | None, *inputs: Any) -> Any:
        """Calls a method (None for `__call__`) of the model that plays a role; traceable.

        Raises:
            ValueError: no model does.
        """
        name = self._player(role)
        if name is None:
            raise UserError(f"expected a model for the role {role}, got {sorted(self.by_name)}")
        return self.by_name[name].module.apply({"params": params[name]}, *inputs, method=method)

    def precision(self) -> contextlib.AbstractContextManager:
        """Returns the context in which products have the precision that `compute` means.

        Float32 is meant as such: accelerators would otherwise round products to bfloat16.
        """
        is_exact = self.compute.dtype == "float32"
        return jax.default_matmul_precision("highest" if is_exact else None)

    def config(self, name: str) -> Any:
        """Returns the config of the model called `name`."""
        return self.by_name[name].module.config

    def size_of(self, name: str) -> tuple[int, ...] | None:
        """Returns the size of what the model called `name` takes; None where any fits."""
        return self.by_name[name].size

    @property
    def image_size(self) -> int | tuple[int, ...] | None:
        """The size of the images that are read for these models: a square's side, or all sides.

        None where any size fits.
        """
        size = next((self.by_name[name].size for name in SIZED if name in self.by_name), None)
        is_square = size is not None and len(size) == 2 and size[0] == size[1]
        return size[0] if is_square else size

    @property
    def vq_config(self) -> VQConfig | None:
        """The config of the VQ tokenizer, TokLIP's own or one alone."""
        name = self._player("vq")
        if name is None:
            return None
        return self.config(name) if name == "vq" else self.config(name).vq

    @property
    def text_config(self) -> Any | None:
        """The config of the text tower, TokLIP's own or a teacher's; None where there is none."""
        name = self._player("text")
        return None if name is None else getattr(self.config(name), "text", None)

    def decoded_grid(self, grid: tuple[int, ...] | None) -> tuple[int, ...] | None:
        """Returns the grid to decode ids of `grid` with; None for a TokLIP, which has one grid.

        Raises:
            ValueError: a TokLIP's grid is another.
        """
        if self._player("vq") == "vq":
            return grid
        own = self.config("toklip").vision.grid
        if grid is not None and tuple(grid) != own:
            raise UserError(
                f"expected ids of the grid {own}, which TokLIP decodes, got some of {tuple(grid)}: "
                f"fit the images or samples to it, or name a VQ tokenizer alone in the models"
            )
        return None

    def _player(self, role):
        names = [name for name in PLAYERS.get(role, (role,)) if name in self.by_name]
        if role == "text":
            names = [name for name in names if getattr(self.config(name), "text", None)]
        return next(iter(names), None)


def _model(config, compute):
    size = config.vision.size if family_of(config).role in SIZED else None
    return Model(build_model(config, compute), size)

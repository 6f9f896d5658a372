"""The interface of a model family, and that of every VQ tokenizer."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import flax.linen as nn
import flax.struct
import jax
import numpy as np

from toklip_jax.core.errors import UserError
from toklip_jax.core.fields import add_new, check_name
from toklip_jax.core.printable import printable
from toklip_jax.files import AnyLazy
from toklip_jax.files.rules import Rule
from toklip_jax.models.releases import Release
from toklip_jax.nn.config import Compute

Tensors = Mapping[str, AnyLazy]  # of a PyTorch file, by name
ROLES = (
    "vq", "teacher", "toklip", "inception", "generator", "text_encoder", "language_model",
    "multimodal",
)  # fmt: skip


@runtime_checkable
class VQConfig(Protocol):
    """The frozen config of a VQ tokenizer: all that the rest of the package asks of one.

    The module that its family builds has these methods. Images are RGB in [-1, 1] on both sides,
    whatever the tokenizer: one whose weights expect another range converts within its module.
    Places are in row-major order; an id is int32 [b, n], or [b, n, q] where a place has q ids:

        tokenize(images [b, *size, 3]) -> ids
        code_vectors(ids) -> float32 [b, n, code_dim], what a token encoder sees
        detokenize(ids, grid=None) -> images float32 [b, *size, 3], square unless a grid is given
        encode(images) -> float32 [b, n, code_dim], code vectors through which gradients pass
            straight to the encoder
        __call__(images) -> VQOutput, the differentiable path its training uses
        between_rows(latents, mask) -> the losses that compare rows, by name
        compared(latents, ids) -> float32 [q, m, e], the vectors that each codebook's codes were
            compared with; training that replaces dead codes asks for it

    `models.vq.VQModel` has all of them for a module with an encoder, a quantiser and a decoder.

    Attributes:
        codes_per_place: ids that stand at one place of the grid.
        codebook_sizes: how many values each of them has.
        code_dim: length of the vector that a place's ids stand for.
        licence: tag of the licence that the published weights have, "" where there are none.

    A tokenizer of images that takes videos too says so by `takes_videos = True`: see `sides_taken`.
    """

    @property
    def codes_per_place(self) -> int: ...

    @property
    def codebook_sizes(self) -> tuple[int, ...]: ...

    @property
    def code_dim(self) -> int: ...

    @property
    def licence(self) -> str: ...

    def grid_of(self, *size: int) -> tuple[int, ...]:
        """Returns the grid of ids of an image (height, width) or a video (frames, height, width).

        Raises:
            ValueError: the tokenizer does not take this size.
        """
        ...

    @property
    def smallest_size(self) -> tuple[int, ...]:
        """The smallest (height, width), or (frames, height, width), that has a grid."""
        ...


def sides_taken(config: VQConfig) -> tuple[int, ...]:
    """Returns the numbers of sides that inputs may have: 2 of images, 3 of videos, or both."""
    own = len(config.smallest_size)
    return (own, 3) if own == 2 and getattr(config, "takes_videos", False) else (own,)


def ids_shape(config: VQConfig, grid: Sequence[int]) -> tuple[int, ...]:
    """Returns the shape of one image's ids: (n,), or (n, q) where a place has q ids."""
    n = int(np.prod(grid))
    return (n,) if config.codes_per_place == 1 else (n, config.codes_per_place)


def place_size(config: VQConfig) -> tuple[int, ...]:
    """Returns the part of an image that a place of the grid stands for, in pixels, as its size."""
    size = config.smallest_size
    return tuple(side // n for side, n in zip(size, config.grid_of(*size), strict=True))


@flax.struct.dataclass
class VQOutput:
    """One pass through a VQ tokenizer, as its training sees it.

    Attributes:
        images: reconstructions [b, *size, 3], through the straight-through estimator.
        ids: int32 [b, n] or [b, n, q].
        latents: the vectors that were quantised, float32 [b, n, c].
        losses: the quantiser's own, float32 [b] each, by name ("codebook", "commitment").
    """

    images: jax.Array
    ids: jax.Array
    latents: jax.Array
    losses: dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Hints:
    """Sizes that a file's shapes can't tell; None takes one from the named size that fits.

    Attributes:
        num_heads: the number of heads of the image tower or the token encoder.
        text_num_heads: the number of heads of the text tower.
        is_causal: whether the token encoder is causal, or the two projections of a UniTok alone.
        is_l2_normalised: whether a VQ codebook is used at unit length, as LlamaGen's is.
            Tokenizers that compare raw vectors have no use for it.
        family: the name of the model family, where several have the same names.
        grid: the grid of a generator's ids, (height, width), or the side of a square one.
    """

    num_heads: int | None = None
    text_num_heads: int | None = None
    is_causal: bool | None = None
    is_l2_normalised: bool = True
    family: str | None = None
    grid: int | tuple[int, int] | None = None

    @property
    def given(self) -> tuple[str, ...]:
        """The fields that differ from their defaults."""
        fields = dataclasses.fields(self)
        return tuple(f.name for f in fields if getattr(self, f.name) != f.default)


@dataclasses.dataclass(frozen=True)
class Dialect:
    """The names that another package gives the same tensors.

    Attributes:
        title: its name for people to read.
        marks: names that only this package's files hold.
        translate: `translate(tensors)` returns them in the names that the family's map is for.
        sizes: `sizes(tensors)` returns what these files, unlike the family's own, do tell of
            `Hints`, by its field.
    """

    title: str
    marks: tuple[str, ...]
    translate: Callable[[Tensors], Tensors]
    sizes: Callable[[Tensors], Mapping[str, int]] = lambda tensors: {}


@dataclasses.dataclass(frozen=True)
class Settings:
    """The `config.json` that transformers has beside a family's weights.

    Attributes:
        kinds: the family's names in its `model_type`.
        read: `read(settings)` returns the config of the model that the file's object describes.
        write: `write(config)` returns the object.
    """

    kinds: tuple[str, ...]
    read: Callable[[Mapping[str, Any]], Any]
    write: Callable[[Any], dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class ForeignKeys:
    """The PyTorch files of a family: how to tell one, size it, and map its names both ways.

    Attributes:
        marks: names that only this family's files hold.
        infer: `infer(tensors, hints, prefix)` returns the config of the model whose tensors' names
            begin with `prefix`.
        rules: `rules(config, source, target)` returns the map from names that begin with `source`
            to slash paths that begin with `target`.
        hints: the fields of `Hints` that `infer` reads; others are refused.
        dialects: other packages' names for the same.
        fits: `fits(tensors, prefix)` tells whether tensors with these marks are this family's,
            where other families have the same names.
        unused: beginnings of the names of tensors that stand beside the model in its files, each
            with the reason why they are left aside.
        inside: beginnings of the model's names within the files of larger models, everything else
            in which is left aside.
        settings: how its `config.json` is read, where one tells what shapes don't.
    """

    marks: tuple[str, ...]
    infer: Callable[[Tensors, Hints, str], Any]
    rules: Callable[[Any, str, str], Sequence[Rule]]
    hints: tuple[str, ...] = ()
    dialects: tuple[Dialect, ...] = ()
    fits: Callable[[Tensors, str], bool] = lambda tensors, prefix: True
    unused: Mapping[str, str] = dataclasses.field(default_factory=dict)
    inside: tuple[str, ...] = ()
    settings: Settings | None = None

    def match(self, tensors: Tensors, prefix: str = "", is_named: bool = False) -> bool:
        """Tells whether tensors whose names begin with `prefix` are this family's.

        Args:
            is_named: whether the caller has said that they are, so that the names alone decide.
        """
        has_names = all(prefix + mark in tensors for mark in self.marks)
        return has_names and (is_named or self.fits(tensors, prefix))

    def expect_used(self, hints: Hints, title: str, names: Sequence[str] | None = None) -> None:
        """Checks that hints are given only where these weights have a use for them.

        Args:
            title: the family's.
            names: the fields of `Hints` to check; all but `family` unless given.

        Raises:
            ValueError: one is given that `infer` doesn't read.
        """
        names = [n for n in hints.given if n != "family"] if names is None else names
        for name in names:
            if name in hints.given and name not in self.hints:
                raise UserError(
                    f"expected no {name} with weights of {title}, which have no use for it, got "
                    f"{getattr(hints, name)}: leave it out"
                )


@dataclasses.dataclass(frozen=True)
class Family:
    """A kind of model: one folder, one line in `registry.FAMILIES`.

    Attributes:
        name: the `kind` of its config in files.
        title: its name for people to read.
        role: one of `ROLES`: the use that it can be put to.
        config: the type of its config, a frozen dataclass.
        build: `build(config, compute)` returns the Linen module.
        inputs: `inputs(config)` returns the shapes of what initialisation runs it on.
        sizes: configs by name.
        parts: the types of configs within its config, by the `kind` that they have in files.
        keys: the names in its PyTorch files, or None.
        releases: its published weights, which `load` takes by name.
        sharding: rules that go before the common ones, as `parallel.sharding.RULES`.
        embeddings: patterns of parameters that stand below the first block, for layer decay.
        full_precision: patterns of parameters that stay float32 where the others are cast.
        quantised: patterns of weights that may be kept as int8, each with the axes that products
            sum over, from the last; none where that isn't offered.
        download: how to get its published weights, for messages; "" where that isn't known.
        image_size: the side in pixels of the images that its published weights were made for.
        files: names of other files beside its weights, which are kept with them.
    """

    name: str
    title: str
    role: str
    config: type
    build: Callable[[Any, Compute], nn.Module]
    inputs: Callable[[Any], tuple[jax.ShapeDtypeStruct, ...]]
    sizes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    parts: Mapping[str, type] = dataclasses.field(default_factory=dict)
    keys: ForeignKeys | None = None
    releases: tuple[Release, ...] = ()
    sharding: tuple[tuple[str, tuple[str | None, ...]], ...] = ()
    embeddings: tuple[str, ...] = ()
    full_precision: tuple[str, ...] = ()
    quantised: tuple[tuple[str, tuple[int, ...]], ...] = ()
    download: str = ""
    image_size: int = 256
    files: tuple[str, ...] = ()

    def __post_init__(self):
        check_name("role", self.role, ROLES)


_FAMILIES: dict[str, Family] = {}


def register(family: Family) -> Family:
    """Makes a family known by its name.

    Raises:
        ValueError: another family has the name, its config's type, or the kind of a part.
    """
    for other in _FAMILIES.values():
        if other is not family and other.name != family.name:
            _expect_apart(family, other)
    return add_new(_FAMILIES, family.name, family, "a model family")


def _expect_apart(family, other):
    """Raises ValueError where configs in files, or in memory, could be either family's."""
    kinds, theirs = ({f.name: f.config, **f.parts} for f in (family, other))
    if taken := [kind for kind in kinds if kinds[kind] is not theirs.get(kind, kinds[kind])]:
        raise UserError(
            f"expected new kinds of configs in the model family {family.name!r}, got {taken[0]!r}, "
            f"which {other.name!r} has"
        )
    if family.config is other.config:
        raise UserError(
            f"expected a config of its own for the model family {family.name!r}, got "
            f"{family.config.__name__}, which {other.name!r} has"
        )


def registered() -> list[Family]:
    """Returns the families in the order of their registration."""
    return list(_FAMILIES.values())


def family_of(config: Any) -> Family:
    """Returns the family of a model's config.

    Raises:
        ValueError: it is no registered family's.
    """
    for family in _FAMILIES.values():
        if type(config) is family.config:
            return family
    raise UserError(
        f"expected the config of {', '.join(_FAMILIES)}, got a {type(config).__name__}: import the "
        f"module that registers its family"
    )


def keys_of(config: Any) -> ForeignKeys:
    """Returns the names that a model of this config has in PyTorch files.

    Raises:
        ValueError: its family has no such files.
    """
    family = family_of(config)
    if family.keys is None:
        raise UserError(f"expected a family with PyTorch files, got {family.title}, which has none")
    return family.keys


def find_family(
    tensors: Tensors, prefix: str = "", role: str | None = None, name: str | None = None
) -> Family:
    """Returns the family that named tensors are of.

    Args:
        prefix: the beginning of the names.
        role: look only among the families of this role.
        name: the family's, where the caller has said it.

    Raises:
        ValueError: none; says which there are and what the names look like.
    """
    candidates = [f for f in registered() if f.keys and role in (None, f.role)]
    if name is not None:
        check_name("a model family with PyTorch files", name, [f.name for f in candidates])
        candidates = [f for f in candidates if f.name == name]
    for family in candidates:
        if family.keys.match(tensors, prefix, name is not None):
            return family
    known = ", ".join(family.title for family in candidates)
    some = [printable(name) for name in tensors if name.startswith(prefix)][:4]
    raise UserError(
        f"expected weights of {known}, got tensors called {', '.join(some) or 'nothing'}, ..."
    )

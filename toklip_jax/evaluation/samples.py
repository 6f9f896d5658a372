"""Generated samples, which evaluations take as they take a data set."""

import dataclasses
import hashlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int

from toklip_jax.core.errors import UserError
from toklip_jax.core.fields import add_new, check_name, check_type, type_hints

Batch = dict[str, np.ndarray]


@runtime_checkable
class SampleSource(Protocol):
    """A generator of images, or of ids that a VQ tokenizer decodes.

    Sample i is a function of i and the parameters alone: so several hosts can share the samples
    out, and an interrupted evaluation can resume. As a data source, it may also have
    `classes`, the names of its labels, and `texts()`, the texts that each sample was made from.

    Attributes:
        fields: the fields of its batches: `images` or `ids`, and perhaps `labels`, `token_ids`.
        grid: the grid of the ids; None where there are images, or where the model has one grid.
        description: JSON data that says which samples these are; rows that were kept
            are found by it.
    """

    fields: tuple[str, ...]
    grid: tuple[int, ...] | None
    description: Any

    def __len__(self) -> int: ...

    def batch(self, params: Any, indices: Int[np.ndarray, " b"]) -> Mapping[str, np.ndarray]:
        """Returns the samples at `indices`.

        Args:
            params: parameters of the evaluated models by name, sharded over the mesh.

        Returns:
            `images` uint8 [b, *size, 3], or `ids` int32 [b, n] or [b, n, q]; `labels` int32 [b].
        """
        ...


class ArraySamples:
    """Samples in memory: arrays of one length."""

    def __init__(
        self,
        *,
        classes: Sequence[str] = (),
        prompts: Sequence[str] = (),
        grid: tuple[int, ...] | None = None,
        **arrays: np.ndarray,
    ):
        """Checks the arrays.

        Args:
            classes: names of the labels.
            prompts: the text that each sample was made from.
            grid: the grid of `ids`.
            **arrays: `images` uint8 or `ids`, and perhaps `labels`.

        Raises:
            ValueError: both or neither of images and ids, or lengths that differ.
        """
        lengths = {name: len(array) for name, array in arrays.items()}
        lengths |= {"prompts": len(prompts)} if prompts else {}
        if len(set(lengths.values())) != 1 or ("images" in arrays) == ("ids" in arrays):
            raise UserError(f"expected images, or ids, and arrays as long, got lengths {lengths}")
        self.classes, self.grid, self.fields = tuple(classes), grid, tuple(arrays)
        self._arrays, self._prompts = arrays, list(prompts)
        if prompts:
            self.texts = lambda: [[prompt] for prompt in self._prompts]

    def __len__(self) -> int:
        return len(next(iter(self._arrays.values())))

    def batch(self, params: Any, indices: Int[np.ndarray, " b"]) -> Batch:
        return {name: np.asarray(array)[indices] for name, array in self._arrays.items()}

    @property
    def description(self) -> dict[str, str]:
        return {
            name: hashlib.sha256(np.ascontiguousarray(array)).hexdigest()
            for name, array in self._arrays.items()
        }


@dataclasses.dataclass(frozen=True)
class RandomIds:
    """Ids drawn uniformly and independently: the samples of a model that has learned nothing.

    Attributes:
        num_samples: how many.
        grid: a sample's grid.
        codebook_sizes: the number of codes for each id of a place.
        seed: the seed of the draw.
    """

    num_samples: int
    grid: tuple[int, ...]
    codebook_sizes: tuple[int, ...]
    seed: int = 0
    fields = ("ids",)

    def __post_init__(self):
        for name in ("grid", "codebook_sizes"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        sizes = (*self.grid, *self.codebook_sizes)
        if not self.grid or not self.codebook_sizes or min(self.num_samples, *sizes) < 1:
            raise UserError(f"expected num_samples and sizes of at least 1, got {self}")
        if self.seed < 0:
            raise UserError(f"expected a seed of at least 0 for random_ids, got {self.seed}")

    def __len__(self) -> int:
        return self.num_samples

    def batch(self, params: Any, indices: Int[np.ndarray, " b"]) -> Batch:
        return {"ids": np.stack([self._sample(int(index)) for index in indices])}

    @property
    def description(self) -> dict[str, Any]:
        return {"kind": "random_ids", **dataclasses.asdict(self)}

    def _sample(self, index):
        random = np.random.default_rng([self.seed, index])
        shape = (int(np.prod(self.grid)), len(self.codebook_sizes))
        ids = random.integers(0, self.codebook_sizes, shape, np.int32)  # [n, q]
        return ids if len(self.codebook_sizes) > 1 else ids[:, 0]


SAMPLES: dict[str, Callable[..., SampleSource]] = {"random_ids": RandomIds}


def register_samples(kind: str, build: Callable[..., SampleSource]) -> None:
    """Makes `build(**fields)` the generator that a config's `{"kind": kind, ...}` names.

    Raises:
        ValueError: another generator has the name.
    """
    add_new(SAMPLES, kind, build, "a kind of samples")


def build_samples(config: Mapping[str, Any]) -> SampleSource:
    """Returns the generator that a config names.

    Raises:
        ValueError: an unknown kind or argument; names the nearest.
    """
    fields = {name: value for name, value in config.items() if name != "kind"}
    kind = check_name("kind", config.get("kind"), SAMPLES)
    hints = type_hints(SAMPLES[kind])
    for name, value in fields.items():
        check_name(f"an argument of {kind}", name, inspect.signature(SAMPLES[kind]).parameters)
        check_type(value, hints.get(name, Any), f"{name} of {kind}")
    return SAMPLES[kind](**fields)


def sample_batches(
    source: SampleSource,
    params: Any,
    *,
    batch_size: int,
    start: int = 0,
    host: int = 0,
    hosts: int = 1,
) -> Iterator[Batch]:
    """Yields this host's rows of the batches from `start` on, each with `mask`.

    The last batch is filled up with the last sample.
    """
    rows_here = batch_size // hosts
    for first in range(start * batch_size, len(source), batch_size):
        rows = first + host * rows_here + np.arange(rows_here)
        batch = source.batch(params, np.minimum(rows, len(source) - 1))
        yield {**batch, "mask": rows < len(source)}

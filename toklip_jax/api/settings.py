"""The settings of draws that users pass: keys, numbers, and how ids are sampled; checked."""

import dataclasses
from typing import Any

import jax
import numpy as np

from toklip_jax.core.errors import UserError
from toklip_jax.core.fields import check_name
from toklip_jax.decoding import Sampling
from toklip_jax.decoding.sampling import ALWAYS

OF_ANSWERS = ("temperature", "top_k", "top_p")  # the settings that don't ask for guidance


@dataclasses.dataclass(frozen=True)
class Draws:
    """How images are drawn: with which randomness, and with which settings.

    Attributes:
        key: a key of `jax.random.key`; a seed is made one.
        first_index: index of the first sample, which with the key decides what is drawn.
        negative_class: the class that guidance leads away from, or None for the null class.
        sampling: the other settings.
    """

    key: Any
    first_index: Any
    negative_class: Any
    sampling: Sampling

    def __post_init__(self):
        object.__setattr__(self, "key", as_key(self.key))
        first = whole_number(self.first_index, "first_index")
        if not 0 <= first < 2**31:
            raise UserError(f"expected a first_index in [0, 2**31), got {first}")
        object.__setattr__(self, "first_index", first)
        if self.negative_class is None:
            return
        object.__setattr__(
            self, "negative_class", whole_number(self.negative_class, "negative_class")
        )
        if not self.sampling.is_guided:
            raise UserError(
                f"expected a cfg_scale above 1 with negative_class, which only guidance uses, got "
                f"{self.sampling.cfg_scale}"
            )


def whole_number(value: Any, name: str) -> int:
    """Returns an integer, NumPy's too; raises ValueError for anything else."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer):
        raise UserError(f"expected an integer {name}, got {value!r}")
    return int(value)


def read_sampling(settings: dict[str, Any]) -> Sampling:
    """Returns the settings of draws.

    Raises:
        ValueError: an unknown one (names the nearest), a value of another type or range, or an
            interval of guidance without guidance.
    """
    names = [field.name for field in dataclasses.fields(Sampling)]
    read = {}
    for name, value in settings.items():
        check_name("a setting of sampling", name, names)
        if name in ("top_k", "cfg_interval"):
            read[name] = whole_number(value, name)
        elif isinstance(value, np.floating | np.integer | float | int) and value is not True:
            read[name] = float(value)
        else:
            raise UserError(f"expected a number for {name}, got {value!r}")
    sampling = Sampling(**read)
    if sampling.cfg_interval != ALWAYS and not sampling.is_guided:
        raise UserError(
            f"expected a cfg_scale above 1 with cfg_interval, which only guidance uses, got "
            f"{sampling.cfg_scale:g}"
        )
    return sampling


def read_answer_sampling(settings: dict[str, Any]) -> Sampling:
    """Returns the settings of draws of answers, which are greedy unless they say otherwise.

    Raises:
        ValueError: as `read_sampling`, and for one of guidance.
    """
    for name in settings:
        check_name("a setting of sampling", name, OF_ANSWERS)
    return read_sampling({"temperature": 0, **settings})


def as_key(key: Any) -> jax.Array:
    """Returns the key of a seed, or the key itself.

    Raises:
        ValueError: neither.
    """
    if isinstance(key, jax.Array) and jax.dtypes.issubdtype(key.dtype, jax.dtypes.prng_key):
        if key.shape == ():
            return key
        raise UserError(f"expected one key, got {list(key.shape)} of them: pass one")
    if isinstance(key, bool) or not isinstance(key, int | np.integer):
        raise UserError(f"expected a seed or a key of jax.random.key, got {key!r}")
    if not 0 <= key < 2**32:
        raise UserError(f"expected a seed in [0, 2**32), got {key}")
    return jax.random.key(int(key))

"""The settings of draws that users pass: keys, numbers, and how ids are sampled; checked."""

import dataclasses
from typing import Any

import jax
import numpy as np

from toklip_jax.core.errors import UserError
from toklip_jax.core.fields import check_name
from toklip_jax.decoding import Sampling
from toklip_jax.decoding.sampling import ALWAYS

_CONDITION = "say what to draw with classes=[...] or captions=[...], as the model was trained"
_KEY = "pass key=SEED, or a key of jax.random.key"
_SCALE = "the scale of guidance is cfg_scale=..."
_NUMBER = "an image is drawn for each of classes or captions: repeat one for more images"
THREEFRY = "threefry2x32"
MAX_SAMPLES = 2**31  # of a key: their indices are int32
# Names that other packages give to arguments, and what to pass to a generator instead.
OTHER_NAMES = {
    **dict.fromkeys(("text", "texts", "prompt", "prompts", "caption"), _CONDITION),
    **dict.fromkeys(("class_ids", "class_labels", "labels", "label", "y"), _CONDITION),
    **dict.fromkeys(("seed", "rng", "prng_key", "generator"), _KEY),
    **dict.fromkeys(("cfg", "guidance", "guidance_scale"), _SCALE),
    **dict.fromkeys(("n", "num", "num_samples", "num_images", "num_images_per_prompt"), _NUMBER),
    "negative_prompt": "guidance can lead away from a class alone, negative_class=...",
    "batch_size": "pass it to load, or set generator.batch_size",
}
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
        if not 0 <= first < MAX_SAMPLES:
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


def read_draws(key: Any, first_index: Any, negative_class: Any, sampling: dict[str, Any]) -> Draws:
    """Returns how a generator is told to draw.

    Raises:
        ValueError: a name of another package (says what to pass), and what `read_sampling` and
            `Draws` raise.
    """
    for name in sampling:
        if name in OTHER_NAMES:
            raise UserError(f"expected no argument {name!r} here: {OTHER_NAMES[name]}")
    return Draws(key, first_index, negative_class, read_sampling(sampling))


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
    """Returns the key of a seed, or the key itself, always one of threefry.

    Of JAX's kinds of keys only threefry draws for each row what it would draw for it alone; one of
    another kind gives the seed of one of threefry.

    Raises:
        ValueError: neither.
    """
    if isinstance(key, jax.Array) and jax.dtypes.issubdtype(key.dtype, jax.dtypes.prng_key):
        if key.shape == () and jax.random.key_impl(key) == THREEFRY:
            return key
        if key.shape == ():
            return jax.random.wrap_key_data(jax.random.bits(key, (2,)), impl=THREEFRY)
        raise UserError(f"expected one key, got {list(key.shape)} of them: pass one")
    if isinstance(key, bool) or not isinstance(key, int | np.integer):
        is_raw = getattr(key, "dtype", None) == np.uint32
        hint = ": jax.random.wrap_key_data makes one of a PRNGKey" if is_raw else ""
        raise UserError(f"expected a seed or a key of jax.random.key, got {key!r}{hint}")
    if not 0 <= key < 2**32:
        raise UserError(f"expected a seed in [0, 2**32), got {key}")
    return jax.random.key(int(key), impl=THREEFRY)

"""Outputs: named functions of a batch and models, and the context that they share.

All that is asked of a batch is one compiled program, in which each output and each intermediate is
computed once, however many evaluations ask for it.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax

from toklip_jax.core.errors import UserError
from toklip_jax.core.fields import check_name, check_names
from toklip_jax.evaluation.models import Models, Params

T = TypeVar("T")
PIXELS = ("none", "any", "original")


class Context:
    """One batch and the models; outputs take all they need from here.

    Attributes:
        models: the models.
        batch: `images` uint8, or float in [-1, 1], [b, *size, 3]; or `ids` int [b, n] or [b, n, q];
            and what goes with them (`labels`, `token_ids`).
        grid: the grid of the batch's ids where they come without images; None for the models' own.
    """

    def __init__(
        self,
        models: Models,
        params: Params,
        batch: Mapping[str, Any],
        grid: tuple[int, ...] | None = None,
    ):
        self.models, self.batch, self.grid = models, batch, grid
        self._params = params
        self._computed: dict[Callable, Any] = {}

    def get(self, compute: Callable[["Context"], T]) -> T:
        """Returns `compute(self)`, computed at the first call and kept for those that follow."""
        if compute not in self._computed:
            self._computed[compute] = compute(self)
        return self._computed[compute]

    def apply(self, role: str, method: str | None, *inputs: Any) -> Any:
        """Calls a method of the model that plays a role; see `Models.apply`."""
        return self.models.apply(self._params, role, method, *inputs)

    def field(self, name: str, advice: str) -> Any:
        """Returns a field of the batch.

        Raises:
            ValueError: the batch has none; ends in `advice`.
        """
        if name not in self.batch:
            raise UserError(f"expected {name} in a data set, got {list(self.batch)}: {advice}")
        return self.batch[name]


@dataclasses.dataclass(frozen=True)
class Output:
    """One output.

    Attributes:
        name: the name by which evaluations ask for it.
        compute: `compute(context)` returns an array with a row for each of the batch; traceable.
        needs: roles that each need a model.
        pixels: "none" where ids are enough; "any" where it takes images, if need be decoded from
            generated ids; "original" where it takes images beside those decoded from their ids.
        text_space: for normalised features that can be compared with those of texts, what tables
            call the model; "" for all else.
    """

    name: str
    compute: Callable[[Context], jax.Array]
    needs: tuple[str, ...] = ()
    pixels: str = "none"
    text_space: str = ""

    def __post_init__(self):
        check_name("pixels", self.pixels, PIXELS)
        check_names(self.needs, f"needs of the output {self.name}")


_OUTPUTS: dict[str, Output] = {}


def register_output(
    name: str, *, needs: tuple[str, ...] = (), pixels: str = "none", text_space: str = ""
) -> Callable[[Callable], Callable]:
    """Returns a decorator that registers a function of a `Context` as the output `name`.

    Tables show the models in the order in which their outputs were registered.

    Raises:
        ValueError: another function has the name, or `needs` is not a list of names.
    """

    def register(compute):
        output = Output(name, compute, needs, pixels, text_space)
        if _OUTPUTS.setdefault(name, output).compute is not compute:
            raise UserError(f"expected a new name for an output, got {name!r} twice")
        return compute

    return register


def named_output(name: str) -> Output:
    """Returns the output called `name`.

    Raises:
        ValueError: none is; says which there are.
    """
    return _OUTPUTS[check_name("an output", name, _OUTPUTS)]


def text_space_outputs() -> dict[str, str]:
    """Returns the outputs that can be compared with texts, each with its model's name in tables."""
    return {name: output.text_space for name, output in _OUTPUTS.items() if output.text_space}


def present_outputs(models: Models, names: Sequence[str]) -> tuple[str, ...]:
    """Returns those of the outputs `names` whose models are there."""
    return tuple(name for name in names if all(map(models.has, named_output(name).needs)))


def available_outputs(models: Models, names: Sequence[str], kind: str) -> tuple[str, ...]:
    """Returns those of the outputs `names` whose models are there.

    Args:
        kind: the kind of the evaluation that asks, for the message.

    Raises:
        ValueError: there are none.
    """
    found = present_outputs(models, names)
    if not found:
        raise UserError(
            f"expected a model for the evaluation {kind}, got none that gives one of "
            f"{', '.join(names)}: name it in the config's models"
        )
    return found


def compute_outputs(
    names: Sequence[str],
    models: Models,
    grid: tuple[int, ...] | None,
    params: Params,
    batch: Mapping[str, Any],
) -> dict[str, jax.Array]:
    """Returns the outputs `names` of a batch; traceable in `params` and `batch`.

    Args:
        grid, params, batch: see `Context`.
    """
    with models.precision():
        context = Context(models, params, batch, grid)
        return {name: context.get(named_output(name).compute) for name in names}

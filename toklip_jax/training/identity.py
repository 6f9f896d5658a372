"""The identity of what a run keeps: which run it is of, and what it was made from."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from toklip_jax.core.errors import UserError

REMEDY = "put back what it was trained with, train in another workdir, or pass --restart"


@dataclasses.dataclass(frozen=True)
class Identity:
    """The inputs that a checkpoint was trained from, besides the config.

    Attributes:
        run: the run's id, "" for none.
        inputs: the SHA-256 of each file that the stage starts from, by the field that names it.
        data: `samples` and `sha256` (see `data_fingerprint`) of what it is trained on.
        frozen: the outlines and checksums of the frozen parameters that the steps use.
    """

    run: str = ""
    inputs: Mapping[str, str] = dataclasses.field(default_factory=dict)
    data: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    frozen: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def expect_identity(
    where: str, saved: Mapping[str, Any], mine: Identity, allow_change: bool = False
) -> None:
    """Checks that a checkpoint was made by this run, from what it has now.

    Args:
        saved: the fields of an `Identity`; those that an earlier version didn't save are missing.
        allow_change: whether to continue with other data, after saying so.

    Raises:
        ValueError: it was not; names what differs.
    """
    run = saved.get("run", "")
    if run and mine.run and run != mine.run:
        raise UserError(
            f"expected a checkpoint of this run, whose id in run.json is {mine.run}, got {where}, "
            f"which the run {run} made: move it away, or write that id into run.json to continue "
            f"that run"
        )
    if differ := other_inputs(saved.get("inputs", {}), mine.inputs):
        raise UserError(f"{where} was trained with other files ({'; '.join(differ)}): {REMEDY}")
    _expect_data(where, saved.get("data", {}), mine.data, allow_change)
    frozen = _other_frozen(saved.get("frozen", {}), mine.frozen)
    if frozen:
        raise UserError(
            f"{where} was trained with other values of {len(frozen)} frozen parameters, first "
            f"{frozen[0]}: {REMEDY}"
        )


def other_inputs(theirs: Mapping[str, str], mine: Mapping[str, str]) -> list[str]:
    """Returns a line for each input that both have and whose hash differs."""
    return [
        f"{name}: SHA-256 {theirs[name][:12]}... there, {mine[name][:12]}... now"
        for name in sorted(theirs.keys() & mine)
        if theirs[name] != mine[name]
    ]


def _expect_data(where, theirs, mine, allow_change):
    """Compares the data: the order of samples is a function of the step and of what there is."""
    if not theirs or not mine or theirs == mine:
        return
    said = (
        f"{where} was trained on other data ({theirs['samples']} samples then, {mine['samples']} "
        f"now, at least some of them others or in another order)"
    )
    if not allow_change:
        raise UserError(
            f"{said}: put the data back, pass --allow-config-change to continue with these, though "
            f"samples of this epoch may then come twice or not at all, or pass --restart"
        )
    print(f"{said}, and continues with these")


def _other_frozen(theirs, mine):
    """Returns the names of parameters whose values differ, though both use them in one type.

    A run may switch to a cache, or to another type.
    """
    return [
        name
        for name in sorted(theirs.keys() & mine)
        if theirs[name][:-1] == mine[name][:-1] and theirs[name] != mine[name]
    ]

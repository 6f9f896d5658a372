"""A run: the stages of a config one after another, then their evaluation."""

import pathlib

import ml_collections

from toklip_jax.sharding import make_mesh
from toklip_jax.training.stages import train_stage
from toklip_jax.training.workdir import open_workdir


def run(
    config: ml_collections.ConfigDict,
    workdir: str | pathlib.Path,
    mode: str = "train",
    restart: bool = False,
) -> None:
    """Trains what is not yet trained, then evaluates.

    Args:
        config: what `configs/*.py` return.
        workdir: resumed if it holds a run of this config.
        mode: "train", or "eval" to evaluate only, of a run that is finished.
        restart: begin anew.

    Raises:
        ValueError: from the config or the workdir; says what to change.
    """

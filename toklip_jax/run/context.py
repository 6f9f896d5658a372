"""The context that the parts of a run share."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import jax

from toklip_jax.data.text import TextTokenizer
from toklip_jax.experiment import Experiment
from toklip_jax.tasks.base import Start
from toklip_jax.training.logging import has_log
from toklip_jax.training.workdir import weights_directory, weights_path
from toklip_jax.weights import Weights
from toklip_jax.weights.read import read_weights


@dataclasses.dataclass(frozen=True)
class RunContext:
    """A run: its config, its directory, and the mesh it runs on.

    workdir/
        config.json, run.json        what `training.workdir` keeps
        tokenizer.json               of the run's texts
        STAGE/checkpoints/           while it trains: state, optimizer
        STAGE/metrics.jsonl, STAGE/tensorboard/
        STAGE/weights/               when it is done: what `toklip_jax.load` and `convert` read

    Attributes:
        tokenizer_path: the path of the text tokenizer, or None where there are no texts.
        profile: steps [first, last) of each stage to write a profile of, or None.
        allows_config_change: continue a run whose config differs, after printing how.
        run_id: the run's id, which stands in all that it keeps.
        accept: keeps the config as the run's; all hosts call it, once nothing of it was refused.
    """

    experiment: Experiment
    workdir: pathlib.Path
    mesh: jax.sharding.Mesh
    tokenizer_path: pathlib.Path | None = None
    profile: tuple[int, int] | None = None
    allows_config_change: bool = False
    run_id: str = ""
    accept: Callable[[], None] = lambda: None

    @property
    def start(self) -> Start:
        """The context that a stage starts with."""
        experiment = self.experiment
        return Start(
            experiment.compute,
            self.mesh,
            experiment.seed,
            self.read_weights,
            self.tokenizer_path,
        )

    def weights_directory(self, stage: str) -> pathlib.Path:
        """Returns where a stage leaves its weights; it exists when the stage is done."""
        return weights_directory(self.workdir, stage)

    def has_begun(self, stage: str) -> bool:
        """Tells whether a stage has left anything that later steps or stages continue from."""
        directory = self.workdir / stage
        is_kept = any(directory.glob("checkpoints/[0-9]*")) or has_log(directory)
        return is_kept or self.weights_directory(stage).exists()

    def read_weights(self, source: str) -> Weights:
        """Reads the weights that a config names, in the layout of the run's `compute`."""
        weights = read_weights(weights_path(source, self.workdir))
        return weights.with_layout(self.experiment.compute.is_scanned)

    def text_tokenizer(self, tower: Any | None) -> TextTokenizer | None:
        """Returns the tokenizer of the run's texts, or None.

        Args:
            tower: config of the text tower that reads them, or None.

        Raises:
            ValueError: the tower doesn't take the tokenizer's ids, or texts of the config's length.
        """
        if self.tokenizer_path is None or tower is None:
            return None
        length = self.experiment.text.context_length or tower.context_length
        tokenizer = TextTokenizer.load(self.tokenizer_path, length)
        tokenizer.expect_fits(tower)
        return tokenizer

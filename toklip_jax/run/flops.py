"""FLOPs of the stages of a run that are still to come, from which the time left is estimated."""

from toklip_jax.experiment import Experiment
from toklip_jax.planning.step import build_step
from toklip_jax.tasks.base import StageConfig


def flops_after(stage: StageConfig, experiment: Experiment) -> float | None:
    """Returns the FLOPs of all steps of the stages after one, without evaluations and caches.

    Models are traced, and nothing is compiled. None where the config alone doesn't tell a model.
    """
    names = [other.name for other in experiment.stages]
    later = experiment.stages[names.index(stage.name) + 1 :]
    try:
        return float(sum(_flops(experiment, one) for one in later))
    except Exception:  # sizes that only weights tell, most often; no estimate may stop a run
        return None


def _flops(experiment, stage):
    return build_step(experiment, stage).model_flops() * stage.loop.steps

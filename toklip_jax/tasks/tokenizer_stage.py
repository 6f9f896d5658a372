"""Stages that leave a tokenizer, as later stages of the same config plan with it."""

from collections.abc import Mapping

from toklip_jax.core.fields import check_name
from toklip_jax.models.registry import VQConfig
from toklip_jax.models.toklip.config import TokLIPConfig
from toklip_jax.nn.config import Compute
from toklip_jax.tasks.base import StageConfig
from toklip_jax.tasks.toklip.task import TOKLIP
from toklip_jax.tasks.vq.task import PERCEPTUAL_VQ, VQ
from toklip_jax.training.workdir import STAGE_PREFIX

TOKENIZER = "tokenizer"  # the field of `init`
MAKERS = {task.name: task for task in (VQ, PERCEPTUAL_VQ, TOKLIP)}


def tokenizer_of_stage(
    stage: StageConfig, stages: Mapping[str, StageConfig], compute: Compute
) -> VQConfig | TokLIPConfig:
    """Returns the config of the tokenizer that another stage trains, which `init` names.

    Args:
        stages: all stages of the config by name.

    Raises:
        ValueError: there is no such stage, or it leaves no tokenizer.
    """
    source, where = stage.model.init[TOKENIZER], f"{stage.name}.init.{TOKENIZER}"
    other = stages[check_name(where, source.removeprefix(STAGE_PREFIX), stages)]
    task = MAKERS[check_name(where, other.task, MAKERS)]
    return task.outline(other, stages, compute).model_config

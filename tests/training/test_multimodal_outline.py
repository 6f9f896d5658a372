"""Multimodal stages are planned by named sizes, without reading a file."""

import pathlib

import jax
import pytest

from toklip_jax.cli import train as command
from toklip_jax.costs.flops import count_flops
from toklip_jax.experiment import read_experiment
from toklip_jax.models.registry import named_size
from toklip_jax.nn.config import Compute
from toklip_jax.planning.step import build_step, find_stage
from toklip_jax.tasks.base import StageConfig
from toklip_jax.tasks.multimodal.task import MULTIMODAL
from toklip_jax.training.loop_config import LoopConfig
from toklip_jax.training.optimizer import OptimizerConfig
from toklip_jax.training.state import partition

ROOT = pathlib.Path(__file__).parents[2]
FILES = {"language_model": "qwen", "tokenizer": "toklip.pt"}
SIZES = {"language_model": "qwen2.5_tiny", "tokenizer": "tiny"}


def experiment_of(config, *flags):
    path = ROOT / "configs" / config
    arguments = [f"--config={path}", "--workdir=.", *flags]
    return read_experiment(command.parse(arguments).config)


def stages_of(config, *flags):
    return experiment_of(config, *flags).sections


def outline(stages, name):
    return MULTIMODAL.outline(stages[name], stages, Compute(is_scanned=True))


def outline_of(section):
    return outline({"answer": made_up(section)}, "answer")


def shapes(stages, name, batch_size=2):
    arguments = MULTIMODAL.batch_arguments(stages[name])
    batch = MULTIMODAL.batch(outline(stages, name), None, batch_size, **arguments)
    return {field: x.shape for field, x in batch.items()}


def made_up(section, name="answer"):
    return StageConfig(
        name,
        "multimodal",
        MULTIMODAL.read(section, name),
        {},
        OptimizerConfig(),
        LoopConfig(steps=1),
        2,
        None,
    )


@pytest.mark.parametrize("size", ["0.5b", "1.5b", "7b"])
def test_both_stages_of_the_released_config_are_outlined_by_their_sizes(size):
    stages = stages_of(f"multimodal_qwen2_5_7b.py:size={size},lora=16")
    for name, rank in (("projector", 0), ("instructions", 16)):
        config = outline(stages, name).model_config
        assert config.language_model == named_size(f"qwen2.5_{size}", "language_model")
        assert config.tokenizer == named_size("toklip_l_384", "toklip")
        assert config.lora_rank == rank


def test_each_stage_is_planned_for_the_lines_of_its_source():
    stages = stages_of("multimodal_qwen2_5_7b.py")
    for name, length in (("projector", 768), ("instructions", 2048)):
        found = shapes(stages, name)
        assert found["ids"] == (2, length)
        assert found["images"] == (2, 1, 384, 384, 3)
        assert "image_ids" not in found  # the step makes them


def test_a_cache_of_ids_is_planned_without_pixels():
    stages = stages_of(
        "one_model_qwen3_1_7b.py",
        "--config.multimodal.source.images=",
        "--config.multimodal.source.length=1024",
        "--config.multimodal.source.max_images=1",
    )
    source = stages["multimodal"].source
    source.arguments["cache"] = "ids"
    found = shapes(stages, "multimodal")
    assert found["ids"] == (2, 1024)
    assert found["image_ids"] == (2, 1, 576)
    assert "images" not in found


def test_the_config_of_one_model_trains_its_images_vocabulary_and_leaves_toklip():
    objective = outline(stages_of("one_model_qwen3_1_7b.py"), "multimodal")
    assert objective.model_config.reads == ("tokens", "ids")
    assert (objective.image_weight, objective.z_loss) == (0.5, 1e-4)
    params = jax.eval_shape(objective.init, jax.random.key(0))
    trainable, frozen = partition(params, objective.trainable)
    assert trainable["image_embed"].shape == (16_384, 2048)
    assert set(frozen) == {"tokenizer"}


def test_a_stage_reads_of_an_image_what_the_stage_that_it_continues_reads():
    first = made_up({"model": {"reads": ("codes", "ids")}, "init": FILES, "sizes": SIZES}, "first")
    second = made_up({"model": {"lora_rank": 2}, "init": {"model": "stage:first"}, "sizes": SIZES})
    config = outline({"first": first, "answer": second}, "answer").model_config
    assert config.reads == ("codes", "ids")
    assert config.lora_rank == 2


def test_a_teachers_image_tower_is_named_like_the_others():
    sizes = {"language_model": "qwen2.5_tiny", "image_tower": "siglip2_so400m_256"}
    init = {"language_model": "qwen", "image_tower": "siglip"}
    section = {"model": {"reads": ("pixels",)}, "init": init, "sizes": sizes}
    config = outline_of(section).model_config
    assert config.image_tower == named_size("siglip2_so400m_256", "teacher").vision


@pytest.mark.parametrize(
    ("init", "sizes", "message"),
    [
        (FILES, SIZES | {"tokenizer": "toklip_m"}, "in answer.sizes.tokenizer, expected a size"),
        (FILES, SIZES | {"language_model": "tiny"}, "in answer.sizes.language_model, expected a"),
        (FILES, SIZES | {"lm": "x"}, "a field of answer.sizes, a part in answer.init"),
        (FILES, SIZES | {"image_tower": "siglip2_so400m_256"}, "a part in answer.init"),
        (FILES, {"tokenizer": "tiny"}, "set answer.sizes.language_model"),
        (FILES, {}, "set answer.sizes.language_model"),
        ({"model": "whole"}, {}, "set answer.sizes.language_model"),
        ({"model": "stage:other"}, SIZES, "expected answer.init.model among"),
    ],
)
def test_sizes_that_are_unknown_or_missing_give_one_clear_error(init, sizes, message):
    with pytest.raises(ValueError, match=message):
        outline_of({"model": {}, "init": init, "sizes": sizes})


def test_a_stage_without_sizes_has_no_outline_and_is_no_error():
    assert not MULTIMODAL.can_outline(made_up({"model": {}, "init": FILES}))
    assert MULTIMODAL.can_outline(made_up({"model": {}, "init": FILES, "sizes": SIZES}))


def test_model_flops_leave_out_what_is_computed_twice():
    """Layers under `remat`, and logits in blocks (`loss_block`)."""
    tiny = ("sizes.language_model=qwen2.5_tiny", "sizes.tokenizer=tiny", "source.image_size=64")
    flags = [f"--config.{stage}.{x}" for stage in ("projector", "instructions") for x in tiny]

    def step_of(remat, block):
        experiment = experiment_of(
            "multimodal_qwen2_5_7b.py",
            "--config.image_size=64",
            f"--config.compute.remat={remat}",
            *flags,
            f"--config.instructions.loss.loss_block={block}",
        )
        return build_step(experiment, find_stage(experiment, "instructions"), batch_size=2)

    def executed(step):
        return count_flops(step.function(), *step.arguments)

    plain = step_of("none", 0)
    assert plain.model_flops() == executed(plain)
    for remat, block in (("full", 0), ("none", 256)):
        step = step_of(remat, block)
        assert step.model_flops() == plain.model_flops() < executed(step)

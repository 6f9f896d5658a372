"""A VQ tokenizer that also compares what a frozen teacher sees: values, gradients, runs, errors."""

import dataclasses
import pathlib
import runpy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import toklip_jax
from toklip_jax.core.errors import UserError
from toklip_jax.experiment import read_experiment
from toklip_jax.models.generator.config import GPTConfig
from toklip_jax.models.registry import build_model, named_size
from toklip_jax.models.serialization import config_to_dict
from toklip_jax.nn.config import Compute
from toklip_jax.run.run import run
from toklip_jax.tasks.base import Start
from toklip_jax.tasks.registry import task_of
from toklip_jax.tasks.vq.objective import VQObjective
from toklip_jax.tasks.vq.perceptual import PerceptualVQObjective
from toklip_jax.training.state import merge, partition
from toklip_jax.training.step import gradients
from toklip_jax.weights import load_weights

pytestmark = pytest.mark.usefixtures("highest_precision")

TINY_RUN = runpy.run_path(str(pathlib.Path(__file__).with_name("tiny_run.py")))
SIZE, TEACHER, VQ = (TINY_RUN[name] for name in ("SIZE", "TEACHER", "VQ"))
leave_random_weights = TINY_RUN["leave_random_weights"]
COMPUTE = Compute(is_scanned=False)
PERCEPTUAL = PerceptualVQObjective(VQ, COMPUTE, teacher_config=TEACHER.vision)


@pytest.fixture(scope="module")
def params():
    return jax.jit(PERCEPTUAL.init)(jax.random.key(0))


@pytest.fixture(scope="module")
def images():
    drawn = np.random.default_rng(0).uniform(-1, 1, (2, 3, SIZE, SIZE, 3))
    return jnp.asarray(drawn, jnp.float32)


def one_by_one(params, images, depth):
    """The normalised tokens of a tower that has `depth` blocks, before its final norm."""
    vision = dataclasses.replace(TEACHER.vision, depth=depth)
    tower = PerceptualVQObjective(VQ, COMPUTE, teacher_config=vision).teacher
    kept = {f"blocks_{i}": params["stack"][f"blocks_{i}"] for i in range(depth)}

    def tokens(module, pixels):
        x = module.patch_embed(pixels)
        x = x.reshape(len(x), -1, x.shape[-1]) + module.pos_embed
        return module.stack(x)[0]

    found = tower.apply({"params": params | {"stack": kept}}, images, method=tokens)
    return found / jnp.linalg.norm(found, axis=-1, keepdims=True)


def test_it_is_the_mean_squared_distance_of_normalised_tokens_after_each_block(params, images):
    depth, distances = TEACHER.vision.depth, []
    for blocks in range(1, depth + 1):
        a, b = (one_by_one(params["teacher"], pixels, blocks) for pixels in images)
        distances.append(jnp.mean(jnp.sum((a - b) ** 2, axis=-1), axis=-1))
    got = PERCEPTUAL.image_losses(params, *images)
    np.testing.assert_allclose(got["perceptual"], sum(distances) / depth, rtol=1e-5)
    plain = VQObjective(VQ, COMPUTE).image_losses(params, *images)
    assert set(got) == {*plain, "perceptual"}
    np.testing.assert_array_equal(got["mse"], plain["mse"])


def test_equal_images_have_none(params, images):
    assert not PERCEPTUAL.image_losses(params, images[0], images[0])["perceptual"].any()


def test_a_scanned_teacher_sees_the_same(params, images):
    scanned = dataclasses.replace(PERCEPTUAL, compute=Compute(is_scanned=True))
    stack = params["teacher"]["stack"]
    blocks = [stack[f"blocks_{i}"] for i in range(TEACHER.vision.depth)]
    stacked = {"blocks": jax.tree.map(lambda *x: jnp.stack(x), *blocks)}
    others = params | {"teacher": params["teacher"] | {"stack": stacked}}
    got = scanned.image_losses(others, *images)["perceptual"]
    want = PERCEPTUAL.image_losses(params, *images)["perceptual"]
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_images_of_another_size_are_resized(params):
    image = jnp.full((1, 2 * SIZE, 2 * SIZE, 3), 0.5, jnp.float32)
    large = PERCEPTUAL.image_losses(params, image, -image)["perceptual"]
    small = image[:, :SIZE, :SIZE]
    want = PERCEPTUAL.image_losses(params, small, -small)["perceptual"]
    np.testing.assert_allclose(large, want, rtol=1e-5)


def test_its_weight_times_the_distance_is_what_it_adds_to_the_loss(params, images):
    batch = {"images": images[0]}

    def loss(weight):
        objective = dataclasses.replace(PERCEPTUAL, perceptual_weight=weight)
        return gradients(
            objective, *partition(params, objective.trainable), batch, jax.random.key(0), chunks=1
        )

    with_it, without = loss(0.5), loss(0.0)
    distance = with_it[1]["perceptual"]
    assert distance > 0
    np.testing.assert_allclose(with_it[0] - without[0], 0.5 * distance, rtol=1e-4)


def test_the_teacher_gets_no_gradient_and_the_decoder_gets_its_own(params, images):
    trainable, frozen = partition(params, PERCEPTUAL.trainable)
    assert set(frozen) == {"teacher"}

    def distance(trainable):
        merged = merge(trainable, frozen)
        pixels = images[0]
        made = build_model(VQ, COMPUTE).apply({"params": merged}, pixels).images
        return jnp.sum(PERCEPTUAL.image_losses(merged, pixels, made)["perceptual"])

    kernel = ("decoder", "conv_out", "kernel")
    found = jax.grad(distance)(trainable)
    direction = jax.tree.map(jnp.zeros_like, trainable)
    direction["decoder"][kernel[1]][kernel[2]] = found["decoder"][kernel[1]][kernel[2]]
    size = float(sum(jnp.sum(x**2) for x in jax.tree.leaves(direction)))
    assert size > 0
    step = 1e-3 / size**0.5
    up, down = (
        distance(jax.tree.map(lambda x, d, s=sign: x + s * step * d, trainable, direction))
        for sign in (1, -1)
    )
    np.testing.assert_allclose((up - down) / (2 * step), size, rtol=0.02)


def perceptual_config():
    config = TINY_RUN["get_config"]()
    config.stages = ("teacher", "vq")
    config.evaluate = ()
    config.vq.objective = "perceptual_vq"
    config.vq.init = {"teacher": "stage:teacher"}
    config.vq.loss = {"perceptual_weight": 0.5}
    for name in ("vq", "teacher"):
        config[name].loop.steps = 2
        config[name].loop.save_every = 2
    return config


def test_a_run_leaves_a_tokenizer_like_any_other(tmp_path):
    run(read_experiment(perceptual_config()), tmp_path)
    vq = toklip_jax.load(tmp_path / "vq" / "weights")
    images = np.zeros((1, SIZE, SIZE, 3), np.uint8)
    assert vq.detokenize(vq.tokenize(images)).shape == images.shape
    assert "teacher" not in load_weights(tmp_path / "vq" / "weights").params
    lines = (tmp_path / "vq" / "metrics.jsonl").read_text()
    assert '"perceptual"' in lines


def test_it_starts_from_the_teacher_that_is_named(tmp_path):
    leave_random_weights(tmp_path)
    stage = read_experiment(perceptual_config()).sections["vq"]
    stage = dataclasses.replace(
        stage,
        model=dataclasses.replace(
            stage.model, init={"teacher": str(tmp_path / "teacher" / "weights")}
        ),
    )
    read = []

    def read_weights(source):
        read.append(source)
        return load_weights(source)

    mesh = jax.make_mesh((1, 1, 1), ("data", "fsdp", "tensor"))
    start = Start(COMPUTE, mesh, 0, read_weights)
    objective, params = task_of("perceptual_vq").start(stage, start)
    assert objective.teacher_config == TEACHER.vision
    want = load_weights(read[0]).params["image_tower"]
    jax.tree.map(np.testing.assert_array_equal, params["teacher"], want)
    jax.tree.map(lambda a, b: None, params, jax.eval_shape(objective.init, jax.random.key(0)))


def test_it_is_planned_by_the_stage_that_trains_the_teacher_or_by_a_named_size():
    experiment = read_experiment(perceptual_config())
    task, stage = task_of("perceptual_vq"), experiment.sections["vq"]
    objective = task.outline(stage, experiment.sections, COMPUTE)
    assert objective.teacher_config == TEACHER.vision
    of_file = dataclasses.replace(stage.model, init={"teacher": "a.npz"})
    of_file = dataclasses.replace(stage, model=of_file)
    assert not task.can_outline(of_file)
    with pytest.raises(UserError, match=r"expected vq\.teacher_size"):
        task.outline(of_file, experiment.sections, COMPUTE)
    named = dataclasses.replace(of_file.model, teacher_size="tiny")
    named = dataclasses.replace(of_file, model=named)
    assert task.can_outline(named)
    objective = task.outline(named, experiment.sections, COMPUTE)
    assert objective.teacher_config == named_size("tiny", "teacher").vision


def test_stages_after_it_are_planned_as_after_any_tokenizer():
    config = perceptual_config()
    gpt = GPTConfig(16, 1, 2, grid=(2, 2), codebook_sizes=(32,), num_classes=4)
    config.generator = {
        "objective": "generator",
        "model": config_to_dict(gpt),
        "init": {"tokenizer": "stage:vq"},
        "loop": {"steps": 1},
        "batch_size": 8,
    }
    sections = read_experiment(config).sections
    outlined = {
        name: task_of(name).outline(sections[name], sections, COMPUTE).model_config
        for name in ("toklip", "generator")
    }
    assert outlined["toklip"].vq == outlined["generator"].tokenizer == VQ


@pytest.mark.parametrize("source", ["stage:vq", "stage:techer"])
def test_another_stage_than_a_teachers_is_refused(source):
    config = perceptual_config()
    config.vq.init = {"teacher": source}
    with pytest.raises(UserError, match=r"vq\.init\.teacher"):
        read_experiment(config)


def test_without_a_teacher_it_is_refused():
    config = perceptual_config()
    config.vq.init = {"teacher": ""}
    with pytest.raises(ValueError, match=r"weights of a teacher in .*vq\.init\.teacher, got none"):
        read_experiment(config)


def test_a_teacher_that_would_be_trained_is_refused(tmp_path):
    leave_random_weights(tmp_path)
    config = perceptual_config()
    config.vq.init = {"teacher": str(tmp_path / "teacher" / "weights")}
    stage = read_experiment(config).sections["vq"]
    mesh = jax.make_mesh((1, 1, 1), ("data", "fsdp", "tensor"))

    def start(*trainable):
        changed = dataclasses.replace(stage, loss={"trainable": trainable})
        return task_of("perceptual_vq").start(changed, Start(COMPUTE, mesh, 0, load_weights))

    for pattern in (".*", ".*/kernel", "teacher/pos_embed", ".*/blocks_1/mlp/.*"):
        with pytest.raises(UserError, match=r"stay as it is, got vq\.loss\.trainable"):
            start("decoder/.*", pattern)
    start(r"(?!teacher/).*/kernel")


def test_videos_are_not_resized_to_a_teacher(params):
    videos = jnp.zeros((1, 2, SIZE, SIZE, 3))
    with pytest.raises(UserError, match=r"expected pixels of \(16, 16\), got \(2, 16, 16\)"):
        PERCEPTUAL.image_losses(params, videos, videos)


def test_a_tokenizer_is_no_teacher(tmp_path):
    leave_random_weights(tmp_path)
    config = perceptual_config()
    config.stages = ("vq",)
    config.vq.init = {"teacher": str(tmp_path / "vq" / "weights")}
    with pytest.raises(UserError, match=r"expected a teacher in vq\.init\.teacher, got"):
        run(read_experiment(config), tmp_path / "run")

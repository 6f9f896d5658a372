"""A run that trains from a cache: started, resumed, validated on images, and what it refuses."""

import json
import pathlib
import runpy
import shutil

import jax
import numpy as np
import pytest

from toklip_jax.cli import train as command
from toklip_jax.data.cache import load_header
from toklip_jax.experiment import read_experiment
from toklip_jax.planning.plan import plan
from toklip_jax.run.encode import encode
from toklip_jax.training import loop
from toklip_jax.training.logging import read_metrics
from toklip_jax.training.workdir import open_workdir
from toklip_jax.weights import Weights, save_weights
from toklip_jax.weights.read import read_weights

CONFIG = pathlib.Path(__file__).parent / "tiny_run.py"
leave_random_weights = runpy.run_path(str(CONFIG))["leave_random_weights"]
ENCODE = "{'crops': 1, 'feature_dtype': 'float32', 'batch_size': 4, 'records_per_shard': 8}"
TEXT = """
import runpy
def get_config():
    config = runpy.run_path({tiny!r})["get_config"]()
    with config.unlocked():
        config.toklip.cache = ""
        config.encode = {encode}
        config.evaluate = ()
        config.toklip.loop.steps = 6
        # Each sample is seen with one of two captions, which the cache has drawn: give it one.
        config.source.num_captions = 1
    return config
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A config, a run trained from images, and a cache by the same models."""
    directory = tmp_path_factory.mktemp("cached")
    path = directory / "config.py"
    path.write_text(TEXT.format(tiny=str(CONFIG), encode=ENCODE))
    config = command.parse([f"--config={path}", "--workdir=."]).config
    experiment = read_experiment(config)
    open_workdir(directory / "images", experiment.description)
    leave_random_weights(directory / "images")
    assert run(path, directory / "images") == 0
    encode(experiment, directory / "cache", directory / "images")
    return path, directory / "images", directory / "cache"


def run(config, workdir, *flags):
    return command.main([f"--config={config}", f"--workdir={workdir}", *flags])


def copy_stages(source, target):
    """The stages before toklip, so that they aren't trained again."""
    for stage in ("vq", "teacher"):
        shutil.copytree(source / stage, target / stage)
    return target


def losses(workdir):
    return [record["loss"] for record in read_metrics(workdir / "toklip" / "metrics.jsonl")]


def test_a_run_from_a_cache_has_the_losses_of_one_from_images(made, tmp_path, monkeypatch):
    path, images, cache = made
    placed, jit_step = [], loop.jit_step

    def recorded(step, mesh, state, frozen, rules):
        placed.append(frozen)
        return jit_step(step, mesh, state, frozen, rules)

    monkeypatch.setattr(loop, "jit_step", recorded)
    workdir = tmp_path / "run"
    workdir.mkdir()
    (workdir / "config.json").write_text((images / "config.json").read_text())
    copy_stages(images, workdir)
    flags = (f"--config.toklip.cache={cache}", "--allow_config_change")
    assert run(path, workdir, *flags, "--config.toklip.loop.evaluate_every=3") == 0
    np.testing.assert_allclose(losses(workdir), losses(images), rtol=1e-4)
    # Validation still has its images, teacher and all, though steps have none of it on the device.
    last = read_metrics(workdir / "toklip" / "metrics.jsonl")[-1]
    assert {"validation/distillation", "validation/image_to_text_r1"} <= last.keys()
    assert list(placed[0]) == ["vq"]
    assert list(placed[0]["vq"]) == ["codebook"]
    ours, theirs = (read_weights(w / "toklip" / "weights") for w in (workdir, images))
    assert ours.params.keys() == theirs.params.keys()
    got, want = (w.params["token_encoder"]["pos_embed"] for w in (ours, theirs))
    np.testing.assert_allclose(got, want, atol=1e-6)
    # And it continues: as after a kill after the save at step 4.
    before = losses(workdir)
    shutil.rmtree(workdir / "toklip" / "weights")
    shutil.rmtree(workdir / "toklip" / "checkpoints" / "6")
    assert run(path, workdir, *flags, "--config.toklip.loop.evaluate_every=3") == 0
    assert losses(workdir) == before


def test_a_run_from_images_may_go_on_from_a_cache(made, tmp_path):
    path, images, cache = made
    workdir = tmp_path / "run"
    shutil.copytree(images, workdir)
    shutil.rmtree(workdir / "toklip" / "weights")
    shutil.rmtree(workdir / "toklip" / "checkpoints" / "6")
    flag = f"--config.toklip.cache={cache}"
    assert run(path, workdir, flag, "--allow_config_change") == 0
    np.testing.assert_allclose(losses(workdir), losses(images), rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hashes": {"vq": "0" * 64}}, "made with this run's vq"),
        ({"hashes": {"teacher": "0" * 64}}, "made with this run's teacher"),
        ({"hashes": {"text_tower": "0" * 64}}, "made with this run's text_tower"),
        ({"transform": {"augment": {"max_shift": 2.0}}}, "crops by the stage's augment {}"),
        ({"transform": {"resize": "squash"}}, "got whole pictures"),
        ({"compute": {"vq_dtype": "bfloat16"}}, "compute.vq_dtype float32, got bfloat16"),
        ({"image_size": 24}, "image_size 16, the model's, got 24"),
        ({"grid": [4, 1]}, "grid (2, 2), the model's, got (4, 1)"),
        ({"codebook_sizes": [64]}, "codebook_sizes (32,), the model's, got (64,)"),
        ({"context_length": 7}, "context_length 6, the model's, got 7"),
        ({"format": 3}, "of format 1 or 2, got 3"),
        ({"num_samples": 40}, "expected 5 shards"),
    ],
)
def test_a_cache_of_something_else_is_refused_before_a_step(
    made, tmp_path, capsys, change, message
):
    path, images, cache = made
    other = tmp_path / "cache"
    shutil.copytree(cache, other)
    header = json.loads((other / "header.json").read_text())
    del header["checksum"]
    for name, value in change.items():
        header[name] = header[name] | value if isinstance(value, dict) else value
    (other / "header.json").write_text(json.dumps(header))
    workdir = images_without_toklip(images, tmp_path)
    flag = f"--config.toklip.cache={other}"
    assert run(path, workdir, flag, "--allow_config_change") == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (workdir / "toklip" / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--config.toklip.cache=CACHE", "--config.toklip.loss.token_weight=1.0"],
            "token_weight 0",
        ),
        (["--config.toklip.cache=CACHE/none"], "found no header.json: make one with"),
    ],
)
def test_what_a_cache_cannot_serve_is_refused(made, tmp_path, capsys, flags, message):
    path, images, cache = made
    more = "        config.toklip.loss.token_weight = 0.0\n    return config"
    text = path.read_text().replace("    return config", more)
    (tmp_path / "config.py").write_text(text)
    workdir = images_without_toklip(images, tmp_path)
    flags = [flag.replace("CACHE", str(cache)) for flag in flags]
    assert run(tmp_path / "config.py", workdir, *flags, "--allow_config_change") == 2
    assert message in capsys.readouterr().err


def test_other_weights_are_another_cache(made, tmp_path, capsys):
    path, images, cache = made
    workdir = images_without_toklip(images, tmp_path)
    weights = read_weights(workdir / "vq" / "weights")
    params = {**weights.params, "codebook": weights.params["codebook"] + 1e-3}
    shutil.rmtree(workdir / "vq" / "weights")
    save_weights(workdir / "vq" / "weights", Weights(weights.config, params, weights.is_scanned))
    flag = f"--config.toklip.cache={cache}"
    assert run(path, workdir, flag, "--allow_config_change") == 2
    assert "made with this run's vq" in capsys.readouterr().err


def test_other_stages_and_evaluations(made, tmp_path, capsys):
    """A cache trains toklip alone; what asks for ids and labels is evaluated from one."""
    path, images, cache = made
    text = path.read_text()
    source = f"        config.source = {{'kind': 'cache', 'directory': {str(cache)!r}}}\n"
    (tmp_path / "config.py").write_text(
        text.replace("    return config", source + "    return config")
    )
    assert run(tmp_path / "config.py", tmp_path / "run") == 2
    assert "expected a source of images for the vq stage vq, got a cache" in capsys.readouterr().err
    data = {"kind": "cache", "directory": str(cache)}
    evaluated = (
        "        config.evaluate = ('meaning',)\n"
        f"        config.evaluations.meaning.train = {data}\n"
        f"        config.evaluations.meaning.test = {data}\n"
    )
    text = text.replace("        config.evaluate = ()\n", evaluated)
    (tmp_path / "config.py").write_text(text)
    shutil.copytree(images, tmp_path / "evaluated")
    assert run(tmp_path / "config.py", tmp_path / "evaluated", "--mode=eval") == 0
    results = json.loads((tmp_path / "evaluated" / "results.json").read_text())
    names = {row["model"] for row in results["evaluations"]["meaning"]["rows"]}
    assert "TokLIP, pooled" in names
    assert load_header(cache).num_samples == 20


def images_without_toklip(images, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(images, workdir)
    shutil.rmtree(workdir / "toklip")
    return workdir


@pytest.mark.slow
def test_the_plan_is_of_the_step_from_a_cache(made):
    path, _, cache = made
    config = command.parse([f"--config={path}", "--workdir=."]).config
    images = plan(read_experiment(config), jax.devices()[:1])
    config.toklip.cache = str(cache)
    cached = plan(read_experiment(config), jax.devices()[:1])
    assert cached.model_flops < images.model_flops
    assert cached.parameters == images.parameters
    assert cached.frozen == 32 * 8 * 4  # the codebook

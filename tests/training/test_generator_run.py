"""A run that trains a generator, from images and from a cache, and post-trains it."""

import dataclasses
import json
import pathlib
import runpy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

import toklip_jax
from benchmarks.weights import random_params
from toklip_jax.core.errors import UserError
from toklip_jax.experiment import read_experiment
from toklip_jax.models.generator.config import GeneratorConfig, GPTConfig
from toklip_jax.models.registry import init_params
from toklip_jax.models.serialization import config_to_dict
from toklip_jax.nn.config import Compute
from toklip_jax.run.encode import encode
from toklip_jax.run.run import run
from toklip_jax.tasks.generator.objective import GeneratorObjective
from toklip_jax.tasks.grpo.objective import GRPOObjective
from toklip_jax.weights import load_weights, save_weights

TOKLIP = pathlib.Path(__file__).parents[1] / "weights" / "format_1" / "toklip"
GPT = GPTConfig(
    16,
    2,
    2,
    grid=(4, 4),
    codebook_sizes=(16,),
    num_classes=4,
    semantic="concat",
    semantic_dim=16,
)


def config_of(gpt=GPT, **generator):
    return ConfigDict(
        {
            "seed": 0,
            "mesh": {"data": -1, "fsdp": 1, "tensor": 1},
            "compute": {"dtype": "float32", "is_scanned": True, "remat": "none"},
            "source": {
                "kind": "synthetic",
                "num_samples": 20,
                "image_size": 16,
                "context_length": 6,
                "vocab_size": 40,
            },
            "text": {"tokenizer": "", "vocab_size": 40, "context_length": 6},
            "num_workers": 0,
            "stages": ("generator",),
            "encode": {
                "stage": "generator",
                "crops": 2,
                "features": (),
                "has_text": False,
                "batch_size": 8,
                "records_per_shard": 16,
            },
            "generator": {
                "objective": "generator",
                "model": config_to_dict(gpt),
                "init": {"tokenizer": str(TOKLIP), "gpt": ""},
                "loss": {},
                "optimizer": {"learning_rate": 1e-2, "warmup_steps": 1, "schedule": "constant"},
                "loop": {"steps": 12, "log_every": 1, "save_every": 6},
                "batch_size": 8,
                "augment": {},
                **generator,
            },
        }
    )


def losses(workdir, stage="generator"):
    lines = (workdir / stage / "metrics.jsonl").read_text().splitlines()
    return [entry["loss"] for entry in map(json.loads, lines) if "loss" in entry]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("generator")
    run(read_experiment(config_of()), workdir)
    return workdir


def test_a_run_leaves_a_generator_that_draws_images(trained):
    found = losses(trained)
    np.testing.assert_allclose(found[0], np.log(16), rtol=1e-5)  # the heads start at zero
    assert found[-1] < found[0]
    generator = toklip_jax.load(trained / "generator" / "weights")
    ids = generator.sample(classes=[0, 3], key=0, cfg_scale=1.5)
    assert generator.detokenize(ids).shape == (2, 16, 16, 3)
    assert generator.config.gpt == GPT


def test_the_tokenizer_is_not_trained(trained):
    generator = toklip_jax.load(trained / "generator" / "weights")
    toklip = toklip_jax.load(TOKLIP)
    ids = np.arange(16)[None] % 16
    np.testing.assert_array_equal(
        generator.params["tokenizer"]["vq"]["codebook"], toklip.params["vq"]["codebook"]
    )
    np.testing.assert_allclose(generator.detokenize(ids), toklip.detokenize(ids), atol=1e-6)


def test_a_generator_trains_on_a_cache_of_ids(tmp_path):
    experiment = read_experiment(config_of())
    header = encode(experiment, tmp_path / "cache")
    assert set(header.names) == {"ids", "labels"}
    run(read_experiment(config_of(cache=str(tmp_path / "cache"))), tmp_path / "run")
    assert losses(tmp_path / "run")[-1] < losses(tmp_path / "run")[0]


def test_a_cache_of_another_tokenizer_is_refused(tmp_path):
    encode(read_experiment(config_of()), tmp_path / "cache")
    header = json.loads((tmp_path / "cache" / "header.json").read_text())
    header["hashes"]["vq"] = "0" * 64
    header.pop("checksum")
    (tmp_path / "cache" / "header.json").write_text(json.dumps(header))
    with pytest.raises(UserError, match=r"init\.tokenizer"):
        run(read_experiment(config_of(cache=str(tmp_path / "cache"))), tmp_path / "run")


def test_captions_may_be_the_text_towers_tokens(tmp_path):
    gpt = GPTConfig(
        16, 1, 2, grid=(4, 4), codebook_sizes=(16,), num_classes=0, caption_dim=16, caption_length=6
    )
    config = config_of(gpt)
    config.generator.loop.steps = 3
    run(read_experiment(config), tmp_path)
    generator = toklip_jax.load(tmp_path / "generator" / "weights")
    captions = generator._call("text_tokens", np.ones((2, 6), int))
    assert generator.sample(captions=captions, key=0).shape == (2, 16)


def grpo_config(generator, **loss):
    config = config_of()
    config.stages = ("grpo",)
    config.grpo = {
        "objective": "grpo",
        "init": {"generator": str(generator)},
        "prompts": ("a dog", "a cat", "a car", "a tree"),
        "loss": {"group_size": 4, "kl_weight": 0.1, **loss},
        "optimizer": {"learning_rate": 1e-2, "warmup_steps": 1, "schedule": "constant"},
        "loop": {"steps": 4, "log_every": 1, "save_every": 2},
        "batch_size": 8,
        "augment": {},
    }
    return config


def test_rewards_post_train_a_generator(trained, tmp_path):
    start = trained / "generator" / "weights"
    run(read_experiment(grpo_config(start)), tmp_path / "run")
    lines = (tmp_path / "run" / "grpo" / "metrics.jsonl").read_text().splitlines()
    steps = [entry for entry in map(json.loads, lines) if "reward" in entry]
    assert len(steps) == 4
    assert all(0 <= step["reward"] <= 1 for step in steps)
    assert abs(steps[0]["kl"]) < 1e-6 < steps[-1]["kl"]  # it has left its start, which stayed
    after = toklip_jax.load(tmp_path / "run" / "grpo" / "weights")
    before = toklip_jax.load(start)
    assert set(after.params) == {"gpt", "tokenizer"}
    assert after.best_of(["a cat"], classes=[1], num=2).ids.shape == (1, 16)  # it kept the texts'
    head = "gpt", "head", "codes_0"
    assert not np.array_equal(leaf(after.params, head), leaf(before.params, head))
    codes = "tokenizer", "vq", "codebook"
    np.testing.assert_array_equal(leaf(after.params, codes), leaf(before.params, codes))


def leaf(params, path):
    for name in path:
        params = params[name]
    return np.asarray(params)


def test_a_generator_without_a_text_tokenizer_has_no_rewards(trained, tmp_path):
    weights = load_weights(trained / "generator" / "weights")
    assert weights.tokenizer_path is not None  # TokLIP's own
    save_weights(tmp_path / "without", dataclasses.replace(weights, tokenizer_path=None))
    with pytest.raises(UserError, match="a text tokenizer beside"):
        run(read_experiment(grpo_config(tmp_path / "without")), tmp_path / "run")


@pytest.mark.parametrize("patterns", [("start/.*",), (".*",), ("tokenizer/token_encoder/.*",)])
def test_rewards_train_the_gpt_alone(trained, tmp_path, patterns):
    config = grpo_config(trained / "generator" / "weights", trainable=patterns)
    with pytest.raises(UserError, match=r"loss\.trainable to name parameters of the GPT"):
        run(read_experiment(config), tmp_path)


@pytest.mark.parametrize("label", [-1, 4, 100])
def test_labels_that_are_no_class_give_no_loss(label):
    config = GeneratorConfig(dataclasses.replace(GPT, semantic="none", semantic_dim=0))
    objective = GeneratorObjective(config, Compute(is_scanned=False))
    params = random_params(objective.init)
    ids = jnp.zeros((2, 16), jnp.int32)
    compute = jax.jit(lambda batch: objective.loss(params, batch, jax.random.key(0))[0])

    def loss(labels):
        return float(compute({"ids": ids, "labels": jnp.asarray(labels, jnp.int32)}))

    assert np.isfinite(loss([0, 3]))
    assert np.isnan(loss([0, label]))


def test_other_text_encoders_features_are_refused_at_the_start(tmp_path):
    gpt = GPTConfig(
        16, 1, 2, grid=(4, 4), codebook_sizes=(16,), num_classes=0, caption_dim=24, caption_length=6
    )
    with pytest.raises(UserError, match="TokLIP's own text tower"):
        run(read_experiment(config_of(gpt)), tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"init": {}}, "weights of a tokenizer"),
        ({"init": {"tokenizer": str(TOKLIP), "vq": "x"}}, "init"),
        ({"model": config_to_dict(GPTConfig(16, 1, 2, codebook_sizes=(8,)))}, "codebooks of"),
        ({"loss": {"condition_dropout": 2.0}}, "condition_dropout"),
    ],
)
def test_what_does_not_fit_is_one_clear_error(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        run(read_experiment(config_of(**change)), tmp_path)


def test_gradients_of_grpo_favour_what_was_rewarded():
    """Two images a group: the likelier becomes that with the greater reward."""
    weights = load_weights(TOKLIP)
    compute = Compute(is_scanned=weights.is_scanned)
    config = GeneratorConfig(GPT, weights.config)
    params = jax.device_put(random_params(lambda key: init_params(config, compute, key)))
    params["tokenizer"] = jax.tree.map(jnp.asarray, weights.params)
    params |= {"start": params["gpt"], "prompts": jnp.eye(4, 16)}

    class First(GRPOObjective):
        def rewards(self, params, ids, labels):
            return (ids[:, 0] == 3).astype(jnp.float32)

    objective = First(config, compute, group_size=32, kl_weight=0.0)
    batch = {"labels": jnp.zeros(4, jnp.int32)}

    def probability(gpt):
        logits = objective.model.apply(
            {"params": params | {"gpt": gpt}}, jnp.zeros((1, 16), int), jnp.zeros(1, int),
            method="logits",
        )  # fmt: skip
        return float(jax.nn.softmax(logits[0, 0])[3])

    def loss(gpt):
        return objective.loss(params | {"gpt": gpt}, batch, jax.random.key(1))

    gradient, metrics = jax.jit(jax.grad(loss, has_aux=True))(params["gpt"])
    stepped = jax.tree.map(lambda p, g: p - 0.3 * g, params["gpt"], gradient)
    assert probability(stepped) > probability(params["gpt"])
    assert abs(float(metrics["kl"])) < 1e-6  # nothing has moved yet


@pytest.mark.parametrize("options", ["", "size=l", "size=b,semantic=concat"])
def test_the_recipe_for_classes_is_read(options):
    configs = pathlib.Path(__file__).parents[2] / "configs"
    config = runpy.run_path(str(configs / "gen_c2i_b_256.py"))["get_config"](options)
    experiment = read_experiment(config)
    assert experiment.encode.stage == "generator"
    assert experiment.encode.features == ()
    assert experiment.stages[0].optimizer.schedule == "constant"


@pytest.mark.parametrize("options", ["size=huge", "depth=3", "semantic", "size=b,size=l"])
def test_other_options_of_the_recipe_are_refused(options):
    configs = pathlib.Path(__file__).parents[2] / "configs"
    get_config = runpy.run_path(str(configs / "gen_c2i_b_256.py"))["get_config"]
    with pytest.raises(UserError, match="expected"):
        get_config(options)

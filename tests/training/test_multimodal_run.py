"""A run of two stages, a new language model beside TokLIP and then LoRA, and its answers."""

import json
import pathlib

import jax
import numpy as np
import PIL.Image
import pytest
from ml_collections import ConfigDict

import toklip_jax
from toklip_jax.cli import convert
from toklip_jax.data.text import train_tokenizer
from toklip_jax.experiment import read_experiment
from toklip_jax.models.generator.config import GPTConfig
from toklip_jax.models.qwen.config import QwenConfig
from toklip_jax.models.serialization import config_to_dict
from toklip_jax.run.encode import encode
from toklip_jax.run.run import run
from toklip_jax.weights import load_weights

TOKLIP = pathlib.Path(__file__).parents[1] / "weights" / "format_1" / "toklip"
COLOURS = ("red", "green", "blue", "yellow")


@pytest.fixture
def data(tmp_path):
    """(Folder of pictures, LLaVA's JSON, a text tokenizer with its size)."""
    images = tmp_path / "images"
    (images / "all").mkdir(parents=True)
    rows = []
    for colour in COLOURS:
        PIL.Image.new("RGB", (16, 16), colour).save(images / "all" / f"{colour}.png")
        turns = [("human", "<image>\nWhat is it?"), ("gpt", f"all {colour}")]
        said = [{"from": side, "value": text} for side, text in turns]
        rows.append({"id": colour, "image": f"all/{colour}.png", "conversations": said})
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    tokenizer = train_tokenizer([f"all {colour}" for colour in COLOURS], 300)
    tokenizer.save(str(tmp_path / "own.json"))
    return images, tmp_path / "rows.json", tmp_path / "own.json", tokenizer.get_vocab_size()


def config_of(data, **changes):
    images, rows, tokenizer, size = data
    model = QwenConfig(16, 1, 2, 1, 32, vocab_size=size, max_positions=64)
    source = {
        "kind": "conversations",
        "path": str(rows),
        "images": str(images),
        "text_tokenizer": str(tokenizer),
        "template": "plain",
        "tokens_per_image": 16,
        "image_size": 16,
        "length": 48,
        "max_images": 2,
    } | changes
    optimizer = {"learning_rate": 3e-3, "warmup_steps": 0, "weight_decay": 0.0}
    common = {
        "objective": "multimodal",
        "source": source,
        "optimizer": optimizer,
        "loop": {"steps": 2, "log_every": 1, "accumulation": 2},
        "batch_size": 2,
    }
    return ConfigDict(
        {
            "seed": 0,
            "mesh": {"data": -1},
            "image_size": 16,
            "num_workers": 0,
            "stages": ("first", "second"),
            "first": common
            | {
                "model": {"language_model": config_to_dict(model), "template": "plain"},
                "init": {"language_model": "", "tokenizer": str(TOKLIP)},
                "text_tokenizer": str(tokenizer),
                "loss": {"trainable": (r"projector_\w+/.*", "language_model/.*")},
            },
            "second": common
            | {
                "model": {"lora_rank": 2},
                "init": {"model": "stage:first"},
                "loss": {"trainable": (r".*/lora_(down|up)",)},
            },
        }
    )


def test_a_run_of_two_stages_leaves_a_model_that_answers(data, tmp_path):
    workdir = tmp_path / "run"
    run(read_experiment(config_of(data)), workdir)
    first, second = (load_weights(workdir / name / "weights") for name in ("first", "second"))
    assert second.config.lora_rank == 2
    assert second.config.template == "plain"
    kernel = first.params["language_model"]["token_embed"]
    np.testing.assert_array_equal(kernel, second.params["language_model"]["token_embed"])
    vq = load_weights(TOKLIP).params["vq"]
    flat = [np.asarray(x) for tree in (vq, second.params["tokenizer"]["vq"]) for x in leaves(tree)]
    half = len(flat) // 2
    for a, b in zip(flat[:half], flat[half:], strict=True):
        np.testing.assert_array_equal(a, b)
    own = json.loads((workdir / "second" / "weights" / "tokenizer.json").read_text())
    assert own == json.loads(data[2].read_text())
    losses = losses_of(workdir / "first")
    assert len(losses) == 2
    assert all(np.isfinite(losses))
    model = toklip_jax.load(workdir / "second" / "weights")
    picture = PIL.Image.new("RGB", (16, 16), "red")
    (answer,) = model.answer([picture], ["<image>"], max_new_tokens=4)
    assert isinstance(answer, str)


def test_training_from_a_cache_is_that_from_pixels(data, tmp_path):
    """The ids are the same, so the losses are, and the cache's images may be gone."""
    images, *_ = data
    folder = {"kind": "image_folder", "path": str(images)}
    encoding = {
        "seed": 0,
        "mesh": {"data": -1},
        "source": folder,
        "num_workers": 0,
        "stages": ("generator",),
        "encode": {
            "stage": "generator",
            "features": (),
            "has_text": False,
            "batch_size": 2,
            "records_per_shard": 2,
        },
        "generator": {
            "objective": "generator",
            "model": config_to_dict(
                GPTConfig(16, 1, 2, grid=(4, 4), codebook_sizes=(16,), num_classes=4)
            ),
            "init": {"tokenizer": str(TOKLIP), "gpt": ""},
            "optimizer": {},
            "loop": {"steps": 1},
            "batch_size": 2,
            "augment": {},
        },
    }
    encode(read_experiment(ConfigDict(encoding)), tmp_path / "cache")
    found = {}
    cached = {"images": "", "cache": str(tmp_path / "cache"), "source": folder}
    for name, changes in (("pixels", {}), ("cache", cached)):
        config = config_of(data, **changes)
        config.stages = ("first",)
        run(read_experiment(config), tmp_path / name)
        found[name] = losses_of(tmp_path / name / "first")
    assert len(found["cache"]) == 2
    np.testing.assert_allclose(found["cache"], found["pixels"], rtol=1e-6)


def test_a_projector_in_llavas_names_goes_out_and_comes_back(data, tmp_path):
    config = config_of(data)
    config.stages = ("first",)
    run(read_experiment(config), tmp_path / "run")
    weights, file = tmp_path / "run" / "first" / "weights", tmp_path / "llava.safetensors"
    assert convert.main(["to-torch", str(weights), str(file)]) == 0
    # What is not trained shows what a stage starts with.
    config = config_of(data)
    config.stages = ("first",)
    config.first.projector = str(file)
    config.first.loss = {"trainable": ("language_model/.*",)}
    run(read_experiment(config), tmp_path / "again")
    want, got = (load_weights(tmp_path / name / "first" / "weights").params["projector_tokens"]
                 for name in ("run", "again"))  # fmt: skip
    jax.tree.map(np.testing.assert_array_equal, got, want)

    config.first.model.reads = ("tokens", "codes")
    with pytest.raises(ValueError, match="one projector"):
        run(read_experiment(config), tmp_path / "two")
    config.first.init = {"model": "stage:x"}
    with pytest.raises(ValueError, match=r"beside first\.init\.model"):
        read_experiment(config)


def losses_of(stage):
    entries = map(json.loads, (stage / "metrics.jsonl").read_text().splitlines())
    return [entry["loss"] for entry in entries if "loss" in entry]


def leaves(tree):
    for _, value in sorted(tree.items()):
        yield from leaves(value) if isinstance(value, dict) else (value,)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens_per_image": 9}, "tokens_per_image 16"),
        ({"images": ""}, "either images"),
        ({"template": "v9"}, "a template"),
    ],
)
def test_data_that_does_not_fit_the_model_is_refused(data, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        run(read_experiment(config_of(data, **changes)), tmp_path / "run")

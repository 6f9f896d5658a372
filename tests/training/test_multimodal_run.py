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
from toklip_jax.cli.encode import main as encode_command
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


def picture_of(colour):
    """Random rectangles in a colour, wider than high, so that no crop shows all of them."""
    rng = np.random.default_rng(COLOURS.index(colour))
    pixels = rng.integers(0, 256, (6, 11, 3), np.uint8).repeat(4, 0).repeat(4, 1)
    return PIL.Image.blend(
        PIL.Image.fromarray(pixels), PIL.Image.new("RGB", pixels.shape[1::-1], colour), 0.2
    )


@pytest.fixture
def data(tmp_path):
    """(Folder of pictures, LLaVA's JSON, a text tokenizer with its size)."""
    images = tmp_path / "images"
    (images / "all").mkdir(parents=True)
    rows = []
    for colour in COLOURS:
        picture_of(colour).save(images / "all" / f"{colour}.png")
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
    ids = toklip_jax.load(TOKLIP).tokenize([picture_of("red")])
    (answer,) = model.answer([picture_of("red")], ["<image>"], max_new_tokens=4)
    assert answer
    assert [answer] == model.answer(None, ["<image>"], ids=np.asarray(ids), max_new_tokens=4)


def cache_of(data, tmp_path):
    """Encodes the pictures; returns the changes of a source of pixels that reads the cache."""
    folder = {"kind": "image_folder", "root": str(data[0])}
    gpt = GPTConfig(16, 1, 2, grid=(4, 4), codebook_sizes=(16,), num_classes=4)
    section = {"stage": "generator", "features": (), "has_text": False, "resize": "squash"}
    encoding = {
        "seed": 0,
        "mesh": {"data": -1},
        "source": folder,
        "num_workers": 0,
        "stages": ("generator",),
        "encode": section | {"batch_size": 8, "records_per_shard": 8},
        "generator": {
            "objective": "generator",
            "model": config_to_dict(gpt),
            "init": {"tokenizer": str(TOKLIP), "gpt": ""},
            "optimizer": {},
            "loop": {"steps": 1},
            "batch_size": 8,
            "augment": {},
        },
    }
    directory = tmp_path / "cache"
    encode(read_experiment(ConfigDict(encoding)), directory)
    return {"images": "", "cache": str(directory), "source": folder}


def first_stage(data, **changes):
    config = config_of(data, **changes)
    config.stages = ("first",)
    return read_experiment(config)


def test_ids_from_a_cache_and_from_parquet_train_as_pixels_do(data, tmp_path):
    """The ids are the same, so the losses are; what trains on them reads no image."""
    images, rows, *_ = data
    cached = cache_of(data, tmp_path)
    flags = [f"--conversations={rows}", f"--images={images}", f"--tokenizer={TOKLIP}"]
    assert encode_command([*flags, f"--parquet={tmp_path / 'parquet'}"]) == 0
    messages = {"messages": str(tmp_path / "parquet"), "codebook_size": 16}
    messages |= {"images": "", "path": ""}
    sources = {"pixels": {}, "cache": cached, "messages": messages}
    for name, changes in sources.items():
        run(first_stage(data, **changes), tmp_path / f"from_{name}")
    found = {name: losses_of(tmp_path / f"from_{name}" / "first") for name in sources}
    assert len(found["pixels"]) == 2
    assert found["pixels"][1] < found["pixels"][0]
    np.testing.assert_allclose(found["cache"], found["pixels"], rtol=1e-6)
    np.testing.assert_allclose(found["messages"], found["pixels"], rtol=1e-6)
    model = toklip_jax.load(tmp_path / "from_messages" / "first" / "weights", resize="squash")
    tokenizer = toklip_jax.load(TOKLIP, resize="squash")
    pictures = [picture_of(colour) for colour in COLOURS]
    ids = np.asarray(tokenizer.tokenize(pictures))
    assert len(np.unique(ids, axis=0)) == len(COLOURS)
    questions = ["<image>"] * len(COLOURS)
    answers = model.answer(pictures, questions, max_new_tokens=4)
    assert any(answers)
    assert answers == model.answer(None, questions, ids=ids, max_new_tokens=4)


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
        ({"messages": "x", "images": "", "codebook_size": 8}, r"of \(16,\), got .*codebook_size 8"),
    ],
)
def test_data_that_does_not_fit_the_model_is_refused(data, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        run(read_experiment(config_of(data, **changes)), tmp_path / "run")


def test_the_configs_exif_orientation_is_that_of_conversations_too(data):
    config = config_of(data)
    config.exif_orientation = True
    with pytest.raises(ValueError, match=r"first\.source\.exif_orientation True, .* got False"):
        read_experiment(config)
    for name in ("first", "second"):
        config[name].source.exif_orientation = True
    read_experiment(config)

"""A generator of captions whose features a text encoder gives: cached, trained on, drawn from."""

import dataclasses
import io
import json
import pathlib
import runpy
import shutil
import tarfile

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
from ml_collections import ConfigDict
from tokenizers import Tokenizer, models, pre_tokenizers

import toklip_jax
from benchmarks.weights import random_params
from toklip_jax.api import text_encoder
from toklip_jax.api.text_encoder import TextEncoder
from toklip_jax.cli.generate import main
from toklip_jax.core.errors import UserError
from toklip_jax.data.cache import load_header
from toklip_jax.data.sources import SourceConfig
from toklip_jax.data.text import TextTokenizer
from toklip_jax.experiment import read_experiment
from toklip_jax.models.generator.config import GeneratorConfig, GPTConfig
from toklip_jax.models.serialization import config_to_dict
from toklip_jax.models.t5.model import T5Encoder
from toklip_jax.nn.config import Compute
from toklip_jax.run.encode import encode
from toklip_jax.run.run import run
from toklip_jax.tasks.generator.objective import GeneratorObjective
from toklip_jax.training.state import Params
from toklip_jax.weights import Weights, save_weights
from toklip_jax.weights.read import read_weights

pytestmark = pytest.mark.plain

TESTS = pathlib.Path(__file__).parents[1]
TOKLIP = TESTS / "weights" / "format_1" / "toklip"
T5_FILE = TESTS / "golden" / "t5_tiny" / "gated.safetensors"
WORDS = ["<pad>", "</s>", "<unk>", *"a red green apple dog of two cats by sea".split()]
TEXTS = ["A red  apple", "two cats by a green sea of a dog", "dog", "<pad> sea", "a dog"]
LENGTH, WIDTH = 6, 24
GPT = GPTConfig(
    16, 2, 2, grid=(4, 4), codebook_sizes=(16,), num_classes=0, caption_dim=WIDTH,
    caption_length=LENGTH,
)  # fmt: skip
COMPUTE = Compute(is_scanned=False)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A directory as the hub has it: T5's weights, and its tokenizer."""
    directory = tmp_path_factory.mktemp("hub") / "t5"
    directory.mkdir()
    shutil.copy(T5_FILE, directory / "model.safetensors")
    vocabulary = {word: i for i, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(WORDS[:3])
    tokenizer.save(str(directory / "tokenizer.json"))
    return directory


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    path = tmp_path_factory.mktemp("pairs") / "0.tar"
    with tarfile.open(path, "w") as archive:
        for i, text in enumerate(TEXTS * 4):
            pixels = np.random.default_rng(i).integers(0, 256, (16, 16, 3), np.uint8)
            buffer = io.BytesIO()
            PIL.Image.fromarray(pixels).save(buffer, "PNG")
            for kind, content in {"png": buffer.getvalue(), "txt": text.encode()}.items():
                info = tarfile.TarInfo(f"{i:05}.{kind}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture(scope="module")
def build(encoder, pairs):
    """`build(**stage)` returns the config, the stage's fields changed."""

    def config(gpt=GPT, features=("captions",), **stage):
        return ConfigDict(
            {
                "seed": 0,
                "mesh": {"data": -1, "fsdp": 1, "tensor": 1},
                "compute": {"dtype": "float32", "is_scanned": False, "remat": "none"},
                "source": {"kind": "webdataset", "shards": str(pairs)},
                "text": {"tokenizer": str(encoder), "context_length": LENGTH},
                "image_size": 16,
                "num_workers": 0,
                "stages": ("generator",),
                "encode": {
                    "stage": "generator",
                    "features": features,
                    "feature_dtype": "float32",
                    "batch_size": 4,
                    "records_per_shard": 8,
                },
                "generator": {
                    "objective": "generator",
                    "model": config_to_dict(gpt),
                    "init": {"tokenizer": str(TOKLIP), "text_encoder": str(encoder)},
                    "loss": {},
                    "optimizer": {"learning_rate": 1e-2, "warmup_steps": 1, "schedule": "constant"},
                    "loop": {"steps": 6, "log_every": 1, "save_every": 6},
                    "batch_size": 4,
                    "augment": {},
                    **stage,
                },
            }
        )

    return config


@pytest.fixture(scope="module")
def cache(build, tmp_path_factory):
    directory = tmp_path_factory.mktemp("captions") / "cache"
    encode(read_experiment(build()), directory)
    return directory


def features_of(encoder, texts):
    """The encoder's features of texts and which count, one text at a time and not padded."""
    weights = read_weights(encoder).with_layout(False)
    params = jax.tree.map(jnp.asarray, weights.params)
    model = T5Encoder(weights.config, COMPUTE)
    run = jax.jit(lambda params, ids: model.apply({"params": params}, ids).tokens[0])
    for ids in TextTokenizer.load(encoder, LENGTH)(texts):
        count = int(np.flatnonzero(ids == 1)[-1]) + 1
        yield np.asarray(run(params, ids[None, :count])), count


def losses(workdir):
    lines = (workdir / "generator" / "metrics.jsonl").read_text().splitlines()
    return [entry["loss"] for entry in map(json.loads, lines) if "loss" in entry]


def test_a_cache_holds_the_encoders_features_of_each_caption(cache, encoder):
    source = SourceConfig.from_plain({"kind": "cache", "directory": str(cache)}).open()
    assert set(source.header.names) == {"ids", "token_ids", "captions", "valid"}
    samples = [source[i] for i in range(len(source))]
    for sample, (want, count) in zip(samples, features_of(encoder, TEXTS * 4), strict=True):
        np.testing.assert_array_equal(sample["valid"], np.arange(LENGTH) < count)
        np.testing.assert_allclose(sample["captions"][:count], want, atol=2e-5)
        assert not sample["captions"][count:].any()


def test_a_run_on_a_cache_needs_no_encoder(cache, build, encoder, tmp_path):
    stage = {"init": {"tokenizer": str(TOKLIP)}, "cache": str(cache)}
    run(read_experiment(build(**stage)), tmp_path)
    found = losses(tmp_path)
    np.testing.assert_allclose(found[0], np.log(16), rtol=1e-5)  # the heads start at zero
    assert found[-1] < found[0]
    weights = read_weights(tmp_path / "generator" / "weights")
    assert set(weights.params) == {"gpt", "tokenizer"}
    # Beside the weights lies TokLIP's own text tokenizer, which `best_of` reads, not T5's.
    assert weights.tokenizer_path.read_bytes() == (TOKLIP / "tokenizer.json").read_bytes()
    generator = toklip_jax.load(tmp_path / "generator" / "weights")
    (features, count), *_ = features_of(encoder, ["a red apple"])
    captions = np.zeros((1, LENGTH, WIDTH), np.float32)
    captions[0, :count] = features
    valid = np.arange(LENGTH)[None] < count
    assert generator.sample(captions=captions, valid=valid, key=0).shape == (1, 16)


def test_a_run_can_encode_captions_at_every_step(build, tmp_path):
    run(read_experiment(build()), tmp_path)
    assert losses(tmp_path)[-1] < losses(tmp_path)[0]
    assert set(read_weights(tmp_path / "generator" / "weights").params) == {"gpt", "tokenizer"}


def test_a_run_makes_its_own_cache(build, tmp_path):
    run(read_experiment(build(cache="run:cache")), tmp_path)
    assert "captions" in load_header(tmp_path / "generator" / "cache").names


def objective_and_params(encoder) -> tuple[GeneratorObjective, Params]:
    toklip, t5 = read_weights(TOKLIP).with_layout(False), read_weights(encoder).with_layout(False)
    config = GeneratorConfig(dataclasses.replace(GPT, dropout=0.0), toklip.config)
    objective = GeneratorObjective(config, COMPUTE, condition_dropout=0.5, text_encoder=t5.config)
    params = jax.device_put(random_params(objective.init))
    assert set(params) == {"gpt", "tokenizer", "text_encoder"}
    head = params["gpt"]["head"]["codes_0"]
    params["gpt"]["head"]["codes_0"] = jax.random.normal(jax.random.key(1), head.shape)
    frozen = {"tokenizer": toklip.params, "text_encoder": t5.params}
    return objective, params | jax.tree.map(jnp.asarray, frozen)


def test_a_cache_gives_the_loss_and_the_gradient_of_the_captions(cache, encoder):
    objective, params = objective_and_params(encoder)
    source = SourceConfig.from_plain({"kind": "cache", "directory": str(cache)}).open()
    rows = [source[i] for i in range(4)]
    batch = {
        name: jnp.stack([row[name] for row in rows])
        for name in ("ids", "token_ids", "captions", "valid")
    }
    batch["is_dropped"] = jnp.array([False, True, False, False])

    @jax.jit
    def of(gpt, batch):
        def loss(gpt):
            return objective.loss(params | {"gpt": gpt}, batch, jax.random.key(2))[0]

        return jax.value_and_grad(loss)(gpt)

    cached = of(params["gpt"], {n: x for n, x in batch.items() if n != "token_ids"})
    texts = ("captions", "valid")
    encoded = of(params["gpt"], {n: x for n, x in batch.items() if n not in texts})
    assert float(encoded[0]) > 2
    for a, b in zip(jax.tree.leaves(cached), jax.tree.leaves(encoded), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-6)


def test_padding_of_a_caption_changes_no_likelihood(encoder):
    """LlamaGen shifts captions to the end: what stands before them is not seen."""
    objective, params = objective_and_params(encoder)
    ids = jnp.arange(16)[None] % 16
    captions = jax.random.normal(jax.random.key(3), (1, LENGTH, WIDTH))
    valid = jnp.arange(LENGTH)[None] < 3
    batch = {"ids": ids, "valid": valid, "is_dropped": jnp.zeros(1, bool)}
    other = captions.at[:, 3:].set(7.0)
    found = [
        float(objective.loss(params, batch | {"captions": c}, jax.random.key(2))[0])
        for c in (captions, other, captions.at[:, 0].add(1.0))
    ]
    assert found[0] == found[1]
    assert abs(found[0] - found[2]) > 1e-4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": ()}, r"encode\.features=\('captions',\)"),
        ({"features": ("text_feature",)}, r"encode\.features=\('captions',\)"),
        ({"init": {"tokenizer": str(TOKLIP)}, "cache": "/nowhere"}, r"init\.text_encoder"),
        ({"gpt": dataclasses.replace(GPT, caption_dim=16)}, "features of 16"),
        ({"init": {"tokenizer": str(TOKLIP), "text_encoder": str(TOKLIP)}}, "got TokLIP"),
        ({"init": {"tokenizer": str(TOKLIP)}}, r"a text encoder in generator\.init"),
        (
            {"gpt": GPTConfig(16, 1, 2, grid=(4, 4), codebook_sizes=(16,), num_classes=3)},
            "generator of classes",
        ),
    ],
)
def test_what_cannot_be_encoded_is_one_clear_error(build, tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        encode(read_experiment(build(**change)), tmp_path / "cache")


def other_encoder(encoder, directory):
    """The same encoder with one weight changed."""
    from safetensors.numpy import load_file, save_file

    shutil.copytree(encoder, directory)
    tensors = load_file(directory / "model.safetensors")
    tensors["encoder.final_layer_norm.weight"] = tensors["encoder.final_layer_norm.weight"] * 2
    save_file(tensors, directory / "model.safetensors")
    return str(directory)


def test_a_cache_of_another_encoder_is_refused(cache, build, encoder, tmp_path):
    init = {
        "tokenizer": str(TOKLIP),
        "text_encoder": other_encoder(encoder, tmp_path / "other"),
    }
    with pytest.raises(UserError, match=r"this run's text_encoder.*init\.text_encoder"):
        run(read_experiment(build(init=init, cache=str(cache))), tmp_path / "run")


@pytest.mark.parametrize(
    ("gpt", "message"),
    [
        (dataclasses.replace(GPT, caption_dim=32), "captions' features of 32"),
        (dataclasses.replace(GPT, caption_length=7), "context_length 7"),
    ],
)
def test_a_cache_that_does_not_fit_is_refused(cache, build, tmp_path, gpt, message):
    config = build(gpt, init={"tokenizer": str(TOKLIP)}, cache=str(cache))
    if "context" in message:
        config.text.context_length = 7
    with pytest.raises(UserError, match=message):
        run(read_experiment(config), tmp_path)


def test_a_generator_of_toklips_own_captions_refuses_others():
    config = GeneratorConfig(dataclasses.replace(GPT, caption_dim=16), read_weights(TOKLIP).config)
    objective = GeneratorObjective(config, COMPUTE)
    objective.expect_cached(("ids", "token_ids"))
    with pytest.raises(UserError, match="no captions in the cache"):
        objective.expect_cached(("ids", "token_ids", "captions", "valid"))


@pytest.mark.parametrize("options", ["", "size=l", "image_size=512"])
def test_the_recipe_for_captions_is_read(options):
    configs = TESTS.parent / "configs"
    config = runpy.run_path(str(configs / "gen_t2i_xl.py"))["get_config"](options)
    experiment = read_experiment(config)
    (stage,) = experiment.stages
    assert experiment.encode.features == ("captions",)
    assert (stage.model.model.caption_dim, stage.model.model.caption_length) == (2048, 120)
    assert stage.loop.steps == 50_000_000 // 256
    config.generator.batch_size = 512
    assert read_experiment(config).stages[0].loop.steps == 50_000_000 // 512


@pytest.fixture(scope="module")
def weights(tmp_path_factory, encoder):
    """A generator's weights with random heads, so that draws depend on the caption."""
    objective, params = objective_and_params(encoder)
    directory = tmp_path_factory.mktemp("generator") / "weights"
    params = jax.tree.map(np.asarray, objective.model_params(params))
    save_weights(directory, Weights(objective.model_config, params, is_scanned=False))
    return directory


def test_texts_are_conditions_once_the_encoder_is_there(weights, encoder):
    generator = toklip_jax.load(weights, text_encoder=encoder)
    options = {"key": 3, "cfg_scale": 2.0}
    texts = [text for text in TEXTS if len(text.split()) < LENGTH]
    drawn = np.asarray(generator.sample(captions=texts[:3], **options))
    without = toklip_jax.load(weights)
    for i, (features, count) in enumerate(features_of(encoder, texts[:3])):
        captions = np.zeros((1, LENGTH, WIDTH), np.float32)
        captions[0, :count] = features
        alone = without.sample(
            captions=captions, valid=np.arange(LENGTH)[None] < count, first_index=i, **options
        )
        np.testing.assert_array_equal(drawn[i], alone[0])
    assert (drawn[0] != drawn[2]).any()
    want = TextTokenizer.load(encoder, LENGTH)(texts)
    np.testing.assert_array_equal(generator.token_ids(texts), want)


def test_texts_are_encoded_in_chunks(encoder, monkeypatch):
    together = TextEncoder(encoder, GPT)
    texts, sizes, encode = TEXTS[2:], [], text_encoder._encode

    def recording(model, params, token_ids):
        sizes.append(len(token_ids))
        return encode(model, params, token_ids)

    want = together(texts)
    monkeypatch.setattr(text_encoder, "_encode", recording)
    got = together(texts, 2)
    assert sizes == [2, 2]
    np.testing.assert_allclose(got[0], want[0], atol=1e-5)
    np.testing.assert_array_equal(got[1], want[1])


def test_one_text_is_a_list_of_one(weights, encoder):
    generator = toklip_jax.load(weights, text_encoder=encoder)
    np.testing.assert_array_equal(generator.token_ids("dog"), generator.token_ids(["dog"]))
    one = generator.sample(captions="dog", temperature=0)
    np.testing.assert_array_equal(one, generator.sample(captions=["dog"], temperature=0))


def test_a_text_that_is_too_long_is_refused(weights, encoder, tmp_path, capsys):
    long = TEXTS[1]
    generator = toklip_jax.load(weights, text_encoder=encoder)
    with pytest.raises(UserError, match="at most 5 tokens, got 9 for 'two cats by"):
        generator.sample(captions=["dog", long])
    flags = [f"--weights={weights}", f"--text-encoder={encoder}", f"--output={tmp_path / 'out'}"]
    assert main([*flags, "--num=1", f"--text={long}"]) == 2
    assert "at most 5 tokens" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_candidates_that_cannot_be_compared_claim_nothing(weights, encoder, tmp_path, capsys):
    """The encoder reads the texts; TokLIP, which compares, has no tokenizer here."""
    flags = [f"--weights={weights}", f"--text-encoder={encoder}", f"--output={tmp_path / 'out'}"]
    assert main([*flags, "--num=1", "--text=a dog", "--best-of=2"]) == 2
    assert "load(..., tokenizer=PATH)" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_command_draws_texts(weights, encoder, tmp_path):
    flags = [f"--weights={weights}", "--num=2", "--text=a red apple", "--text=dog"]
    assert main([*flags, f"--text-encoder={encoder}", f"--output={tmp_path / 'out'}"]) == 0
    with np.load(tmp_path / "out" / "ids" / "part-00000.npz") as part:
        generator = toklip_jax.load(weights, text_encoder=encoder)
        want = generator.sample(captions=["a red apple", "dog"], key=0, cfg_scale=2.0)
        np.testing.assert_array_equal(part["ids"], want)
    settings = json.loads((tmp_path / "out" / "samples.json").read_text())
    assert len(settings["text_encoder"]) == 64
    other = other_encoder(encoder, tmp_path / "other")
    assert main([*flags, f"--text-encoder={other}", f"--output={tmp_path / 'out'}"]) == 2


def test_the_command_completes_a_picture_by_a_text(weights, encoder, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    PIL.Image.fromarray(pixels).save(tmp_path / "p.png")
    flags = [f"--weights={weights}", f"--text-encoder={encoder}", f"--output={tmp_path / 'out'}"]
    flags += ["--text=a dog", "--num=2", f"--image={tmp_path / 'p.png'}", "--keep-rows=2"]
    flags += ["--temperature=9", "--cfg-scale=1"]  # what it has learnt is nearly certain
    assert main(flags) == 0
    kept = toklip_jax.load(weights).tokenize(pixels[None])
    with np.load(tmp_path / "out" / "ids" / "part-00000.npz") as part:
        np.testing.assert_array_equal(part["ids"][:, :8], np.repeat(kept, 2, axis=0)[:, :8])
        assert (part["ids"][0, 8:] != part["ids"][1, 8:]).any()


def test_an_encoder_that_does_not_fit_is_one_clear_error(weights, encoder, tmp_path, golden):
    with pytest.raises(UserError, match="got TokLIP"):
        toklip_jax.load(weights, text_encoder=TOKLIP)
    with pytest.raises(UserError, match="it is for generators"):
        toklip_jax.load(TOKLIP, text_encoder=encoder)
    with pytest.raises(UserError, match="features of 48"):
        toklip_jax.load(golden("gpt_t2i_tiny/checkpoint.safetensors"), text_encoder=encoder)
    with pytest.raises(UserError, match="generator of classes"):
        toklip_jax.load(golden("gpt_c2i_tiny/checkpoint.safetensors"), text_encoder=encoder)
    with pytest.raises(UserError, match="load it with text_encoder=PATH"):
        toklip_jax.load(weights).sample(captions=["a dog"])

"""Evaluations of a tiny TokLIP of random weights: the same figures on any mesh, resumed exactly."""

import functools
import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from toklip_jax.data.sources.image_folder import NO_CLASS
from toklip_jax.data.text import TextTokenizer, train_tokenizer
from toklip_jax.evaluation import encode as encoding
from toklip_jax.evaluation.fid import Reference, write_statistics
from toklip_jax.evaluation.models import Models
from toklip_jax.evaluation.outputs.features import PREFIXES
from toklip_jax.evaluation.registry import build_evaluation
from toklip_jax.evaluation.results import Result, flat_figures
from toklip_jax.evaluation.samples import ArraySamples
from toklip_jax.evaluation.suite import Kept, Suite
from toklip_jax.metrics import Estimate, Gaussian
from toklip_jax.models.inception.config import InceptionConfig
from toklip_jax.models.inception.model import Inception
from toklip_jax.models.llamagen.config import LlamaGenConfig
from toklip_jax.models.siglip.config import TeacherConfig, TextConfig, VisionConfig
from toklip_jax.models.siglip.model import Teacher
from toklip_jax.models.toklip.config import TokLIPConfig
from toklip_jax.models.toklip.model import TokLIP
from toklip_jax.nn.config import Compute
from toklip_jax.parallel.sharding import make_mesh

XLA_FLAGS = os.environ.get("XLA_FLAGS", "")
SIZE, CLASSES = 16, ("red", "green", "blue")
VQ = LlamaGenConfig(
    32, channels=32, multipliers=(1,), num_res_blocks=1, z_channels=32, stem_patch=8
)
VISION = VisionConfig(32, 2, 4, 64, image_size=SIZE, patch_size=8, is_causal=True)
TEXT = TextConfig(32, 1, 4, 64, vocab_size=280, context_length=8)
COMPUTE = Compute(is_scanned=False)
TEACHER = TeacherConfig(VISION, TEXT)
CONFIGS = {"toklip": TokLIPConfig(VQ, VISION, TEXT), "teacher": TEACHER}
MODELS = Models.from_configs(COMPUTE, CONFIGS)


@functools.cache
def parameters():
    model, tower = TokLIP(CONFIGS["toklip"], COMPUTE), Teacher(TEACHER, COMPUTE)
    images, token_ids = np.zeros((1, SIZE, SIZE, 3), np.float32), np.zeros((1, 8), np.int32)
    init = jax.jit(model.init)(jax.random.key(0), images, token_ids)["params"]
    teacher = jax.jit(tower.init)(jax.random.key(1), images, token_ids)["params"]
    return {"toklip": init, "teacher": teacher}


@functools.cache
def tokenizer():
    texts = [*CLASSES, *(f"a photo of a {name}." for name in CLASSES), "one two three"]
    return TextTokenizer(train_tokenizer(texts, TEXT.vocab_size), TEXT.context_length)


def suite(sections, devices=1, batch_size=8, models=MODELS):
    mesh = make_mesh({"data": devices}, jax.devices()[:devices])
    evaluations = {name: build_evaluation(name, section) for name, section in sections.items()}
    return Suite(evaluations, models, mesh, tokenizer=tokenizer(), batch_size=batch_size)


def test_a_tokenizer_that_does_not_fit_the_models_is_refused():
    mesh = make_mesh({"data": 1}, jax.devices()[:1])
    many = [chr(0x4E00 + i) for i in range(400)]
    for words, length, message in ((["a"], 4, "of 8, the model's, got 4"), (many, 8, "most 280")):
        other = TextTokenizer(train_tokenizer(words, 1000), length)
        with pytest.raises(ValueError, match=message):
            Suite({}, MODELS, mesh, tokenizer=other)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """21 noisy pictures of three colours, of which one can't be read, and one of no class."""
    root, random = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for label, name in enumerate(CLASSES):
        (root / name).mkdir()
        for i in range(7):
            pixels = random.integers(0, 120, (20, 24, 3))
            pixels[..., label] += 120
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{i}.png")
    broken = root / "green" / "3.png"
    broken.write_bytes(broken.read_bytes()[:80])
    (root / "outside.png").touch()
    return root


@pytest.fixture(scope="module")
def karpathy(folder, tmp_path_factory):
    """The same pictures as a retrieval set of two captions each."""
    images = [
        {
            "filename": f"{name}/{i}.png",
            "split": "test",
            "imgid": i,
            "sentences": [{"raw": f"{name} {i}"}, {"raw": f"a photo of {name}, number {i}"}],
        }
        for name in CLASSES
        for i in range(7)
    ]
    path = tmp_path_factory.mktemp("karpathy") / "dataset.json"
    path.write_text(json.dumps({"images": images}))
    return {
        "kind": "karpathy",
        "annotations": str(path),
        "images": str(folder),
        "num_captions": 2,
    }


@pytest.fixture(scope="module")
def sections(folder, karpathy):
    source = {"kind": "image_folder", "root": str(folder)}
    return {
        "classes": {"kind": "zeroshot", "source": source, "templates": "plain"},
        "captions": {"kind": "retrieval", "source": karpathy, "reference_count": True},
        "pictures": {"kind": "reconstruction", "source": source},
        "meaning": {"kind": "meaning", "train": source, "test": source},
        "prefix": {"kind": "prefix", "source": source, "templates": "plain", "train": source},
    }


@pytest.fixture(scope="module")
def results(sections):
    return suite(sections).run(parameters(), has_baselines=True)


def plain(results):
    return {name: result.to_plain() for name, result in results.items()}


def test_every_kind_gives_its_rows_and_figures(results):
    found = {name: [row["model"] for row in result.rows] for name, result in results.items()}
    assert found == {
        "classes": ["teacher", "TokLIP", "chance"],
        "captions": ["teacher", "TokLIP"],
        "pictures": ["VQ"],
        "meaning": [
            "VQ code vectors, mean",
            "TokLIP tokens, mean",
            "TokLIP, pooled",
            "teacher, pooled",
        ],
        "prefix": ["class names, pooled", "linear probe, mean token", "kNN, mean token"],
    }
    directions = ("image_to_text", "text_to_image", "reference_text_to_image")
    names = {f"{direction}_r{k}" for direction in directions for k in (1, 5, 10)}
    shares = {f"first_{share}" for share in PREFIXES}
    assert results["captions"].rows[1].keys() == names | {"model"}
    assert results["prefix"].rows[0].keys() == shares | {"model"}
    counts = results["pictures"].details["code_counts"]
    assert (len(counts), sum(counts)) == (32, 20 * 4)
    confusion = results["classes"].details["confusion"]
    assert confusion["labels"] == ["blue", "green", "red"]
    assert np.sum(confusion["counts"], axis=1).tolist() == [7, 6, 7]


def test_a_picture_that_cant_be_read_or_has_no_class_is_left_out_and_counted(results):
    for name in ("classes", "captions", "pictures"):
        assert results[name].num_images == {"test": 20}
        no_class = {NO_CLASS: 1} if name != "captions" else {}
        assert results[name].skipped == {"truncated image": 1} | no_class
    # Its two captions are left out too.
    recall = results["captions"].rows[1]["text_to_image_r10"]
    assert (recall.value * 40) % 1 == pytest.approx(0, abs=1e-9)


def test_the_whole_prefix_is_the_zero_shot_accuracy(results):
    whole = results["prefix"].rows[0]["first_100"]
    assert whole == results["classes"].rows[1]["top1"]


def test_results_survive_json(results):
    for result in results.values():
        assert Result.from_plain(json.loads(json.dumps(result.to_plain()))) == result
    unknown = Result("zeroshot", [{"model": "chance", "top1": Estimate(0.5)}], {}, {}, {})
    data = json.loads(json.dumps(unknown.to_plain(), allow_nan=False))
    assert np.isnan(Result.from_plain(data).rows[0]["top1"].error)
    figures = flat_figures(results)
    assert figures["classes/TokLIP/top1"] == results["classes"].rows[1]["top1"].value
    assert all(isinstance(value, float) for value in figures.values())


def test_the_batch_size_changes_no_figure(sections, results):
    others = suite(sections, batch_size=5).run(parameters(), has_baselines=True)
    assert_same(plain(others), plain(results))


def test_eight_devices_give_the_counts_of_one(sections, results, tmp_path):
    """In a process of eight devices: the same counts, means to rounding."""
    chosen = ("classes", "captions", "pictures")  # probes are fitted on one device anyway
    sections, results = ({name: d[name] for name in chosen} for d in (sections, results))
    (tmp_path / "sections.json").write_text(json.dumps(sections))
    done = subprocess.run(
        [sys.executable, __file__, str(tmp_path)],
        env=os.environ
        | {
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"{XLA_FLAGS} --xla_force_host_platform_device_count=8",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert_same(json.loads((tmp_path / "8.json").read_text()), plain(results))


def assert_same(got, want):
    """Equal in every count and label, and to 1e-5 in what is a mean of floats."""
    assert got.keys() == want.keys()
    for name, result in want.items():
        assert {**got[name], "rows": []} == {**result, "rows": []}
        for row, expected in zip(got[name]["rows"], result["rows"], strict=True):
            assert row.keys() == expected.keys()
            for figure, cell in expected.items():
                if figure in ("psnr", "ssim"):
                    assert row[figure] == pytest.approx(cell, rel=1e-5, abs=1e-6), figure
                else:
                    assert row[figure] == cell, figure


def test_an_evaluation_that_was_interrupted_goes_on(sections, results, tmp_path, monkeypatch):
    """Stopped in its fourth batch: what was encoded before is read, and no figure changes."""
    chosen = {name: sections[name] for name in ("classes", "captions")}
    encode_batch, made = encoding._encode_batch, []

    def stopping(*args):
        if len(made) == 3:
            raise KeyboardInterrupt
        made.append(args)
        return encode_batch(*args)

    monkeypatch.setattr(encoding, "_encode_batch", stopping)
    with pytest.raises(KeyboardInterrupt):
        suite(chosen).run(parameters(), has_baselines=True, kept=Kept(tmp_path, "weights"))
    counted = []
    monkeypatch.setattr(
        encoding, "_encode_batch", lambda *args: counted.append(args) or encode_batch(*args)
    )
    again = suite(chosen).run(parameters(), has_baselines=True, kept=Kept(tmp_path, "weights"))
    assert_same(plain(again), plain({name: results[name] for name in chosen}))
    total = 3 + 1 + 3 + 6  # batches of pictures, class names, pictures, captions
    assert len(counted) == total - 3
    counted.clear()
    suite(chosen).run(parameters(), has_baselines=True, kept=Kept(tmp_path, "other weights"))
    assert len(counted) == total


def test_ids_alone_are_enough_for_what_they_mean(tmp_path, monkeypatch):
    """A source of ids and labels, as a cache gives: no pixels, so no teacher and no PSNR."""
    from toklip_jax.data.sources import ARRAYS, ArraySource, SourceKind, base

    random = np.random.default_rng(0)
    ids, labels = random.integers(0, 32, (30, 4), np.int32), np.arange(30, dtype=np.int32) % 3
    cached = SourceKind("cached", lambda: ArraySource(ids=ids, labels=labels), ARRAYS)
    monkeypatch.setitem(base._KINDS, "cached", cached)
    source = {"kind": "cached"}
    sections = {"meaning": {"kind": "meaning", "train": source, "test": source}}
    (result,) = suite(sections).run(parameters()).values()
    assert [row["model"] for row in result.rows] == [
        "VQ code vectors, mean",
        "TokLIP tokens, mean",
        "TokLIP, pooled",
    ]


def test_generated_images_are_scored_by_the_labels_and_prompts_they_were_made_from():
    """No data source: images in memory, and ids that TokLIP decodes for the teacher."""
    random = np.random.default_rng(0)
    labels = np.arange(10, dtype=np.int32) % 3
    prompts = [f"{CLASSES[label]} {i}" for i, label in enumerate(labels)]
    images = random.integers(0, 256, (10, SIZE, SIZE, 3), np.uint8)
    made = {
        "images": ArraySamples(images=images, labels=labels, classes=CLASSES, prompts=prompts),
        "ids": ArraySamples(
            ids=random.integers(0, 32, (10, 4), np.int32),
            labels=labels,
            classes=CLASSES,
            prompts=prompts,
        ),
    }
    sections = {
        f"{kind} of {name}": {"kind": kind, "source": samples}
        for name, samples in made.items()
        for kind in ("zeroshot", "retrieval")
    }
    results = suite(sections).run(parameters())
    for name in made:
        top1 = results[f"zeroshot of {name}"]
        assert [row["model"] for row in top1.rows] == ["teacher", "TokLIP"]
        assert top1.num_images == {"test": 10}
        assert (top1.rows[1]["top1"].value * 10) % 1 == pytest.approx(0, abs=1e-9)
        recall = results[f"retrieval of {name}"].rows[1]
        assert recall["text_to_image_r10"].value == 1


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"kind": "zeroshots"}, "got 'zeroshots': did you mean 'zeroshot'"),
        ({"kind": "zeroshot", "source": {}, "class": "x"}, "did you mean 'classes'"),
        ({"source": {}}, "expected a kind in evaluations.it"),
    ],
)
def test_a_mistyped_section_is_refused_before_anything_is_read(section, message):
    with pytest.raises(ValueError, match=message):
        suite({"it": section})


def test_data_that_dont_fit_give_one_clear_error(folder, tmp_path):
    source = {"kind": "image_folder", "root": str(folder)}
    names = tmp_path / "names.txt"
    names.write_text("red\ngreen\n")
    cases = (
        ({"kind": "zeroshot", "source": source, "classes": str(names)}, ValueError, "3 class"),
        (
            {"kind": "zeroshot", "source": {**source, "root": str(tmp_path / "none")}},
            FileNotFoundError,
            "expected a directory of classes, found none",
        ),
        ({"kind": "zeroshot", "source": synthetic()}, ValueError, "no class names of its own"),
        ({"kind": "retrieval", "source": source}, ValueError, "caption"),
    )
    for section, error, message in cases:
        with pytest.raises(error, match=message):
            suite({"it": section}).run(parameters())


def test_rfid_is_there_where_inception_is(tmp_path):
    """Drawn weights of a network a sixteenth as wide: the paths, not the figure, are checked."""
    inception = InceptionConfig(image_size=75, divisor=16)
    init = jax.jit(Inception(inception).init)(jax.random.key(0), np.zeros((1, 16, 16, 3)))
    random = np.random.default_rng(0)
    drawn = jax.tree.map(lambda x: random.uniform(0.1, 0.5, x.shape).astype(x.dtype), init)
    models = Models.from_configs(COMPUTE, {**CONFIGS, "inception": inception})
    params = parameters() | {"inception": drawn["params"]}
    section = {"kind": "reconstruction", "source": synthetic(num_samples=9)}
    (own,) = suite({"it": section}, models=models).run(params)["it"].rows
    assert 0 < own["rfid"] < np.inf
    d = inception.pool_dim
    write_statistics(tmp_path / "s.npz", Reference(Gaussian(np.zeros(d), np.eye(d))))
    section["reference"] = str(tmp_path / "s.npz")
    (other,) = suite({"it": section}, models=models).run(params)["it"].rows
    assert other["rfid"] > own["rfid"]
    assert {**other, "rfid": 0} == {**own, "rfid": 0}


def test_a_model_that_is_missing_is_named(folder):
    models = Models.from_configs(COMPUTE, {"teacher": TEACHER})
    section = {"kind": "reconstruction", "source": synthetic()}
    with pytest.raises(ValueError, match=r"expected a model for the evaluation reconstruction"):
        suite({"it": section}, models=models).run({"teacher": {}})


def synthetic(num_samples=4):
    return {"kind": "synthetic", "image_size": SIZE, "num_samples": num_samples}


if __name__ == "__main__":  # of the test of eight devices
    where = pathlib.Path(sys.argv[1])
    asked = json.loads((where / "sections.json").read_text())
    found = suite(asked, 8).run(parameters(), has_baselines=True)
    (where / "8.json").write_text(json.dumps(plain(found)))

"""A run directory as the smallest run leaves it, and its page."""

import json
import types

import flax.traverse_util
import numpy as np
import PIL.Image
import pytest

from toklip_jax.data.text import TextTokenizer, train_tokenizer
from toklip_jax.models.llamagen.config import LlamaGenConfig
from toklip_jax.models.registry import param_shapes
from toklip_jax.models.siglip.config import TextConfig, VisionConfig
from toklip_jax.models.toklip.config import TokLIPConfig
from toklip_jax.report import write_report
from toklip_jax.weights import Weights, save_weights

SIZE, CODES, CLASSES = 64, 64, ("red & <b>round</b>", "green", "blue")
PHRASE = "a round red thing"
VQ = LlamaGenConfig(CODES, channels=32, multipliers=(1,), num_res_blocks=1, stem_patch=16)
CONFIG = TokLIPConfig(
    VQ,
    VisionConfig(32, 1, 4, 64, is_causal=True, image_size=SIZE, patch_size=16),
    TextConfig(32, 1, 4, 64, vocab_size=80, context_length=8),
)


def _write_run(workdir, has_tokenizer=True):
    """Writes what a run leaves: config, results, logs, weights; and a folder of images."""
    images = workdir / "images"
    _write_images(images)
    _write_weights(workdir / "toklip" / "weights", workdir, has_tokenizer)
    for stage, models in (("vq", ()), ("toklip", ("teacher", "TokLIP"))):
        (workdir / stage).mkdir(exist_ok=True)
        lines = [json.dumps(_record(step, models)) for step in range(1, 31)]
        (workdir / stage / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    config = {
        "stages": ["vq", "toklip"],
        "models": {"toklip": "stage:toklip"},
        "report": {
            "source": {"kind": "image_folder", "root": str(images)},
            "num_images": 3,
            "phrases": [PHRASE],
        },
    }
    (workdir / "config.json").write_text(json.dumps(config))
    (workdir / "results.json").write_text(json.dumps(_results()))


@pytest.fixture(scope="session")
def report(tmp_path_factory):
    """A written report: `workdir`, `path`, and the page's `text`."""
    workdir = tmp_path_factory.mktemp("run <1>")
    _write_run(workdir)
    path = write_report(workdir, ["an extra phrase"])
    return types.SimpleNamespace(workdir=workdir, path=path, text=path.read_text())


@pytest.fixture
def write_run():
    """`write_run(workdir)` leaves a run there."""
    return _write_run


def _write_images(root):
    rng = np.random.default_rng(0)
    for channel, name in enumerate(CLASSES):
        (root / name.replace("/", "")).mkdir(parents=True)
        for i in range(3):
            pixels = rng.integers(0, 60, (SIZE, SIZE, 3), np.uint8)
            pixels[8 * i : 8 * i + 40, 10:50, channel] += 180
            PIL.Image.fromarray(pixels).save(root / name.replace("/", "") / f"{i}.png")


def _write_weights(directory, scratch, has_tokenizer):
    texts = [PHRASE, "green", "blue", "red round", "an extra phrase"]
    tokenizer = TextTokenizer(train_tokenizer(texts, 80), 8).save(scratch / "text.json")
    rng = np.random.default_rng(0)
    # Drawn by NumPy: the initialisers would take longer to compile than all else.
    flat = {path: rng.normal(0, 0.2, shape) for path, shape in param_shapes(CONFIG).items()}
    flat = {path: np.asarray(value, np.float32) for path, value in flat.items()}
    params = flax.traverse_util.unflatten_dict(flat, sep="/")
    path = tokenizer if has_tokenizer else None
    save_weights(directory, Weights(CONFIG, params, False, tokenizer_path=path, source="test"))


def _record(step, models):
    """A line of a log; every tenth one has the figures of an evaluation of `models`."""
    evaluated = {f"classes/{model}/{figure}": step / 100 for model in models
                 for figure in ("a", "b", "c", "top1", "image_to_text_r1")}  # fmt: skip
    return {"step": step, "learning_rate": 1e-3, "loss": 2.0 / step, "same": 2.0 / step,
            "grad_norm": None if step == 3 else 1.0, "is_skipped": 0.0, "bad_samples": 0,
            "speed": {"data_wait": 0.1, "seconds_per_step": 6.0}
            } | (evaluated if step % 10 == 0 else {})  # fmt: skip


def _results():
    estimate = {"value": 0.4567, "error": 0.0123}
    rows = [
        {"model": "teacher", "top1": {"value": 0.5, "error": 0.02}, "image_to_text_r1": estimate},
        {"model": "TokLIP", "top1": {"value": 0.625, "error": 0.01}, "image_to_text_r1": None},
        {"model": "chance", "top1": 0.9, "image_to_text_r1": 0.001},
    ]
    confusion = {"labels": list(CLASSES), "counts": [[2, 1, 0], [0, 3, 0], [1, 1, 1]]}
    return {
        "evaluations": {
            "classes": {
                "kind": "zeroshot",
                "rows": rows,
                "num_images": {"test": 9},
                "skipped": {"broken": 2},
                "details": {"confusion": confusion},
            },
            "codes": {
                "kind": "reconstruction",
                "rows": [{"model": "VQ", "psnr": {"value": 20.0, "error": 0.1}}],
                "num_images": {"test": 9},
                "skipped": {},
                "details": {"code_counts": [40, 20, 4, *[0] * (CODES - 3)]},
            },
        },
        "weights": {"toklip": {"source": "stage:toklip", "sha256": "ab" * 32}},
        "versions": {"jax": "1.2.3"},
        "devices": {"kind": "abacus", "count": 2},
        "date": "2026-01-02T03:04:05+00:00",
        "commit": "0123456789ab",
        "config": {},
    }

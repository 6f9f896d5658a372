"""What the demo shows for its training: a table, and pictures."""

import json
import pathlib

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from toklip_jax.convert import read_weights
from toklip_jax.data.emoji import EmojiSplit, named_split
from toklip_jax.data.text import TextTokenizer
from toklip_jax.evaluation.baselines import fit_patch_codebook
from toklip_jax.evaluation.emoji import (
    NAME_TEMPLATES,
    EmojiTask,
    Pictures,
    encode_images,
    evaluate_emoji,
    retrieval_cases,
)
from toklip_jax.evaluation.figures import loss_curves, reconstruction_grid, retrieval_examples
from toklip_jax.evaluation.reconstruction import evaluate_reconstruction, reconstruct
from toklip_jax.evaluation.tables import results_table
from toklip_jax.evaluation.zeroshot import build_classifier
from toklip_jax.metrics import Estimate
from toklip_jax.models.config import Compute
from toklip_jax.models.teacher import Teacher
from toklip_jax.tokenizer import Tokenizer
from toklip_jax.training.logging import read_metrics
from toklip_jax.training.stages import weights_directory
from toklip_jax.weights import Weights

BATCH = 256
SHOWN = 16  # pictures in the grid of reconstructions
CASES = 8  # rows in the figure of retrieval
TWEMOJI = "Twemoji, © Twitter, Inc and other contributors, CC BY 4.0"


def evaluate_demo(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Writes `results.md`, `results.json` and PNGs into `workdir`, and prints the table."""
    split = named_split(config.source.split, config.source.size)
    task = _task(split)
    toklip = Tokenizer.from_weights(read_weights(weights_directory(workdir, "toklip")))
    teacher = read_weights(weights_directory(workdir, "teacher"))
    text = TextTokenizer.load(teacher.tokenizer_path, config.text.context_length)
    rows = evaluate_emoji(
        {"teacher": _image_encoder(teacher), "TokLIP": _toklip_encoder(toklip)},
        toklip.text_features,
        text,
        task,
        probes={"VQ codes": _mean_codes(toklip)},
        batch_size=BATCH,
    )
    codes = _reconstruction_rows(toklip, split)
    _write(workdir, rows, codes)
    _draw(workdir, config, toklip, task, text)
    print(f"results and pictures are in {workdir}")


def _task(split: EmojiSplit) -> EmojiTask:
    def pictures(part):
        return Pictures(part.images, split.name_ids(part), part.group_ids)

    return EmojiTask(
        split.names, split.test.groups, split.is_unseen, pictures(split.test),
        pictures(split.references),
    )  # fmt: skip


def _image_encoder(weights: Weights):
    model = Teacher(weights.config, Compute(is_scanned=weights.is_scanned))
    params = {"params": jax.tree.map(jnp.asarray, weights.params)}
    apply = jax.jit(lambda params, x: model.apply(params, x, method="image_features"))
    return lambda images: apply(params, jnp.asarray(images))


def _toklip_encoder(toklip: Tokenizer):
    return lambda images: toklip.image_features(images)


def _mean_codes(toklip: Tokenizer):
    """What ids are worth without semantics: the mean of their code vectors."""
    return lambda images: jnp.mean(toklip.code_vectors(toklip.tokenize(images)), axis=1)


def _reconstruction_rows(toklip: Tokenizer, split: EmojiSplit) -> list[dict]:
    vq = toklip.config.vq
    patches = fit_patch_codebook(split.train.images, vq.downsample, vq.codebook_size)
    rows = []
    for label, codec in (("VQ", toklip), ("k-means patches", patches)):
        figures = evaluate_reconstruction(
            codec.tokenize, codec.detokenize, split.test.images, BATCH, vq.codebook_size
        )
        rows.append(
            {
                "codes": label,
                "PSNR, dB": figures.psnr,
                "SSIM": figures.ssim,
                "codes used": figures.code_usage,
                "perplexity": figures.perplexity,
            }
        )
    return rows


def _write(workdir, rows, codes):
    tables = f"{results_table(rows)}\n\n{results_table(codes)}\n"
    (workdir / "results.md").write_text(tables)
    plain = [
        {k: v._asdict() if isinstance(v, Estimate) else v for k, v in row.items()}
        for row in (*rows, *codes)
    ]
    (workdir / "results.json").write_text(json.dumps(plain, indent=2) + "\n")
    print(tables)


def _draw(workdir, config, toklip, task, text):
    attribution = TWEMOJI if config.source.split in ("test", "free") else ""
    images = task.held_out.images
    picks = np.random.default_rng(config.seed).permutation(len(images))[:SHOWN]
    restored = reconstruct(toklip.tokenize, toklip.detokenize, images[picks], BATCH)
    reconstruction_grid(
        images[picks], restored, workdir / "reconstructions.png", attribution=attribution
    )
    names = build_classifier(toklip.text_features, task.names, NAME_TEMPLATES, text)
    features = encode_images(_toklip_encoder(toklip), images, BATCH)
    cases = retrieval_cases(features, np.asarray(names.T), task, picks[:CASES])
    retrieval_examples(*cases, workdir / "retrieval.png", attribution=attribution)
    loss_curves(_curves(workdir, config), workdir / "losses.png")


def _curves(workdir, config):
    series = {}
    for stage in config.stages:
        records = read_metrics(workdir / stage / "metrics.jsonl")
        steps = [record["step"] for record in records]
        for name in CURVES[config[stage].objective]:
            series[f"{stage}: {name}"] = (steps, [record[name] for record in records])
    return series


CURVES = {
    "vq": ("mse", "commitment"),
    "teacher": ("contrastive", "logit_scale"),
    "toklip": ("contrastive", "distillation"),
}

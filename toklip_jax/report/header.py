"""The head of the page: the run, its date, its weights, software and devices."""

import datetime
from collections.abc import Mapping

import jax
import numpy as np

from toklip_jax.report.files import Run
from toklip_jax.report.markup import Markup, tag
from toklip_jax.report.wording import ids_text, size_text
from toklip_jax.weights import Weights, fingerprint

MODELS = ("toklip", "teacher", "vq")
PACKAGES = ("jax", "flax", "numpy", "toklip_jax")


def header(run: Run, weights: Weights | None) -> list[Markup]:
    """Returns the page's head.

    Args:
        weights: weights of the run's TokLIP, or None.
    """
    facts = [("Run", tag("code", str(run.workdir))), ("Date", _date(run))]
    if weights is not None:
        vision = weights.config.vision
        ids = ids_text(vision.num_tokens, weights.config.vq.codebook_sizes)
        shape = f"{size_text(vision.size)}, ids: {ids}, depth {vision.depth}, width {vision.width}"
        facts += [("Model", shape), ("Parameters", _parameters(weights))]
    facts += [(f"Weights, {name}", _weights(run, name)) for name in MODELS if _has(run, name)]
    facts += [("Measured with", _versions(run)), ("Devices", _devices(run))]
    terms = [[tag("dt", name), tag("dd", value)] for name, value in facts if value]
    return [tag("h1", run.workdir.resolve().name), _pipeline(weights), tag("dl", terms)]


def _pipeline(weights):
    """Returns the steps from image to feature, with this model's sizes where they are known."""
    image, ids, tokens, feature = "", "", "", ""
    if weights is not None:
        vision = weights.config.vision
        image = size_text(vision.size)
        ids = f": {ids_text(vision.num_tokens, weights.config.vq.codebook_sizes)}"
        tokens = f": {vision.num_tokens} vectors of {vision.width}"
        feature = f": one of {vision.width}"
    steps = (
        ("", "image", image),
        ("→", "ids", f"VQ encoder{ids}"),
        ("→", "tokens", f"causal ViT{tokens}"),
        ("→", "image feature", f"pooling{feature}"),
        ("↔", "text feature", "cosine"),
    )
    return tag(
        "ol",
        [tag("li", tag("div", tag("b", name), tag("small", what)), data_arrow=arrow)
         for arrow, name, what in steps],
        class_="pipeline",
    )  # fmt: skip


def _date(run):
    date = run.results.get("date")
    if date:
        return date.replace("T", " ")[:16]
    return f"{datetime.date.today()} (of this page: the run has not been evaluated)"


def _parameters(weights):
    total = _size(weights.params)
    parts = {
        name: _size(part) for name, part in weights.params.items() if isinstance(part, Mapping)
    }
    listed = ", ".join(f"{name.replace('_', ' ')} {_short(size)}" for name, size in parts.items())
    return f"{_short(total)}: {listed}"


def _size(tree):
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


def _short(number):
    for unit, size in (("billion", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)


def _has(run, name):
    return name in run.results.get("weights", {}) or run.has_model(name)


def _weights(run, name):
    known = run.results.get("weights", {}).get(name, {})
    path = run.model_path(name)
    digest = known.get("sha256") or (fingerprint(path) if run.has_model(name) else "")
    source = known.get("source") or str(path)
    short = tag("code", digest[:16], title=f"SHA-256 {digest}") if digest else None
    return [source, ", SHA-256 " if short else None, short]


def _versions(run):
    versions = run.results.get("versions", {})
    named = [name for name in PACKAGES if name in versions]
    named += [name for name in versions if name not in PACKAGES]
    return ", ".join(f"{name} {versions[name]}" for name in named)


def _devices(run):
    if devices := run.results.get("devices"):
        return f"{devices.get('count', '?')} {devices.get('kind', '')}"
    return f"{jax.device_count()} {jax.devices()[0].device_kind} (of this page)"

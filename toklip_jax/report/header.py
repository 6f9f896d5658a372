"""The head of the page, and the run's weights, software and devices."""

import datetime
from collections.abc import Mapping

import jax
import numpy as np

from toklip_jax.report.files import Run
from toklip_jax.report.headline import headline
from toklip_jax.report.markup import Markup, tag
from toklip_jax.report.training import seconds_trained
from toklip_jax.report.wording import (
    NAMES,
    codebook_text,
    duration_text,
    ids_text,
    name_text,
    size_text,
)
from toklip_jax.weights import Weights, fingerprint

MODELS = ("toklip", "teacher", "vq")
PACKAGES = ("jax", "flax", "numpy", "toklip_jax")


def header(run: Run, weights: Weights | None, links: Mapping[str, str]) -> list[Markup]:
    """Returns the page's head: what this is, the numbers that matter, how long it took.

    Args:
        weights: weights of the run's TokLIP, or None.
        links: text -> address of the files beside the page.
    """
    facts = [_length(run), _date(run), _source(run)]
    facts += [tag("a", text, href=address) for text, address in links.items()]
    return [
        tag("h1", run.workdir.resolve().name),
        tag("p", _what(run, weights), class_="what"),
        *headline(run),
        tag("ul", [tag("li", fact) for fact in facts if fact], class_="facts"),
        _pipeline(weights),
    ]


def facts_list(run: Run, weights: Weights | None) -> Markup:
    """Returns the run's weights, software and devices as a list of terms."""
    facts = [("Run", tag("code", str(run.workdir)))]
    if weights is not None:
        vision = weights.config.vision
        ids = ids_text(vision.num_tokens, weights.config.vq.codebook_sizes)
        shape = f"{size_text(vision.size)}, ids: {ids}, depth {vision.depth}, width {vision.width}"
        facts += [("Model", shape), ("Parameters", _parameters(weights))]
    facts += [(f"Weights, {name}", _weights(run, name)) for name in MODELS if _has(run, name)]
    facts += [("Measured with", _versions(run)), ("Devices", _devices(run))]
    return tag("dl", [[tag("dt", name), tag("dd", value)] for name, value in facts if value])


def _what(run, weights):
    if weights is None:
        stages = ", ".join(map(name_text, run.metrics))
        return f"A run of toklip_jax{f' with the stages {stages}' if stages else ''}."
    vision = weights.config.vision
    codes = codebook_text(weights.config.vq.codebook_sizes)
    return (
        f"TokLIP, a visual tokenizer: an image of {size_text(vision.size)} becomes "
        f"{vision.num_tokens:,} ids from {codes}. From the ids alone it can be drawn again, and "
        f"compared with texts."
    )


def _length(run):
    """How long the stages trained; "" where their logs don't tell."""
    seconds = {stage: seconds_trained(records) for stage, records in run.metrics.items()}
    if not sum(seconds.values()):
        return ""
    listed = [f"{NAMES.get(name, name)} {duration_text(each)}" for name, each in seconds.items()]
    each = f" ({', '.join(listed)})" if len(seconds) > 1 else ""
    where = f" on {_devices(run)}" if run.results.get("devices") else ""
    return f"Trained in {duration_text(sum(seconds.values()))}{where}{each}"


def _source(run):
    version = run.results.get("versions", {}).get("toklip_jax")
    commit = run.results.get("commit")
    named = [f"toklip_jax {version}"] if version else []
    return ", ".join(named + ([f"commit {commit}"] if commit else []))


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
        return f"Evaluated {date.replace('T', ' ')[:16]}"
    return f"This page: {datetime.date.today()}; the run has not been evaluated"


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

"""Writes a run's page: reads what the run left, encodes a few images, joins the sections."""

import os
import pathlib
from collections.abc import Sequence

from toklip_jax.api import Tokenizer
from toklip_jax.models.toklip.config import TokLIPConfig
from toklip_jax.report.files import Run, read_run
from toklip_jax.report.gallery import Gallery, make_gallery
from toklip_jax.report.header import header
from toklip_jax.report.naming import naming_section
from toklip_jax.report.output import Output
from toklip_jax.report.page import Section, render_page
from toklip_jax.report.phrases import TextMaps, encode_phrases, text_maps
from toklip_jax.report.pictures import (
    ids_section,
    map_data,
    map_section,
    neighbour_section,
    reconstruction_section,
)
from toklip_jax.report.results import results_section
from toklip_jax.report.sections import (
    confusion_section,
    method_section,
    training_section,
    usage_section,
)
from toklip_jax.weights.base import Weights
from toklip_jax.weights.read import read_weights

# What sections need images, by anchor and title; the page says of each why it is missing.
PICTURES = {
    "reconstructions": "Reconstructions",
    "ids": "What ids are",
    "where": "Where a text is",
    "naming": "What images are called",
    "neighbours": "Nearest neighbours",
}
TEXTS = ("where", "naming")  # those that need phrases too
SIZES = ("num_images", "num_searched")  # fields of the config's section
PAGE = pathlib.Path("report") / "index.html"


def write_report(
    workdir: str | pathlib.Path,
    phrases: Sequence[str] = (),
    output: str | pathlib.Path | None = None,
) -> pathlib.Path:
    """Writes a self-contained page about a run, and its pictures as PNGs beside it.

    What a run doesn't have (images, a text tokenizer, an evaluation) is left out, and the page says
    why.

    Args:
        workdir: of a run.
        phrases: to look for in the images, before those of the config and the source's own names.
        output: the page; `WORKDIR/report/index.html` by default.

    Returns:
        Where the page is.

    Raises:
        ValueError: no run in `workdir`, or damaged files.
    """
    run = read_run(workdir)
    path = pathlib.Path(output) if output is not None else run.workdir / PAGE
    path.parent.mkdir(parents=True, exist_ok=True)
    place = Output(path.parent)
    weights, why = _weights(run)
    toklip, gallery, why = _gallery(run, weights, why)
    pictures, maps = _pictures(run, toklip, gallery, why, phrases, place)
    config = weights.config if weights else None
    ids, size = (gallery.pool.ids, config.vq.codebook_size) if gallery else (None, 0)
    sections = [
        results_section(run, config),
        training_section(run, place),
        *pictures,
        usage_section(run, place, ids, size),
        confusion_section(run, place),
        method_section(run, run.source if gallery else None, list(phrases)),
    ]
    title = f"TokLIP: {run.workdir.resolve().name}"
    data = map_data(maps) if maps else None
    page = render_page(title, header(run, weights), sections, data)
    _replace(path, page)
    return path


def _weights(run: Run) -> tuple[Weights | None, str]:
    """TokLIP's weights, or None and why."""
    path = run.model_path("toklip")
    if not path.exists():
        return None, f"the run has no weights of TokLIP: there is nothing at {path}."
    try:
        weights = read_weights(path)
    except (ValueError, OSError) as error:
        return None, f"TokLIP's weights can't be read: {error}."
    if not isinstance(weights.config, TokLIPConfig):
        return None, f"the weights at {path} are another model's, not TokLIP's."
    return weights, ""


def _gallery(run, weights, why) -> tuple[Tokenizer | None, Gallery | None, str]:
    """The model and its images, or None and why."""
    if weights is None:
        return None, None, why
    tokenizer = weights.tokenizer_path or run.tokenizer_path()
    toklip = Tokenizer.from_weights(weights, tokenizer=tokenizer)
    if run.source is None:
        return toklip, None, "the run's config names no source of images."
    sizes = {name: run.report[name] for name in SIZES if name in run.report}
    resize = run.config.get("evaluation_resize", "squash")  # what is shown is what was judged
    try:
        return toklip, make_gallery(toklip, run.source, resize, **sizes), ""
    except (ValueError, OSError) as error:
        return toklip, None, f"the images can't be read: {error}"


def _pictures(run, toklip, gallery, why, phrases, place) -> tuple[list[Section], TextMaps | None]:
    if gallery is None:
        return [_left_out(slug, why) for slug in PICTURES], None
    asked: list[str] = [*phrases, *run.report.get("phrases", ())]
    # Without a wish, what is in the images is looked for first.
    vocabulary = set(gallery.vocabulary)
    asked += [title for title in gallery.titles if title in vocabulary]
    asked += gallery.vocabulary
    try:
        phrases = encode_phrases(toklip, asked)
    except ValueError as error:
        maps, texts = None, [_left_out(slug, str(error)) for slug in TEXTS]
    else:
        maps = text_maps(phrases, gallery.token_features)
        texts = [map_section(gallery, maps, place), naming_section(gallery, phrases, place)]
    return [
        reconstruction_section(gallery, place),
        ids_section(gallery, place),
        *texts,
        neighbour_section(gallery, place),
    ], maps


def _left_out(slug: str, why: str) -> Section:
    return Section(slug, PICTURES[slug], f"Left out: {why}")


def _replace(path: pathlib.Path, text: str) -> None:
    """Writes a file, whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)

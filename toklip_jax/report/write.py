"""Writes a run's page: reads the run's files, encodes a few images, joins the sections."""

import os
import pathlib
import urllib.parse
from collections.abc import Sequence

from toklip_jax.api import Tokenizer
from toklip_jax.core.errors import UserError
from toklip_jax.core.home import expand_user
from toklip_jax.core.whole_files import write_whole
from toklip_jax.data.images import DEFAULT_RESIZE
from toklip_jax.data.sources import registered
from toklip_jax.models.registry import family_of
from toklip_jax.report.confusion import confusion_section
from toklip_jax.report.extensions import import_extensions
from toklip_jax.report.files import RESULTS, Run, read_run
from toklip_jax.report.gallery import Gallery, make_gallery
from toklip_jax.report.header import facts_list, header
from toklip_jax.report.ids import ids_section
from toklip_jax.report.maps import map_data, map_section
from toklip_jax.report.method import CONFIG_FILE, config_text, method_section
from toklip_jax.report.naming import naming_section
from toklip_jax.report.neighbours import neighbour_section
from toklip_jax.report.output import Output
from toklip_jax.report.page import Section, render_page
from toklip_jax.report.phrases import TextMaps, encode_phrases, text_maps
from toklip_jax.report.reconstructions import reconstruction_section
from toklip_jax.report.results import results_section
from toklip_jax.report.seeds import read_seeds
from toklip_jax.report.training import training_section
from toklip_jax.report.usage import CountedIds, usage_section
from toklip_jax.weights import Weights, read_weights

# The sections that need images, by anchor and title; the page says of each why it is missing.
IMAGE_SECTIONS = {
    "reconstructions": "Reconstructions",
    "ids": "Ids",
    "where": "Where a text is in the image",
    "naming": "Names for the images",
    "neighbours": "Nearest neighbours",
}
TEXT_SECTIONS = ("where", "naming")  # those that need phrases too
SIZES = ("num_images", "num_searched")  # fields of the config's section
TITLE = "TokLIP: "  # of all pages, before the run's name
START = 2048  # bytes of a page that have its title
PAGE = pathlib.Path("report") / "index.html"
LINKED = (RESULTS, "results.md", "config.json")  # files of the run, if they are there


def write_report(
    workdir: str | pathlib.Path,
    phrases: Sequence[str] = (),
    output: str | pathlib.Path | None = None,
    imports: Sequence[str] = (),
    seeds: Sequence[str | pathlib.Path] = (),
) -> pathlib.Path:
    """Writes a self-contained page about a run.

    In the run's own directory its pictures are also kept as PNGs, beside the page, and its config
    as a config file. Sections whose
    images, text tokenizer or evaluation a run doesn't have are left out, and the page says why.

    Args:
        workdir: a run's directory.
        phrases: phrases to look for in the images, before the config's and the source's own names.
        output: the page, which is then the only file; `WORKDIR/report/index.html` by default.
        imports: modules that register the run's sources and evaluations. Of those that the run's
            config names, the ones of toklip_jax itself are imported anyway.
        seeds: directories of runs of the same config with other seeds: the page has the means of
            their figures too, and how far they spread.

    Returns:
        The path of the page.

    Raises:
        ValueError: no run in `workdir`, damaged files, a module that can't be imported, or seeds
            that are no such runs.
    """
    run = read_run(workdir)
    others = read_seeds(run, seeds)
    notes = import_extensions(run.imports, imports)
    path = run.workdir / PAGE if output is None else expand_user(output)
    if output is not None:
        _expect_earlier_page(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    place = Output(path.parent if output is None else None)
    weights, reason = _weights(run)
    toklip, gallery, reason = _gallery(run, weights, reason, notes)
    images, maps = _image_sections(run, toklip, gallery, reason, phrases, place)
    config = weights.config if weights else None
    own = CountedIds(gallery.pool.ids, config.vq.codebook_sizes) if gallery else None
    sections = [
        results_section(run, config, others),
        training_section(run),
        *images,
        usage_section(run, own),
        confusion_section(run),
        method_section(
            run,
            run.source if gallery else None,
            phrases,
            facts=facts_list(run, weights),
            config_path=_keep_config(run, place),
            notes=notes,
        ),
    ]
    page = render_page(
        TITLE + run.workdir.resolve().name,
        header(run, weights, _links(run, path)),
        sections,
        data=map_data(maps) if maps else None,
    )
    write_whole(path, page)
    return path


def _expect_earlier_page(path):
    """Checks that a file which the page would replace is a page too."""
    if path.is_file():
        with path.open("rb") as file:
            if f"<title>{TITLE}".encode() in file.read(START):
                return
        raise UserError(
            f"expected the page's own file, got {path}, which is there and is no report: choose "
            f"another"
        )


def _keep_config(run: Run, place: Output) -> str:
    """Writes the config file beside the page, and returns its path; "" for a page alone."""
    if place.directory is None:
        return ""
    write_whole(place.directory / CONFIG_FILE, config_text(run.config))
    return str(place.directory / CONFIG_FILE)


def _links(run: Run, page: pathlib.Path) -> dict[str, str]:
    """The run's files that are there, with their addresses from the page."""
    start = page.parent.resolve()
    files = [(name, run.workdir.resolve() / name) for name in LINKED]
    return {
        name: urllib.parse.quote(pathlib.Path(os.path.relpath(file, start)).as_posix())
        for name, file in files
        if file.is_file()
    }


def _weights(run: Run) -> tuple[Weights | None, str]:
    """TokLIP's weights, or None and the reason."""
    path = run.model_path("toklip")
    if not run.has_model("toklip"):
        return None, f"the run has no weights of TokLIP: there is nothing at {path}."
    try:
        weights = read_weights(path)
    except (UserError, OSError) as error:
        return None, f"TokLIP's weights can't be read: {error}."
    if family_of(weights.config).role != "toklip":
        return None, f"the weights at {path} are another model's, not TokLIP's."
    return weights, ""


def _gallery(run, weights, reason, notes) -> tuple[Tokenizer | None, Gallery | None, str]:
    """The model and its images, or None and the reason."""
    if weights is None:
        return None, None, reason
    tokenizer = weights.tokenizer_path or run.tokenizer_path()
    toklip = Tokenizer.from_weights(weights, tokenizer=tokenizer)
    if run.source is None:
        return toklip, None, "the run's config names no source of images."
    sizes = {name: run.report[name] for name in SIZES if name in run.report}
    sizes["exif_orientation"] = run.config.get("exif_orientation", False)
    resize = run.config.get("evaluation_resize", DEFAULT_RESIZE)  # as in the run's evaluations
    try:
        return toklip, make_gallery(toklip, run.source, resize, **sizes), ""
    except (UserError, OSError) as error:
        return toklip, None, f"the images can't be read: {error}{_hint(run.source, notes)}"


def _hint(source, notes):
    """Returns advice on a source whose kind isn't known."""
    if source.get("kind") in [kind.name for kind in registered()]:
        return ""
    return f". {' '.join(notes)}" if notes else "; pass --import=MODULE to import it for this page"


def _image_sections(
    run, toklip, gallery, reason, phrases, place
) -> tuple[list[Section], TextMaps | None]:
    if gallery is None:
        return [_left_out(slug, reason) for slug in IMAGE_SECTIONS], None
    asked: list[str] = [*phrases, *run.report.get("phrases", ())]
    # Unless phrases are asked for, those for what is in the images come first.
    vocabulary = set(gallery.vocabulary)
    asked += [title for title in gallery.titles if title in vocabulary]
    asked += gallery.vocabulary
    try:
        phrases = encode_phrases(toklip, asked)
    except UserError as error:
        maps, texts = None, [_left_out(slug, str(error)) for slug in TEXT_SECTIONS]
    else:
        maps = text_maps(phrases, gallery.token_features)
        texts = [map_section(gallery, maps, place), naming_section(gallery, phrases, place)]
    return [
        reconstruction_section(gallery, place),
        ids_section(gallery, place),
        *texts,
        neighbour_section(gallery, place),
    ], maps


def _left_out(slug: str, reason: str) -> Section:
    return Section(slug, IMAGE_SECTIONS[slug], f"Left out: {reason}")

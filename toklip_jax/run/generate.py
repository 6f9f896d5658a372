"""Draws many images with a generator, in parts that an interrupted run continues from.

OUTPUT/
    samples.json            what is drawn, and by what: a run with other settings is refused
    ids/part-00000.npz      `ids` and `labels` of `chunk` samples, written whole
    000000.png ...          the images
    grid.png                the first of them together
    samples.npz             all of them, as the ADM evaluator reads them, if asked for
"""

import dataclasses
import json
import pathlib
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import PIL.Image

from toklip_jax.api import Generator
from toklip_jax.api.best_of import check_candidates
from toklip_jax.api.conditions import check_classes, check_negative_class
from toklip_jax.api.settings import MAX_SAMPLES, Draws, read_sampling
from toklip_jax.core.errors import UserError, line_for_user
from toklip_jax.core.home import expand_user
from toklip_jax.core.whole_files import draft_of, read_object, write_json
from toklip_jax.data.images import read_image
from toklip_jax.files.npz import write_npz
from toklip_jax.models.generator.config import GPTConfig
from toklip_jax.parallel.hosts import barrier, call_on_main, is_main_host
from toklip_jax.parallel.preemption import is_told, stopping_when_asked
from toklip_jax.parallel.progress import Progress
from toklip_jax.run.shares import is_any_left

SETTINGS = "samples.json"
ARRAYS = "samples.npz"
GRID = "grid.png"
MAX_IN_GRID = 64
MAX_IMAGES = 10**7  # of a run, whose indices are held in memory; FID takes 50,000
LEFT = "parts are left to draw"


@dataclasses.dataclass(frozen=True)
class Request:
    """What is to be drawn.

    Attributes:
        num: how many images.
        classes: taken in turn; () draws them uniformly at random by the seed.
        texts: taken in turn, the conditions of a generator of captions; or one for each of
            `classes`, what candidates are compared with.
        best_of: candidates of each image, of which the one that fits its text best is kept.
        drop_at: places after which half of the candidates is given up, or 0.
        seed: of the classes and of every draw.
        sampling: the keyword arguments of `Generator.sample` that say how ids are drawn.
        image: a picture to complete, or "".
        keep_rows: rows of the grid that stay, of the picture.
        chunk: samples drawn at once, and written together.
    """

    num: int
    classes: tuple[int, ...] = ()
    seed: int = 0
    sampling: tuple[tuple[str, Any], ...] = ()
    image: str = ""
    keep_rows: int = 0
    chunk: int = 32
    texts: tuple[str, ...] = ()
    best_of: int = 1
    drop_at: int = 0

    def __post_init__(self):
        if min(self.num, self.chunk) < 1 or self.seed < 0:
            raise UserError(
                f"expected num and a batch size of at least 1 and a seed of at least 0, got "
                f"{self.num}, {self.chunk} and {self.seed}"
            )
        if bool(self.image) != (self.keep_rows != 0):
            raise UserError("expected an image and keep_rows together, got one without the other")
        if self.best_of < 1 or (self.drop_at and self.best_of == 1):
            raise UserError(
                f"expected best_of of at least 1, and above 1 with drop_at, got {self.best_of} "
                f"and {self.drop_at}"
            )
        if self.num > (most := min(MAX_IMAGES, MAX_SAMPLES // self.best_of)):
            raise UserError(
                f"expected num of at most {most:,}, got {self.num:,}: draw the others into another "
                f"directory, with another seed"
            )
        if self.best_of > 1 and self.image:
            raise UserError("expected no image with best_of, whose candidates are whole images")

    def check(self, gpt: GPTConfig) -> None:
        """Checks conditions and settings before anything is written.

        Raises:
            ValueError: a condition or a setting that this generator would refuse.
        """
        self._check_texts(gpt.num_classes)
        settings = dict(self.sampling)
        negative = settings.pop("negative_class", None)
        Draws(self.seed, 0, negative, read_sampling(settings))
        check_negative_class(gpt, negative)
        check_candidates(self.best_of, self.drop_at, gpt.num_places)
        if self.classes:
            check_classes(self.classes, gpt.num_classes)

    def _check_texts(self, num_classes):
        if not num_classes:
            if self.classes or not self.texts:
                raise UserError(
                    "expected texts and no classes with a generator of captions: pass --text, once "
                    "for each"
                )
        elif self.best_of == 1 and self.texts:
            raise UserError(
                "expected no text with a generator of classes, which draws what --classes names: "
                "add --best-of=N to choose among N candidates by the text"
            )
        elif self.best_of > 1 and len(self.texts) != max(len(self.classes), 1):
            raise UserError(
                f"expected a text for each of {len(self.classes)} classes to choose by, got "
                f"{len(self.texts)}: name --classes, and pass --text once for each of them"
            )

    def labels(self, indices: np.ndarray, num_classes: int) -> np.ndarray:
        """Returns the classes of samples, or the numbers of their texts, int32.

        A function of their indices alone.
        """
        if not num_classes:
            return (indices % len(self.texts)).astype(np.int32)
        if self.classes:
            return np.asarray(self.classes, np.int32)[indices % len(self.classes)]
        every = np.random.default_rng(self.seed).integers(num_classes, size=self.num)
        return every.astype(np.int32)[indices]


def generate(
    generator: Generator,
    request: Request,
    output: pathlib.Path,
    *,
    identity: Mapping[str, Any],
    writes_images: bool = True,
    writes_arrays: bool = False,
    host: int = 0,
    hosts: int = 1,
) -> None:
    """Draws what is missing in `output`, and writes it.

    Args:
        identity: what else decides the images, such as hashes of the weights; json data. A run
            continues with the same only, but a VQ tokenizer may come later: `vq` may be "" before.
        writes_images: whether each image is written as a PNG.
        writes_arrays: whether all are written into one .npz too.
        host: this host's number of `hosts`; it draws every `hosts`-th part.

    Raises:
        ValueError: `output` holds other samples, or a picture or class that does not fit.
        Preempted: told to stop; the parts that are done stay.
    """
    gpt = generator.config.gpt
    if writes_arrays and not _decodes(generator):
        raise UserError(
            "expected a VQ tokenizer with --npz, which holds images, got none: add --vq"
        )
    request.check(gpt)
    kept = _kept(generator, request)
    settings = dict(identity) | {"grid": gpt.grid, "kept": None if kept is None else kept.tolist()}
    if request.texts:  # read before anything is claimed; another text tokenizer is another run
        settings["token_ids"] = generator.token_ids(request.texts).tolist()
    if request.best_of > 1:  # refuses what candidates can't be compared with
        generator.text_features(list(request.texts))
    call_on_main(lambda: _claim(output, request, settings))
    parts = _parts(request)
    ours = [i for i in parts if i % hosts == host]
    missing = [i for i in ours if not _path(output, i).exists()]

    def complete(number):
        indices = parts[number]
        if not _path(output, number).exists():
            labels = request.labels(indices, gpt.num_classes)
            ids = _draw(generator, request, indices, labels, kept)
            write_npz(_path(output, number), ids=ids, labels=labels)
            progress.advance()
        if writes_images:  # perhaps of a run without
            _write_images(generator, request, output, number, indices)

    with Progress("generate", len(missing), 0) as progress:
        _complete_all(ours, complete)
    barrier("all samples")
    if is_main_host():
        _finish(generator, request, output, writes_arrays)


def _complete_all(numbers, complete):
    """Calls `complete` with each of this host's numbers; what one host meets is told to all."""
    left, error = list(numbers), ""
    with stopping_when_asked(is_alone=True):
        while is_any_left(len(left), LEFT, is_told=is_told(is_alone=True), error=error):
            if not left:
                continue  # others work on
            try:
                complete(left[0])
                left.pop(0)
            except (UserError, OSError) as found:
                error = line_for_user(found) or str(found)


def to_grid(images: Sequence[np.ndarray], gap: int = 2) -> np.ndarray:
    """Returns images [h, w, 3] in one, row by row on a grid that is nearly square."""
    columns = int(np.ceil(len(images) ** 0.5))
    h, w, _ = images[0].shape
    rows = -(-len(images) // columns)
    whole = np.full((rows * (h + gap) - gap, columns * (w + gap) - gap, 3), 255, np.uint8)
    for i, image in enumerate(images):
        y, x = (i // columns) * (h + gap), (i % columns) * (w + gap)
        whole[y : y + h, x : x + w] = image
    return whole


def _draw(generator, request, indices, labels, kept):
    options = dict(request.sampling) | {"key": request.seed, "first_index": int(indices[0])}
    texts = [request.texts[i % len(request.texts)] for i in indices] if request.texts else None
    if generator.config.gpt.num_classes:
        options["classes"] = labels
    else:
        options["captions"] = texts
    if request.best_of > 1:
        best = generator.best_of(texts, num=request.best_of, drop_at=request.drop_at, **options)
        return np.asarray(best.ids)
    if kept is None:
        return np.asarray(generator.sample(**options))
    keep = request.keep_rows * generator.config.gpt.grid[1]
    ids = np.broadcast_to(kept, (len(labels), *kept.shape[1:]))
    return np.asarray(generator.complete(ids, keep=keep, **options))


def _kept(generator, request):
    if not request.image:
        return None
    rows = generator.config.gpt.grid[0]
    if not 0 < request.keep_rows < rows:
        raise UserError(f"expected keep_rows from 1 to {rows - 1}, got {request.keep_rows}")
    return np.asarray(generator.tokenize([read_image(expand_user(request.image))]))


def _parts(request) -> dict[int, np.ndarray]:
    size = request.chunk
    every = np.arange(request.num)
    return {i: every[start : start + size] for i, start in enumerate(range(0, request.num, size))}


def _path(output, number) -> pathlib.Path:
    return output / "ids" / f"part-{number:05}.npz"


def _read_part(output, number, request) -> dict[str, np.ndarray]:
    """The arrays of a part; nothing stays open, as a long run has thousands."""
    path, rows = _path(output, number), min(request.chunk, request.num - number * request.chunk)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            part = {name: arrays[name] for name in ("ids", "labels")}
        if {array.shape[:1] for array in part.values()} != {(rows,)}:
            raise UserError(f"expected {rows} rows in it")
        return part
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            f"expected ids in {path}, which is damaged ({error}): delete it, and run the same "
            f"command again"
        ) from error


def _write_images(generator, request, output, number, indices):
    """Writes the images of a part that are not there, each whole or not at all."""
    paths = [output / f"{index:06}.png" for index in indices]
    if not _decodes(generator) or all(path.exists() for path in paths):
        return
    images = _to_uint8(generator.detokenize(_read_part(output, number, request)["ids"]))
    for path, image in zip(paths, images, strict=True):
        _write_image(path, image)


def _write_image(path, image):
    with draft_of(path) as draft:
        PIL.Image.fromarray(image).save(draft, "png")


def _claim(output, request, identity):
    """Makes the directory, or checks that it holds parts of the same samples."""
    plain = dataclasses.asdict(request) | dict(identity)
    plain.pop("image")  # its ids are among the settings, wherever it is
    settings = json.loads(json.dumps(plain))
    if output.exists() and not output.is_dir():
        raise UserError(f"expected a directory as --output, got the file {output}")
    if (output / SETTINGS).exists():
        _continue(output, settings)
        return
    if output.exists() and any(p for p in output.iterdir() if not p.name.startswith(".")):
        raise UserError(f"expected a new or empty directory as --output, got {output}")
    output.mkdir(parents=True, exist_ok=True)
    write_json(output / SETTINGS, settings)  # first: what has no settings is refused
    (output / "ids").mkdir()


def _continue(output, settings):
    """Checks that a directory holds parts of the same samples; its VQ tokenizer may be new."""
    found = read_object(output / SETTINGS, "choose another --output")
    is_new = not found.get("vq") and bool(settings.get("vq"))
    same = found | {"vq": settings["vq"]} if is_new else found
    if differ := sorted(n for n in same.keys() | settings if same.get(n) != settings.get(n)):
        name = differ[0]
        there, now = found.get(name), settings.get(name)
        if name == "sampling" and isinstance(there, list):  # of several settings, what differs
            there, now = [x for x in there if x not in now], [x for x in now if x not in there]
        raise UserError(
            f"{output} holds samples of other settings ({name}: {there} there, {now} now): choose "
            f"another --output"
        )
    if is_new:
        write_json(output / SETTINGS, same)
    (output / "ids").mkdir(exist_ok=True)


def _finish(generator, request, output, writes_arrays):
    """Writes what all parts together make."""
    if not _decodes(generator):
        print(f"{output}: ids of {request.num} images; pass --vq to see them")
        return
    size = min(request.num, MAX_IN_GRID)
    numbers = list(_parts(request))
    shown = numbers[: -(-size // request.chunk)]
    first = np.concatenate([_read_part(output, n, request)["ids"] for n in shown])[:size]
    _write_image(output / GRID, to_grid(list(_to_uint8(generator.detokenize(first)))))
    if writes_arrays:
        _write_arrays(generator, request, output, numbers)
    print(f"{output}: {request.num} images, the first {size} of them together in {GRID}")


def _write_arrays(generator, request, output, numbers):
    """Writes `arr_0`, uint8 [num, h, w, 3], and `arr_1`, the labels, part by part."""
    labels = []
    with (
        draft_of(output / ARRAYS) as draft,
        zipfile.ZipFile(draft, "w", allowZip64=True) as archive,
    ):
        with archive.open("arr_0.npy", "w", force_zip64=True) as file:
            for number in numbers:
                part = _read_part(output, number, request)
                images = _to_uint8(generator.detokenize(part["ids"]))
                if not labels:
                    header = {"descr": "|u1", "fortran_order": False}
                    shape = {"shape": (request.num, *images.shape[1:])}
                    np.lib.format.write_array_header_1_0(file, header | shape)
                file.write(images.tobytes())
                labels.append(part["labels"].astype(np.int64))
        with archive.open("arr_1.npy", "w") as file:
            np.lib.format.write_array(file, np.concatenate(labels))


def _decodes(generator) -> bool:
    return generator.config.tokenizer is not None


def _to_uint8(images: Any) -> np.ndarray:
    """Returns images in [-1, 1] as uint8: clamp(127.5 x + 128), truncated, as FID is published."""
    scaled = np.asarray(jax.device_get(images), np.float32) * np.float32(127.5) + np.float32(128)
    return np.clip(scaled, 0, 255).astype(np.uint8)

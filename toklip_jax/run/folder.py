"""What a model makes of a folder of images, and the files that keep it.

IDS.npz        ids int32 [images, n] or [images, n, q], names, about
IDS.parquet    image_tokens, caption (null), name; docs/cache.md
FEATURES.npz   features float32 [images, d], names, about

`about` is json text: the weights, by a hash of their parameters, and the sizes.
"""

import collections
import concurrent.futures
import json
import logging
import pathlib
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import PIL.Image

from toklip_jax.core.errors import AlreadyExists, NotFound, UserError
from toklip_jax.core.home import expand_user
from toklip_jax.core.whole_files import draft_of
from toklip_jax.data.health import BadSample, BadSamples, shown
from toklip_jax.data.images import Decode
from toklip_jax.data.paths import join
from toklip_jax.data.sources.image_folder import list_pictures
from toklip_jax.data.sources.records import read_image_bytes
from toklip_jax.files.npz import write_npz
from toklip_jax.ops.pixels import to_uint8
from toklip_jax.parallel.progress import Progress

logger = logging.getLogger(__name__)

IDS, FEATURES = "ids", "features"
NPZ, PARQUET = ".npz", ".parquet"
THREADS = 8  # that read and decode; Pillow lets them run at once
BATCHES_AHEAD = 2  # that are read while the model computes


class Rows(NamedTuple):
    """Rows that a model made of images.

    Attributes:
        names: the images' paths from their folder.
        values: an array with a row for each.
        about: what made them.
    """

    names: tuple[str, ...]
    values: np.ndarray
    about: Mapping[str, Any]


def map_folder(
    folder: str | pathlib.Path,
    function: Callable[[np.ndarray], Any],
    *,
    title: str,
    image_size: int | tuple[int, ...],
    batch_size: int,
    resize: str,
) -> tuple[tuple[str, ...], np.ndarray]:
    """Returns the names of a folder's images, in sorted order, and the rows that `function` gives.

    Images that can't be read are left out; the log counts and names them.

    Args:
        function: takes images uint8 [b, h, w, 3], at most `batch_size` at a time.
        title: of the progress bar.
        image_size: the side of a square in pixels, or (height, width).
        resize: one of `data.images.RESIZES`.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: no image in it, or none that can be read.
    """
    found, problems = list_pictures(str(folder))
    bad = BadSamples(max_share=1.0)
    bad.leave_out(problems, len(found))
    if not found:
        raise UserError(f"expected images in {folder}, found none{_causes(bad)}")
    names: list[str] = []
    rows: list[np.ndarray] = []
    decode = Decode(image_size, is_training=False, resize=resize)
    with Progress(title, len(found), unit="image") as progress:
        for batch in _batches(folder, found, decode, batch_size, bad, progress):
            names += [name for name, _ in batch]
            rows.append(np.asarray(function(np.stack([image for _, image in batch]))))
    if not names:
        raise UserError(f"expected images in {folder} that can be read, found none{_causes(bad)}")
    if bad.counts:
        logger.warning("left out %s", bad.report())
    return tuple(map(_storable, names)), np.concatenate(rows)


def expect_new(path: pathlib.Path, overwrites: bool) -> None:
    """Checks that nothing is overwritten which shall stay.

    Raises:
        FileExistsError: a file is there.
    """
    if path.exists() and not overwrites:
        raise AlreadyExists(
            f"expected a new file, got {path}, which exists: choose another, or pass --overwrite"
        )


def write_rows(path: pathlib.Path, what: str, rows: Rows) -> None:
    """Writes rows as `.npz`, or ids as `.parquet`, by the file's suffix.

    Args:
        what: `IDS` or `FEATURES`, the name of their array.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == PARQUET:
        from toklip_jax.data.cache import ids_table, write_table  # of training: not for .npz

        columns = {"caption": [None] * len(rows.names), "name": rows.names}
        write_table(path, ids_table(rows.values, columns, rows.about))
        return
    about = np.array(json.dumps(dict(rows.about)))
    write_npz(path, **{what: rows.values}, names=np.array(rows.names), about=about)


def expect_suffix(path: pathlib.Path, suffixes: Sequence[str]) -> None:
    """Checks a file's suffix.

    Raises:
        ValueError: another.
    """
    if path.suffix not in suffixes:
        raise UserError(f"expected a file *{' or *'.join(suffixes)}, got {path}")


def read_rows(path: pathlib.Path, what: str) -> Rows:
    """Reads what `write_rows` wrote.

    Raises:
        FileNotFoundError, ValueError: no such file, or another one.
    """
    if not path.is_file():
        found = "got the directory" if path.is_dir() else "found nothing at"
        raise NotFound(f"expected a file of {what}, {found} {path}")
    try:
        return _read_parquet(path) if path.suffix == PARQUET else _read_npz(path, what)
    except (ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise UserError(
            f"expected {what} in {path}, as toklip writes them, got another file ({error})"
        ) from error


def expect_same(rows: Rows, about: Mapping[str, Any], path: pathlib.Path) -> None:
    """Checks that rows are of the weights that `about` tells of.

    Raises:
        ValueError: of others.
    """
    for name in ("sha256", "vq_sha256"):
        if name in about and rows.about.get(name) != about[name]:
            raise UserError(
                f"expected what these weights made in {path}, got that of "
                f"{rows.about.get('weights', 'others')}: name those in --weights"
            )


def write_images(
    folder: pathlib.Path,
    rows: Rows,
    decode: Callable[[np.ndarray], Any],
    *,
    batch_size: int,
    overwrites: bool,
) -> list[pathlib.Path]:
    """Writes the image of each row of ids as PNG, under its name, and returns the files.

    Args:
        decode: returns images in [-1, 1] of ids.

    Raises:
        ValueError: a name that leads out of the folder, two names that would be one file, or a file
            that is there already.
    """
    paths = [folder / name for name in _png_names(rows.names)]
    for path in paths:
        expect_new(path, overwrites)
    with Progress("decode", len(paths), unit="image") as progress:
        for start in range(0, len(paths), batch_size):
            some = paths[start : start + batch_size]
            images = np.asarray(decode(rows.values[start : start + batch_size]))
            for path, image in zip(some, to_uint8(images), strict=True):
                path.parent.mkdir(parents=True, exist_ok=True)
                with draft_of(path) as draft:
                    PIL.Image.fromarray(image).save(draft, "png")
            progress.advance(len(some))
    return paths


def _batches(folder, names, decode, batch_size, bad, progress) -> Iterator[list[tuple]]:
    """Full batches of (name, image), but for the last; bad images are counted in `bad`."""
    batch: list[tuple[str, np.ndarray]] = []
    for name, image in _read_ahead(folder, names, decode, BATCHES_AHEAD * batch_size):
        progress.advance()
        if isinstance(image, BadSample):
            bad.add(0, [(name, image.cause)])
            continue
        bad.add(1, [])
        batch.append((name, image))
        if len(batch) == batch_size:
            yield batch
            batch = []
    if batch:
        yield batch


def _read_ahead(folder, names, decode, ahead) -> Iterator[tuple[str, Any]]:
    """Names with images, or with the `BadSample` that says why there is none, in order."""
    root = str(expand_user(folder))

    def read(name):
        try:
            record = {"image": read_image_bytes(join(root, name))}
            return decode(record, np.random.default_rng(0))["images"]  # nothing is drawn
        except BadSample as error:
            return error

    waiting: collections.deque = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        for name in names:
            waiting.append((name, pool.submit(read, name)))
            if len(waiting) > ahead:
                done, image = waiting.popleft()
                yield done, image.result()
        for done, image in waiting:
            yield done, image.result()


def _causes(bad):
    return f": {bad.report()}" if bad.counts else ""


def _storable(name):
    """A name as UTF-8 can hold it."""
    return name.encode("utf-8", "surrogateescape").decode(errors="backslashreplace")


def _read_npz(path, what) -> Rows:
    with np.load(path, allow_pickle=False) as arrays:
        names, about = arrays["names"], _read_about(str(arrays["about"]))
        rows = Rows(tuple(map(str, names)), arrays[what], about)
    if len(rows.names) != len(rows.values):
        raise UserError(f"{len(rows.names)} names and {len(rows.values)} rows")
    return rows


def _read_parquet(path) -> Rows:
    import pyarrow.parquet

    from toklip_jax.data.cache import METADATA

    table = pyarrow.parquet.read_table(path)
    about = _read_about((table.schema.metadata or {})[METADATA])
    ids = np.asarray(table["image_tokens"].to_pylist(), np.int64) - about["id_offset"]
    is_named = "name" in table.column_names
    names = table["name"].to_pylist() if is_named else [f"{i:06}" for i in range(len(ids))]
    return Rows(tuple(names), ids.astype(np.int32), about)


def _read_about(text) -> dict[str, Any]:
    about = json.loads(text)
    if not isinstance(about, dict):
        raise UserError(f"about is a {type(about).__name__}, no object")
    return about


def _png_names(names) -> list[pathlib.PurePosixPath]:
    """A PNG's name for each image: its suffix becomes ".png".

    Where two would differ in their suffix alone, both keep it; all do if that is not enough.
    """
    paths = [pathlib.PurePosixPath(name) for name in names]
    for path in paths:
        is_within = path.name and not path.is_absolute() and ".." not in path.parts
        if not is_within or "\0" in str(path):
            raise UserError(f"expected names of files within the folder, got {shown(str(path))!r}")
    short = [path.with_suffix(".png") for path in paths]
    whole = [path.with_name(f"{path.name}.png") for path in paths]
    counts = collections.Counter(short)
    files = [x if counts[x] == 1 else y for x, y in zip(short, whole, strict=True)]
    if _clash(files):
        files = whole
    if clash := _clash(files):
        first, second = (shown(names[i]) for i in clash)
        raise UserError(
            f"expected names of images that can be files beside each other, got {first!r} and "
            f"{second!r}: rename one in the file of ids, or decode them apart"
        )
    return files


def _clash(files) -> tuple[int, int] | None:
    """The indices of two that are one file, or of a file and one in a folder of its name."""
    indices = {file: i for i, file in enumerate(files)}
    for i, file in enumerate(files):
        for above in (file, *file.parents):
            if indices.get(above, i) != i:
                return i, indices[above]
    return None

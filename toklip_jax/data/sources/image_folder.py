"""Labelled images as files: the directory of an image is its class."""

import collections
import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from toklip_jax.core.errors import NotFound, UserError
from toklip_jax.data.health import Problem
from toklip_jax.data.paths import expand_home, file_system, is_local, join, storage_errors
from toklip_jax.data.sources.base import ENCODED, SourceKind
from toklip_jax.data.sources.records import read_image_bytes

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".avif", ".bmp", ".gif")
IMAGE_SUFFIXES += (".tif", ".tiff", ".jp2", ".ppm", ".pgm", ".pnm")
# Pictures that `images.formats` doesn't read; other files beside pictures are none of ours.
OTHER_PICTURES = (".heic", ".heif", ".svg", ".eps", ".ps", ".pdf", ".psd", ".jxl", ".ico", ".tga")
OTHER_PICTURES += (".cr2", ".nef", ".arw", ".dng", ".raw", ".exr", ".hdr")
# A directory above these would make two or three classes of a data set of thousands.
SPLITS = frozenset(("train", "training", "val", "valid", "validation", "test", "testing", "dev"))

OTHER_FORMAT = "a picture of a format that isn't read: convert it"
NO_CLASS = "a picture outside the directories of classes"
LOOP = "a link to a directory that it is in"
_NAMED = 5  # in a message


class ImageFolderSource:
    """Records of `image` (bytes) and `label` (int), the index of its directory in `classes`.

    Attributes:
        classes: names of the directories directly under the root, sorted, whether they hold
            pictures or not; or those that were asked for.
        problems: pictures that are left out.
        has_labels: true.
    """

    has_labels = True

    def __init__(self, root: str, classes: Sequence[str] | None = None):
        """Lists the images under `root`/class/, at any depth; hidden files are left out.

        Links are followed. Class names are sorted as text, so numbered ones come as 0, 1, 10.

        Args:
            classes: names of directories in the order of their labels, so that several folders are
                numbered alike; None for all there are, sorted.

        Raises:
            FileNotFoundError: there is no such directory.
            ValueError: there is no image in a directory of a class; the directories are those of
                splits, such as train and val; or one of `classes` isn't there.
        """
        self.root = expand_home(root)
        found = _list(self.root)
        self.classes = _choose_classes(found.directories, classes, self.root)
        labels = {name: label for label, name in enumerate(self.classes)}
        names = [name for name in found.names if name.split("/", 1)[0] in labels]
        self.problems: list[Problem] = found.problems
        if others := len(found.directories) - len(self.classes):
            logger.info("%d directories of %s are not among classes", others, self.root)
        if not names:
            raise UserError(
                f"expected images as {root}/class/name.jpg, found none: pass the directory above "
                f"those of the classes"
            )
        self._labels = np.array([labels[name.split("/", 1)[0]] for name in names], np.int32)
        self._report_empty()
        # One array: a list of a million strings takes seconds to go to each worker.
        self._names = np.array([name.encode("utf-8", "surrogateescape") for name in names])

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Returns a record.

        Raises:
            BadSample: the file is gone, or can't be read.
        """
        path = join(self.root, self._name(index))
        return {"image": read_image_bytes(path), "label": int(self._labels[index])}

    def key(self, index: int) -> str:
        """Returns the path under the root."""
        return self._name(index).encode("utf-8", "surrogateescape").decode(errors="replace")

    def identity(self) -> list[Any]:
        """Returns the classes, and a hash of all names and labels."""
        digest = hashlib.sha256(self._names.tobytes() + self._labels.tobytes())
        return [list(self.classes), digest.hexdigest()]

    def _name(self, index):
        return self._names[index].decode("utf-8", "surrogateescape")

    def _report_empty(self):
        filled = np.bincount(self._labels, minlength=len(self.classes))
        if empty := [name for name, count in zip(self.classes, filled, strict=True) if not count]:
            logger.warning(
                "%d of %d classes of %s have no picture: %s%s",
                len(empty), len(self.classes), self.root, ", ".join(empty[:_NAMED]),
                ", ..." if len(empty) > _NAMED else "",
            )  # fmt: skip


def list_pictures(root: str) -> tuple[list[str], list[Problem]]:
    """Returns the pictures in a directory at any depth, and those that are left out.

    Links are followed; hidden files and other files are passed over.

    Returns:
        Their paths from `root`, sorted; and names with causes.

    Raises:
        FileNotFoundError: there is no such directory.
    """
    found = _list(expand_home(root), "images", has_classes=False)
    return found.names, found.problems


IMAGE_FOLDER = SourceKind("image_folder", ImageFolderSource, ENCODED)


class _Listing:
    """Files under a root.

    Attributes:
        directories: names of those directly under it, sorted; hidden ones are left out.
        names: the images' names in them (or anywhere, without classes), as paths from the root,
            sorted.
        problems: pictures that are left out.
    """

    def __init__(self, directories, files, problems, has_classes):
        self.directories = sorted(name for name in directories if not name.startswith("."))
        self.names, self.problems = [], list(problems)
        others = collections.Counter()
        for name in sorted(files):
            if any(part.startswith(".") for part in name.split("/")):
                continue
            suffix = os.path.splitext(name)[1].lower()
            if suffix in OTHER_PICTURES:
                self.problems.append((name, OTHER_FORMAT))
            elif suffix not in IMAGE_SUFFIXES:
                others[suffix] += 1
            elif "/" in name or not has_classes:
                self.names.append(name)
            else:
                self.problems.append((name, NO_CLASS))
        if others:
            kinds = ", ".join(f"{suffix or 'none'}: {n}" for suffix, n in others.most_common(5))
            logger.info("left out %d files that are no pictures (%s)", others.total(), kinds)


def _list(root, what="classes", has_classes=True) -> _Listing:
    system, base = file_system(root)
    with storage_errors(root):
        is_there = system.isdir(base)
        found = "got the file" if not is_there and system.isfile(base) else "found none at"
    if not is_there:
        raise NotFound(f"expected a directory of {what}, {found} {root}")
    if is_local(root):
        problems: list[Problem] = []
        files = list(_local_files(root, problems))
        with os.scandir(root) as entries:
            directories = [entry.name for entry in entries if _is_directory(entry)]
        return _Listing(directories, files, problems, has_classes)
    base = base.rstrip("/")
    with storage_errors(root):
        files = [path[len(base) + 1 :] for path in system.find(base)]
        below = system.ls(base, detail=True)
    directories = [one["name"] for one in below if one["type"] == "directory"]
    return _Listing(
        [name.rstrip("/").rsplit("/", 1)[-1] for name in directories], files, [], has_classes
    )


def _local_files(root, problems) -> Iterator[str]:
    """Yields the paths of all files below a directory, through links too."""
    waiting = [("", (_identity(root),))]
    while waiting:
        prefix, above = waiting.pop()
        with os.scandir(join(root, prefix)) as entries:
            for entry in entries:
                name = f"{prefix}{entry.name}"
                if not _is_directory(entry):
                    yield name
                elif entry.name.startswith("."):
                    continue
                elif (identity := _identity(entry.path)) in above:
                    problems.append((name, LOOP))
                else:
                    waiting.append((f"{name}/", (*above, identity)))


def _is_directory(entry):
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _identity(path):
    found = os.stat(path)
    return found.st_dev, found.st_ino


def _choose_classes(directories, classes, root) -> tuple[str, ...]:
    if classes is None:
        if directories and SPLITS.issuperset(name.lower() for name in directories):
            raise UserError(
                f"expected directories of classes in {root}, found {', '.join(directories)}, "
                f"which are names of splits: set root to one of them, or, if they are classes, "
                f"classes={tuple(directories)!r}"
            )
        return tuple(directories)
    if missing := [name for name in classes if name not in directories]:
        raise UserError(
            f"expected a directory for each of {len(classes)} classes in {root}, found none for "
            f"{', '.join(missing[:_NAMED])}: leave it out, or make it, empty if there is no picture"
        )
    if len(set(classes)) < len(classes):
        raise UserError(f"expected each class of {root} once, got {classes}")
    return tuple(classes)

"""Labelled images as files: the directory of an image is its class."""

from typing import Any

import numpy as np

from toklip_jax.data.paths import file_system
from toklip_jax.data.sources.base import ENCODED, SourceKind
from toklip_jax.data.sources.records import read_image_bytes

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")


class ImageFolderSource:
    """Records of `image` (bytes) and `label` (int), the index of its directory in `classes`.

    Attributes:
        classes: names of the directories directly under the root, sorted.
    """

    def __init__(self, root: str):
        """Lists the images under `root`/class/, at any depth; hidden files are left out.

        Raises:
            FileNotFoundError: there is no such directory.
            ValueError: there is no image in a directory of a class.
        """
        self.root = root.rstrip("/")
        system, base = file_system(self.root)
        if not system.isdir(base):
            raise FileNotFoundError(f"expected a directory of classes, found none at {root}")
        base = base.rstrip("/")
        names = [path[len(base) + 1 :] for path in system.find(base)]
        names = sorted(name for name in names if _is_image(name))
        if not names:
            raise ValueError(
                f"expected images as {root}/class/name.jpg, found none: pass the directory above "
                f"those of the classes"
            )
        self.classes = tuple(sorted({name.split("/", 1)[0] for name in names}))
        labels = {name: label for label, name in enumerate(self.classes)}
        self._labels = np.array([labels[name.split("/", 1)[0]] for name in names], np.int32)
        # One array: a list of a million strings takes seconds to go to each worker.
        self._names = np.array([name.encode("utf-8", "surrogateescape") for name in names])

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Returns a record.

        Raises:
            BadSample: the file is gone.
        """
        path = f"{self.root}/{self._name(index)}"
        return {"image": read_image_bytes(path), "label": int(self._labels[index])}

    def key(self, index: int) -> str:
        """Returns the path under the root."""
        return self._name(index).encode("utf-8", "surrogateescape").decode(errors="replace")

    def _name(self, index):
        return self._names[index].decode("utf-8", "surrogateescape")


IMAGE_FOLDER = SourceKind("image_folder", ImageFolderSource, ENCODED)


def _is_image(name):
    hidden = any(part.startswith(".") for part in name.split("/"))
    return "/" in name and not hidden and name.lower().endswith(IMAGE_SUFFIXES)

"""Files as arrays of bytes that take memory only while they are read."""

import mmap
import pathlib
from collections.abc import Sequence

import numpy as np


class MappedFile:
    """A read-only view of a file.

    Attributes:
        path: the file's path.
        bytes: uint8, all of the file; views of it stay valid as long as they live.
    """

    def __init__(self, path: str | pathlib.Path):
        self.path = pathlib.Path(path)
        with self.path.open("rb") as file:
            self._mmap = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.bytes = np.frombuffer(self._mmap, np.uint8)

    def release(self) -> None:
        """Lets go of the memory that reading took; what is read again comes from the file."""
        if hasattr(self._mmap, "madvise"):  # not on Windows
            self._mmap.madvise(mmap.MADV_DONTNEED)


class MappedFiles:
    """Several mapped files that make up one.

    Attributes:
        path: the path of the index that names them, or of the first.
        files: the files in the order in which they are named.
    """

    def __init__(self, path: str | pathlib.Path, files: Sequence["AnyMapped"]):
        self.path = pathlib.Path(path)
        self.files = tuple(files)

    def release(self) -> None:
        """Lets go of the memory that reading took; what is read again comes from the files."""
        for file in self.files:
            file.release()


AnyMapped = MappedFile | MappedFiles

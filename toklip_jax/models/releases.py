"""What is published of a model family: the files, where they are, and what tells them."""

import dataclasses
from collections.abc import Mapping
from typing import Any

HUB = "https://huggingface.co"
MAIN = "main"  # the branch that is taken where no commit is known
UNITS = ("B", "kB", "MB", "GB", "TB")  # decimal, as the hub's pages count


@dataclasses.dataclass(frozen=True)
class File:
    """A published file.

    Attributes:
        name: its path within the repository.
        size: its size in bytes, or as its page rounds it, such as "8.31 GB"; None if not known.
        sha256: the SHA-256 of its content, in hex; None if not known.
    """

    name: str
    size: int | str | None = None
    sha256: str | None = None

    def has_size(self, num_bytes: int) -> bool:
        """Tells whether a size in bytes is the file's, as far as that is known."""
        if isinstance(self.size, str):
            return readable_size(num_bytes) == self.size
        return self.size in (None, num_bytes)

    @property
    def shown_size(self) -> str:
        """The size for people to read, "" if not known."""
        return readable_size(self.size) if isinstance(self.size, int) else self.size or ""


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """Files of a repository on the Hugging Face hub, at one commit.

    Attributes:
        repository: its name, "owner/name".
        files: the weights, or their index, first.
        revision: the commit in full; None if it is not known, which takes what is on `MAIN`.
    """

    repository: str
    files: tuple[File, ...]
    revision: str | None = None

    def url(self, file: File) -> str:
        """Returns where a file is fetched from by hand."""
        return f"{HUB}/{self.repository}/resolve/{self.revision or MAIN}/{file.name}"


@dataclasses.dataclass(frozen=True)
class Release:
    """Published weights.

    Attributes:
        name: the name that `load` takes.
        title: what they are, for people.
        licence: the licence of the weights, or what is known of it.
        files: where they are on the hub, or None where they are elsewhere, at `page`.
        tokenizer: the text tokenizer that goes with them, where it is elsewhere on the hub.
        page: the page to read before use; the repository's unless given.
        licence_page: the text of the licence, where it is not at `page`.
        is_gated: whether the hub asks to accept the licence and to log in.
        options: arguments of `load` that these files need, for what they don't tell.
        use: how they are used, where `load` alone is not how.
    """

    name: str
    title: str
    licence: str
    files: Snapshot | None = None
    tokenizer: Snapshot | None = None
    page: str = ""
    licence_page: str = ""
    is_gated: bool = False
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    use: str = ""

    @property
    def link(self) -> str:
        """The page of the weights."""
        return self.page or f"{HUB}/{self.files.repository}"

    @property
    def snapshots(self) -> tuple[Snapshot, ...]:
        """All that is fetched."""
        return tuple(part for part in (self.files, self.tokenizer) if part is not None)

    @property
    def size(self) -> str:
        """The size of all weights for people to read, "" if not known."""
        files = self.files.files if self.files else ()
        weights = [file for file in files if not file.name.endswith((".json", ".txt"))]
        sizes = [file.size for file in weights]
        if len(sizes) == 1:
            return weights[0].shown_size
        if not sizes or any(size is None for size in sizes):
            return ""
        return readable_size(sum(map(_num_bytes, sizes)))


def readable_size(num_bytes: int | float) -> str:
    """Returns a size in three digits and decimal units, as the hub's pages show it."""
    unit = 0
    while num_bytes >= 999.5 and unit + 1 < len(UNITS):
        num_bytes, unit = num_bytes / 1000, unit + 1
    digits = f"{num_bytes:.3g}"
    return f"{digits} {UNITS[unit]}"


def _num_bytes(size):
    """A size in bytes, as exactly as it is known."""
    if isinstance(size, int):
        return size
    number, unit = size.split()
    return float(number) * 1000 ** UNITS.index(unit)

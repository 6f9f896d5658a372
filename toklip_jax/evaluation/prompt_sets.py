"""Class names and prompts for zero-shot classification, by name or from a text file.

The lists lie in `prompt_data`, whose README says where they come from.
"""

import dataclasses
import functools
import importlib.resources
import os

from toklip_jax.core.errors import NotFound, UserError
from toklip_jax.core.fields import check_name
from toklip_jax.data.paths import expand_home, read_bytes

CLASS_LISTS = ("imagenet", "imagenet_a", "imagenet_r")
# ImageNet-v2 and ImageNet-Sketch have the classes of ImageNet.
_TEMPLATE_FILES = {"imagenet_80": "templates_80.txt", "imagenet_7": "templates_7.txt"}
_SINGLE_TEMPLATES = {"plain": "a photo of a {}.", "name": "{}"}
TEMPLATE_SETS = (*_TEMPLATE_FILES, *_SINGLE_TEMPLATES)


@dataclasses.dataclass(frozen=True)
class ClassList:
    """The classes that are chosen among; a row is a place in `names`.

    Attributes:
        name: the name that was asked for: one of `CLASS_LISTS`, or a path.
        names: the names that prompts are filled with. Two may be equal: CLIP calls two classes
            "missile" and two "sunglasses".
        wnids: WordNet ids, per row, of a list of ImageNet's; None for a text file.
        indices: places among ImageNet's 1000 classes, per row; None for a text file.
    """

    name: str
    names: tuple[str, ...]
    wnids: tuple[str, ...] | None = None
    indices: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return len(self.names)


def class_names(name_or_path: str) -> ClassList:
    """Returns a list of classes.

    Args:
        name_or_path: one of `CLASS_LISTS`, or a text file (local or fsspec URL) with a name a line;
            blank lines are passed over, and names may be equal.

    Raises:
        ValueError: an unknown name, which says what there is, or a file without a name.
        FileNotFoundError: there is no such file.
    """
    if name_or_path not in CLASS_LISTS:
        names = _read_lines("classes", name_or_path, CLASS_LISTS)
        return ClassList(name_or_path, names)
    wnids, names = _imagenet()
    indices = range(len(wnids))
    if name_or_path != "imagenet":
        place = {wnid: index for index, wnid in enumerate(wnids)}
        indices = [place[wnid] for wnid in _packaged_lines(f"{name_or_path}.txt")]
    return ClassList(
        name_or_path,
        tuple(names[index] for index in indices),
        tuple(wnids[index] for index in indices),
        tuple(indices),
    )


def templates(name_or_path: str) -> tuple[str, ...]:
    """Returns prompts with `{}` for the class name.

    Args:
        name_or_path: "imagenet_80" (all of the CLIP paper), "imagenet_7" (those of them that
            forward selection chose), "plain" ("a photo of a {}."), "name" ("{}"), or a text file
            (local or fsspec URL) with one a line; blank lines are passed over.

    Raises:
        ValueError: an unknown name, which says what there is, a file without a line, or a line
            without `{}` or with other braces.
        FileNotFoundError: there is no such file.
    """
    if name_or_path in _SINGLE_TEMPLATES:
        return (_SINGLE_TEMPLATES[name_or_path],)
    if name_or_path in _TEMPLATE_FILES:
        return _packaged_lines(_TEMPLATE_FILES[name_or_path])
    lines = _read_lines("templates", name_or_path, TEMPLATE_SETS)
    for line in lines:
        rest = line.replace("{}", "")
        if rest == line or "{" in rest or "}" in rest:
            raise UserError(
                f"expected templates with {{}} for the class name and no other braces, got "
                f"{line!r} in {name_or_path}"
            )
    return lines


@functools.cache
def _imagenet() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The WordNet ids and the names, in the order of the labels."""
    rows = [line.split("\t") for line in _packaged_lines("imagenet.tsv")]
    wnids, names = zip(*rows, strict=True)
    return wnids, names


def _packaged_lines(file):
    folder = importlib.resources.files("toklip_jax.evaluation") / "prompt_data"
    return _lines((folder / file).read_text(encoding="utf-8"))


def _read_lines(what, path, names):
    try:
        data = read_bytes(expand_home(path))
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        if not _is_path(path):
            check_name(f"a text file or {what}", path, names)
        raise NotFound(
            f"expected a text file of {what}, or one of {list(names)}, found no file {path}"
        ) from None
    try:
        lines = _lines(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UserError(f"expected {what} in UTF-8, got {path}: {error}") from error
    if not lines:
        raise UserError(f"expected {what} in {path}, one a line, got an empty file")
    return lines


def _lines(text):
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def _is_path(name):
    return "/" in name or "\\" in name or bool(os.path.splitext(name)[1])

"""Groups the members of a tar into samples: members of one key, as WebDataset does.

No sample has parts of two. Where names occur once, the members of a key may stand anywhere, as in
a tar of all pictures and then all texts. A name that occurs twice shows that tars were joined:
then only neighbours belong together.
"""

import dataclasses
from collections.abc import Iterable

from toklip_jax.core.errors import UserError
from toklip_jax.data.health import Problem
from toklip_jax.data.sources.tar_members import LINK, OTHER, SPARSE, BrokenTar, Member

FIELDS = ("image", "text", "label")
MAX_NAME = 1024  # bytes; each row of an index has room for the longest

BROKEN = "broken tar tail"
AFTER_END = "data after the end of the tar"
REPEATED = "repeated key"
SECOND = "two members for one field: name one extension"
DOTTED = "a dot in its key: rename it, or name all that follows the first dot as its extension"
TOO_LONG = f"a name of more than {MAX_NAME} bytes"
_UNREADABLE = {LINK: "a link in a tar", SPARSE: "a sparse member"}

Place = tuple[int, int]  # offset and size


@dataclasses.dataclass(frozen=True)
class Extensions:
    """The members of a tar that make a sample, told by what follows the first dot of their names.

    Where several members of a sample would do, the one whose extension is named first is taken.
    Members whose names begin with a dot are ignored.
    """

    image: tuple[str, ...] = ("jpg", "jpeg", "png", "webp")
    text: tuple[str, ...] = ("txt",)
    label: tuple[str, ...] = ("cls",)

    def __post_init__(self):
        for field in FIELDS:
            names = (name.lower().removeprefix(".") for name in getattr(self, field))
            object.__setattr__(self, field, tuple(dict.fromkeys(names)))
        every = [name for field in FIELDS for name in getattr(self, field)]
        if len(set(every)) < len(every):
            raise UserError(f"expected each extension for one field, got {self}")

    def field_of(self, extension: str) -> str | None:
        return next((f for f in FIELDS if extension.lower() in getattr(self, f)), None)

    def rank(self, extension: str) -> int:
        """Returns an extension's place among those of its field."""
        return getattr(self, self.field_of(extension)).index(extension.lower())


@dataclasses.dataclass
class Samples:
    """The samples that a tar holds.

    Attributes:
        rows: each sample's key and the place of each field that it has.
        problems: members and samples that are left out.
    """

    rows: list[tuple[str, dict[str, Place]]] = dataclasses.field(default_factory=list)
    problems: list[Problem] = dataclasses.field(default_factory=list)


def read_samples(members: Iterable[Member], extensions: Extensions, tar: str) -> Samples:
    """Returns the samples of a tar's members, up to where it is broken.

    Args:
        tar: its name, for problems.
    """
    samples = Samples()
    runs: list[_Run] = []
    broken = None
    try:
        for member in members:
            if runs and runs[-1].part != member.part:
                _add(samples, runs, extensions, tar)
                runs = []
            if is_hidden(member.name):
                continue
            key, extension = split_name(member.name)
            if not runs or runs[-1].key != key:
                runs.append(_Run(key, member.part))
            if member.kind != OTHER:
                runs[-1].members.append((extension, member))
    except BrokenTar as error:
        broken = error
    last = runs[-1].key if runs else None
    if broken and broken.name:
        last, _ = split_name(broken.name)
    if broken and not broken.is_after_end:  # parts of the last sample may be missing
        runs = [run for run in runs if run.key != last]
    _add(samples, runs, extensions, tar)
    if broken and broken.is_after_end:
        samples.problems.append((tar, AFTER_END))
    elif broken:
        samples.problems.append((tar if last is None else f"{tar}:{last}", BROKEN))
    return samples


def split_name(name: str) -> tuple[str, str]:
    """Splits a name into key and extension at its base name's first dot, as WebDataset does."""
    folder, slash, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    return folder + slash + stem, extension


def is_hidden(name: str) -> bool:
    """Says whether a name begins with a dot, as those do that macOS adds for each file."""
    base = name.rpartition("/")[2]
    return base.startswith(".") and base != "."


@dataclasses.dataclass(slots=True)
class _Run:
    """Neighbouring members of one key, each with its extension."""

    key: str
    part: int
    members: list[tuple[str, Member]] = dataclasses.field(default_factory=list)

    @property
    def has_repeated(self) -> bool:
        return len({extension for extension, _ in self.members}) < len(self.members)


def _add(samples, runs, extensions, tar):
    """Adds the samples of one tar of those that may be joined in a file."""
    for run in _joined(runs):
        if run.has_repeated:
            is_used = any(extensions.field_of(extension) for extension, _ in run.members)
            samples.problems += [(f"{tar}:{run.key}", REPEATED)] * is_used
            continue
        places, problems = _choose(run, extensions, tar)
        samples.problems += problems
        if places and ("image" in places or not problems):
            samples.rows.append((run.key, places))


def _joined(runs) -> Iterable[_Run]:
    """Joins the runs of each key, unless a name occurs twice."""
    merged: dict[str, _Run] = {}
    for run in runs:
        merged.setdefault(run.key, _Run(run.key, run.part)).members.extend(run.members)
    return runs if any(run.has_repeated for run in merged.values()) else merged.values()


def _choose(run, extensions, tar) -> tuple[dict[str, Place], list[Problem]]:
    """Returns the member of each field, and what is wrong with the others."""
    places: dict[str, Place] = {}
    problems: list[Problem] = []
    known = [(e, member) for e, member in run.members if extensions.field_of(e)]
    for extension, member in sorted(known, key=lambda pair: extensions.rank(pair[0])):
        field = extensions.field_of(extension)
        if cause := _fault(member):
            problems.append((f"{tar}:{member.name}", cause))
        elif field in places:
            problems.append((f"{tar}:{member.name}", SECOND))
        else:
            places[field] = (member.offset, member.size)
    if "image" not in places:
        ends = [(extension.rpartition("."), member) for extension, member in run.members]
        dotted = [m for (head, dot, end), m in ends if dot and end.lower() in extensions.image]
        problems += [(f"{tar}:{member.name}", DOTTED) for member in dotted]
    return places, problems


def _fault(member):
    if len(member.name.encode("utf-8", "surrogateescape")) > MAX_NAME:
        return TOO_LONG
    return _UNREADABLE.get(member.kind)

"""The interface of data sources, and how a config names one.

A kind of source is a `SourceKind`, registered under the name that stands as `kind` in configs;
`registry.py` lists the package's own, and another package registers its kinds on import.
"""

import dataclasses
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from toklip_jax.core.errors import Problems, UserError
from toklip_jax.core.fields import add_new, check_name, check_section, check_type, type_hints
from toklip_jax.data.images.sizes import sides_of
from toklip_jax.data.text import TextTokenizer
from toklip_jax.data.transforms import Sample

ENCODED, ARRAYS, IDS, PARTS = "encoded", "arrays", "ids", "parts"
GIVES = (ENCODED, ARRAYS, IDS, PARTS)
TOKENIZER = "tokenizer"  # parameter of `SourceKind.open`; no argument of a config


@runtime_checkable
class Source(Protocol):
    """Samples by index.

    What else a source may have, where it makes sense:

        key(index) -> str: a sample's name; samples without one can't be skipped
        following(index) -> int: the index that stands in for a bad sample
        identity() -> plain json data that change when other samples stand at the indices
        problems: list of (name, cause) that were found when the source was opened
        classes: the name of each label
        texts() -> list of an image's captions, per image
        title(index) -> str: what to call an image in a report
        attribution: whom the images are owed to
        parts, starts, weights: of a mixture
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


@dataclasses.dataclass(frozen=True)
class SourceKind:
    """A kind of data source.

    Attributes:
        name: its `kind` in configs.
        open: returns a source. Its parameters are the arguments that a config may have, except
            `tokenizer`, which is passed where a caller has one.
        gives: the kind of its samples: "encoded" (records of an encoded `image`, a `text` and a
            `label`, which `images.Decode` makes arrays of), "arrays", "ids" (a cache, in its
            argument `directory`), or "parts" (as the configs in its argument `parts` say, each
            with a `weight`).
        texts: returns the texts to train a tokenizer on; gets the arguments, defaults included.
        size: name of the argument that says the size of its arrays, if there is one.
    """

    name: str
    open: Callable[..., Source]
    gives: str
    texts: Callable[[Mapping[str, Any]], list[str]] | None = None
    size: str = ""

    def __post_init__(self):
        check_name("gives", self.gives, GIVES)
        if self.size:
            check_name(f"size of the kind {self.name}", self.size, self.parameters)

    @property
    def parameters(self) -> dict[str, inspect.Parameter]:
        """The fields that a config may have besides `kind`."""
        found = inspect.signature(self.open).parameters
        return {name: parameter for name, parameter in found.items() if name != TOKENIZER}

    def with_defaults(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the arguments, completed by the defaults of `open`."""
        empty = inspect.Parameter.empty
        defaults = {n: p.default for n, p in self.parameters.items() if p.default is not empty}
        return defaults | dict(arguments)


_KINDS: dict[str, SourceKind] = {}


def register(kind: SourceKind) -> SourceKind:
    """Makes a kind of source known by its name.

    Raises:
        ValueError: another kind has the name.
    """
    return add_new(_KINDS, kind.name, kind, "a kind of source")


def registered() -> list[SourceKind]:
    """Returns the kinds of source in the order of their registration."""
    return list(_KINDS.values())


@dataclasses.dataclass(frozen=True)
class SourceConfig:
    """A data source as a config describes it, checked; nothing is opened yet.

    Attributes:
        kind: one of `registered()`.
        arguments: the arguments of the kind's `open`; lists are tuples.
        where: its place in the config, for messages; not part of what is compared.

    Raises:
        ValueError: an unknown kind, an argument that the kind doesn't take (both name the nearest),
            one that is missing, or a mixture whose part has any of these or no weight.
    """

    kind: str
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    where: str = dataclasses.field(default="source", compare=False, repr=False)

    def __post_init__(self):
        object.__setattr__(self, "arguments", _with_tuples(self.arguments))
        kind = _find(self.kind, self.where)
        _check_arguments(kind, self.arguments, self.where)
        self.parts  # noqa: B018 - they are checked as they are made

    @classmethod
    def from_plain(cls, section: Mapping[str, Any], where: str = "source") -> "SourceConfig":
        """Reads {"kind": ..., and the kind's own arguments}.

        Args:
            where: the section's place in the config, for messages.

        Raises:
            ValueError: as the class.
        """
        kind = _find(check_section(section, where).get("kind"), where)
        arguments = {name: value for name, value in section.items() if name != "kind"}
        return cls(kind.name, arguments, where)

    def to_plain(self) -> dict[str, Any]:
        """Returns what `from_plain` reads, as json has it."""
        return json.loads(json.dumps({"kind": self.kind, **self.arguments}))

    def __hash__(self) -> int:
        return hash(json.dumps(self.to_plain(), sort_keys=True))

    def open(self, tokenizer: TextTokenizer | None = None) -> Source:
        """Opens the source.

        Args:
            tokenizer: the tokenizer for sources that tokenize their texts; without it their samples
                have none.
        """
        open_source = _KINDS[self.kind].open
        others = {TOKENIZER: tokenizer} if _takes_tokenizer(open_source) else {}
        return open_source(**self.arguments, **others)

    @property
    def parts(self) -> tuple["SourceConfig", ...]:
        """The sources of a mixture; none of another kind."""
        if _KINDS[self.kind].gives != PARTS:
            return ()
        parts = weighted_parts(self.arguments["parts"], f"{self.where}.parts")
        return tuple(part for _, part in parts)

    @property
    def leaves(self) -> list["SourceConfig"]:
        """The sources that samples come from: those in a mixture, or this one."""
        return [leaf for part in self.parts for leaf in part.leaves] or [self]

    @property
    def completed(self) -> dict[str, Any]:
        """The arguments, completed by the kind's defaults."""
        return _KINDS[self.kind].with_defaults(self.arguments)

    @property
    def gives(self) -> str:
        """The form of the samples: "encoded" images, "arrays", or "ids"; a mixture has its parts'.

        Raises:
            ValueError: parts that give different things.
        """
        if (gives := _KINDS[self.kind].gives) != PARTS:
            return gives
        found = {part.gives for part in self.parts}
        if len(found) > 1:
            named = ", ".join(f"{part.kind}: {part.gives}" for part in self.parts)
            raise UserError(
                f"expected parts of {self.where} that are all encoded images, all arrays, or all "
                f"caches, got {named}: write the arrays as one of the kinds of encoded images, or "
                f"encode all"
            )
        return found.pop()

    @property
    def cache_directories(self) -> list[str]:
        """The directories of the caches that samples come from; empty for other sources.

        Raises:
            ValueError: as `gives`.
        """
        if self.gives != IDS:
            return []
        return [leaf.arguments["directory"] for leaf in self.leaves]

    @property
    def image_size(self) -> int | tuple[int, ...]:
        """The size of the images, where the source and not the reader decides; else 0.

        All parts of a mixture have the same, as their samples share batches.
        """
        if self.parts:
            return self.parts[0].image_size
        kind = _KINDS[self.kind]
        return self.completed[kind.size] if kind.size else 0

    def texts(self) -> list[str] | None:
        """Returns the texts to train a tokenizer on; None where a kind doesn't offer them."""
        if self.parts:
            found = [part.texts() for part in self.parts]
            return None if None in found else [text for texts in found for text in texts]
        kind = _KINDS[self.kind]
        return kind.texts(self.completed) if kind.texts else None


def weighted_parts(
    parts: Sequence[Mapping[str, Any]], where: str = "parts"
) -> list[tuple[float, SourceConfig]]:
    """Returns the weight and the config of each part of a mixture.

    Raises:
        ValueError: no part, one without a weight, or what `SourceConfig` refuses.
    """
    if not parts:
        raise UserError(f"expected parts with a weight each in {where}, got none")
    found = []
    for i, part in enumerate(parts):
        if "weight" not in check_section(part, f"{where}[{i}]"):
            raise UserError(f"expected a weight in each part of a mixture, got {part}")
        weight = check_type(part["weight"], float, f"{where}[{i}].weight")
        section = {name: value for name, value in part.items() if name != "weight"}
        found.append((float(weight), SourceConfig.from_plain(section, f"{where}[{i}]")))
    return found


def _check_arguments(kind: SourceKind, arguments, where):
    """Raises ValueError for arguments that a kind doesn't take, lacks, or has of another type."""
    problems, hints, empty = Problems(), type_hints(kind.open), inspect.Parameter.empty
    for name, value in arguments.items():
        what = f"an argument of {where} ({kind.name})"
        if problems.passes(lambda n=name, w=what: check_name(w, n, kind.parameters)):
            hint = hints.get(name, Any)
            problems.attempt(lambda n=name, v=value, h=hint: check_type(v, h, f"{where}.{n}"))
    for name, parameter in kind.parameters.items():
        if parameter.default is empty and name not in arguments:
            problems.lines.append(f"expected {where}.{name}, which {kind.name} needs, got none")
    problems.raise_lines()
    if kind.size and kind.size in arguments:  # a default may be 0, for none
        sides_of(arguments[kind.size])


def _find(name, where) -> SourceKind:
    try:
        return _KINDS[check_name(f"{where}.kind", name, _KINDS)]
    except ValueError as error:
        raise UserError(
            f"{error} (a kind of another package is known once that is imported: name the package "
            f"in the config's `imports`)"
        ) from None


def _takes_tokenizer(function) -> bool:
    return TOKENIZER in inspect.signature(function).parameters


def _with_tuples(value):
    if isinstance(value, Mapping):
        return {name: _with_tuples(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return tuple(_with_tuples(one) for one in value)
    return value

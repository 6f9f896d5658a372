"""Weights by name: what is published of all families, and names of the Hugging Face hub."""

import dataclasses
import difflib
import pathlib
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

from toklip_jax.core.errors import NotFound, UserError
from toklip_jax.core.home import expand_user
from toklip_jax.models.base import ROLES, registered
from toklip_jax.models.releases import File, Release, Snapshot
from toklip_jax.weights.hub import fetch, several, snapshot_of

PREFIX = "hf://"
# owner/name, owner/name@revision, and either with /path/of/a/file
ADDRESS = re.compile(r"([^/@]+/[^/@]+)(?:@([^/]+))?(?:/(.+))?")
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
LOCAL_SUFFIXES = (".pt", ".pth", ".ckpt", ".safetensors", ".npz", ".json", ".bin")


@dataclasses.dataclass(frozen=True)
class Located:
    """Weights on this machine.

    Attributes:
        path: a file or a directory.
        options: arguments of `load` that these files need.
        tokenizer: fetches the text tokenizer that goes with them and returns its path; None where
            they have none elsewhere.
    """

    path: pathlib.Path
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    tokenizer: Callable[[], pathlib.Path] | None = None


def list_models() -> list[Release]:
    """Returns the published weights that can be loaded by name.

    Each has a `name`, which `load` takes, and a `title`, `licence`, `size`, `link` and more
    (`models.releases.Release`). docs/models.md has them as a table.
    """
    return [release for family in registered() for release in family.releases]


def find_release(name: str) -> Release:
    """Returns the published weights of a name.

    Raises:
        ValueError: there are none; suggests the nearest.
    """
    releases = {release.name: release for release in list_models()}
    if name not in releases:
        raise UserError(
            f"expected a name of toklip_jax.list_models(), got {name!r}{_hint(name, releases)}"
        )
    return releases[name]


def locate(source: str | pathlib.Path, roles: Collection[str] = ROLES) -> Located:
    """Returns where weights are, fetched from the hub if they are named and not here yet.

    Args:
        source: a local path, which goes before any name; a name of `list_models`; or, on the
            Hugging Face hub, "owner/name", or "hf://owner/name[@revision][/file]".
        roles: what the weights are for; others of the catalogue are refused, not fetched.

    Raises:
        FileNotFoundError: nothing there; suggests the nearest name.
        ValueError: a repository with several weights, or weights that are not on the hub; see also
            `weights.hub.fetch`.
    """
    path = expand_user(source)
    if not isinstance(source, str) or path.exists():
        return Located(path)
    named = {release.name: release for release in list_models()}
    if source in named or source.startswith(PREFIX) or _is_repository(source):
        return _fetched(named.get(source) or _addressed(source.removeprefix(PREFIX)), roles)
    hint = _hint(source, named)
    if hint and "/" not in source and path.suffix not in LOCAL_SUFFIXES:
        raise NotFound(
            f"expected a path, or a name of toklip_jax.list_models(), got {source!r}, which is "
            f"neither{hint}"
        )
    return Located(path)


def _hint(name, names):
    """The nearest name, for an error; "" where none is near."""
    near = difflib.get_close_matches(name.lower(), names, 1)
    return f": did you mean {near[0]!r}?" if near else ""


def _fetched(release, roles):
    for family in registered():
        if release in family.releases and family.role not in roles:
            raise UserError(
                f"expected weights of kind {' or '.join(roles)}, got {release.name}, of kind "
                f"{family.role}: {release.use}"
            )
    if release.files is None:
        raise UserError(
            f"expected weights on the Hugging Face hub, got {release.name}, which are elsewhere: "
            f"fetch them by hand from {release.link}, and load the file"
        )
    others = () if release.tokenizer is None else (release.tokenizer,)
    path = fetch(release.files, others)
    tokenizer = (lambda: fetch(release.tokenizer)) if others else None
    return Located(path, release.options, tokenizer)


def _is_repository(source):
    """Tells whether a text is the name of a repository, and not a path that isn't there."""
    if not REPOSITORY.fullmatch(source) or source.endswith(LOCAL_SUFFIXES):
        return False
    return bool(_of(source)) or not pathlib.Path(source).parent.exists()


def _addressed(address):
    found = ADDRESS.fullmatch(address)
    if found is None:
        raise UserError(
            f"expected hf://owner/name, hf://owner/name/file or hf://owner/name@revision/file, got "
            f"{PREFIX}{address}"
        )
    repository, revision, file = found.groups()
    if file is None:
        return _of_repository(repository, revision)
    for release in _of(repository):
        if release.files.files[0].name == file and revision in (None, release.files.revision):
            return release
    return _unlisted(address, Snapshot(repository, (File(file),), revision), repository)


def _of_repository(repository, revision):
    """The weights of a repository: of the catalogue where they are in it, or as the hub lists."""
    releases = [r for r in _of(repository) if revision in (None, r.files.revision)]
    if len(releases) == 1:
        return releases[0]
    if releases:
        raise several(repository, revision, [r.files.files[0].name for r in releases])
    return _unlisted(repository, snapshot_of(repository, revision), repository)


def _of(repository):
    return [r for r in list_models() if r.files and r.files.repository == repository]


def _unlisted(name, snapshot, repository):
    """Weights that are not in the catalogue; its text tokenizer is that of others beside them."""
    tokenizer = next((release.tokenizer for release in _of(repository)), None)
    return Release(name, repository, "see its page", snapshot, tokenizer=tokenizer)

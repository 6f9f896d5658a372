"""Checkpoints outside the workdir belong to one run, whose `run.json` stands beside them."""

import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from etils import epath

from toklip_jax.core.errors import UserError
from toklip_jax.core.whole_files import read_object

RUN_NAME = "run.json"


def checkpoints_place(place: str) -> epath.Path:
    """Returns the directory that a config's `loop.checkpoints` names, with its "~" expanded.

    Raises:
        ValueError: a URL of a protocol that isn't known, or whose package isn't installed.
    """
    try:
        path = epath.Path(place).expanduser()
        path.exists()  # which imports the package of its protocol
        return path
    except (ImportError, LookupError, ValueError, TypeError) as error:
        raise UserError(
            f"expected a directory, or a bucket that can be opened, in loop.checkpoints, got "
            f"{place} ({type(error).__name__}: {error}): correct it, or install the package"
        ) from error


def claim_checkpoints(
    directory: epath.Path, run_id: str, workdir: pathlib.Path, is_known: bool
) -> None:
    """Makes a directory that of a run's checkpoints, or checks that it is.

    Args:
        is_known: whether the run has used it already, though an earlier version left no `run.json`.

    Raises:
        ValueError: it holds another run's checkpoints.
    """
    owner = directory / RUN_NAME
    if owner.exists():
        found = _read_owner(owner)
        if found.get("id") != run_id:
            raise _belongs_to(directory, f"the run of {found.get('workdir')}")
        return
    if not is_known and directory.exists() and any(directory.glob("checkpoints/[0-9]*")):
        raise _belongs_to(directory, "a run that left no name")
    directory.mkdir(parents=True, exist_ok=True)
    draft = owner.with_name(f".{RUN_NAME}")
    draft.write_text(json.dumps({"id": run_id, "workdir": str(workdir.absolute())}) + "\n")
    draft.replace(owner)


def owned_directories(config: Mapping[str, Any], run_id: str) -> Iterator[epath.Path]:
    """Yields the directories that a config's `loop.checkpoints` name and that are the run's."""
    for stage, section in config.items():
        loop = section.get("loop") if isinstance(section, dict) else None
        place = loop.get("checkpoints") if isinstance(loop, dict) else None
        if place and isinstance(place, str):
            owner = checkpoints_place(place) / stage / RUN_NAME
            if owner.exists() and _read_owner(owner).get("id") == run_id:
                yield owner.parent


def _read_owner(owner) -> dict[str, Any]:
    return read_object(owner, "name another place in loop.checkpoints, or delete that directory")


def _belongs_to(directory, whose) -> UserError:
    return UserError(
        f"expected checkpoints of this run in {directory}, found those of {whose}: name another "
        f"place in loop.checkpoints, or delete them; to continue that run in this workdir, copy "
        f"{directory / RUN_NAME} into it"
    )

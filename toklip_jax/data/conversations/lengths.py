"""The lengths of conversations as rows, which packing needs, kept from one start to the next."""

import dataclasses
import json
import os
import pathlib
import uuid
from typing import Any

import numpy as np
from jaxtyping import Int64

from toklip_jax.core.errors import UserError
from toklip_jax.data.health import Problem

_DESCRIPTION = "description"  # of the file's arrays: json of all else


@dataclasses.dataclass(frozen=True)
class Lengths:
    """What packing needs to know of conversations.

    Attributes:
        tokens: int64 [c]: the length of each as a row, 0 where it can't be used.
        images: int64 [c]: how many images it has.
        num_cut: how many were longer than a line, so that the end of their text is lost.
        problems: name and cause of each that can't be used.
    """

    tokens: Int64[np.ndarray, " c"]
    images: Int64[np.ndarray, " c"]
    num_cut: int
    problems: list[Problem]

    def save(self, path: pathlib.Path, fingerprint: str) -> None:
        """Writes an `.npz`, whole or not at all; several processes may write the same one at once.

        Args:
            fingerprint: hash of all that the lengths depend on.
        """
        others = {"fingerprint": fingerprint, "num_cut": self.num_cut, "problems": self.problems}
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        try:
            with draft.open("wb") as file:
                description = {_DESCRIPTION: json.dumps(others)}
                np.savez(file, tokens=self.tokens, images=self.images, **description)
                file.flush()
                os.fsync(file.fileno())  # else a power cut may leave the name without the content
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)


def load_lengths(path: pathlib.Path, fingerprint: str) -> Lengths | None:
    """Reads what `Lengths.save` wrote; None where there is no file, or it has another fingerprint.

    Raises:
        ValueError: the file is damaged.
    """
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            others: dict[str, Any] = json.loads(str(file[_DESCRIPTION]))
            if others.pop("fingerprint") != fingerprint:
                return None
            problems = [(name, cause) for name, cause in others.pop("problems")]
            return Lengths(file["tokens"], file["images"], problems=problems, **others)
    except Exception as error:  # zipfile, numpy and json raise whatever damage makes of them
        raise UserError(f"{path} is damaged ({error}): delete it") from error

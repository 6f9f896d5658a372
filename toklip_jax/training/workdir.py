"""The directory of a run: it belongs to one config, and is not overwritten unless asked for."""

import json
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

from toklip_jax.models.serialization import complete

CONFIG_NAME = "config.json"
STAGE_PREFIX = "stage:"  # in a config: the weights that another stage of this run left
# Fields that change nothing of what is trained: a run may be evaluated in other ways later.
EVALUATION_FIELDS = ("evaluate", "evaluations", "models", "report")
EVALUATION_FIELDS += ("evaluation_batch_size", "evaluation_resize")


def open_workdir(
    path: str | pathlib.Path,
    config: Mapping[str, Any],
    restart: bool = False,
    allow_change: bool = False,
) -> pathlib.Path:
    """Creates a run's directory, or opens that of an existing run of the same config.

    Args:
        config: the config as plain JSON data.
        restart: delete an earlier run there first, whatever its config.
        allow_change: continue a run of another config, after printing the differences.

    Raises:
        ValueError: it holds something else than a run, or a run of another config.
    """
    path = pathlib.Path(path)
    mine = dict(config)
    if path.exists() and not path.is_dir():
        raise ValueError(f"expected a directory as workdir, got the file {path}")
    if path.exists() and any(path.iterdir()):
        _check_run(path)
        if restart:
            shutil.rmtree(path)
        else:
            _check_same(path, mine, allow_change)
    path.mkdir(parents=True, exist_ok=True)
    # Written atomically: a run that is killed here must not leave half a config.
    temporary = path / f".{CONFIG_NAME}"
    temporary.write_text(json.dumps(mine, indent=2, sort_keys=True) + "\n")
    temporary.replace(path / CONFIG_NAME)
    return path


def _check_run(path):
    others = [p for p in path.iterdir() if p.name != f".{CONFIG_NAME}"]
    if others and not (path / CONFIG_NAME).exists():
        raise ValueError(
            f"expected a new directory or a run's as workdir, got {path}, which holds other files: "
            f"choose another"
        )


def _check_same(path, mine, allow_change):
    if not (path / CONFIG_NAME).exists():
        return
    theirs = json.loads((path / CONFIG_NAME).read_text())
    check_same(str(path), theirs, mine, allow_change)


def check_same(where: str, theirs: dict, mine: dict, allow_change: bool) -> None:
    """Compares the config of an existing run with this one's.

    Raises:
        ValueError: they differ, and that isn't allowed; where it is, the differences are printed.
    """
    old, new = (
        flatten(complete({k: v for k, v in c.items() if k not in EVALUATION_FIELDS}))
        for c in (theirs, mine)
    )
    differ = sorted(name for name in old.keys() | new if old.get(name) != new.get(name))
    if not differ:
        return
    lines = [f"{n}: {old.get(n)} there, {new.get(n)} now" for n in differ]
    if not allow_change:
        raise ValueError(
            f"{where} holds a run of another config ({'; '.join(lines)}): choose another workdir, "
            f"pass --allow_config_change to continue with this one, or --restart to delete that run"
        )
    print(f"{where} continues with another config:", *lines, sep="\n  ")


def flatten(tree: dict, prefix: str = "") -> dict:
    """Returns a nested dict's leaves by dotted path."""
    leaves = {}
    for name, value in tree.items():
        is_tree = isinstance(value, dict) and value
        leaves |= flatten(value, f"{prefix}{name}.") if is_tree else {f"{prefix}{name}": value}
    return leaves


def weights_directory(workdir: pathlib.Path, stage: str) -> pathlib.Path:
    """Returns where a stage of a run leaves its weights; it exists when the stage is done."""
    return workdir / stage / "weights"


def weights_path(source: str, workdir: pathlib.Path) -> pathlib.Path:
    """Returns where the weights are that a config names: those of a stage, or a path."""
    if source.startswith(STAGE_PREFIX):
        return weights_directory(workdir, source.removeprefix(STAGE_PREFIX))
    return pathlib.Path(source)

"""A run's directory: it belongs to one config, and nothing in it is overwritten unasked."""

import json
import pathlib
import shutil

import ml_collections

CONFIG_NAME = "config.json"


def open_workdir(
    path: str | pathlib.Path, config: ml_collections.ConfigDict, restart: bool = False
) -> pathlib.Path:
    """Makes a run's directory, or opens it to go on with the same config.

    Args:
        restart: delete what an earlier run, of whatever config, left there.

    Raises:
        ValueError: it holds something else than a run, or a run of another config.
    """
    path = pathlib.Path(path)
    mine = json.loads(config.to_json())
    if path.exists() and not path.is_dir():
        raise ValueError(f"expected a directory as workdir, got the file {path}")
    if path.exists() and any(path.iterdir()):
        _check_run(path)
        if restart:
            shutil.rmtree(path)
        else:
            _check_same(path, mine)
            return path
    path.mkdir(parents=True, exist_ok=True)
    (path / CONFIG_NAME).write_text(json.dumps(mine, indent=2, sort_keys=True) + "\n")
    return path


def _check_run(path):
    if not (path / CONFIG_NAME).exists():
        raise ValueError(
            f"expected a new directory or a run's as workdir, got {path}, which holds other files: "
            f"choose another"
        )


def _check_same(path, mine):
    theirs = json.loads((path / CONFIG_NAME).read_text())
    old, new = flatten(theirs), flatten(mine)
    differ = sorted(name for name in old.keys() | new if old.get(name) != new.get(name))
    if differ:
        shown = "; ".join(f"{n}: {old.get(n)} there, {new.get(n)} now" for n in differ[:5])
        raise ValueError(
            f"{path} holds a run of another config ({shown}): choose another workdir, or pass "
            f"--restart to delete that run"
        )


def flatten(tree: dict, prefix: str = "") -> dict:
    """Returns a nested dict's leaves by dotted path."""
    leaves = {}
    for name, value in tree.items():
        is_tree = isinstance(value, dict) and value
        leaves |= flatten(value, f"{prefix}{name}.") if is_tree else {f"{prefix}{name}": value}
    return leaves

"""The directory of a run: it belongs to one config, and is not overwritten unless asked for.

workdir/
    run.json      the run's id
    config.json   the config that it was last trained or evaluated with
    .lock         held by the process that is using it
"""

import contextlib
import datetime
import pathlib
import shutil
import uuid
from collections.abc import Mapping
from typing import Any

from toklip_jax.core.errors import UserError
from toklip_jax.core.home import expand_user
from toklip_jax.core.whole_files import read_object, write_json
from toklip_jax.training.config_change import check_same
from toklip_jax.training.lock import LOCK_NAME, DirectoryLock
from toklip_jax.training.ownership import RUN_NAME, owned_directories

CONFIG_NAME = "config.json"
OWN_NAMES = (LOCK_NAME, f".{CONFIG_NAME}", f".{RUN_NAME}")  # of a start that was cut off
STAGE_PREFIX = "stage:"  # in a config: the weights that another stage of this run left


class Workdir:
    """A run's directory, which this process alone uses until it is closed.

    Attributes:
        path: the directory's path.
        run_id: the run's id, which stands in all that it keeps.
    """

    def __init__(self, path: pathlib.Path, run_id: str, config: Mapping[str, Any], lock):
        self.path, self.run_id = path, run_id
        self._config, self._lock = dict(config), lock

    def accept(self) -> None:
        """Keeps the config as the run's, once nothing of it was refused."""
        write_json(self.path / CONFIG_NAME, self._config, sort_keys=True)

    def close(self) -> None:
        """Releases the directory."""
        self._lock.close()


def open_workdir(
    path: str | pathlib.Path,
    config: Mapping[str, Any],
    restart: bool = False,
    allow_change: bool = False,
) -> Workdir:
    """Creates a run's directory, or opens that of an existing run of the same config.

    Args:
        config: the config as plain JSON data.
        restart: delete an earlier run there first, whatever its config.
        allow_change: continue a run of another config, after printing the differences.

    Raises:
        ValueError: it holds something else than a run, a run of another config, or a damaged file;
            or another process is using it.
    """
    path = pathlib.Path(path)
    if path.exists() and not path.is_dir():
        raise UserError(f"expected a directory as workdir, got the file {path}")
    if path.exists():
        _check_run(path)
    path.mkdir(parents=True, exist_ok=True)
    lock = DirectoryLock(path)
    try:
        if restart:
            _delete_run(path)
        elif (path / CONFIG_NAME).exists():
            check_same(str(path), _read_config(path), dict(config), allow_change)
        return Workdir(path, _run_id(path), config, lock)
    except BaseException:
        lock.close()
        raise


def _check_run(path):
    names = {entry.name for entry in path.iterdir()}
    if names.difference(OWN_NAMES) and not names & {CONFIG_NAME, RUN_NAME}:
        raise UserError(
            f"expected a new directory or a run's as workdir, got {path}, which holds other files: "
            f"choose another"
        )


def _read_config(path) -> dict[str, Any]:
    remedy = "delete it to continue with this command's config, or pass --restart to delete the run"
    return read_object(path / CONFIG_NAME, remedy)


def _run_id(path) -> str:
    """Returns the id of the run in a directory; a new run gets a new one."""
    if not (path / RUN_NAME).exists():
        started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        write_json(path / RUN_NAME, {"id": uuid.uuid4().hex, "started": started})
    return _read_id(path)


def _read_id(path):
    remedy = "delete it, and run the same command again"
    run_id = read_object(path / RUN_NAME, remedy).get("id")
    if not isinstance(run_id, str) or not run_id:
        raise UserError(f"{path / RUN_NAME} is damaged (it has no id): {remedy}")
    return run_id


def _delete_run(path):
    """Deletes a run, its checkpoints elsewhere too; what tells that it is a run goes last."""
    with contextlib.suppress(FileNotFoundError, ValueError):  # then nothing tells where they are
        for directory in owned_directories(_read_config(path), _read_id(path)):
            directory.rmtree()
    last = (CONFIG_NAME, RUN_NAME)
    for entry in path.iterdir():
        if entry.name not in (LOCK_NAME, *last):
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    for name in last:
        (path / name).unlink(missing_ok=True)


def weights_directory(workdir: pathlib.Path, stage: str) -> pathlib.Path:
    """Returns where a stage of a run leaves its weights; it exists when the stage is done."""
    return workdir / stage / "weights"


def weights_path(source: str, workdir: pathlib.Path) -> pathlib.Path:
    """Returns where the weights are that a config names: those of a stage, or a path."""
    if source.startswith(STAGE_PREFIX):
        return weights_directory(workdir, source.removeprefix(STAGE_PREFIX))
    return expand_user(source)

import json
import signal
import subprocess
import sys

import pytest
from etils import epath

from toklip_jax.training import lock
from toklip_jax.training.ownership import claim_checkpoints, owned_directories
from toklip_jax.training.workdir import open_workdir, weights_path


def config(**values):
    return {"seed": 0, "model": {"width": 8}, **values}


def use(path, given, **options):
    """Opens a workdir, accepts the config and lets go, as a run does; returns the run's id."""
    workdir = open_workdir(path, given, **options)
    workdir.accept()
    workdir.close()
    return workdir.run_id


def test_the_same_config_goes_on_and_nothing_is_touched(tmp_path):
    run_id = use(tmp_path / "run", config())
    (tmp_path / "run" / "precious").write_text("kept")
    assert use(tmp_path / "run", config()) == run_id
    assert (tmp_path / "run" / "precious").read_text() == "kept"


def test_another_config_is_refused_naming_the_difference(tmp_path):
    use(tmp_path / "run", config())
    with pytest.raises(ValueError, match=r"seed: 0 there, 1 now.*--restart"):
        open_workdir(tmp_path / "run", config(seed=1))


def test_another_config_is_taken_over_where_allowed_and_the_difference_printed(tmp_path, capsys):
    use(tmp_path / "run", config())
    use(tmp_path / "run", config(seed=1), allow_change=True)
    assert "seed: 0 there, 1 now" in capsys.readouterr().out
    use(tmp_path / "run", config(seed=1))  # it is the run's config from now on
    with pytest.raises(ValueError, match="seed: 1 there, 0 now"):
        use(tmp_path / "run", config())


def test_a_config_that_is_not_accepted_leaves_the_runs_as_it_was(tmp_path):
    use(tmp_path / "run", config())
    open_workdir(tmp_path / "run", config(seed=1), allow_change=True).close()
    use(tmp_path / "run", config())
    open_workdir(tmp_path / "new", config()).close()
    use(tmp_path / "new", config(seed=1))  # which the refused one does not own


def test_a_run_killed_while_it_wrote_its_first_config_is_no_foreign_directory(tmp_path):
    (tmp_path / ".config.json").write_text("{")
    use(tmp_path, config())
    use(tmp_path, config())


def test_restart_deletes_a_run_but_never_a_foreign_directory(tmp_path):
    run_id = use(tmp_path / "run", config())
    (tmp_path / "run" / "old").write_text("")
    assert use(tmp_path / "run", config(seed=1), restart=True) != run_id
    assert not (tmp_path / "run" / "old").exists()
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("")
    for restart in (False, True):
        with pytest.raises(ValueError, match="holds other files"):
            open_workdir(tmp_path / "home", config(), restart=restart)
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("name", ["config.json", "run.json"])
@pytest.mark.parametrize("content", [b"", b"[]\n", b'{"seed": ', b"\xff\xfe", b"{}"])
def test_a_damaged_file_is_named_and_deleting_it_helps(name, content, tmp_path):
    use(tmp_path / "run", config())
    (tmp_path / "run" / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name} is damaged|another config") as raised:
        open_workdir(tmp_path / "run", config())
    assert "\n" not in str(raised.value)
    (tmp_path / "run" / name).unlink()
    use(tmp_path / "run", config())


HOLD = """
import pathlib, sys, time
from toklip_jax.training.lock import DirectoryLock
lock = DirectoryLock(pathlib.Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


def test_two_processes_never_share_a_workdir_and_a_kill_frees_it(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "PATIENCE", 0.0)
    use(tmp_path / "run", config())
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    other = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "held\n"
        for restart in (False, True):
            with pytest.raises(ValueError, match=rf"process {other.pid} on .* is using"):
                open_workdir(tmp_path / "run", config(), restart=restart)
        assert (tmp_path / "run" / "config.json").exists()
    finally:
        other.send_signal(signal.SIGKILL)
        other.communicate()
    monkeypatch.setattr(lock, "PATIENCE", 5.0)
    use(tmp_path / "run", config())


def test_a_filesystem_without_locks_is_used_after_a_warning(tmp_path, monkeypatch, capsys):
    def unsupported(*arguments):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(lock.fcntl, "lockf", unsupported)
    use(tmp_path / "run", config())
    assert "can't be locked (Operation not supported)" in capsys.readouterr().out


def claim(directory, run_id, is_known=False):
    claim_checkpoints(epath.Path(directory), run_id, directory.parent / run_id, is_known)


def test_checkpoints_elsewhere_belong_to_one_run(tmp_path):
    claim(tmp_path / "disk" / "vq", "a")
    claim(tmp_path / "disk" / "vq", "a")
    claim(tmp_path / "disk" / "toklip", "b")
    with pytest.raises(ValueError, match=r"found those of the run of .*/a: name another place"):
        claim(tmp_path / "disk" / "vq", "b")
    (tmp_path / "disk" / "vq" / "run.json").write_text("[]")
    with pytest.raises(ValueError, match=r"vq/run.json is damaged"):
        claim(tmp_path / "disk" / "vq", "a")


def test_checkpoints_of_an_earlier_version_are_taken_only_by_a_run_that_knows_them(tmp_path):
    (tmp_path / "vq" / "checkpoints" / "10").mkdir(parents=True)
    with pytest.raises(ValueError, match="found those of a run that left no name"):
        claim(tmp_path / "vq", "a")
    claim(tmp_path / "vq", "a", is_known=True)
    claim(tmp_path / "vq", "a")


def test_restart_deletes_the_runs_checkpoints_elsewhere_and_no_others(tmp_path):
    stages = {name: {"loop": {"checkpoints": str(tmp_path / "disk")}} for name in ("vq", "toklip")}
    given = config(**stages)
    run_id = use(tmp_path / "run", given)
    claim(tmp_path / "disk" / "vq", run_id)
    claim(tmp_path / "disk" / "toklip", "other")
    assert [path.name for path in owned_directories(given, run_id)] == ["vq"]
    use(tmp_path / "run", given, restart=True)
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["toklip"]


def test_the_id_is_one_for_all_that_a_run_keeps(tmp_path):
    run_id = use(tmp_path / "run", config())
    assert json.loads((tmp_path / "run" / "run.json").read_text())["id"] == run_id


def test_a_home_directory_in_the_path_of_weights_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert weights_path("~/weights.pt", tmp_path) == tmp_path / "weights.pt"

import pytest

from toklip_jax.training.workdir import open_workdir


def config(**values):
    return {"seed": 0, "model": {"width": 8}, **values}


def test_the_same_config_goes_on_and_nothing_is_touched(tmp_path):
    workdir = open_workdir(tmp_path / "run", config())
    (workdir / "precious").write_text("kept")
    assert open_workdir(tmp_path / "run", config()) == workdir
    assert (workdir / "precious").read_text() == "kept"


def test_another_config_is_refused_naming_the_difference(tmp_path):
    open_workdir(tmp_path / "run", config())
    with pytest.raises(ValueError, match=r"seed: 0 there, 1 now.*--restart"):
        open_workdir(tmp_path / "run", config(seed=1))


def test_another_config_is_taken_over_where_allowed_and_the_difference_printed(tmp_path, capsys):
    open_workdir(tmp_path / "run", config())
    open_workdir(tmp_path / "run", config(seed=1), allow_change=True)
    assert "seed: 0 there, 1 now" in capsys.readouterr().out
    open_workdir(tmp_path / "run", config(seed=1))  # it is the run's config from now on
    with pytest.raises(ValueError, match="seed: 1 there, 0 now"):
        open_workdir(tmp_path / "run", config())


def test_a_run_killed_while_it_wrote_its_first_config_is_no_foreign_directory(tmp_path):
    (tmp_path / ".config.json").write_text("{")
    open_workdir(tmp_path, config())
    open_workdir(tmp_path, config())


def test_restart_deletes_a_run_but_never_a_foreign_directory(tmp_path):
    workdir = open_workdir(tmp_path / "run", config())
    (workdir / "old").write_text("")
    open_workdir(tmp_path / "run", config(seed=1), restart=True)
    assert not (workdir / "old").exists()
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("")
    for restart in (False, True):
        with pytest.raises(ValueError, match="holds other files"):
            open_workdir(tmp_path / "home", config(), restart=restart)
    assert (tmp_path / "home" / "thesis.tex").exists()

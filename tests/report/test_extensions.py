"""Modules that a run's config imports, and runs of older versions."""

import html
import json
import pathlib
import shutil
import sys

import pytest

from toklip_jax.report import write_report
from toklip_jax.report.command import main
from toklip_jax.report.extensions import import_extensions

OLD_RUN = pathlib.Path(__file__).parent / "old_run"
MODULE = """
from toklip_jax.data.sources import ARRAYS, ArraySource, SourceKind, register
import numpy as np

def open_page_source():
    return ArraySource(images=np.zeros((3, 64, 64, 3), np.uint8))

register(SourceKind("page_source", open_page_source, ARRAYS))
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A user's package that is not imported yet; its kinds are forgotten after the test."""
    from toklip_jax.data.sources import base

    name = "a_user_s_sources"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(base, "_KINDS", dict(base._KINDS))
    yield name
    sys.modules.pop(name, None)


def test_a_workdir_does_not_say_what_is_imported(module):
    (note,) = import_extensions([module])
    assert f"{module}, which the run's config imports, was not imported" in note
    assert f"--import={module}" in note
    assert module not in sys.modules
    assert import_extensions([module], allowed=[module]) == []
    assert module in sys.modules
    assert import_extensions([module]) == []


def test_modules_of_the_package_are_imported_unasked(monkeypatch):
    monkeypatch.delitem(sys.modules, "toklip_jax.costs", raising=False)
    assert import_extensions(["toklip_jax.costs"]) == []
    assert "toklip_jax.costs" in sys.modules
    (note,) = import_extensions(["toklip_jax.not_there"])
    assert "toklip_jax.not_there, which the run's config imports, is missing" in note
    for name in ("os; print()", "toklip_jax.", "../evil"):
        assert len(import_extensions([name])) == 1


def test_a_module_that_is_asked_for_must_be_there(tmp_path, capsys):
    (tmp_path / "config.json").write_text("{}")
    assert main([str(tmp_path), "--import=no_such_module"]) == 2
    assert "expected a module to import, got 'no_such_module'" in capsys.readouterr().err


def test_the_page_says_what_was_not_imported_and_shows_it_once_it_is(module, tmp_path, write_run):
    workdir = tmp_path / "run"
    workdir.mkdir()
    write_run(workdir)
    config = json.loads((workdir / "config.json").read_text())
    config["report"]["source"] = {"kind": "page_source"}
    (workdir / "config.json").write_text(json.dumps(config | {"imports": [module]}))
    text = html.unescape(write_report(workdir).read_text())
    assert text.count("the images can't be read: expected report.source.kind among") == 5
    assert text.count(f"if you trust it, add --import={module}") == 6  # and among the commands
    text = html.unescape(write_report(workdir, imports=[module]).read_text())
    assert "the images can't be read" not in text
    assert "was not imported" not in text


def test_a_run_of_the_version_before_has_its_page(tmp_path):
    """Its config and results as that version wrote them, without weights and logs."""
    shutil.copytree(OLD_RUN, tmp_path / "run")
    text = html.unescape(write_report(tmp_path / "run").read_text())
    assert "Left out: the run has not been evaluated" not in text
    assert "22 of 32 codes (68.8%) are used in the images of pictures" in text
    assert "VQ code vectors, mean" in text
    assert "0.364<small> ± 0.145</small>" in text
    assert text.count("Left out: the run has no weights of TokLIP") == 5


def test_an_unknown_kind_without_imports_says_how_to_import_it(tmp_path, write_run):
    write_run(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["report"]["source"] = {"kind": "of_an_old_run"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    text = html.unescape(write_report(tmp_path).read_text())
    assert text.count("; pass --import=MODULE to import it for this page") == 5

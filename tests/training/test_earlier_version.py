"""A run that version 0.1.0's first code left unfinished is resumed, and ends as that code ended it.

`earlier_version/run.tar.xz` holds the workdir of `tiny_run.py` without evaluations, stopped after
step 8 of 10 of its last stage; `expected.npz` the parameters that the earlier code trained to step
10. The weights of its first two stages are rounded to sixteenths, so that the file is small.
"""

import json
import pathlib
import tarfile

import flax.traverse_util
import numpy as np
import pytest

from toklip_jax.cli import train as command
from toklip_jax.training.logging import read_metrics
from toklip_jax.weights import load_weights

HERE = pathlib.Path(__file__).parent
CONFIG = """
import runpy
def get_config():
    config = runpy.run_path({tiny!r})["get_config"]()
    with config.unlocked():
        config.evaluate = ()
        config.source.num_captions = 1
        {more}
    return config
"""


@pytest.fixture
def workdir(tmp_path):
    with tarfile.open(HERE / "earlier_version" / "run.tar.xz") as tar:
        tar.extractall(tmp_path, filter="data")
    return tmp_path / "run"


def resume(workdir, more="pass"):
    path = workdir.parent / "config.py"
    path.write_text(CONFIG.format(tiny=str(HERE / "tiny_run.py"), more=more))
    return command.main([f"--config={path}", f"--workdir={workdir}"])


def test_it_is_resumed_to_the_parameters_that_the_earlier_code_reached(workdir):
    before = read_metrics(workdir / "toklip" / "metrics.jsonl")
    assert [record["step"] for record in before][-3:] == [8, 9, 10]
    assert resume(workdir) == 0
    after = read_metrics(workdir / "toklip" / "metrics.jsonl")
    for old, new in zip(before, after, strict=True):
        assert old["step"] == new["step"]
        np.testing.assert_allclose(new["loss"], old["loss"], rtol=1e-5)
        np.testing.assert_allclose(new["learning_rate"], old["learning_rate"], rtol=1e-6)
    want = np.load(HERE / "earlier_version" / "expected.npz")
    weights = load_weights(workdir / "toklip" / "weights")
    got = flax.traverse_util.flatten_dict(weights.params, sep=".")
    for name in want.files:
        np.testing.assert_allclose(got[name], want[name], atol=2e-6, err_msg=name)


def test_a_config_that_differs_is_refused_as_before(workdir, capsys):
    assert resume(workdir, "config.toklip.batch_size = 4") == 2
    error = capsys.readouterr().err
    assert "toklip.batch_size: 8 there, 4 now" in error
    assert "vision" not in error  # fields that models gained since are no difference
    config = json.loads((workdir / "config.json").read_text())
    assert config["toklip"]["batch_size"] == 8

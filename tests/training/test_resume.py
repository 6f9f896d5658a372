"""A checkpoint is continued with what it was made from; on the smallest objective."""

import dataclasses
import itertools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from toklip_jax.nn.config import Compute
from toklip_jax.parallel.sharding import make_mesh
from toklip_jax.training.identity import Identity
from toklip_jax.training.logging import read_metrics
from toklip_jax.training.loop import LoopContext, train
from toklip_jax.training.loop_config import LoopConfig
from toklip_jax.training.objective import Encoded, Objective
from toklip_jax.training.optimizer import OptimizerConfig


@dataclasses.dataclass(frozen=True)
class Line(Objective):
    """y = a x + b, of which `b` is frozen."""

    trainable: tuple[str, ...] = ("a",)
    compute: Compute = dataclasses.field(default_factory=Compute)

    def encode(self, params, batch, rng):
        error = params["a"] * batch["x"] + params["b"] - batch["y"]
        return Encoded({}, jnp.sum(error**2), jnp.float32(len(error)), {})


def batches(start):
    for step in itertools.count(start):
        x = np.random.default_rng(step).normal(size=8).astype(np.float32)
        yield {"x": x, "y": 3 * x + 1}


def fit(directory, steps, *, b=1.0, source=batches, **context):
    return train(
        Line(),
        {"a": jnp.zeros(()), "b": jnp.float32(b)},
        source,
        optimizer=OptimizerConfig(0.3, 2, weight_decay=0.0),
        config=LoopConfig(steps, log_every=1, save_every=10),
        mesh=make_mesh({"data": 1}, jax.devices()[:1]),
        directory=directory,
        context=LoopContext(**context),
    )


def steps_of(directory):
    return [record["step"] for record in read_metrics(directory / "metrics.jsonl")]


DATA = {"samples": 8, "sha256": "0" * 64}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A stage after two steps, by the run "a", from a file of hash 0."""
    directory = tmp_path_factory.mktemp("runs") / "stage"
    fit(directory, 2, identity=Identity("a", {"vq.init.vq": "0" * 64}, DATA))
    return directory


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"identity": Identity("a", {"vq.init.vq": "1" * 64})},
            r"vq.init.vq: SHA-256 000.*111",
        ),
        (
            {"identity": Identity("b")},
            "of this run, whose id .* is b, got .*",
        ),
        (
            {"identity": Identity("a", data={"samples": 9, "sha256": "1" * 64})},
            "trained on other data .8 samples then, 9 now.*pass --allow-config-change",
        ),
        ({"b": 2.0}, "other values of 1 frozen parameters, first b"),
        ({"steps": 1}, "expected a checkpoint of step 0 to 1, the loop.steps of train, .* found 2"),
        ({"reached": 3}, "expected a checkpoint of step 3 to 4, .* found 2"),
    ],
)
def test_what_a_checkpoint_was_not_made_from_is_refused(changes, message, trained, capsys):
    accepted = []
    with pytest.raises(ValueError, match=message):
        fit(trained, **{"steps": 4, "accept": lambda: accepted.append(1), **changes})
    assert not accepted
    assert steps_of(trained) == [1, 2]


def test_other_data_are_gone_on_with_where_that_is_asked_for(tmp_path, capsys):
    fit(tmp_path, 2, identity=Identity("a", data=DATA))
    other = Identity("a", data=DATA | {"sha256": "1" * 64})
    fit(tmp_path, 3, identity=other, allow_change=True)
    assert "8 samples then, 8 now" in capsys.readouterr().out
    fit(tmp_path, 4, identity=other)  # from here on they are the run's


def test_weights_without_a_checkpoint_are_not_trained_on(tmp_path):
    with pytest.raises(ValueError, match=r"of step 2 to 4, .* found none"):
        fit(tmp_path, 4, reached=2)


def test_the_config_is_accepted_once_a_step_was_made(tmp_path):
    def empty(start):
        raise ValueError("expected a source with samples")
        yield

    accepted = []
    with pytest.raises(ValueError, match="with samples"):
        fit(tmp_path, 2, source=empty, accept=lambda: accepted.append("too early"))
    fit(tmp_path, 2, accept=lambda: accepted.append(steps_of(tmp_path)))
    fit(tmp_path, 4, accept=lambda: accepted.append(steps_of(tmp_path)))
    fit(tmp_path, 4, accept=lambda: accepted.append(steps_of(tmp_path)))  # there is none to make
    assert accepted == [[], [1, 2], [1, 2, 3, 4]]


def test_a_log_with_stray_lines_is_continued_without_them(tmp_path):
    fit(tmp_path, 2)
    log = tmp_path / "metrics.jsonl"
    stray = b'5\n[]\n{"loss": 1}\n{"step": "3"}\n{"step": true}\n\xff\xfe\n' + b"[" * 100_000
    log.write_bytes(stray + b"\n" + log.read_bytes() + b'{"step": 3, "los')
    fit(tmp_path, 4)
    assert steps_of(tmp_path) == [1, 2, 3, 4]
    assert len(log.read_text().splitlines()) == 4
    assert not list(pathlib.Path(tmp_path).glob(".metrics*"))

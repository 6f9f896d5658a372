"""FID: statistics on disk, what is said where weights are missing, and the figure from images."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from toklip_jax.evaluation.fid import (
    Reference,
    fid,
    read_statistics,
    sfid,
    write_statistics,
)
from toklip_jax.metrics import Frechet
from toklip_jax.models.inception.config import InceptionConfig
from toklip_jax.models.inception.family import URL
from toklip_jax.models.inception.model import Inception
from toklip_jax.weights import Weights, save_weights
from toklip_jax.weights.read import read_role

TINY = InceptionConfig(image_size=75, divisor=16)
COMMAND = "python -m toklip_jax.convert to-jax pt_inception-2015-12-05-6726825d.pth inception"


@pytest.fixture(scope="module")
def params():
    random = np.random.default_rng(0)
    shapes = jax.eval_shape(Inception(TINY).init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))

    def draw(shape):
        if len(shape.shape) == 1:
            return random.uniform(0.5, 1.5, shape.shape).astype(np.float32)
        std = (2 / np.prod(shape.shape[:-1])) ** 0.5
        return (std * random.normal(size=shape.shape)).astype(np.float32)

    return jax.tree.map(draw, shapes["params"])


def states(count=40, dim=6, seed=0):
    x = np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)
    return Frechet.from_features(x)


def test_statistics_written_are_read_back_equal(tmp_path):
    reference = Reference(states().statistics(), states(dim=4).statistics())
    write_statistics(tmp_path / "new" / "ref.npz", reference)
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["ref.npz"]
    assert set(np.load(tmp_path / "new" / "ref.npz").files) == {"mu", "sigma", "mu_s", "sigma_s"}
    got = read_statistics(tmp_path / "new" / "ref.npz")
    np.testing.assert_array_equal(got.pool.covariance, reference.pool.covariance)
    np.testing.assert_array_equal(got.spatial.mean, reference.spatial.mean)
    other = states(seed=1)
    assert fid(other, got) == fid(other, states())
    assert sfid(states(dim=4, seed=1), got) > 0
    with pytest.raises(FileExistsError, match="which exists"):
        write_statistics(tmp_path / "new" / "ref.npz", reference)
    with pytest.raises(ValueError, match=r"ending in \.npz"):
        write_statistics(tmp_path / "ref.npy", reference)


def test_statistics_without_spatial_ones_serve_fid_alone(tmp_path):
    pool = states().statistics()
    np.savez(tmp_path / "ref.npz", mu=pool.mean.astype(np.float32), sigma=pool.covariance)
    reference = read_statistics(tmp_path / "ref.npz")
    assert reference.pool.mean.dtype == np.float64
    assert fid(states(), reference) < 1e-6
    with pytest.raises(ValueError, match="expected spatial statistics"):
        sfid(states(), reference)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"arr_0": np.zeros((2, 8, 8, 3), np.uint8)}, "expected mu and sigma in .*found arr_0"),
        ({"mu": np.zeros(3)}, r"\['sigma'\] missing"),
        ({"mu": np.zeros(3), "sigma": np.zeros((3, 4))}, r"got \(3,\) and \(3, 4\)"),
        ({"mu": np.full(2, np.nan), "sigma": np.eye(2)}, "expected finite mu"),
        ({"mu": np.zeros(2), "sigma": np.array([[1.0, 2], [0, 1]])}, "that is not symmetric"),
        ({"mu": np.array(["a", "b"]), "sigma": np.eye(2)}, "holds no numbers"),
        ({"mu": np.array(["1", "2"]), "sigma": np.eye(2)}, "holds no numbers"),
        ({"mu": np.zeros(2, complex), "sigma": np.eye(2)}, "expected numbers, got complex128"),
        ({"mu": np.zeros(2), "sigma": np.diag([1.0, -1.0])}, "a negative variance"),
        ({"mu": np.array([{}, {}]), "sigma": np.eye(2)}, "damaged or holds no numbers"),
    ],
)
def test_files_without_usable_statistics_are_named(tmp_path, arrays, message):
    np.savez(tmp_path / "ref.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        read_statistics(tmp_path / "ref.npz")


def test_statistics_that_grow_beyond_a_limit_are_refused_unread(tmp_path, monkeypatch):
    monkeypatch.setattr("toklip_jax.evaluation.fid.MAX_BYTES", 2**12)
    np.savez_compressed(tmp_path / "ref.npz", mu=np.zeros(99), sigma=np.zeros((99, 99)))
    with pytest.raises(ValueError, match=r"at most 4096 bytes in .*ref\.npz, got .* of sigma"):
        read_statistics(tmp_path / "ref.npz")


def test_damaged_files_of_statistics_are_named(tmp_path):
    path = tmp_path / "s.npz"
    np.savez_compressed(path, mu=np.zeros(4), sigma=np.eye(4))
    whole, messages = path.read_bytes(), []
    for at in range(0, len(whole), 3):
        data = bytearray(whole)
        data[at] ^= 255
        path.write_bytes(data)
        try:
            read_statistics(path)
        except ValueError as error:  # any other fails the test
            messages.append(str(error))
    assert len(messages) > len(whole) / 10
    assert all("s.npz" in message for message in messages)


def test_missing_and_foreign_files_of_statistics_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected reference statistics at"):
        read_statistics(tmp_path / "none.npz")
    (tmp_path / "ref.npz").write_text(json.dumps({"mu": [0]}))
    with pytest.raises(ValueError, match="another file"):
        read_statistics(tmp_path / "ref.npz")


@pytest.mark.parametrize(("path", "error"), [("", ValueError), ("none", FileNotFoundError)])
def test_one_line_says_what_to_fetch_and_how_to_convert_it(path, error, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error) as caught:
        read_role("inception", path)
    message = str(caught.value)
    assert URL in message
    assert COMMAND in message
    assert "\n" not in message


def test_other_weights_are_refused(golden):
    with pytest.raises(ValueError, match="weights of a TokLIPConfig: fetch"):
        read_role("inception", golden("toklip_tiny/checkpoint.pt"))


def test_rfid_of_images_is_0_for_equal_sets_and_grows_with_the_damage(params, tmp_path):
    save_weights(tmp_path / "inception", Weights(TINY, params, is_scanned=False))
    weights = read_role("inception", tmp_path / "inception")
    assert weights.config == TINY
    random = np.random.default_rng(1)
    images = random.uniform(-1, 1, (24, 16, 16, 3)).astype(np.float32)
    noise = random.normal(size=images.shape).astype(np.float32)

    @jax.jit
    def run(params, images):
        return Inception(TINY).apply({"params": params}, images)

    def features(damage):
        made = run(weights.params, jnp.asarray(np.clip(images + damage * noise, -1, 1)))
        return Frechet.from_features(made.pool), Frechet.from_features(made.spatial)

    clean, little, much = features(0.0), features(0.2), features(1.0)
    assert fid(clean[0], clean[0]) < 1e-5 * np.trace(clean[0].statistics().covariance)
    assert fid(little[0], clean[0]) < fid(much[0], clean[0])
    assert sfid(little[1], clean[1]) < sfid(much[1], clean[1])

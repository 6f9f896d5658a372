"""A tokenizer is added by one registration outside the package, and everything works with it.

The toy has two ids a place, a 3 x 2 grid and no codebook: `toy/toy_tokenizer.py`.
"""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow.parquet
import pytest

import toklip_jax
from toklip_jax.cli import train as command
from toklip_jax.cli.encode import main as encode
from toklip_jax.data.cache import load_header
from toklip_jax.data.sources import CacheSource
from toklip_jax.training.logging import read_metrics

CONFIG = pathlib.Path(__file__).parent / "toy" / "config.py"
PACKAGE = pathlib.Path(toklip_jax.__file__).parent
BITS = (2, 3)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of all three stages, each a step, its evaluation and its report."""
    workdir = tmp_path_factory.mktemp("toy") / "run"
    assert command.main([f"--config={CONFIG}", f"--workdir={workdir}"]) == 0
    return workdir


@pytest.fixture(scope="module")
def cache(trained):
    directory = trained.parent / "cache"
    flags = [f"--config={CONFIG}", f"--workdir={trained}", f"--output={directory}"]
    assert encode([*flags, f"--parquet={trained.parent / 'parquet'}"]) == 0
    return directory


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (3, 24, 16, 3), np.uint8)


def test_no_file_of_the_package_knows_it():
    assert not [path for path in PACKAGE.rglob("*.py") if "toy" in path.read_text()]


def test_it_tokenizes_alone_and_within_toklip(trained, images):
    alone = toklip_jax.load(trained / "vq" / "weights")
    toklip = toklip_jax.load(trained / "toklip" / "weights")
    ids = alone.tokenize(images)
    assert (ids.shape, ids.dtype) == ((3, 6, 2), jnp.int32)
    for i, bits in enumerate(BITS):
        assert 0 <= int(ids[..., i].min()) <= int(ids[..., i].max()) < 2**bits
    assert len(np.unique(ids)) > 2
    np.testing.assert_array_equal(toklip.tokenize(images), ids)
    np.testing.assert_array_equal(jnp.abs(toklip.code_vectors(ids)), jnp.ones((3, 6, 5)))
    assert toklip.detokenize(ids).shape == (3, 24, 16, 3)
    np.testing.assert_array_equal(toklip.detokenize(ids), alone.detokenize(ids, grid=(3, 2)))


def test_ids_of_the_wrong_depth_or_range_are_refused(trained):
    toklip = toklip_jax.load(trained / "toklip" / "weights")
    with pytest.raises(ValueError, match=r"expected integer ids \[b, 6, 2\], got .*\(1, 6\)"):
        toklip.semantic_tokens(np.zeros((1, 6), np.int32))
    ids = np.zeros((1, 6, 2), np.int32)
    ids[0, 0, 0] = 5  # fits the second id, not the first
    with pytest.raises(ValueError, match="expected ids in"):
        toklip.semantic_tokens(ids)


def test_the_token_encoder_reads_its_codes_causally(trained, images):
    toklip = toklip_jax.load(trained / "toklip" / "weights")
    ids = np.array(toklip.tokenize(images))
    tokens = toklip.semantic_tokens(ids)
    assert tokens.shape == (3, 6, 32)
    ids[:, 4:] = 0
    np.testing.assert_allclose(toklip.semantic_tokens(ids)[:, :4], tokens[:, :4], atol=1e-5)
    assert toklip.image_features(ids=ids).shape == (3, 32)


def test_a_stage_trains_on_each_part_and_the_codes_are_counted(trained):
    for stage in ("vq", "teacher", "toklip"):
        (record,) = read_metrics(trained / stage / "metrics.jsonl")
        assert np.isfinite(record["loss"])
    (record,) = read_metrics(trained / "vq" / "metrics.jsonl")
    assert 0 < record["codes_in_batch"] <= 1


def test_a_cache_holds_its_ids(trained, cache):
    header, source = load_header(cache), CacheSource(str(cache))
    assert (header.grid, header.codes_per_place) == ((3, 2), 2)
    assert header.codebook_sizes == (4, 8)
    toklip = toklip_jax.load(trained / "toklip" / "weights")
    config = json.loads((trained / "config.json").read_text())
    original = _images(config["source"])
    want = np.asarray(toklip.tokenize(original))
    got = np.stack([source[i]["ids"] for i in range(len(source))])
    np.testing.assert_array_equal(got, want)


def _images(section):
    from toklip_jax.data.sources import SourceConfig

    source = SourceConfig.from_plain(section).open()
    return np.stack([source[i]["images"] for i in range(len(source))])


def test_parquet_holds_its_ids(cache):
    files = sorted((cache.parent / "parquet").glob("*.parquet"))
    rows = [row for file in files for row in pyarrow.parquet.read_table(file).to_pylist()]
    source = CacheSource(str(cache))
    got = np.array([row["image_tokens"] for row in rows])
    want = np.stack([source[i]["ids"] for i in range(len(source))])
    np.testing.assert_array_equal(got, want)


def test_a_step_on_the_cache_gives_the_loss_of_one_on_images(trained, cache, tmp_path):
    workdir = tmp_path / "cached"
    flags = [f"--config={CONFIG}", f"--config.toklip.cache={cache}"]
    flags += [f"--config.toklip.init.{part}={trained / part / 'weights'}" for part in _PARTS]
    flags += ["--config.stages=('toklip',)", "--config.evaluate=()"]
    assert command.main([*flags, f"--workdir={workdir}"]) == 0
    losses = [
        read_metrics(run / "toklip" / "metrics.jsonl")[0]["loss"] for run in (trained, workdir)
    ]
    np.testing.assert_allclose(*losses, rtol=2e-2)  # features of the cache are bfloat16


_PARTS = ("vq", "teacher")


def test_it_is_reconstructed_and_reported(trained):
    results = json.loads((trained / "results.json").read_text())
    (row,) = results["evaluations"]["pictures"]["rows"]
    assert np.isfinite(row["psnr"]["value"])
    assert 0 < row["code_usage"] <= 1
    page = (trained / "report" / "index.html").read_text()
    assert "Reconstructions" in page
    assert "Left out: the images" not in page


def test_gradients_pass_through_its_signs(trained, images):
    alone = toklip_jax.load(trained / "vq" / "weights")
    floats = jnp.asarray(images, jnp.float32) / 127.5 - 1

    grad = jax.grad(lambda pixels: alone.encode(pixels).sum())(floats)
    assert float(jnp.abs(grad).max()) > 0

"""Generated samples are evaluated as data sets are, without any data source."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from toklip_jax.evaluation.fid import Reference, fid, read_statistics, write_statistics
from toklip_jax.evaluation.models import Models
from toklip_jax.evaluation.registry import build_evaluation
from toklip_jax.evaluation.samples import (
    ArraySamples,
    RandomIds,
    SampleSource,
    build_samples,
    sample_batches,
)
from toklip_jax.evaluation.suite import Kept, Suite
from toklip_jax.metrics import Frechet, Gaussian
from toklip_jax.metrics.generation import inception_score
from toklip_jax.models.inception.config import InceptionConfig
from toklip_jax.models.inception.model import Inception
from toklip_jax.models.llamagen import LlamaGenConfig
from toklip_jax.models.registry import build_model
from toklip_jax.models.siglip.config import TextConfig, VisionConfig
from toklip_jax.models.toklip.config import TokLIPConfig
from toklip_jax.nn.config import Compute
from toklip_jax.parallel.sharding import make_mesh

COMPUTE = Compute(is_scanned=False)
INCEPTION = InceptionConfig(image_size=75, divisor=16)
GRID = (3, 2)


@pytest.fixture(scope="module")
def params(toy):
    init = jax.jit(Inception(INCEPTION).init)(jax.random.key(0), np.zeros((1, 24, 16, 3)))
    random = np.random.default_rng(0)
    drawn = jax.tree.map(lambda x: random.uniform(0.1, 0.5, x.shape).astype(x.dtype), init)
    return {"vq": toy.params, "inception": drawn["params"]}


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    path = tmp_path_factory.mktemp("statistics") / "reference.npz"
    d = INCEPTION.pool_dim
    write_statistics(path, Reference(Gaussian(np.zeros(d), np.eye(d))))
    return str(path)


@pytest.fixture(scope="module")
def random_ids(toy):
    return RandomIds(num_samples=11, grid=GRID, codebook_sizes=toy.config.codebook_sizes)


def run(section, toy, params, **others):
    models = Models.from_configs(COMPUTE, {"vq": toy.config, "inception": INCEPTION})
    mesh = make_mesh({"data": 1}, jax.devices()[:1])
    suite = Suite({"it": build_evaluation("it", section)}, models, mesh, batch_size=4)
    return suite.run(params, **others)["it"]


def decoded(ids, toy):
    model = build_model(toy.config, COMPUTE)
    apply = jax.jit(lambda p, x: model.apply({"params": p}, x, GRID, method="detokenize"))
    return np.clip(np.asarray(apply(toy.params, ids)), -1, 1)


def test_random_ids_are_decoded_and_compared_with_statistics(toy, params, reference, random_ids):
    section = {"kind": "generation", "source": random_ids, "reference": reference}
    result = run(section, toy, params)
    (row,) = result.rows
    assert result.num_images == {"samples": 11}
    assert 0 < row["fid"] < np.inf
    assert 0 < row["code_usage"] <= 1
    counts = result.details["code_counts"]
    assert [sum(codes) for codes in counts] == [11 * 6, 11 * 6]
    ids = np.stack([random_ids.batch(None, np.array([i]))["ids"][0] for i in range(11)])
    images = jnp.asarray(decoded(ids, toy))
    with jax.default_matmul_precision("highest"):
        pool = Inception(INCEPTION).apply({"params": params["inception"]}, images).pool
    want = fid(Frechet.from_features(pool), read_statistics(reference))
    assert row["fid"] == pytest.approx(want, rel=1e-4)


def test_images_in_memory_are_nearer_to_themselves_than_random_ids(toy, params, random_ids):
    images = np.random.default_rng(0).integers(0, 256, (9, *toy.size, 3), np.uint8)
    samples, real = ArraySamples(images=images), ArraySamples(images=images[::-1])
    section = {"kind": "generation", "source": samples, "real": real}
    result = run(section, toy, params)
    assert result.num_images == {"samples": 9, "real": 9}
    other = run({**section, "source": random_ids}, toy, params)
    assert result.rows[0]["fid"] < 1e-3 * other.rows[0]["fid"]


def test_a_config_names_a_generator(toy, params, reference):
    source = {"kind": "random_ids", "num_samples": 5, "grid": GRID, "codebook_sizes": (4, 8)}
    section = {"kind": "generation", "source": source, "reference": reference}
    assert run(section, toy, params).num_images == {"samples": 5}
    with pytest.raises(ValueError, match="num_sample"):
        build_evaluation("it", {**section, "source": {**source, "num_sample": 5}})
    for wrong in ({"num_samples": 0}, {"grid": (0, 2)}, {"codebook_sizes": ()}, {"seed": -1}):
        with pytest.raises(ValueError, match="of at least"):
            build_evaluation("it", {**section, "source": source | wrong})


def test_codes_alone_are_counted_without_inception(toy, params, random_ids):
    (row,) = run({"kind": "generation", "source": random_ids}, toy, params).rows
    assert row.keys() == {"model", "code_usage", "perplexity"}


def test_generated_ids_have_no_original_to_be_compared_with(toy, params, random_ids):
    with pytest.raises(ValueError, match="use the evaluation generation for generated ids"):
        run({"kind": "reconstruction", "source": random_ids}, toy, params)


def test_an_interrupted_evaluation_of_samples_goes_on(toy, params, reference, random_ids, tmp_path):
    """Of three batches, the one that is missing is made again, and no other."""
    section = {"kind": "generation", "source": random_ids, "reference": reference}
    whole = run(section, toy, params, kept=Kept(tmp_path, "weights"))
    (directory,) = tmp_path.iterdir()
    (directory / "000002.npz").unlink()
    counted = Counting(random_ids)
    again = run({**section, "source": counted}, toy, params, kept=Kept(tmp_path, "weights"))
    assert again.to_plain() == whole.to_plain()
    assert counted.batches == 1


def test_a_reference_that_is_missing_is_named_before_anything_is_made(
    toy, params, random_ids, tmp_path
):
    section = {"kind": "generation", "source": Counting(random_ids)}
    with pytest.raises(FileNotFoundError, match="reference statistics at"):
        run({**section, "reference": f"{tmp_path}/none.npz"}, toy, params)
    assert section["source"].batches == 0


def test_samples_with_and_without_guidance_are_scored_side_by_side(toy, params, reference):
    config = dataclasses.replace(INCEPTION, num_classes=12)
    random = np.random.default_rng(1)
    # Each of a brightness of its own, so that features differ by more than rounding.
    shades = [np.arange(1, n + 1)[:, None, None, None] / n for n in (9, 6)]
    images = [
        (shade * random.integers(0, 256, (len(shade), *toy.size, 3))).astype(np.uint8)
        for shade in shades
    ]
    kernel = classifier_of(images[0], params["inception"])
    both = {**params, "inception": {**params["inception"], "classifier": kernel}}
    guided, unguided = (ArraySamples(images=x) for x in images)
    section = {"kind": "generation", "source": guided, "reference": reference}
    models = Models.from_configs(COMPUTE, {"vq": toy.config, "inception": config})
    mesh = make_mesh({"data": 1}, jax.devices()[:1])

    def scored(section):
        evaluations = {"it": build_evaluation("it", section)}
        return Suite(evaluations, models, mesh, batch_size=4).run(both)["it"]

    result = scored({**section, "unguided": unguided})
    assert [row["model"] for row in result.rows] == ["samples", "samples without guidance"]
    for row, source in zip(result.rows, (guided, unguided), strict=True):
        (alone,) = scored({**section, "source": source}).rows
        assert {**row, "model": ""} == {**alone, "model": ""}
    want = inception_score(features_of(images[0], both["inception"], config).probabilities)
    assert 1.1 < want < 12
    # The classifier tells features apart that differ little: it enlarges rounding, too.
    assert result.rows[0]["inception_score"] == pytest.approx(want, rel=0.05)
    assert "samples: 9 samples against" in result.details["protocol"]
    assert "samples without guidance: 6 samples against" in result.details["protocol"]
    assert "unguided_code_counts" in result.details
    counts = scored({"kind": "generation", "source": guided})
    assert "inception_score" in counts.rows[0]  # without anything to compare with
    assert "9 samples; Inception" in counts.details["protocol"]


def features_of(images, params, config=INCEPTION):
    x = jnp.asarray(images, jnp.float32) / 127.5 - 1
    return jax.tree.map(np.asarray, jax.jit(Inception(config).apply)({"params": params}, x))


def classifier_of(images, params):
    """A kernel [d, 12] whose logits tell these images apart: what they share gives none."""
    pool = features_of(images, params).pool.astype(np.float64)
    shared = pool.mean(axis=0)
    kernel = np.random.default_rng(2).normal(size=(pool.shape[1], 12))
    kernel -= np.outer(shared, shared @ kernel) / (shared @ shared)
    return (2 * kernel / (pool @ kernel).std()).astype(np.float32)


class Counting:
    """A generator that counts the batches it makes."""

    def __init__(self, source):
        self.fields, self.grid, self.description = source.fields, source.grid, source.description
        self._source, self.batches = source, 0

    def __len__(self):
        return len(self._source)

    def batch(self, params, indices):
        assert "vq" in params  # a generator has the parameters of the moment
        self.batches += 1
        return self._source.batch(params, indices)


def test_hosts_share_samples_out_and_a_start_passes_batches_over(random_ids):
    whole = list(sample_batches(random_ids, None, batch_size=4))
    assert [batch["mask"].sum() for batch in whole] == [4, 4, 3]
    halves = [
        list(sample_batches(random_ids, None, batch_size=4, host=host, hosts=2)) for host in (0, 1)
    ]
    for first, second, batch in zip(*halves, whole, strict=True):
        joined = np.concatenate([first["ids"], second["ids"]])
        np.testing.assert_array_equal(joined, batch["ids"])
    (last,) = sample_batches(random_ids, None, batch_size=4, start=2)
    np.testing.assert_array_equal(last["ids"], whole[2]["ids"])


def test_generators_follow_the_protocol_and_say_what_they_are(random_ids):
    images = np.zeros((2, 8, 8, 3), np.uint8)
    ours, equal = ArraySamples(images=images), ArraySamples(images=images.copy())
    assert isinstance(random_ids, SampleSource)
    assert isinstance(ours, SampleSource)
    assert ours.description == equal.description
    assert ours.description != ArraySamples(images=images + np.uint8(1)).description
    assert build_samples(random_ids.description) == random_ids
    for arrays in ({"images": images, "ids": images}, {"images": images, "labels": np.zeros(3)}):
        with pytest.raises(ValueError, match="expected images, or ids, and arrays as long"):
            ArraySamples(**arrays)


def test_a_toklip_decodes_ids_of_its_own_grid_only():
    text = TextConfig(16, 1, 2, 24, vocab_size=8, context_length=4)
    vision = VisionConfig(16, 1, 2, 24, image_size=16, patch_size=8)
    vq = LlamaGenConfig(channels=32, multipliers=(1, 1), stem_patch=4)
    toklip = Models.from_configs(COMPUTE, {"toklip": TokLIPConfig(vq, vision, text)})
    assert toklip.decoded_grid((2, 2)) is toklip.decoded_grid(None) is None
    with pytest.raises(
        ValueError, match=r"grid \(2, 2\), which TokLIP decodes, got some of \(1, 4"
    ):
        toklip.decoded_grid((1, 4))
    assert Models.from_configs(COMPUTE, {"vq": vq}).decoded_grid((1, 4)) == (1, 4)

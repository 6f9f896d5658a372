"""The search for the nearest code: every implementation against the plain one."""

import importlib.util
import itertools
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from toklip_jax.ops import nearest_blocked
from toklip_jax.ops.nearest import IMPLEMENTATIONS, nearest_code, squared_distances
from toklip_jax.ops.nearest_blocked import NARROW
from toklip_jax.parallel.sharding import map_sharded_rows
from toklip_jax.planning.plan import topology_devices

FAST = [None, "blocked", "products", "screening", "pallas_tpu", "pallas_gpu"]
METRICS = ["euclidean", "inner_product"]
LIMIT = 16 * 2**20  # bytes beside arguments and result


def drawn(n, z, c=8, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(n + z + c))
    vectors = jax.random.normal(keys[0], (n, c)).astype(dtype)
    return vectors, jax.random.normal(keys[1], (z, c)).astype(dtype)


def search(vectors, codebook, implementation=None, metric="euclidean"):
    jitted = jax.jit(nearest_code, static_argnums=(2, 3))
    return np.asarray(jitted(vectors, codebook, implementation, metric))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("n", "z"), [(1, 1), (5, 3), (64, 128), (100, 129), (130, 1000)])
def test_blocked_search_equals_the_plain_one_at_ragged_sizes(n, z, metric):
    vectors, codebook = drawn(n, z)
    ids = search(vectors, codebook, metric=metric)
    assert ids.dtype == np.int32
    np.testing.assert_array_equal(ids, search(vectors, codebook, "plain", metric))
    distances = ((np.asarray(vectors)[:, None] - np.asarray(codebook)[None]) ** 2).sum(-1)
    products = np.asarray(vectors, np.float64) @ np.asarray(codebook, np.float64).T
    by_metric = {"euclidean": distances.argmin(-1), "inner_product": products.argmax(-1)}
    np.testing.assert_array_equal(ids, by_metric[metric])
    np.testing.assert_allclose(squared_distances(vectors, codebook), distances, atol=1e-4)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("implementation", ["pallas_tpu", "pallas_gpu"])
@pytest.mark.parametrize("shape", [(1, 1, 8), (300, 1100, 3), (257, 129, 16)])
def test_kernels_equal_the_plain_search_where_codes_are_narrow(implementation, shape, metric):
    vectors, codebook = drawn(*shape)
    ids = search(vectors, codebook, implementation, metric)
    np.testing.assert_array_equal(ids, search(vectors, codebook, "plain", metric))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("implementation", FAST)
@pytest.mark.parametrize("shape", [(70, 300, 17), (300, 700, 192)])
def test_all_equal_the_plain_search_where_codes_are_wide(implementation, shape, metric):
    """In eighths, so that no sum is rounded: libraries add many numbers in their own order."""
    vectors, codebook = (jnp.round(8 * x) / 8 for x in drawn(*shape))
    ids = search(vectors, codebook, implementation, metric)
    np.testing.assert_array_equal(ids, search(vectors, codebook, "plain", metric))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("implementation", FAST)
@pytest.mark.parametrize("c", [4, 20])
def test_ties_go_to_the_lowest_index_within_and_across_blocks(implementation, c, metric):
    """Within a group or a tile, across them, across a TPU's grid steps (1,024 and 512 codes)."""
    codebook = jnp.zeros((2500, c)).at[jnp.array([7, 9, 135, 300, 1031, 2055, 2499])].set(1.0)
    ones = jnp.ones((3, c))
    np.testing.assert_array_equal(search(ones, codebook, implementation, metric), [7, 7, 7])
    codebook = codebook.at[:2400].set(0)
    np.testing.assert_array_equal(search(ones, codebook, implementation, metric), [2499] * 3)


@pytest.mark.parametrize("metric", METRICS)
def test_ties_across_blocks_of_products_go_to_the_lowest_index(metric):
    """3,072 codes at a time, the last of which overlap those before."""
    codebook = jnp.zeros((7000, 20)).at[jnp.array([3000, 5000, 6999])].set(1.0)
    vectors = jnp.ones((1100, 20))  # two blocks of vectors too
    assert (search(vectors, codebook, "products", metric) == 3000).all()
    assert (search(vectors, codebook.at[3000].set(0), "products", metric) == 5000).all()
    assert (search(vectors, codebook.at[:6999].set(0), "products", metric) == 6999).all()


def test_the_inner_product_prefers_long_codes_to_near_ones():
    """With |e|^2 the first code would win, and at unit length the second."""
    codebook = jnp.asarray([[1.0, 0.0], [0.9, 0.9], [3.0, -3.0]])
    vectors = jnp.asarray([[1.0, 0.1]])
    for implementation in ("plain", *FAST):
        assert search(vectors, codebook, implementation).tolist() == [0]
        assert search(vectors, codebook, implementation, "inner_product").tolist() == [2]


@pytest.mark.recorded  # what is fused decides how distances are rounded
def test_near_ties_are_decided_alike_by_all_but_libraries():
    """Codes that differ in the last digits of float32, so that rounding alone decides: ids are the
    same in groups, tiles and blocks; from the plain search's, distances differ by rounding."""
    key = jax.random.key(0)
    base = jnp.tile(jax.random.normal(key, (40, 8)), (30, 1))
    codebook = base * (1 + 1e-7 * jax.random.randint(key, base.shape, -2, 3))
    vectors = base[:200] + 0.1 * jax.random.normal(jax.random.key(1), (200, 8))
    ids = search(vectors, codebook, "blocked")
    for kernel in ("pallas_tpu", "pallas_gpu"):
        np.testing.assert_array_equal(search(vectors, codebook, kernel), ids)
    exact = np.float64(vectors)[:, None] - np.float64(codebook)
    exact = np.sum(exact**2, axis=-1)
    found = np.take_along_axis(exact, ids[:, None], 1)[:, 0]
    largest = np.sum(np.float64(codebook) ** 2, axis=-1).max()
    assert np.max(found - exact.min(1)) < 40 * 2.0**-24 * 3 * largest


@pytest.mark.parametrize("implementation", FAST)
@pytest.mark.parametrize("c", [4, 20])
def test_negative_products_still_beat_padded_codes(implementation, c):
    """Blocks are padded with codes of zeros, whose product of 0 must not win."""
    codebook = jnp.full((130, c), -1.0).at[77].set(-0.5)
    ids = search(jnp.ones((3, c)), codebook, implementation, "inner_product")
    np.testing.assert_array_equal(ids, [77] * 3)


def test_a_hundred_thousand_vectors_get_the_plain_ids():
    vectors, codebook = drawn(100_000, 4096)
    plain = [search(part, codebook, "plain") for part in jnp.split(vectors, 10)]
    np.testing.assert_array_equal(search(vectors, codebook), np.concatenate(plain))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("c", [8, 256])
def test_codebooks_too_large_for_one_block_equal_the_plain_search(c, metric):
    """The codes' blocks overlap at the end, and so do the vectors'."""
    vectors, codebook = drawn(200, 2**18 // c + 777, c)
    ids = search(vectors, codebook, "blocked", metric)
    np.testing.assert_array_equal(ids, search(vectors, codebook, "plain", metric))


def screened_ids(vectors, codebook, metric="euclidean"):
    """Compiled anew: what it calls may have been replaced."""
    screen = jax.jit(lambda *x: nearest_blocked.search_by_screening(*x, metric))
    return np.asarray(screen(vectors, codebook))


@pytest.mark.parametrize("metric", METRICS)
def test_screening_finds_the_best_among_codes_that_bfloat16_cannot_tell_apart(metric, monkeypatch):
    """100 of them in groups far from one another, where rounding puts another one first."""
    vectors, codebook = drawn(70, 9000, 32)
    near = vectors[7] * (1 + 5e-3 * jax.random.normal(jax.random.key(5), (100, 32)))
    codebook = codebook.at[jnp.arange(100) * 17 + 3000].set(near)
    want = search(vectors, codebook, "plain", metric)
    assert (want[7] - 3000) % 17 == 0
    scores = nearest_blocked.scores_of(
        *(nearest_blocked._rounded(x) for x in (vectors, codebook)),
        nearest_blocked.penalty_of(codebook, metric),
    )
    assert np.argmax(scores[7]) != want[7]  # else this would show nothing
    np.testing.assert_array_equal(screened_ids(vectors, codebook, metric), want)
    monkeypatch.setattr(nearest_blocked, "MOST_GROUPS", 10**6)
    monkeypatch.setattr(nearest_blocked, "search_in_blocks", lambda v, e, m: jnp.full(len(v), -1))
    np.testing.assert_array_equal(screened_ids(vectors, codebook, metric), want)


def test_screening_searches_all_codes_only_where_too_many_may_be_the_best(monkeypatch):
    vectors, codebook = drawn(600, 9000, 64)
    want = search(vectors, codebook, "plain")
    monkeypatch.setattr(nearest_blocked, "search_in_blocks", lambda v, e, m: jnp.full(len(v), -1))
    np.testing.assert_array_equal(screened_ids(vectors, codebook), want)
    equal = jnp.tile(codebook[:1], (9000, 1))
    np.testing.assert_array_equal(screened_ids(vectors, equal), [-1] * 600)


def test_ties_go_to_the_lowest_index_where_rounding_puts_a_later_group_first():
    """Two equal codes, and beside the second one that is less, and more in bfloat16."""
    unit = 2.0**-7  # between two numbers of bfloat16 above 1
    codebook = jnp.zeros((9000, 20)).at[jnp.array([5000, 8000]), :2].set(1 + 0.4 * unit)
    codebook = codebook.at[8001, :2].set(jnp.array([1 + 0.6 * unit, 1]))
    ids = search(jnp.eye(20)[:2].sum(0)[None], codebook, "screening", "inner_product")
    np.testing.assert_array_equal(ids, [5000])


def test_many_wide_codes_are_screened_where_the_processor_multiplies_bfloat16(monkeypatch):
    vectors, codebook = drawn(3, nearest_blocked.SCREENED, 20)
    taken, screening = jnp.full(3, -1), "search_by_screening"
    monkeypatch.setattr(nearest_blocked, screening, lambda v, e, m: taken)
    for is_able, z, is_screened in ((False, None, False), (True, -1, False), (True, None, True)):
        monkeypatch.setattr(nearest_blocked, "multiplies_bfloat16", lambda able=is_able: able)
        ids = nearest_blocked.search_on_cpu(vectors, codebook[:z], "inner_product")
        assert (ids is taken) == is_screened


@pytest.mark.parametrize("implementation", FAST)
def test_ids_do_not_depend_on_the_compute_type_of_exact_inputs(implementation):
    codebook = jnp.round(jax.random.normal(jax.random.key(0), (300, 8)) * 8) / 8
    vectors = codebook[::3].astype(jnp.bfloat16)
    np.testing.assert_array_equal(search(vectors, codebook, implementation), range(0, 300, 3))
    plain = search(vectors.astype(jnp.float32), codebook, "plain", "inner_product")
    np.testing.assert_array_equal(search(vectors, codebook, implementation, METRICS[1]), plain)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("implementation", ["plain", *FAST])
@pytest.mark.parametrize("c", [8, 20])
def test_a_vector_with_a_nan_gets_the_first_code(implementation, c, metric):
    vectors, codebook = drawn(5, 300, c)
    ids = search(vectors.at[2, 1].set(jnp.nan), codebook, implementation, metric)
    assert ids[2] == 0
    np.testing.assert_array_equal(ids[3:], search(vectors, codebook, "plain", metric)[3:])


def test_no_gradient_passes_and_no_vector_is_no_id():
    vectors, codebook = drawn(5, 30)

    def loss(vectors, codebook):
        return jnp.sum(codebook[nearest_code(vectors, codebook)] - vectors)

    np.testing.assert_array_equal(jax.grad(loss)(vectors, codebook), -jnp.ones((5, 8)))
    assert search(vectors[:0], codebook).shape == (0,)


def test_what_cannot_be_searched_is_refused():
    vectors, codebook = drawn(5, 30)
    with pytest.raises(ValueError, match="at least one code"):
        nearest_code(vectors, codebook[:0])
    with pytest.raises(ValueError, match="an implementation of"):
        nearest_code(vectors, codebook, "fastest")
    with pytest.raises(ValueError, match="a metric of"):
        nearest_code(vectors, codebook, metric="cosine")
    assert set(FAST) - {None} < set(IMPLEMENTATIONS)


def extra_bytes(n, z, c, dtype="float32", sharding=None, metric="euclidean", implementation=None):
    shapes = [jax.ShapeDtypeStruct((rows, c), dtype, sharding=sharding) for rows in (n, z)]
    search = jax.jit(lambda v, e: nearest_code(v, e, implementation, metric))
    compiled = search.lower(*shapes).compile()
    return compiled.memory_analysis().temp_size_in_bytes, compiled.as_text()


SIZES = [
    (65_536, 16_384, 8, "float32"),
    (2**20, 16_384, 8, "float32"),
    (2**20, 16_384, 8, "bfloat16"),
    (65_536, 262_144, 256, "float32"),
    (65_536, 262_144, 256, "bfloat16"),
]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("sizes", [sizes for sizes in SIZES if "float32" in sizes])
def test_extra_memory_stays_below_16_mib(sizes, metric):
    assert extra_bytes(*sizes, metric=metric)[0] < LIMIT


@pytest.mark.parametrize("sizes", [(1024, 262_144, 256), (1024, 16_384, 1024)])
def test_screening_takes_less_than_16_mib_on_every_processor(sizes):
    assert extra_bytes(*sizes, implementation="screening")[0] < LIMIT


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("sizes", [*SIZES, (5, 3, 3, "float32"), (1000, 3000, 20, "float32")])
def test_the_gpu_kernel_lowers_to_triton_and_wide_codes_to_products(sizes, metric):
    n, z, c, dtype = sizes
    shapes = [jax.ShapeDtypeStruct((rows, c), dtype) for rows in (n, z)]
    search = jax.jit(lambda v, e: nearest_code(v, e, metric=metric))
    # From jax 0.12 on, lowering for a GPU that isn't there has to be told which.
    gpu = jax.sharding.AbstractDevice("NVIDIA H100 80GB HBM3", None, "cuda")
    auto = (jax.sharding.AxisType.Auto,)
    mesh = jax.sharding.AbstractMesh((1,), ("x",), auto, abstract_device=gpu)
    with jax.sharding.use_abstract_mesh(mesh):
        lowered = search.trace(*shapes).lower(lowering_platforms=("cuda",))
    assert ("xla.gpu.triton" in lowered.as_text()) == (c <= NARROW)


@pytest.mark.slow
@pytest.mark.parametrize("topology", ["v5e:2x2", "v6e:2x2"])
def test_the_tpu_kernel_compiles_within_16_mib(topology):
    """On each device's rows in `shard_map` as well, as the models call it."""
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("NOT CHECKED: libtpu is not installed (pip install 'jax[tpu]')")
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    devices = np.array(topology_devices(topology))
    one = jax.sharding.Mesh(devices[:1], "x")
    whole = jax.sharding.NamedSharding(one, jax.sharding.PartitionSpec())
    small = [(5, 3, 3, "float32"), (1000, 3000, 20, "float32")]
    for sizes, metric in itertools.product([*SIZES, *small], METRICS):
        extra, text = extra_bytes(*sizes, sharding=whole, metric=metric)
        assert "tpu_custom_call" in text
        assert extra < LIMIT, (sizes, metric)
    types = (jax.sharding.AxisType.Auto,) * 2
    mesh = jax.sharding.Mesh(devices.reshape(2, 2), ("data", "fsdp"), axis_types=types)
    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((64, 8), (32, 8))]
    with jax.set_mesh(mesh):
        compiled = jax.jit(lambda rows, codes: map_sharded_rows(nearest_code, rows, codes)).lower(
            *shapes
        )
        assert "tpu_custom_call" in compiled.compile().as_text()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("case", ["one huge code", "tiny codes"])
def test_screening_does_not_trust_lengths_that_float32_cannot_hold(case, metric):
    vectors, codebook = map(np.array, drawn(256, 2048, 32))
    if case == "one huge code":
        vectors, codebook[100] = np.round(3 * vectors), 1e20 * codebook[100]  # exact in bfloat16
    else:
        codebook *= 1e-20
    ids = search(vectors, codebook, "screening", metric)
    np.testing.assert_array_equal(ids, search(vectors, codebook, "blocked", metric))

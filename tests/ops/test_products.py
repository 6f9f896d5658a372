"""Products of narrow types: the CPU's way against the plain one, values and gradients."""

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

from toklip_jax.ops.products import FEW, dot_general, einsum, table_products

AXES = (((1,), (0,)), ((), ()))


def drawn(dtype):
    keys = jax.random.split(jax.random.key(0), 3)
    left, right, weights = (
        jax.random.normal(key, shape)
        for key, shape in zip(keys, [(48, 64), (64, 32), (48, 32)], strict=True)
    )
    return left.astype(dtype), right.astype(dtype), weights


def plain(left, right):
    return jax.lax.dot_general(left, right, AXES)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_narrow_products_are_float32_sums_rounded_once(dtype):
    left, right, _ = drawn(dtype)
    want = (np.float32(left) @ np.float32(right)).astype(np.float32)
    got = jax.jit(lambda a, b: dot_general(a, b, AXES))(left, right)
    assert got.dtype == dtype
    unit = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(np.float32(got), want, rtol=unit, atol=1e-5)
    same = jax.jit(lambda a, b: einsum("nc,cd->nd", a, b))(left, right)
    np.testing.assert_array_equal(np.float32(same), np.float32(got))


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_gradients_are_those_of_the_plain_product(dtype):
    left, right, weights = drawn(dtype)

    def gradients(product):
        def loss(left, right):
            return jnp.sum(weights * product(left, right).astype(jnp.float32))

        return jax.jit(jax.grad(loss, (0, 1)))(left, right)

    ours = gradients(lambda a, b: dot_general(a, b, AXES))
    for got, want in zip(ours, gradients(plain), strict=True):
        assert got.dtype == want.dtype == dtype
        atol = 0.1 if dtype == "bfloat16" else 0  # the plain product sums in bfloat16
        np.testing.assert_allclose(np.float32(got), np.float32(want), atol=atol, rtol=0.02)


def test_float32_products_of_matrices_are_left_as_they_are():
    left, right, _ = drawn("float32")
    ours = jax.make_jaxpr(lambda a, b: dot_general(a, b, AXES))(left, right)
    assert str(ours) == str(jax.make_jaxpr(plain)(left, right))


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize(
    ("left", "right", "summed"),
    [((2, 5, 16), (16, 24), 1), ((2, 3, 5, 16), (16, 3, 8), 1), ((2, 5, 4, 8), (4, 8, 24), 2)],
)
def test_layers_of_many_vectors_are_the_plain_product(left, right, summed, dtype):
    """With all vectors on one axis: values, and both gradients."""
    keys = jax.random.split(jax.random.key(0))
    x, kernel = (
        jax.random.normal(key, shape).astype(dtype)
        for key, shape in zip(keys, (left, right), strict=True)
    )
    ours = tuple(range(len(left) - summed, len(left))), tuple(range(summed))
    axes = (ours, ((), ()))

    def results(product):
        def loss(x, kernel):
            y = product(x, kernel, axes).astype(jnp.float32)
            return jnp.sum(jnp.sin(y)), y

        return jax.jit(jax.grad(loss, (0, 1), has_aux=True))(x, kernel)

    got = results(dot_general)
    x, kernel = jnp.float32(x), jnp.float32(kernel)
    want = results(jax.lax.dot_general)
    assert jax.tree.map(jnp.shape, got) == jax.tree.map(jnp.shape, want)
    bound = 0.02 if dtype == "bfloat16" else 1e-6  # of the largest; results are rounded
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(np.float32(a), b, rtol=0, atol=bound * np.abs(b).max())


def test_vectors_of_a_layer_stand_on_one_axis():
    """Its kernel's gradient is then one product of two matrices, without transpositions."""
    x, kernel = jnp.ones((2, 5, 16)), jnp.ones((16, 24))
    axes = (((2,), (0,)), ((), ()))
    gradient = jax.grad(lambda kernel, x: dot_general(x, kernel, axes).sum())
    shapes = {
        tuple(v.aval.shape for v in equation.invars)
        for equation in jax.make_jaxpr(gradient)(kernel, x).eqns
        if equation.primitive.name == "dot_general"
    }
    assert {len(shape) for pair in shapes for shape in pair} == {2}


def test_vectors_on_split_axes_stay_where_they_are():
    """A mesh of explicit axes: merging an axis that is split over devices is an error there."""
    mesh = AbstractMesh((2, 2), ("data", "seq"), axis_types=(AxisType.Explicit,) * 2)
    axes = (((2,), (0,)), ((), ()))

    def laid_out(shape, *spec):
        sharding = NamedSharding(mesh, PartitionSpec(*spec))
        return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding)

    x, kernel = laid_out((4, 6, 16), "data", "seq"), laid_out((16, 24))
    with jax.sharding.use_abstract_mesh(mesh):
        y = jax.eval_shape(lambda x, kernel: dot_general(x, kernel, axes), x, kernel)
    assert tuple(y.sharding.spec)[:2] == ("data", "seq")


def test_layers_are_exported_with_any_number_of_rows():
    kernel = jnp.arange(384.0).reshape(16, 24)
    (rows,) = jax.export.symbolic_shape("b")
    x = jax.ShapeDtypeStruct((rows, 5, 16), jnp.float32)
    axes = (((2,), (0,)), ((), ()))
    program = jax.export.export(jax.jit(lambda x: dot_general(x, kernel, axes)))(x)
    ones = jnp.ones((3, 5, 16))
    np.testing.assert_allclose(program.call(ones), ones @ kernel, rtol=1e-6)


def test_a_type_that_is_asked_for_is_given():
    left, right, _ = drawn("bfloat16")
    got = dot_general(left, right, AXES, preferred_element_type=jnp.float32)
    assert got.dtype == jnp.float32


def test_other_platforms_get_the_plain_product():
    left, right, _ = drawn("bfloat16")
    function = jax.jit(lambda a, b: dot_general(a, b, AXES))
    text = function.trace(left, right).lower(lowering_platforms=("tpu",)).as_text()
    assert "tensor<48x32xf32>" not in text
    text = function.trace(left, right).lower(lowering_platforms=("cpu",)).as_text()
    assert "tensor<48x32xf32>" in text


@pytest.mark.parametrize("shape", [(1,), (8,), (3, 5), (FEW + 1,)])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_table_that_stands_first_gives_the_plain_products_and_gradients(shape, dtype):
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (*shape, 24)).astype(dtype)
    table = jax.random.normal(keys[1], (40, 24)).astype(dtype)
    weights = jax.random.normal(keys[2], (*shape, 40))

    def plain(x, table):
        return jnp.einsum("...d,zd->...z", x, table, preferred_element_type=jnp.float32)

    def run(product):
        values = jax.jit(product)(x, table)
        loss = jax.jit(jax.grad(lambda x, table: jnp.sum(weights * product(x, table)), (0, 1)))
        return values, *loss(x, table)

    for got, want in zip(run(table_products), run(plain), strict=True):
        assert got.dtype == want.dtype
        atol = 0.05 if got.dtype == jnp.bfloat16 else 2e-5
        np.testing.assert_allclose(np.float32(got), np.float32(want), atol=atol, rtol=1e-2)


def test_a_table_stands_first_for_few_vectors_alone():
    table = jnp.ones((40, 24))

    def is_first(count):
        program = jax.jit(table_products).lower(jnp.ones((count, 24)), table).as_text()
        return "optimization_barrier" in program

    assert [is_first(n) for n in (1, 2, FEW, FEW + 1)] == [False, True, True, False]


def test_products_with_a_table_are_exported_with_any_number_of_rows():
    table = jnp.arange(960.0).reshape(40, 24)
    (rows,) = jax.export.symbolic_shape("b")
    x = jax.ShapeDtypeStruct((rows, 24), jnp.float32)
    program = jax.export.export(jax.jit(lambda x: table_products(x, table)))(x)
    ones = jnp.ones((5, 24))
    np.testing.assert_allclose(program.call(ones), ones @ table.T, rtol=1e-6)

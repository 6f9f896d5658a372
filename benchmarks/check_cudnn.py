"""Checks the facade's cuDNN path against the written-out one; exits 1 where they differ."""

import jax
import jax.numpy as jnp

from toklip_jax.ops import attention as ops
from toklip_jax.parallel.sharding import make_mesh

key = jax.random.key(0)
q, k, v = (jax.random.normal(jax.random.fold_in(key, i), (4, 64, 4, 72), jnp.bfloat16) for i in range(3))
assert ops.fits_cudnn(q, k, v, True), "not chosen"
for causal in (True, False):
    def total(f):
        return jax.jit(jax.value_and_grad(lambda *x: jnp.sum(f(*x).astype(jnp.float32) ** 2), argnums=(0, 1, 2)))
    with jax.set_mesh(make_mesh({"data": 1}, jax.devices()[:1])):
        one = total(lambda *x: ops.attention(*x, is_causal=causal))(q, k, v)
    two = total(lambda *x: ops._written_out(*(y.astype(jnp.float32) for y in x), causal))(q, k, v)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two)):
        error = float(jnp.max(jnp.abs(a.astype(jnp.float32) - b)) / jnp.max(jnp.abs(b)))
        print(causal, error)
        assert error < 0.02
print("cudnn ok")

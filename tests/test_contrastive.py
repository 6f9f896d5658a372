"""The loss over a batch on many devices, against the plain one."""

import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from toklip_jax.losses import plain as losses
from toklip_jax.losses.contrastive import contrastive_loss
from toklip_jax.ops.normalize import l2_normalize

BLOCKS = (0, 5, 8, 24)  # 24 rows: all at once, ragged, a third, exactly all
BOUND = 1e-6  # of values and gradients; float32 noise here is 2e-7


def features(b=24, d=16):
    keys = jax.random.split(jax.random.key(0), 2)
    image, text = (l2_normalize(jax.random.normal(key, (b, d))) for key in keys)
    token_ids = jnp.arange(b, dtype=jnp.int32)[:, None] // 3 * 3 % 7 + jnp.zeros((1, 4), jnp.int32)
    return image, text, jnp.float32(2.5), jnp.float32(-3.0), token_ids


def plain(kind, image, text, scale, bias, token_ids):
    if kind == "softmax":
        return losses.softmax_contrastive_loss(image, text, scale)
    is_match = jnp.all(token_ids[:, None] == token_ids[None], -1).astype(jnp.float32)
    return losses.sigmoid_contrastive_loss(image, text, scale, bias, is_match)


def largest_difference(kind, block):
    """Of value and gradients from the plain loss's, relative above 1, under the mesh there is."""
    inputs = features()

    def both(loss):
        fn = jax.value_and_grad(lambda *xs: loss(kind, *xs, inputs[-1]), (0, 1, 2, 3))
        return jax.jit(fn)(*inputs[:-1])

    want = both(plain)
    got = both(lambda *xs: distributed(*xs, block=block))
    return max(jax.tree.leaves(jax.tree.map(_difference, got, want)))


def distributed(kind, image, text, scale, bias=None, token_ids=None, block=0):
    return contrastive_loss(
        kind,
        image,
        text,
        logit_scale=scale,
        logit_bias=bias,
        token_ids=token_ids,
        block=block,
    )


def _difference(got, want):
    return float(jnp.abs(got - want).max() / jnp.maximum(1, jnp.abs(want).max()))


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
@pytest.mark.parametrize("block", BLOCKS)
def test_blocks_change_neither_value_nor_gradient(kind, block):
    with jax.default_matmul_precision("highest"):
        assert largest_difference(kind, block) < BOUND


def test_devices_change_neither_value_nor_gradient_and_hold_their_rows_only():
    environment = os.environ | {
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
    }
    program = f"import runpy; runpy.run_path({str(pathlib.Path(__file__))!r}, run_name='devices')"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("agree") == 4, done.stdout


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="expected a contrastive loss of"):
        distributed("hinge", *features()[:3])


def _on_devices():
    from toklip_jax.parallel.sharding import make_mesh

    jax.config.update("jax_default_matmul_precision", "highest")
    for count in (1, 2, 4, 8):
        sizes = {"data": -1, "fsdp": 2 if count > 1 else 1, "tensor": 2 if count == 8 else 1}
        worst = 0.0
        with jax.set_mesh(make_mesh(sizes, jax.devices()[:count])):
            for kind in ("softmax", "sigmoid"):
                for block in BLOCKS:
                    worst = max(worst, largest_difference(kind, block))
        assert worst < BOUND, (count, worst)
        print(f"{count} devices agree to {worst:.1e}")
    _expect_no_whole_logits(make_mesh({"data": 8}))


def _expect_no_whole_logits(mesh):
    image, text, scale, *_ = features(64)
    with jax.set_mesh(mesh):
        for block, want in ((0, "f32[8,64]"), (16, "f32[8,16]")):
            fn = jax.grad(lambda *xs, n=block: distributed("softmax", *xs, block=n), (0, 1))
            text_of = jax.jit(fn).lower(image, text, scale).compile().as_text()
            assert want in text_of
            assert "f32[64,64]" not in text_of
            if block:
                assert "f32[8,64]" not in text_of


if __name__ == "devices":
    np.set_printoptions(precision=3)
    _on_devices()

"""Rectangular grids, and tokenizers with several ids a place."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from toklip_jax.models import base
from toklip_jax.models.siglip.config import TextConfig, VisionConfig
from toklip_jax.models.siglip.model import ImageTower
from toklip_jax.models.toklip.config import TokLIPConfig
from toklip_jax.models.toklip.model import TokLIP
from toklip_jax.nn.config import Compute

pytestmark = pytest.mark.usefixtures("highest_precision")

GRID, N, PATCH = (3, 2), 6, 4
VISION = VisionConfig(
    16, 1, 2, 24, is_causal=True, image_size=(3 * PATCH, 2 * PATCH), patch_size=PATCH
)


@dataclasses.dataclass(frozen=True)
class TwoSignsConfig:
    """Two ids a place and no codebook: whether red, and whether green, is above its middle."""

    codes_per_place = 2
    codebook_sizes = (2, 2)
    code_dim = 2
    licence = ""
    smallest_size = (PATCH, PATCH)

    def grid_of(self, *size):
        return tuple(side // PATCH for side in size)


class TwoSigns(nn.Module):
    config: TwoSignsConfig
    compute: Compute

    def __call__(self, images):
        ids = self.tokenize(images)
        return base.VQOutput(self.detokenize(ids, GRID), ids, self.code_vectors(ids), {})

    def tokenize(self, images):
        b, h, w, _ = images.shape
        patches = images.reshape(b, h // PATCH, PATCH, w // PATCH, PATCH, 3).mean((2, 4))
        return (patches[..., :2] > 0).astype(jnp.int32).reshape(b, -1, 2)

    def code_vectors(self, ids):
        return 2.0 * ids - 1

    def detokenize(self, ids, grid=None):
        x = jnp.pad(self.code_vectors(ids), ((0, 0), (0, 0), (0, 1)))
        x = x.reshape(-1, *grid, 3)
        return x.repeat(PATCH, axis=1).repeat(PATCH, axis=2)


FAMILY = base.Family(
    name="two_signs",
    title="two signs",
    role="vq",
    config=TwoSignsConfig,
    build=TwoSigns,
    inputs=lambda config: (jax.ShapeDtypeStruct((1, PATCH, PATCH, 3), jnp.float32),),
)


@pytest.fixture
def toklip(monkeypatch):
    """The model, its variables, ids [b, n, q], and a jitted way to call a method."""
    monkeypatch.setitem(base._FAMILIES, FAMILY.name, FAMILY)
    text = TextConfig(16, 1, 2, 24, vocab_size=8, context_length=4)
    model = TokLIP(TokLIPConfig(TwoSignsConfig(), VISION, text), Compute())
    images, token_ids = jnp.zeros((1, *VISION.size, 3)), jnp.zeros((1, 4), jnp.int32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images, token_ids)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: 0.3 * jnp.float32(rng.normal(size=leaf.shape)), shapes)
    ids = jax.random.randint(jax.random.key(1), (2, N, 2), 0, 2)

    def call(method, *arguments):
        return jax.jit(lambda v, *x: model.apply(v, *x, method=method))(variables, *arguments)

    return model, variables, ids, call


def test_a_rectangular_grid_of_two_ids_a_place_goes_through_every_method(toklip):
    model, variables, ids, call = toklip
    images = call("detokenize", ids)
    assert images.shape == (2, 3 * PATCH, 2 * PATCH, 3)
    np.testing.assert_array_equal(call("tokenize", images), ids)
    tokens = call("semantic_tokens", ids)
    assert tokens.shape == (2, N, 16)
    feature = call("image_features", ids)
    np.testing.assert_allclose(call("pool_tokens", tokens), feature, atol=1e-5)
    assert call("token_features", ids).shape == (2, N, 16)
    prefixes = jax.jit(lambda ids: model.apply(variables, ids, (2, N), method="prefix_features"))
    np.testing.assert_allclose(prefixes(ids)[:, 1], feature, atol=1e-5)
    changed = ids.at[:, 2:].set(1 - ids[:, 2:])
    np.testing.assert_allclose(prefixes(changed)[:, 0], prefixes(ids)[:, 0], atol=1e-6)


def test_semantic_steps_of_two_ids_a_place_are_the_parallel_tokens(toklip):
    model, variables, ids, call = toklip

    @jax.jit
    def stepped(ids):
        cache = model.init_semantic_cache(2)
        positions = jnp.broadcast_to(jnp.arange(2), (2, 2))
        start, cache = model.apply(
            variables, ids[:, :2], positions, cache, method="semantic_extend"
        )

        def step(cache, inputs):
            token, cache = model.apply(variables, *inputs, cache, method="semantic_step")
            return cache, token

        _, rest = jax.lax.scan(step, cache, (ids[:, 2:].swapaxes(0, 1), jnp.arange(2, N)))
        return jnp.concatenate([start, rest.swapaxes(0, 1)], axis=1)

    np.testing.assert_allclose(stepped(ids), call("semantic_tokens", ids), atol=1e-5)


@pytest.mark.parametrize(
    ("size", "patch"), [((12, 8), 4), ((12, 10), (4, 5)), ((4, 6, 4), (2, 3, 2))]
)
def test_an_image_tower_sees_places_row_by_row_in_any_grid(size, patch):
    """A patch of constant colour embeds as that colour, wherever in the grid it is."""
    config = VisionConfig(16, 1, 2, 24, image_size=size, patch_size=patch)
    tower = ImageTower(config, Compute())
    place = jnp.arange(config.num_tokens, dtype=jnp.float32).reshape(config.grid)
    images = place
    for axis, side in enumerate(config.patch):
        images = images.repeat(side, axis=axis)
    images = jnp.broadcast_to(images[None, ..., None], (1, *size, 3))
    shapes = jax.eval_shape(tower.init, jax.random.key(0), images)
    assert jax.eval_shape(tower.apply, shapes, images).shape == (1, 16)
    kernel = np.random.default_rng(0).normal(size=shapes["params"]["patch_embed"]["kernel"].shape)
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), shapes["params"])
    params["patch_embed"]["kernel"] = jnp.float32(kernel)
    patches = tower.apply({"params": params}, images, method=lambda tower, x: tower.patch_embed(x))
    want = np.arange(config.num_tokens)[:, None] * kernel.reshape(-1, 16).sum(0)
    np.testing.assert_allclose(patches.reshape(want.shape), want, atol=1e-4)


def test_images_of_another_size_are_refused():
    tower = ImageTower(VISION, Compute())
    with pytest.raises(ValueError, match=r"expected images \[b, 12, 8, 3\], got \(1, 8, 12, 3\)"):
        jax.eval_shape(tower.init, jax.random.key(0), jnp.zeros((1, 8, 12, 3)))

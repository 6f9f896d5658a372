"""T5's text encoder equals transformers', stage by stage; recorded by tests/golden/t5_tiny."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from toklip_jax.cli.convert import main
from toklip_jax.core.errors import UserError
from toklip_jax.files import write_safetensors
from toklip_jax.models.registry import count_params, named_size
from toklip_jax.models.t5.config import T5Config
from toklip_jax.models.t5.model import T5Encoder, bucket_of_distances, up_to_the_last
from toklip_jax.nn.config import Compute
from toklip_jax.ops.attention import attention
from toklip_jax.weights.read import read_weights

pytestmark = pytest.mark.usefixtures("highest_precision")

ATOL = 2e-5  # of values up to 11; torch's own float32 is off its float64 by 7e-6 (noise.json)
TINY = T5Config(40, 24, 2, 3, 6, 40)
CONFIGS = {
    "gated": TINY,
    "plain": T5Config(40, 24, 2, 3, 6, 40, is_gated=False, activation="relu"),
}


@pytest.fixture(scope="module")
def recorded(golden):
    return np.load(golden("t5_tiny/outputs.npz"))


@pytest.fixture(params=CONFIGS)
def kind(request):
    return request.param


def encode(weights, ids, is_scanned=False, dtype="float32"):
    weights = weights.with_layout(is_scanned)
    model = T5Encoder(weights.config, Compute(dtype=dtype, is_scanned=is_scanned))
    params = jax.tree.map(jnp.asarray, weights.params)

    @jax.jit
    def run(params, ids):
        return model.apply({"params": params}, ids, capture_intermediates=not is_scanned)

    return run(params, ids)


def test_every_recorded_stage_is_met(golden, recorded, kind, record_property):
    weights = read_weights(golden(f"t5_tiny/{kind}.safetensors"))
    assert weights.config == CONFIGS[kind]
    assert set(weights.dropped.values()) == {"T5's decoder, of which captions make no use"}
    out, inner = encode(weights, recorded["ids"])
    valid = recorded["valid"]
    np.testing.assert_array_equal(out.valid, valid)
    (block,) = inner["intermediates"]["stack"]["blocks_0"]["__call__"]
    for name, have in (("block0", block), ("tokens", out.tokens)):
        have, want = np.asarray(have)[valid], recorded[f"{kind}_{name}"][valid]
        record_property(f"largest error of {name}", float(np.abs(have - want).max()))
        np.testing.assert_allclose(have, want, rtol=0, atol=ATOL)


@pytest.mark.plain
def test_scanned_blocks_give_the_same(golden, recorded, kind):
    weights = read_weights(golden(f"t5_tiny/{kind}.safetensors"))
    want, _ = encode(weights, recorded["ids"])
    got = encode(weights, recorded["ids"], is_scanned=True)
    np.testing.assert_allclose(got.tokens, want.tokens, atol=ATOL)


@pytest.mark.plain
def test_padding_changes_nothing(golden, recorded):
    weights = read_weights(golden("t5_tiny/gated.safetensors"))
    whole, _ = encode(weights, recorded["ids"])
    alone, _ = encode(weights, recorded["ids"][1:2, :11])
    np.testing.assert_allclose(whole.tokens[1, :11], alone.tokens[0], atol=ATOL)


@pytest.mark.plain
def test_a_row_of_padding_alone_stays_finite(golden):
    weights = read_weights(golden("t5_tiny/gated.safetensors"))
    out, _ = encode(weights, np.zeros((1, 4), np.int32))
    assert not out.valid.any()
    assert np.isfinite(out.tokens).all()


def test_a_padding_id_within_a_text_counts():
    ids = jnp.array([[5, 0, 7, 1, 0, 0]])
    want = [[True, True, True, True, False, False]]
    np.testing.assert_array_equal(up_to_the_last(ids != 0), want)


def test_distances_have_the_recorded_buckets(recorded):
    buckets = bucket_of_distances(301, TINY)
    np.testing.assert_array_equal(buckets[0], recorded["buckets"][300:])
    np.testing.assert_array_equal(buckets[-1], recorded["buckets"][:301])


def test_parameters_are_as_many_as_published():
    # T5EncoderModel of google/flan-t5-xl and google/flan-t5-small, by its config.json.
    assert count_params(named_size("flan_t5_xl", "text_encoder")) == 1_223_527_424
    assert count_params(named_size("flan_t5_small", "text_encoder")) == 35_332_800


def test_a_file_goes_in_and_out_equal_to_the_bit(golden, tmp_path, capsys):
    arguments = [str(golden("t5_tiny/gated.safetensors")), str(tmp_path / "t5")]
    assert main(["to-jax", *arguments]) == 0
    assert main(["verify", *arguments]) == 0
    assert "bit-exact" in capsys.readouterr().out
    assert read_weights(tmp_path / "t5").config == TINY


def test_an_encoder_with_a_bias_in_each_block_is_refused(golden, tmp_path):
    """UMT5, whose names are T5's otherwise."""
    from safetensors.numpy import load_file

    tensors = load_file(golden("t5_tiny/gated.safetensors"))
    first = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    tensors[first.replace("block.0", "block.1")] = tensors[first]
    write_safetensors(tmp_path / "umt5.safetensors", tensors)
    with pytest.raises(UserError, match=r"unknown.*relative_attention_bias"):
        read_weights(tmp_path / "umt5.safetensors")


@pytest.mark.parametrize(
    "field", [{"depth": 0}, {"num_buckets": 6}, {"max_distance": 8}, {"activation": "tanh"}]
)
def test_sizes_that_cannot_be_are_refused(field):
    with pytest.raises(UserError, match="expected"):
        T5Config(**field)


def test_a_bias_and_a_scale_are_those_of_the_formula():
    keys = jax.random.split(jax.random.key(0), 4)
    query, key, value = (jax.random.normal(k, (2, 5, 4, 3)) for k in keys[:3])
    bias = jax.random.normal(keys[3], (4, 5, 5))
    logits = jnp.einsum("btke,bske->bkts", query, key) * 0.5 + bias
    want = jnp.einsum("bkts,bske->btke", jax.nn.softmax(logits), value)
    got = attention(query, key, value, bias=bias, scale=0.5)
    np.testing.assert_allclose(got, want, atol=1e-6)
    shared = attention(query, key[:, :, ::2], value[:, :, ::2], bias=bias, scale=0.5)
    copied = (x[:, :, [0, 0, 2, 2]] for x in (key, value))
    np.testing.assert_allclose(shared, attention(query, *copied, bias=bias, scale=0.5), atol=1e-6)

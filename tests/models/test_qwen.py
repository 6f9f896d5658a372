"""Qwen against transformers, stage by stage; bounds as the recordings' README says."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.qwen_recordings import FLOAT32, SETS, Recording
from tests.models.stages import at, close, run
from toklip_jax.decoding import Sampling, row_keys
from toklip_jax.decoding.tokens import draw_tokens
from toklip_jax.files.rules import to_jax
from toklip_jax.losses.plain import cross_entropy
from toklip_jax.models.base import Hints
from toklip_jax.models.qwen.keys import KEYS
from toklip_jax.models.qwen.model import positions_in
from toklip_jax.models.qwen.settings import read
from toklip_jax.models.qwen.sizes import SIZES
from toklip_jax.models.registry import build_model, count_params, param_shapes
from toklip_jax.nn.config import Compute
from toklip_jax.ops.rotary import rotary_table, rotate_halves
from toklip_jax.weights.conversion import export_tensors

pytestmark = pytest.mark.usefixtures("highest_precision")


@pytest.fixture(scope="module", params=SETS)
def recording(golden, request, tmp_path_factory):
    return Recording(golden, request.param, tmp_path_factory.mktemp("qwen"))


# The untied set has a part of the arrays only.
of_whole_sets = pytest.mark.parametrize("recording", ["qwen2.5 tied", "qwen3"], indirect=True)
of_qwen3 = pytest.mark.parametrize("recording", ["qwen3"], indirect=True)


def test_every_stage_equals_the_recorded_one(recording):
    want = recording.outputs
    ids = jnp.asarray(recording.inputs["ids"])
    logits, inner = run(recording.weights, ids)
    if recording.name != "qwen2.5 untied":
        embed = recording.apply(ids, method="embed")
        close(embed, want["embeddings"])
        for i in range(recording.config.depth):
            block = inner["stack"][f"blocks_{i}"]
            for ours, theirs in (
                ("norm1", "input_norm"),
                ("attn", "attn"),
                ("norm2", "post_norm"),
                ("mlp", "mlp"),
            ):
                close(at(block, ours), want[f"layer{i}_{theirs}"])
            close(at(inner, f"stack/blocks_{i}"), want[f"layer{i}"])
        for name in "qkv":
            got = at(inner, f"stack/blocks_0/attn/{name}")
            close(got.reshape(*got.shape[:2], -1), want[f"layer0_{name}"])
    close(at(inner, "norm"), want["final_norm"])
    close(logits, want["logits"], recording.logits_bound)


@of_qwen3
def test_heads_are_normalised_before_they_are_rotated(recording):
    _, inner = run(recording.weights, jnp.asarray(recording.inputs["ids"]))
    table = rotary_table(jnp.arange(18)[None], recording.config.head_dim, 1e6)
    for name in "qk":
        got = at(inner, f"stack/blocks_0/attn/{name}_norm")
        close(got, recording.outputs[f"layer0_{name}_norm"])
        close(rotate_halves(got, table), recording.outputs[f"layer0_{name}_rope"])


@of_whole_sets
def test_rotary_tables_equal_the_recorded_ones(recording):
    size = recording.config.head_dim // 2  # the recorded halves repeat
    table = rotary_table(jnp.arange(18)[None], recording.config.head_dim, 1e6)
    for ours, name in ((table.cos, "rope_cos"), (table.sin, "rope_sin")):
        close(ours[0], recording.outputs[name][:, :size], 1e-6)
    far = rotary_table(jnp.asarray([[1000, 30_000]]), recording.config.head_dim, 1e6)
    if "rope_cos_1000_30000" in recording.outputs.files:
        close(far.cos[0], recording.outputs["rope_cos_1000_30000"][:, :size], 3e-4)
        close(far.sin[0], recording.outputs["rope_sin_1000_30000"][:, :size], 3e-4)


def test_logits_of_embeddings_and_loss_equal_the_recorded_ones(recording):
    want = recording.outputs
    logits, loss = span_loss(recording, recording.params, recording.spliced())
    close(logits, want["span_logits"], recording.logits_bound)
    np.testing.assert_allclose(loss, want["span_loss"], rtol=2e-6)


def test_gradients_equal_the_recorded_ones(recording):
    bound = {"atol": 5e-6 if recording.is_qwen3 else 1e-5, "rtol": 1e-4}
    x = recording.spliced()
    loss = jax.grad(lambda p, x: span_loss(recording, p, x)[1], argnums=(0, 1))
    grads, of_x = jax.jit(loss)(recording.params, x)
    np.testing.assert_allclose(of_x[:, 4:11], recording.outputs["grad_span"], **bound)
    if "grad_inputs_embeds" in recording.outputs.files:
        np.testing.assert_allclose(of_x, recording.outputs["grad_inputs_embeds"], **bound)
    tensors = export_tensors(dataclasses.replace(recording.weights, params=grads))
    assert recording.grads.files
    for name in recording.grads.files:
        got = np.asarray(tensors[name])
        np.testing.assert_allclose(got, recording.grads[name], **bound, err_msg=name)


def span_loss(recording, params, x):
    """(Logits, mean loss over the labels), which are shifted by one."""
    out = recording.apply(x, method="hidden", params=params)
    logits = recording.apply(out, method="head", params=params)
    labels = jnp.asarray(recording.inputs["labels"])[:, 1:]
    is_counted = labels >= 0
    losses = cross_entropy(logits[:, :-1], jnp.where(is_counted, labels, 0))
    return logits, (losses * is_counted).sum() / is_counted.sum()


@of_whole_sets
@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_rows_equal_the_recorded_ones(recording, side):
    want = recording.outputs[f"{side}_pad_logits"]
    ids = jnp.asarray(recording.inputs[f"{side}_pad_ids"])
    mask = recording.inputs[f"{side}_pad_mask"].astype(bool)
    positions = jnp.where(jnp.asarray(mask), jnp.cumsum(mask, axis=1) - 1, -1)
    got = recording.apply(ids, positions=positions, method="logits")
    close(np.where(mask[..., None], got, 0), want, recording.logits_bound)


@pytest.mark.parametrize("kind", ["plain", "left_padded", "span"])
def test_greedy_ids_equal_the_recorded_ones(recording, kind):
    ids = recording.inputs["left_pad_ids"]
    mask = recording.inputs["left_pad_mask"].astype(bool)
    positions = np.where(mask, np.cumsum(mask, axis=1) - 1, -1)
    want = recording.outputs[
        {"plain": "gen_ids", "left_padded": "gen_left_pad_ids", "span": "gen_span_ids"}[kind]
    ]
    if kind == "plain":
        ids, want = want[:, :6], want[:, 6:]
    if kind != "left_padded":
        positions = np.broadcast_to(np.arange(ids.shape[1]), ids.shape)
    x = recording.apply(jnp.asarray(ids), method="embed")
    if kind == "span":
        x = recording.spliced()
    got, counts = greedy(recording, x, jnp.asarray(positions))
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(counts, 20)


def greedy(recording, x, positions, stop_ids=(), most=20, room=20):
    keys = row_keys(jax.random.key(0), jnp.arange(len(x)))
    options = {"positions": positions, "stop_ids": jnp.asarray(stop_ids, jnp.int32)}
    draw = jax.jit(functools.partial(draw_tokens, recording.model, sampling=Sampling(0), room=room))
    return draw(recording.params, x, keys, most=jnp.int32(most), **options)


def test_a_row_ends_before_its_first_stop_id_and_all_by_the_most(recording):
    ids = recording.outputs["gen_ids"]
    x = recording.apply(jnp.asarray(ids[:, :6]), method="embed")
    positions = jnp.broadcast_to(jnp.arange(6), (3, 6))
    stop = int(ids[0, 6 + 4])
    rows = [row.tolist() for row in ids[:, 6:]]
    expected = [row.index(stop) if stop in row else 20 for row in rows]
    got, counts = greedy(recording, x, positions, (stop, 3), room=32)
    assert any(count < 20 for count in expected)
    np.testing.assert_array_equal(counts, expected)
    for row, count, want in zip(got, expected, rows, strict=True):
        np.testing.assert_array_equal(row[:count], want[:count])
    _, counts = greedy(recording, x, positions, most=7, room=32)
    np.testing.assert_array_equal(counts, 7)


def test_prefill_and_steps_give_the_recorded_logits_of_every_drawn_id(recording):
    ids = jnp.asarray(recording.outputs["gen_ids"])
    cache = recording.model.init_cache(3, 32)
    x = recording.apply(ids[:, :6], method="embed")
    out, cache = recording.apply(x, cache, method="prefill")
    found = [recording.apply(out, method="head")]
    for place in range(6, 25):
        out, cache = recording.apply(ids[:, place], cache, method="step")
        found.append(recording.apply(out, method="head"))
    close(np.stack(found, axis=1), recording.outputs["gen_logits"], recording.logits_bound)
    parallel = recording.apply(ids, method="logits")[:, 5:-1]
    close(np.stack(found, axis=1), np.asarray(parallel), recording.logits_bound)
    assert len(cache.keys) == 3
    assert cache.keys[0].shape == (3, 2, 32, recording.config.head_dim)  # no head is repeated


@pytest.mark.plain
def test_packed_rows_equal_rows_of_their_own_in_values_and_gradients(recording):
    """Two sequences and padding in one row, whose positions follow from the segments."""
    ids = jnp.asarray(recording.inputs["ids"])[:2, :8]
    first, second = ids[0, :8], ids[1, :5]
    packed = jnp.concatenate([first, second, jnp.zeros(3, ids.dtype)])[None]
    segments = jnp.asarray([[4] * 8 + [9] * 5 + [-1] * 3])

    def of_packed(params):
        logits = recording.apply(packed, segments, method="logits", params=params)
        return logits[0, :8], logits[0, 8:13]

    def apart(params):
        def alone(row):
            return recording.apply(row[None], method="logits", params=params)[0]

        return alone(first), alone(second)

    for got, want in zip(of_packed(recording.params), apart(recording.params), strict=True):
        np.testing.assert_allclose(got, want, atol=2e-5)
    got, want = (
        jax.jit(jax.grad(lambda p, f=f: sum(jnp.sin(x).mean() for x in f(p))))(recording.params)
        for f in (of_packed, apart)
    )
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, atol=5e-6, rtol=1e-4)


@pytest.mark.plain
def test_right_padding_changes_no_gradient(recording):
    ids = jnp.asarray(recording.inputs["ids"])[:1, :7]
    padded = jnp.pad(ids, ((0, 0), (0, 5)), constant_values=3)

    def mean(params, ids):
        return jnp.sin(recording.apply(ids, method="logits", params=params)[:, :7]).mean()

    got, want = (jax.jit(jax.grad(mean))(recording.params, rows) for rows in (padded, ids))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, atol=5e-6, rtol=1e-4)


def test_positions_count_anew_in_each_run_of_a_segment():
    got = positions_in(jnp.asarray([[5, 5, 2, 2, 2, -1, -1], [-1, 0, 0, 0, 7, 7, 0]]))
    np.testing.assert_array_equal(got, [[0, 1, 0, 1, 2, -1, -1], [-1, 0, 1, 2, 0, 1, 0]])


@pytest.mark.plain
def test_scanned_and_recomputed_blocks_change_no_gradient(recording):
    ids = jnp.asarray(recording.inputs["ids"])

    def grads(compute, params):
        model = build_model(recording.config, compute)

        def loss(params):
            return jnp.sin(model.apply({"params": params}, ids)).mean()

        return jax.jit(jax.value_and_grad(loss))(params)

    plain, want = grads(FLOAT32, recording.params)
    weights = dataclasses.replace(recording.weights, params=recording.params)
    scanned = weights.with_layout(True).params
    value, got = grads(Compute(is_scanned=True, remat="full"), scanned)
    np.testing.assert_allclose(value, plain, rtol=1e-6)
    got = dataclasses.replace(weights, params=got, is_scanned=True).with_layout(False).params
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, atol=5e-6, rtol=1e-4)


def test_logits_are_float32_under_bfloat16(recording):
    model = build_model(recording.config, Compute(dtype="bfloat16", is_scanned=False))
    ids = jnp.asarray(recording.inputs["ids"])
    out = model.apply(
        {"params": recording.params},
        model.apply({"params": recording.params}, ids, method="embed"),
        method="hidden",
    )
    logits = model.apply({"params": recording.params}, out, method="head")
    assert (out.dtype, logits.dtype) == (jnp.bfloat16, jnp.float32)
    # Sums are not rounded to bfloat16: most logits have more digits than it holds.
    rounded = logits.astype(jnp.bfloat16).astype(jnp.float32)
    assert float((rounded != logits).mean()) > 0.9
    want = recording.outputs["logits"]
    assert float(np.abs(logits - want).max()) < 0.1 * float(np.abs(want).max())


KEY_LISTS = {
    "keys_qwen2.5_0.5B": ("qwen2.5_0.5b", []),
    "keys_qwen2.5_1.5B": ("qwen2.5_1.5b", []),
    "keys_qwen2.5_7B": ("qwen2.5_7b", []),
    "keys_qwen3_0.6B": ("qwen3_0.6b", ["lm_head.weight"]),  # a copy, in the published file
    "keys_qwen3_1.7B": ("qwen3_1.7b", ["lm_head.weight"]),
    "keys_qwen3_4B": ("qwen3_4b", []),
}


@pytest.mark.parametrize("file", KEY_LISTS)
def test_real_key_lists_are_all_accounted_for(golden, file):
    keys = json.loads(golden(f"full_keys/{file}.json").read_text())
    tensors = {n: np.broadcast_to(np.float32(0), shape) for n, (shape, _) in keys.items()}
    size, copies = KEY_LISTS[file]
    config = KEYS.infer(tensors, Hints(), "")
    assert config == SIZES[size]
    params, carried = to_jax(tensors, KEYS.rules(config, "", ""), param_shapes(config))
    assert list(carried) == copies
    assert len(params) + len(carried) == len(tensors)
    family, _, number = size.partition("_")
    summary = json.loads(golden(f"full_keys/summary_{family}.json").read_text())
    published = summary[number.upper()]
    assert count_params(config) == published["parameters"]
    kind = {"qwen2.5": "qwen2", "qwen3": "qwen3"}[family]
    assert read(published | {"model_type": kind}) == config

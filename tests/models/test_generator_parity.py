"""The generator against LlamaGen's GPT, stage by stage; bounds as the recordings' README says."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.models.stages import at, close, run
from toklip_jax.decoding import Sampling, row_keys
from toklip_jax.decoding.images import sample_images
from toklip_jax.files import write_safetensors
from toklip_jax.files.rules import to_jax
from toklip_jax.losses.plain import cross_entropy
from toklip_jax.models.base import Hints
from toklip_jax.models.generator.gpt import left_padded
from toklip_jax.models.generator.keys import KEYS
from toklip_jax.models.generator.sizes import SIZES
from toklip_jax.models.registry import build_model, param_shapes
from toklip_jax.nn.config import Compute
from toklip_jax.ops.rotary import rotary_table_2d
from toklip_jax.weights.conversion import export_tensors
from toklip_jax.weights.read import read_weights

pytestmark = pytest.mark.usefixtures("highest_precision")

LOGITS, GUIDED = 5e-5, 1e-4
NAMES = ("gpt_c2i_tiny", "gpt_t2i_tiny")


class Recording:
    """A recorded set: weights, inputs, outputs, and the condition that goes with the inputs."""

    def __init__(self, golden, name):
        self.weights = read_weights(golden(f"{name}/checkpoint.safetensors"))
        self.inputs = np.load(golden(f"{name}/inputs.npz"))
        self.outputs = np.load(golden(f"{name}/outputs.npz"))
        self.generation = np.load(golden(f"{name}/generation.npz"))
        self.grads = np.load(golden(f"{name}/grads.npz"))
        self.is_of_captions = name == "gpt_t2i_tiny"
        self.model = build_model(self.weights.config, Compute(is_scanned=self.weights.is_scanned))
        self.params = jax.tree.map(jnp.asarray, self.weights.params)

    @property
    def condition(self):
        """(condition, valid) of the forward pass."""
        if not self.is_of_captions:
            return jnp.asarray(self.inputs["class_ids"]), None
        # The training mask's last row of the condition says which captions' tokens count.
        valid = self.inputs["train_mask"][:, 0, -1, :8].astype(bool)
        return jnp.asarray(self.inputs["caption_left"]), jnp.asarray(valid)

    @property
    def sampler_condition(self):
        """(condition, null, valid) of the sampler."""
        if not self.is_of_captions:
            classes = jnp.asarray(self.inputs["gen_class_ids"])
            return classes, jnp.full_like(classes, self.weights.config.gpt.null_class), None
        captions = jnp.asarray(self.inputs["caption_left"])
        null = jnp.broadcast_to(self.params["gpt"]["condition"]["uncond"], captions.shape)
        return captions, null, jnp.asarray(self.inputs["emb_masks_left"].astype(bool))

    def apply(self, *inputs, method, **options):
        return self.model.apply({"params": self.params}, *inputs, method=method, **options)


@pytest.fixture(scope="module", params=NAMES)
def recording(golden, request):
    return Recording(golden, request.param)


def test_every_stage_equals_the_recorded_one(recording):
    want, gpt = recording.outputs, recording.weights.config.gpt
    condition, valid = recording.condition
    logits, inner = run(
        recording.weights,
        jnp.asarray(recording.inputs["ids"]),
        lambda model, ids: model.logits(ids, condition, valid),
    )
    inner = inner["gpt"]
    close(at(inner, "condition"), want["cond_embedding"])
    close(at(inner, "embed"), want["tok_embedding"])
    for i in range(gpt.depth):
        block = inner["stack"][f"blocks_{i}"]
        for ours, theirs in (
            ("norm1", "attention_norm"),
            ("attn", "attn"),
            ("norm2", "ffn_norm"),
            ("mlp", "ffn"),
        ):
            close(at(block, ours), want[f"block{i}_{theirs}"])
        close(at(inner, f"stack/blocks_{i}"), want[f"block{i}"])
    close(at(inner, "norm"), want["final_norm"])
    close(logits, want["logits"], LOGITS)


def test_training_logits_and_loss_equal_the_recorded_ones(recording):
    want, ids = recording.outputs, jnp.asarray(recording.inputs["ids"])
    condition, valid = recording.condition
    out = recording.apply(ids, condition, valid, method="hidden")
    logits = recording.apply(out, 0, method="logits_of")
    close(logits, want["train_logits"], LOGITS)
    losses = cross_entropy(logits, ids)
    np.testing.assert_allclose(losses, want["train_loss_per_token"], rtol=2e-6, atol=2e-5)
    if not recording.is_of_captions:
        np.testing.assert_allclose(losses.mean(), want["train_loss"], rtol=2e-6)
        return
    valid_rows = recording.inputs["valid"].astype(np.float32)
    mean = (losses * valid_rows[:, None]).sum() / (valid_rows.sum() * losses.shape[1])
    np.testing.assert_allclose(mean, want["train_loss"], rtol=2e-6)
    np.testing.assert_allclose(losses.mean(), want["train_loss_without_valid"], rtol=2e-6)


def test_gradients_equal_the_recorded_ones(recording):
    ids, (condition, valid) = jnp.asarray(recording.inputs["ids"]), recording.condition
    weight = np.ones(len(ids), np.float32)
    if recording.is_of_captions:
        weight = recording.inputs["valid"].astype(np.float32)

    def loss(params):
        out = recording.model.apply({"params": params}, ids, condition, valid, method="hidden")
        logits = recording.model.apply({"params": params}, out, 0, method="logits_of")
        return (cross_entropy(logits, ids) * weight[:, None]).sum() / weight.sum() / ids.shape[1]

    grads = jax.jit(jax.grad(loss))(recording.params)
    tensors = export_tensors(dataclasses.replace(recording.weights, params=grads))
    for name in recording.grads.files:
        got = np.asarray(tensors[name])
        np.testing.assert_allclose(got, recording.grads[name], atol=5e-6, rtol=1e-4, err_msg=name)
    assert set(tensors) - set(recording.grads.files) <= {"cls_embedding.uncond_embedding"}


@pytest.mark.parametrize("case", ["1.0", "2.0", "2.0_interval5", "2.0_interval0", "0.5"])
def test_forced_steps_give_the_recorded_logits(recording, case):
    scale, _, interval = case.partition("_interval")
    sampling = Sampling(cfg_scale=float(scale), cfg_interval=int(interval or -1))
    condition, null, valid = recording.sampler_condition
    got = forced_logits(recording, sampling, condition, null, valid)
    close(got, recording.generation[f"forced_logits_cfg{case}"], GUIDED)


def test_forced_steps_without_a_mask_give_the_recorded_logits(golden):
    recording = Recording(golden, "gpt_t2i_tiny")
    condition, null, _ = recording.sampler_condition
    got = forced_logits(recording, Sampling(cfg_scale=2.0), condition, null, None)
    close(got, recording.generation["forced_logits_cfg2.0_nomask"], GUIDED)


def test_captions_padded_on_the_right_are_shifted_as_the_sampler_does(golden):
    """LlamaGen's switch that leaves them as they are (`..._rightpad`) is not offered."""
    inputs = np.load(golden("gpt_t2i_tiny/inputs.npz"))
    captions, valid = jnp.asarray(inputs["caption_right"]), inputs["emb_masks_right"].astype(bool)
    shifted, is_valid = left_padded(captions, jnp.asarray(valid))
    np.testing.assert_array_equal(shifted, inputs["caption_left"])
    np.testing.assert_array_equal(is_valid, inputs["emb_masks_left"].astype(bool))
    again, _ = left_padded(shifted, is_valid)
    np.testing.assert_array_equal(again, shifted)


def forced_logits(recording, sampling, condition, null, valid):
    """What reaches the sampler at every place, where the drawn ids are given."""
    forced = jnp.asarray(recording.inputs["forced_ids"])
    if sampling.is_guided:
        condition = jnp.concatenate([condition, null])
        valid = None if valid is None else jnp.tile(valid, (2, 1))
    caches = recording.model.init_caches(len(forced), sampling.conditions)
    out, caches = recording.apply(condition, caches, None, valid, method="prefill")
    found = []
    for place in range(forced.shape[1]):
        if place:
            out, caches = recording.apply(
                forced[:, place - 1], caches, sampling.conditions, method="step"
            )
        logits = recording.apply(out, 0, method="logits_of")
        found.append(sampling.guided(logits, place))
    return np.stack(found, axis=1)


@pytest.mark.parametrize("case", ["1.0", "4.0", "4.0_interval5", "7.5"])
def test_greedy_ids_equal_the_recorded_ones(recording, case):
    scale, _, interval = case.partition("_interval")
    sampling = Sampling(0, cfg_scale=float(scale), cfg_interval=int(interval or -1))
    condition, null, valid = recording.sampler_condition
    keys = row_keys(jax.random.key(0), jnp.arange(len(condition)))
    ids = sample_images(
        recording.model,
        recording.params,
        condition,
        keys,
        sampling,
        null=null,
        valid=valid,
    )
    np.testing.assert_array_equal(ids, recording.generation[f"greedy_ids_cfg{case}"])


@pytest.mark.plain
def test_cached_steps_equal_the_parallel_pass(recording):
    condition, valid = recording.condition
    ids = jnp.asarray(recording.inputs["ids"])
    caches = recording.model.init_caches(len(ids))
    out, caches = recording.apply(condition, caches, None, valid, method="prefill")
    outs = [out]
    for place in range(ids.shape[1] - 1):
        out, caches = recording.apply(ids[:, place], caches, method="step")
        outs.append(out)
    parallel = recording.apply(ids, condition, valid, method="hidden")
    np.testing.assert_allclose(np.stack(outs, axis=1), parallel, atol=2e-5)


def test_the_rotary_table_has_zero_rows_for_the_condition(golden):
    tables = np.load(golden("gpt_c2i_tiny/rope_tables.npz"))
    recorded = np.load(golden("gpt_c2i_tiny/outputs.npz"))["rope_table"]
    table = rotary_table_2d(jnp.arange(17)[None], 16, 10_000.0, width=4, prefix=1)
    got = np.stack([table.cos[0], table.sin[0]], axis=-1)
    np.testing.assert_allclose(got, recorded, atol=1e-6)
    assert not got[0].any()
    assert tables.files


def test_real_key_lists_are_all_accounted_for(golden):
    names = {
        "keys_B_c2i_256": "gpt_b_256",
        "keys_L_c2i_256": "gpt_l_256",
        "keys_XL_c2i_256": "gpt_xl_256",
        "keys_XXL_c2i_256": "gpt_xxl_256",
        "keys_3B_c2i_256": "gpt_3b_256",
        "keys_XL_t2i_256": "gpt_xl_t2i_256",
    }
    for file, size in names.items():
        keys = json.loads(golden(f"full_keys/{file}.json").read_text())
        shapes = {name: tuple(shape) for name, (shape, _) in keys.items()}
        tensors = {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}
        config = KEYS.infer(tensors, Hints(), "")
        assert config == SIZES[size], file
        params, carried = to_jax(tensors, KEYS.rules(config, "", ""), param_shapes(config))
        assert not carried
        assert len(params) == len(tensors)


def test_a_rotary_table_in_an_older_file_is_left_out_with_a_reason(recording, golden, tmp_path):
    theirs = load_file(golden(f"{NAMES[recording.is_of_captions]}/checkpoint.safetensors"))
    table = {"freqs_cis": recording.outputs["rope_table"]}
    write_safetensors(tmp_path / "older.safetensors", theirs | table)
    older = read_weights(tmp_path / "older.safetensors")
    assert older.dropped.keys() == table.keys()
    assert all(older.dropped.values())
    assert older.config == recording.weights.config
    assert set(export_tensors(older)) == set(theirs)


def test_a_round_trip_of_the_files_is_bit_exact(recording, golden):
    name = NAMES[recording.is_of_captions]
    theirs = load_file(golden(f"{name}/checkpoint.safetensors"))
    ours = export_tensors(recording.weights)
    assert set(theirs) == set(ours)
    for key, value in theirs.items():
        assert np.asarray(ours[key]).tobytes() == value.tobytes(), key

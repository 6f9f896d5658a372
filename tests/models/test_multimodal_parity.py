"""The multimodal model against LLaVA's recordings; bounds as the recordings' README says."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.multimodal_recordings import FLOAT32, LlavaRecording, lines_of
from tests.models.qwen_recordings import Recording
from tests.models.stages import close
from toklip_jax.data.conversations import place_images, truncate
from toklip_jax.decoding import Sampling, row_keys
from toklip_jax.decoding.tokens import draw_tokens
from toklip_jax.losses.next_token import next_token_sums, targets_of
from toklip_jax.models.multimodal.config import MultimodalConfig
from toklip_jax.models.multimodal.model import Multimodal
from toklip_jax.models.multimodal.projector import Projector
from toklip_jax.models.siglip.config import VisionConfig
from toklip_jax.tasks.multimodal.objective import MultimodalObjective
from toklip_jax.training.optimizer import OptimizerConfig
from toklip_jax.training.state import partition
from toklip_jax.training.step import create_state, make_step
from toklip_jax.weights import Weights
from toklip_jax.weights.llava import llava_tensors

pytestmark = pytest.mark.usefixtures("highest_precision")

GRADIENTS = {"atol": 2e-6, "rtol": 1e-4}


@pytest.fixture(scope="module")
def llava(golden, tmp_path_factory):
    return LlavaRecording(golden, tmp_path_factory.mktemp("llava"))


@pytest.fixture(scope="module")
def tied(golden, tmp_path_factory):
    return Recording(golden, "qwen2.5 tied", tmp_path_factory.mktemp("tied"))


def test_every_stage_of_the_projector_equals_the_recorded_one(llava):
    params = {"params": llava.params["projector_pixels"]}
    features = jnp.asarray(llava.inputs["features"])
    out, state = Projector(64, jnp.dtype(jnp.float32)).apply(
        params,
        features,
        capture_intermediates=True,
        mutable=["intermediates"],
    )
    fc1 = state["intermediates"]["fc1"]["__call__"][0]
    close(fc1, llava.outputs["projector_fc1"], 1e-5)
    close(jax.nn.gelu(fc1, approximate=False), llava.outputs["projector_act"], 1e-5)
    close(out, llava.outputs["projected"], 1e-5)


def outputs_of(llava, params, batch, features):
    """(Embeddings, logits, mean loss) of a batch, without blocks."""

    def apply(*inputs, method):
        return llava.model.apply({"params": params}, *inputs, method=method)

    inputs = apply({"pixels": features[:, None]}, method="project")
    x = apply(batch["ids"], batch["image_places"], inputs, method="embed")
    return x, *loss_of(apply, x, batch)


def loss_of(apply, x, batch):
    hidden = apply(x, batch["segment_ids"], batch["positions"], method="hidden")
    targets, counts = targets_of(batch["labels"], batch["segment_ids"])
    head = functools.partial(apply, method="all_logits")
    sums = next_token_sums(hidden, targets, jnp.where(counts, 1.0, 0), head)
    return head(hidden), sums.loss / sums.weight


def test_embeddings_logits_and_loss_equal_the_recorded_ones(llava):
    batch, want = llava.batch(), llava.outputs
    run = jax.jit(functools.partial(outputs_of, llava))
    x, logits, loss = run(llava.params, batch, llava.inputs["features"])
    counts = (batch["segment_ids"] >= 0)[..., None]
    np.testing.assert_array_equal(counts[..., 0], want["attention_mask"] == 1)
    np.testing.assert_array_equal(batch["labels"], want["spliced_labels"])
    close(np.where(counts, x, 0), want["inputs_embeds"], 1e-5)
    close(np.where(counts, logits, 0), want["logits"], 5e-5)
    np.testing.assert_allclose(loss, want["loss"], rtol=2e-6)


def test_gradients_equal_the_recorded_ones(llava):
    batch = llava.batch()
    features = batch.pop("features")["pixels"]
    objective = MultimodalObjective(llava.config, FLOAT32, loss_block=7)

    def loss(params, features):
        full = batch | {"features": {"pixels": features}}
        return objective.loss(params, full, jax.random.key(0))[0]

    grads, of_features = jax.jit(jax.grad(loss, (0, 1)))(llava.params, features)
    np.testing.assert_allclose(of_features[:, 0], llava.outputs["grad_features"], **GRADIENTS)
    weights = Weights(llava.config, grads, is_scanned=False)
    tensors = llava_tensors(weights)
    for name, want in llava.grads.items():
        ours = f"model.{name}" if name.startswith("mm_projector") else name
        np.testing.assert_allclose(tensors[ours], want, **GRADIENTS, err_msg=name)


@pytest.mark.parametrize(
    ("run", "rate", "trainable"),
    [
        ("stage1", 1e-3, (r"projector_\w+/.*",)),
        ("all", 2e-5, (r"projector_\w+/.*", "language_model/.*")),
    ],
)
def test_three_steps_equal_the_recorded_ones(llava, golden, run, rate, trainable):
    config = json.loads(golden("multimodal_tiny/config.json").read_text())["training"]
    record = next(x for name, x in config.items() if name.startswith(run))
    want = np.load(golden("multimodal_tiny/projector_after_3_steps.npz"))
    objective = MultimodalObjective(llava.config, FLOAT32, trainable=trainable)
    optimizer = OptimizerConfig(
        rate, 0, beta2=0.999, eps=1e-8, weight_decay=0.0, schedule="constant"
    )
    params, frozen = partition(jax.tree.map(jnp.asarray, llava.params), trainable)
    state, step = create_state(params, optimizer, 3), jax.jit(make_step(objective, optimizer, 3))
    for i in range(3):
        state, metrics = step(state, frozen, llava.batch())
        np.testing.assert_allclose(metrics["loss"], record[i]["loss"], rtol=5e-6)
        np.testing.assert_allclose(metrics["grad_norm"], record[i]["grad_norm"], rtol=1e-5)
    projector = state.params["projector_pixels"]
    for theirs, ours in (("0", "fc1"), ("2", "fc2")):
        kernel, bias = projector[ours]["kernel"], projector[ours]["bias"]
        close(kernel.T, want[f"{run}:mm_projector.{theirs}.weight"], 2e-6)
        close(bias, want[f"{run}:mm_projector.{theirs}.bias"], 2e-6)


def test_left_padded_answers_equal_the_recorded_ones(llava):
    inputs, want = llava.inputs, llava.outputs
    rows = [
        place_images(ids[mask == 1], np.full(mask.sum(), -100, np.int32), [0], 9, 0)
        for ids, mask in zip(inputs["prompt_ids_left_padded"], inputs["prompt_mask"], strict=True)
    ]
    batch = lines_of(rows, 18, "left")

    @jax.jit
    def answer(params, features):
        def apply(*inputs, method):
            return llava.model.apply({"params": params}, *inputs, method=method)

        projected = apply({"pixels": features[:, None]}, method="project")
        x = apply(batch["ids"], batch["image_places"], projected, method="embed")
        drawn = draw_tokens(
            llava.model,
            params,
            x,
            row_keys(jax.random.key(0), jnp.arange(3)),
            Sampling(temperature=0),
            positions=jnp.asarray(batch["positions"]),
            stop_ids=jnp.zeros(0, jnp.int32),
            most=jnp.int32(12),
            room=12,
        )
        return x, drawn[0]

    x, ids = answer(llava.params, inputs["features"])
    is_seen = (batch["positions"] >= 0)[..., None]
    np.testing.assert_array_equal(is_seen[..., 0], want["left_padded_mask"] == 1)
    close(np.where(is_seen, x, 0), want["left_padded_embeds"], 1e-5)
    np.testing.assert_array_equal(ids, want["gen_ids"])


def cases():
    return (
        "right",
        "left",
        "two_images",
        "text_row_in_the_middle",
        "truncated",
        "positions_given",
        "no_mask_no_labels",
    )


@pytest.mark.parametrize("tag", cases())
def test_splice_equals_the_recorded_one(tied, golden, tag):
    said = json.loads(golden("multimodal_splice/cases.json").read_text())["cases"]
    case = next(case for case in said if case["tag"] == tag)
    data = np.load(golden("multimodal_splice/splice.npz"))
    rows, used, images = [], [], 0
    recorded = (data[f"{tag}_{name}"] for name in ("ids", "mask", "labels"))
    for ids, mask, labels in zip(*recorded, strict=True):
        ids, labels = ids[mask], labels[mask]
        count = int((ids == -200).sum())
        row = place_images(ids, labels, range(count), 5, 0)
        rows.append(truncate(row, case["max_length"] or len(row), "cut"))
        used.append(list(range(images, images + count)))
        images += max(count, 1)  # LLaVA's text-only rows use up an image
    batch = lines_of(rows, case["out_shape"][1], case["output_padding"])
    features = np.zeros((len(rows), 2, 5, 64), np.float32)
    for i, numbers in enumerate(used):
        features[i, : len(numbers)] = data["features"][numbers]
    features = jnp.asarray(features)
    tower = VisionConfig(64, 1, 4, 64, image_size=5, patch_size=1)
    config = MultimodalConfig(tied.config, image_tower=tower, reads=("pixels",))
    model = Multimodal(config, FLOAT32)

    def apply(*inputs, method):
        return model.apply({"params": {"language_model": tied.params}}, *inputs, method=method)

    @jax.jit
    def run(features):
        x = apply(batch["ids"], batch["image_places"], features, method="embed")

        def loss(x):
            logits, loss = loss_of(apply, x, batch)
            return loss, logits

        (value, logits), grads = jax.value_and_grad(loss, has_aux=True)(x)
        return x, logits, value, grads

    x, logits, loss, grads = run(features)
    is_seen = (batch["positions"] >= 0)[..., None]
    close(np.where(is_seen, x, 0), data[f"{tag}_out_embeds"], 1e-6)
    if f"{tag}_logits" not in data.files:
        return
    close(np.where(is_seen, logits, 0), data[f"{tag}_logits"], 1e-4)
    np.testing.assert_allclose(loss, case["loss"], rtol=2e-6)
    want = data[f"{tag}_grad_embeds"]
    np.testing.assert_allclose(np.where(is_seen, grads, 0), want, atol=1e-5, rtol=1e-4)

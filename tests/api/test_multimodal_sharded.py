"""Answers and gradients of a multimodal model over eight devices are those of one."""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]

CODE = """
import dataclasses
import jax, numpy as np
import toklip_jax
from tests.models.tiny_multimodal import COMPUTE, CONFIG, lines, params_of
from toklip_jax.data.conversations import TurnTemplate
from toklip_jax.data.text import train_tokenizer
from toklip_jax.parallel.sharding import BATCH, make_mesh, shardings
from toklip_jax.tasks.multimodal.objective import LORA, MultimodalObjective
from toklip_jax.training.state import partition
from toklip_jax.training.step import gradients
from toklip_jax.weights import Weights, save_weights

MESHES = {"data": 8}, {"data": 2, "tensor": 4}, {"data": 4, "fsdp": 2}, {"tensor": 8}
ALL = {"data": 2, "fsdp": 2, "tensor": 2}  # for training; answers over it are refused

tokenizer = train_tokenizer(["what is it", "a red cat", "is it blue"], 300)
tokenizer.save("tokenizer.json")
size = 1 + max(tokenizer.get_vocab().values())
language_model = dataclasses.replace(CONFIG.language_model, vocab_size=size)
config = dataclasses.replace(CONFIG, language_model=language_model, template="plain")
weights = Weights(config, params_of(config), False, tokenizer_path="tokenizer.json")
save_weights("weights", weights)
rng = np.random.default_rng(0)
images = [*rng.integers(0, 256, (9, 16, 16, 3), np.uint8), None, None]
questions = ["is it blue", "a red cat"] * 5 + ["what is it"]
template = TurnTemplate("", ("", ""), ("Q: ", "\\n"), "A:", "\\n", " ")


def answers(mesh=None):
    model = toklip_jax.load("weights", mesh=mesh)
    options = {"template": template}
    drawn = model.generate_images(questions[-2:], key=1, cfg_scale=2.0, **options)
    return model.answer(images, questions, max_new_tokens=5, **options), drawn.tolist()


trained = (r"projector_\\w+/.*", "image_embed", LORA)
objective = MultimodalObjective(CONFIG, COMPUTE, trainable=trained, loss_block=5)


def step(mesh):
    params = jax.device_put(params_of(), shardings(params_of(), mesh, objective.sharding))
    batch = jax.device_put(lines(8), jax.sharding.NamedSharding(mesh, BATCH))
    with jax.default_matmul_precision("highest"), jax.set_mesh(mesh):
        run = jax.jit(lambda params, batch: gradients(
            objective, *partition(params, trained), batch, jax.random.key(0), chunks=2))
        return jax.device_get(run(params, batch))


want, wanted = answers(), step(make_mesh({"data": 1}, jax.devices()[:1]))
for sizes in MESHES:
    assert answers(make_mesh(sizes)) == want, sizes
try:
    answers(make_mesh(ALL))
    raise SystemExit("a mesh of three axes was taken")
except ValueError as error:
    assert "data or fsdp of 1" in str(error), error
for sizes in (*MESHES, ALL):
    for a, b in zip(jax.tree.leaves(step(make_mesh(sizes))), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * max(1, np.abs(b).max()))
print("equal")
"""


def test_any_mesh_gives_what_one_device_does(tmp_path):
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        cwd=tmp_path,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "equal" in done.stdout

"""The recordings of Qwen: their weights as directories of Hugging Face, and their inputs."""

import functools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np

from toklip_jax.models.registry import build_model
from toklip_jax.nn.config import Compute
from toklip_jax.weights.read import read_weights

# Name -> (folder, its weights, suffix of its arrays' files, model_type).
SETS = {
    "qwen2.5 tied": ("qwen2_tiny", "checkpoint_tied", "_tied", "qwen2"),
    "qwen2.5 untied": ("qwen2_tiny", "checkpoint_untied", "_untied", "qwen2"),
    "qwen3": ("qwen3_tiny", "checkpoint", "", "qwen3"),
}
FLOAT32 = Compute(is_scanned=False)


class Recording:
    """A recorded model with its inputs and outputs."""

    def __init__(self, golden, name, folder):
        self.name = name
        set_name, weights, suffix, _ = SETS[name]
        self.directory = write_directory(golden, name, folder)
        self.weights = read_weights(self.directory)
        self.file = golden(f"{set_name}/{weights}.safetensors")
        self.inputs = np.load(golden(f"{set_name}/inputs.npz"))
        self.outputs = np.load(golden(f"{set_name}/outputs{suffix}.npz"))
        self.grads = np.load(golden(f"{set_name}/grads{suffix}.npz"))
        self.is_qwen3 = name == "qwen3"
        self.logits_bound = 1e-5 if self.is_qwen3 else 1e-4
        self.model = build_model(self.weights.config, FLOAT32)
        self.params = jax.tree.map(
            lambda x: jnp.asarray(np.asarray(x), jnp.float32), self.weights.params
        )

    @property
    def config(self):
        return self.weights.config

    def apply(self, *inputs, method, params=None, **options):
        params = self.params if params is None else params
        return apply(self.model, method, params, *inputs, **options)

    def spliced(self):
        """The embeddings of `ids_with_placeholders` with the span's in the placeholders' places."""
        ids, span = self.inputs["ids_with_placeholders"], self.inputs["span_embeddings"]
        x = self.apply(jnp.asarray(ids), method="embed")
        return x.at[:, 4:11].set(jnp.asarray(span))


@functools.partial(jax.jit, static_argnums=(0, 1))
def apply(model, method, params, *inputs, **options):
    return model.apply({"params": params}, *inputs, method=method, **options)


def write_directory(golden, name, folder):
    """Writes a directory as transformers' `save_pretrained` does, and returns it."""
    set_name, weights, _, kind = SETS[name]
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(golden(f"{set_name}/{weights}.safetensors"), folder / "model.safetensors")
    settings = json.loads(golden(f"{set_name}/config.json").read_text())
    settings |= {"model_type": kind, "tie_word_embeddings": name != "qwen2.5 untied"}
    (folder / "config.json").write_text(json.dumps(settings))
    return folder

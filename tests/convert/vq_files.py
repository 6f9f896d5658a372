"""Files of VQ tokenizers as other packages write them, and what tests do with them."""

import re

import flax.traverse_util
import numpy as np

from toklip_jax.cli.convert import main
from toklip_jax.files import write_safetensors
from toklip_jax.weights.checkpoint_file import read_checkpoint

XL = "toklip_xl_tiny/checkpoint.safetensors"
XL_HEADS = ("--num-heads=4", "--text-num-heads=4")


def tensors_of(path):
    """Arrays by name, in memory, raw where there is a choice."""
    return {n: np.array(x) for n, x in read_checkpoint(path, prefers_mean=False).tensors.items()}


def noisy(tensors, seed=0):
    """Other weights of the same names and types."""
    random = np.random.default_rng(seed)
    return {
        name: (x + 0.1 * random.standard_normal(x.shape)).astype(x.dtype)
        for name, x in tensors.items()
    }


def lightning(tensors, mean):
    """What Lightning saves: a tokenizer, its losses' networks, and the mean of all that trains."""
    loss = {
        "loss.discriminator.main.0.weight": np.ones((4, 3, 4, 4), np.float32),
        "loss.perceptual_loss.lin0.model.1.weight": np.ones((1, 4, 1, 1), np.float32),
    }
    trained = mean | {name: 2 * x for name, x in loss.items() if "discriminator" in name}
    copies = {f"model_ema.{name.replace('.', '')}": x for name, x in trained.items()}
    counters = {
        "model_ema.decay": np.array(0.9999, np.float32),
        "model_ema.num_updates": np.array(7, np.int32),
    }
    return {**tensors, **loss, **counters, **copies}


def convert(*args):
    return main([str(arg) for arg in args])


def write(path, tensors):
    write_safetensors(path, tensors)
    return path


def heads():
    return {"num_heads": 4, "text_num_heads": 4}


def same_params(got, want):
    got, want = (flax.traverse_util.flatten_dict(x, sep="/") for x in (got, want))
    assert got.keys() == want.keys()
    for name, x in want.items():
        np.testing.assert_array_equal(np.asarray(got[name]), np.asarray(x), err_msg=name)


def hash_of(path, capsys, *flags):
    capsys.readouterr()
    assert convert("inspect", path, *flags) == 0
    return re.search(r"^VQ hash: ([0-9a-f]{64})$", capsys.readouterr().out, re.M)[1]

"""Files of VQ tokenizers as other packages write them, made of the recorded ones."""

import numpy as np

from toklip_jax.weights.checkpoint_file import read_checkpoint


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

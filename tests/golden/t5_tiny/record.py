"""Records T5's text encoder at tiny sizes: `python tests/golden/t5_tiny/record.py`.

Needs torch and transformers (5.24.0 and 2.13.0 were used); weights are random, outputs float32.
"""

import json
import pathlib

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import T5Config, T5ForConditionalGeneration
from transformers.models.t5.modeling_t5 import T5Attention

FOLDER = pathlib.Path(__file__).parent
SIZES = {
    "vocab_size": 40,
    "d_model": 24,
    "d_kv": 6,
    "d_ff": 40,
    "num_layers": 2,
    "num_decoder_layers": 1,
    "num_heads": 3,
    "dropout_rate": 0.0,
}
LENGTHS = (20, 11, 1)  # of texts, end token included


def build(kind):
    """T5 with weights larger than it starts with, so that every part of it shows."""
    torch.manual_seed(3)
    model = T5ForConditionalGeneration(T5Config(**SIZES, feed_forward_proj=kind)).eval()
    for name, value in model.named_parameters():
        std = 1.0 if "shared" in name or "bias" in name else 0.3
        with torch.no_grad():
            value.copy_(torch.randn(value.shape) * std + ("norm" in name))
    return model


def outputs(model, ids, mask):
    with torch.no_grad():
        found = model.encoder(ids, attention_mask=mask, output_hidden_states=True)
    return [*found.hidden_states[1:-1], found.last_hidden_state]


def main():
    random = np.random.default_rng(0)
    ids = np.zeros((len(LENGTHS), max(LENGTHS)), np.int32)
    for row, length in zip(ids, LENGTHS, strict=True):
        row[:length] = [*random.integers(2, 40, length - 1), 1]
    mask = torch.tensor(np.arange(ids.shape[1]) < np.array(LENGTHS)[:, None])
    distances = torch.arange(-300, 301)
    arrays = {
        "ids": ids,
        "valid": mask.numpy(),
        "buckets": T5Attention._relative_position_bucket(distances).numpy().astype(np.int32),
    }
    noise = {}
    for name, kind in (("gated", "gated-gelu"), ("plain", "relu")):
        model = build(kind)
        tensors = {n: x.contiguous() for n, x in model.state_dict().items() if "embed_tok" not in n}
        save_file({n: x.clone() for n, x in tensors.items()}, FOLDER / f"{name}.safetensors")
        found = outputs(model, torch.tensor(ids), mask)
        exact = outputs(model.double(), torch.tensor(ids), mask)
        for stage, have, want in zip(("block0", "tokens"), found, exact, strict=True):
            arrays[f"{name}_{stage}"] = have.numpy()
            error = (have.double() - want).abs()[mask].max().item()
            noise[f"{name}_{stage}"] = [error, want[mask].abs().max().item()]
    np.savez_compressed(FOLDER / "outputs.npz", **arrays)
    (FOLDER / "noise.json").write_text(json.dumps(noise, indent=2) + "\n")


if __name__ == "__main__":
    main()

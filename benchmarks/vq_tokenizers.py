"""The VQ tokenizers at their published sizes: images to ids and back, batch 1, float32.

    python -m benchmarks.run --suite=vq

Where `transformers` has the same network (LlamaGen's as Janus's, Chameleon's encoder, Emu3's), it
runs in turn with ours, on weights that it drew and our converter read, and ids and images are
compared first. The others have no peer on PyPI: their rate stands beside that of LlamaGen's peer.
FLOPs are those of our programs' products and convolutions: Emu3's peer encodes each image four
times, and decodes four frames.
"""

import importlib.util
from collections.abc import Callable
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.timing import Case, Quiet, alternate, compare, machine
from benchmarks.weights import random_params
from toklip_jax.api import VQTokenizer
from toklip_jax.costs.flops import count_flops
from toklip_jax.files.rules import to_jax
from toklip_jax.models.registry import (
    Hints,
    build_model,
    named_size,
    param_shapes,
    recognise,
)
from toklip_jax.nn.config import Compute

# Name of the family -> its published size that is measured.
SIZES = {
    "llamagen": "vq_16",
    "taming": "taming_f16_16384",
    "chameleon": "chameleon",
    "emu3": "emu3",
    "vila_u": "vila_u_256",
    "ibq": "ibq_262144",
    "magvit2": "magvit2_f16_262144",
    "unitok": "unitok_large",
}
PIXELS = {"chameleon": 512, "ibq": 512}  # elsewhere 256: Emu3's 512 would take a minute a round
ROUNDS = 5
BAR = 1.0  # times PyTorch's speed
COMPUTE = Compute(is_scanned=False)
Stages = dict[str, Callable[[np.ndarray], np.ndarray]]


def measure(name: str) -> dict:
    """Returns rows of the table: encoding and decoding, beside a peer where there is one."""
    side = PIXELS.get(name, 256)
    peer, problem = _peer(name, side)
    config, params = _drawn(name, side) if peer is None else _as_ours(peer.pop("model"))
    ours = VQTokenizer(config, jax.tree.map(jnp.asarray, params), COMPUTE, (side, side))
    del params
    images = np.random.default_rng(0).uniform(-1, 1, (1, side, side, 3)).astype(np.float32)
    stages = {"encode": ("tokenize", ours.tokenize, images)}
    if getattr(config, "has_decoder", True):
        ids = np.asarray(ours.tokenize(images))
        stages["decode"] = ("detokenize", ours.detokenize, ids)
    rows, checks, quiet = [], {}, Quiet()
    for stage, (method, function, inputs) in stages.items():
        cases = {"ours": Case(lambda x, f=function: f(x).block_until_ready())}
        if peer is not None:
            checks[stage] = _check(np.asarray(function(inputs)), peer[stage](inputs))
            cases["eager"] = Case(peer[stage])
        seconds = alternate(cases, lambda _, x=inputs: (x,), ROUNDS, quiet=quiet)
        what = f"{name}, {stage}, {side} px"
        if "eager" in cases:
            rows.append(compare(seconds, "ours", "eager", what, BAR))
        flops = count_flops(
            lambda p, x, method=method: ours.model.apply({"params": p}, x, method=method),
            ours.params,
            jax.ShapeDtypeStruct(inputs.shape, inputs.dtype),
        )
        taken = float(np.median(seconds["ours"]))
        row = {"what": f"{what}: rate", "value": flops / taken, "unit": "FLOP/s", "seconds": taken}
        rows.append(row | {"flops": flops, "bar": None, "is_met": None})
    problems = {"eager": problem} if problem else {}
    record = {"checks": checks, "problems": problems, "quiet": quiet.record()}
    return {"machine": machine(), "rows": rows, **record}


def _drawn(name, side):
    config = named_size(SIZES[name], "vq")
    model = build_model(config, COMPUTE)
    image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    return config, random_params(model.init, image)["params"]


def _as_ours(model):
    """The config and parameters that the peer's weights are to our converter."""
    tensors = {name: x.detach().numpy() for name, x in model.state_dict().items()}
    recognised = recognise(tensors)
    config = recognised.infer(Hints())
    rules = recognised.family.keys.rules(config, "", "")
    flat, _ = to_jax(recognised.tensors, rules, param_shapes(config))
    flat = {path: np.asarray(array) for path, array in flat.items()}
    return config, flax.traverse_util.unflatten_dict(flat, sep="/")


def _check(ours, theirs) -> dict[str, Any]:
    """Raises ValueError where ids or images differ by more than rounding."""
    if np.issubdtype(ours.dtype, np.integer):
        equal = float(np.mean(ours == theirs.reshape(ours.shape)))
        if equal < 0.999:
            raise ValueError(f"differs from ours: {equal:.4f} of the ids equal")
        return {"equal_ids": equal}
    error = float(np.max(np.abs(ours - np.clip(theirs, -1, 1))))
    if error > 1e-3:
        raise ValueError(f"differs from ours: images by {error:.2g}")
    return {"largest_error": error}


def _peer(name, side) -> tuple[dict[str, Any] | None, str]:
    """The peer's module and what it does to NumPy arrays, and why there is none."""
    if name not in PEERS:
        return None, ""
    if importlib.util.find_spec("torch") is None:
        return None, "torch is not installed"
    return PEERS[name](side), ""


def _janus(side):
    import torch
    from transformers.models.janus.configuration_janus import JanusVQVAEConfig
    from transformers.models.janus.modeling_janus import JanusVQVAE

    torch.manual_seed(0)
    model = JanusVQVAE(JanusVQVAEConfig(num_patches=side // 16)).eval().requires_grad_(False)
    normalised = torch.nn.functional.normalize
    codes = model.quantize.embedding.weight
    codes.data = normalised(torch.randn_like(codes), dim=-1)

    def encode(images):
        latents = normalised(model.quant_conv(model.encoder(images)), dim=1)
        return model.quantize(latents)[2]

    return _numpy_stages(model, encode, lambda ids: model.decode(ids))


def _chameleon(side):
    del side
    import torch
    from transformers.models.chameleon.configuration_chameleon import ChameleonVQVAEConfig
    from transformers.models.chameleon.modeling_chameleon import ChameleonVQVAE

    torch.manual_seed(0)
    model = ChameleonVQVAE(ChameleonVQVAEConfig()).eval().requires_grad_(False)
    _spread(model.quantize.embedding.weight)
    return _numpy_stages(model, lambda images: model.encode(images).image_tokens, None)


def _emu3(side):
    import torch
    from transformers.models.emu3.configuration_emu3 import Emu3VQVAEConfig
    from transformers.models.emu3.modeling_emu3 import Emu3VQVAE

    torch.manual_seed(0)
    model = Emu3VQVAE(Emu3VQVAEConfig()).eval().requires_grad_(False)
    _spread(model.quantize.embedding.weight)
    size, grid = torch.tensor([[side, side]]), (-1, side // 8, side // 8)
    return _numpy_stages(
        model,
        lambda images: model.encode(images, image_sizes=size).image_tokens[0],
        lambda ids: model.decode(ids.reshape(grid)),
    )


def _spread(codes):
    """Draws codes far enough apart that rounding chooses none of them."""
    import torch

    codes.data = torch.randn_like(codes)


def _numpy_stages(model, encode, decode) -> dict[str, Any]:
    import torch

    @torch.no_grad()
    def encode_arrays(images):
        return encode(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()

    @torch.no_grad()
    def decode_arrays(ids):
        return decode(torch.from_numpy(ids).long()).permute(0, 2, 3, 1).numpy()

    stages = {"model": model, "encode": encode_arrays}
    return stages if decode is None else stages | {"decode": decode_arrays}


PEERS = {"llamagen": _janus, "chameleon": _chameleon, "emu3": _emu3}

"""Our parameters under the peer's names, so that both compute the same and can be compared."""

import re
from typing import Any

import flax.traverse_util
import numpy as np
import torch

from toklip_jax.nn.layout import to_unrolled

# Slash paths of the VQ tokenizer, scopes joined by dots, to `JanusVQVAE`'s names.
VQ_NAMES = (
    (r"levels_(\d+)_res_(\d+)", r"down.\1.block.\2"),
    (r"levels_(\d+)_attn_(\d+)", r"down.\1.attn.\2"),
    (r"levels_(\d+)_downsample", r"down.\1.downsample"),
    (r"mid_res_(\d)", lambda found: f"mid.block_{int(found[1]) + 1}"),
    (r"mid_attn", "mid.attn_1"),
    (r"(attn[._]\d)\.proj$", r"\1.proj_out"),
    (r"shortcut$", "nin_shortcut"),
)


def copy_weights(params: dict[str, Any], peer: torch.nn.Module) -> None:
    """Fills a `peers.Tokenizer` from TokLIP's parameters, of either layout, but the decoder.

    Raises:
        RuntimeError: a name or shape that the peer hasn't.
    """
    peer.vq.parts.load_state_dict(_torch(_vq(params["vq"])), strict=False)
    peer.vq.normalize_codes()
    encoder = params["token_encoder"]
    named = _mlp("mapping", encoder["mapping"], ("0", "2")) | {"pos_embed": encoder["pos_embed"]}
    named |= _stack(encoder["stack"]) | _norm("norm", encoder["norm"]) | _pool(encoder["pool"])
    peer.token_encoder.load_state_dict(_torch(named))


def copy_image_tower(params: dict[str, Any], peer: torch.nn.Module) -> None:
    """Fills a `peers.vision_tower`."""
    patches = params["patch_embed"]
    named = {
        "embeddings.patch_embedding.weight": patches["kernel"].transpose(3, 2, 0, 1),
        "embeddings.patch_embedding.bias": patches["bias"],
        "embeddings.position_embedding.weight": params["pos_embed"],
        **_stack(params["stack"]),
        **_norm("post_layernorm", params["norm"]),
        **_pool(params["pool"]),
    }
    peer.load_state_dict(_torch(named))


def copy_text_tower(params: dict[str, Any], peer: torch.nn.Module) -> None:
    """Fills a `peers.text_tower`."""
    inside = "text_model." if hasattr(peer, "text_model") else ""
    named = {
        "embeddings.token_embedding.weight": params["token_embed"],
        "embeddings.position_embedding.weight": params["pos_embed"],
        **_stack(params["stack"]),
        **_norm("final_layer_norm", params["norm"]),
        "head.weight": params["proj"]["kernel"].T,
        "head.bias": params["proj"]["bias"],
    }
    peer.load_state_dict(_torch({inside + name: value for name, value in named.items()}))


def _vq(params):
    named = {"quantize.embedding.weight": params["codebook"]}
    encoder = {k: params[k] for k in ("encoder", "quant_conv")}
    for path, value in flax.traverse_util.flatten_dict(encoder, sep=".").items():
        layer, leaf = path.rsplit(".", 1)
        for pattern, name in VQ_NAMES:
            layer = re.sub(pattern, name, layer)
        named[f"{layer}.{'bias' if leaf == 'bias' else 'weight'}"] = (
            value.transpose(3, 2, 0, 1) if value.ndim == 4 else value
        )
    return named


def _stack(params):
    blocks, named = to_unrolled(params), {}
    for i in range(len(blocks)):
        named |= _block(f"encoder.layers.{i}", blocks[f"blocks_{i}"])
    return named


def _pool(pool):
    query, kv = pool["q"], pool["kv"]
    into = [_into(query["kernel"]), *(_into(kv["kernel"][:, i]) for i in range(2))]
    return {
        "head.probe": pool["latent"][None],
        "head.attention.in_proj_weight": np.concatenate(into),
        "head.attention.in_proj_bias": np.concatenate(
            [query["bias"].reshape(-1), kv["bias"].reshape(-1)]
        ),
        **_out_of("head.attention.out_proj", pool["proj"]),
        **_norm("head.layernorm", pool["norm"]),
        **_mlp("head.mlp", pool["mlp"]),
    }


def _block(name, block):
    qkv = block["attn"]["qkv"]
    named = {
        **_norm(f"{name}.layer_norm1", block["norm1"]),
        **_out_of(f"{name}.self_attn.out_proj", block["attn"]["proj"]),
        **_norm(f"{name}.layer_norm2", block["norm2"]),
        **_mlp(f"{name}.mlp", block["mlp"]),
    }
    for i, part in enumerate("qkv"):
        named[f"{name}.self_attn.{part}_proj.weight"] = _into(qkv["kernel"][:, i])
        named[f"{name}.self_attn.{part}_proj.bias"] = qkv["bias"][i].reshape(-1)
    return named


def _into(kernel):
    """[d, k, e] to [k * e, d]."""
    return kernel.reshape(len(kernel), -1).T


def _out_of(name, params):
    """Merges heads, [k, e, d]."""
    kernel = params["kernel"]
    return {
        f"{name}.weight": kernel.reshape(-1, kernel.shape[-1]).T,
        f"{name}.bias": params["bias"],
    }


def _norm(name, params):
    return {f"{name}.weight": params["scale"], f"{name}.bias": params["bias"]}


def _mlp(name, params, layers=("fc1", "fc2")):
    return {
        f"{name}.{layer}.{new}": value
        for ours, layer in zip(("fc1", "fc2"), layers, strict=True)
        for new, value in (
            ("weight", params[ours]["kernel"].T),
            ("bias", params[ours]["bias"]),
        )
    }


def _torch(arrays):
    return {name: torch.from_numpy(np.array(value, order="C")) for name, value in arrays.items()}

"""One SigLIP model in the names and layouts of four packages gives the same parameters.

The other packages' files are made here of open_clip's, by the definitions of their layers.
"""

import re

import flax.traverse_util
import numpy as np
import pytest

from toklip_jax.cli.convert import main as convert
from toklip_jax.files import write_safetensors
from toklip_jax.weights.checkpoint_file import read_checkpoint
from toklip_jax.weights.read import read_weights

HEADS = 4
TRUNK = "visual.trunk."
TIMM = {"norm1": "norm1", "norm2": "norm2", "proj": "attn.proj", "qkv": "attn.qkv."}
TIMM |= {"fc1": "mlp.fc1", "fc2": "mlp.fc2"}
OPEN_CLIP = {"norm1": "ln_1", "norm2": "ln_2", "proj": "attn.out_proj", "qkv": "attn.in_proj_"}
OPEN_CLIP |= {"fc1": "mlp.c_fc", "fc2": "mlp.c_proj"}


@pytest.fixture(scope="module")
def tensors(golden):
    path = golden("teacher_tiny/checkpoint.safetensors")
    return {name: np.array(x) for name, x in read_checkpoint(path).tensors.items()}


@pytest.fixture(scope="module")
def expected(golden):
    return read_weights(golden("teacher_tiny/checkpoint.safetensors"))


def hugging_face(tensors):
    out = {name: tensors[name].reshape(1) for name in ("logit_scale", "logit_bias")}
    vision, text = "vision_model.", "text_model."
    pool = f"{TRUNK}attn_pool."
    for kind in ("weight", "bias"):
        for name, source in {
            f"{vision}embeddings.patch_embedding": f"{TRUNK}patch_embed.proj",
            f"{vision}post_layernorm": f"{TRUNK}norm",
            f"{vision}head.attention.out_proj": f"{pool}proj",
            f"{vision}head.layernorm": f"{pool}norm",
            f"{vision}head.mlp.fc1": f"{pool}mlp.fc1",
            f"{vision}head.mlp.fc2": f"{pool}mlp.fc2",
            f"{text}final_layer_norm": "text.ln_final",
            f"{text}head": "text.text_projection",
        }.items():
            out[f"{name}.{kind}"] = tensors[f"{source}.{kind}"]
        packed = np.concatenate([tensors[f"{pool}{part}.{kind}"] for part in ("q", "kv")])
        out[f"{vision}head.attention.in_proj_{kind}"] = packed
        for target, source, names in blocks(tensors):
            layer = f"{text if 'text' in source else vision}encoder.layers.{target}."
            for part, values in zip(
                "qkv", parts(tensors, source + names["qkv"] + kind), strict=True
            ):
                out[f"{layer}self_attn.{part}_proj.{kind}"] = values
            for name, key in {
                "layer_norm1": "norm1",
                "self_attn.out_proj": "proj",
                "layer_norm2": "norm2",
                "mlp.fc1": "fc1",
                "mlp.fc2": "fc2",
            }.items():
                out[f"{layer}{name}.{kind}"] = tensors[f"{source}{names[key]}.{kind}"]
    out[f"{vision}head.probe"] = tensors[f"{pool}latent"]
    out[f"{vision}embeddings.position_embedding.weight"] = tensors[f"{TRUNK}pos_embed"][0]
    out[f"{text}embeddings.position_embedding.weight"] = tensors["text.positional_embedding"]
    out[f"{text}embeddings.token_embedding.weight"] = tensors["text.token_embedding.weight"]
    out[f"{text}embeddings.position_ids"] = np.arange(16)[None]
    return out


def big_vision(tensors):
    pool = f"{TRUNK}attn_pool."
    heads = "MultiHeadDotProductAttention_0"
    out = {
        "t": tensors["logit_scale"].reshape(1),
        "b": tensors["logit_bias"].reshape(1),
        "img/embedding/kernel": tensors[f"{TRUNK}patch_embed.proj.weight"].transpose(2, 3, 1, 0),
        "img/embedding/bias": tensors[f"{TRUNK}patch_embed.proj.bias"],
        "img/pos_embedding": tensors[f"{TRUNK}pos_embed"],
        "img/MAPHead_0/probe": tensors[f"{pool}latent"],
        "txt/Embed_0/embedding": tensors["text.token_embedding.weight"],
        "txt/pos_embedding": tensors["text.positional_embedding"][None],
    }

    def linear(target, source):
        out[f"{target}/kernel"] = tensors[f"{source}.weight"].T
        out[f"{target}/bias"] = tensors[f"{source}.bias"]

    def norm(target, source):
        out[f"{target}/scale"] = tensors[f"{source}.weight"]
        out[f"{target}/bias"] = tensors[f"{source}.bias"]

    def attention(target, weights, biases, proj):
        for name, weight, bias in zip(("query", "key", "value"), weights, biases, strict=True):
            out[f"{target}/{name}/kernel"] = weight.T.reshape(len(weight), HEADS, -1)
            out[f"{target}/{name}/bias"] = bias.reshape(HEADS, -1)
        weight = tensors[f"{proj}.weight"]
        out[f"{target}/out/kernel"] = weight.T.reshape(HEADS, -1, len(weight))
        out[f"{target}/out/bias"] = tensors[f"{proj}.bias"]

    for i, source, names in blocks(tensors):
        tower = "txt/Encoder_0" if "text" in source else "img/Transformer"
        block = f"{tower}/encoderblock_{i}"
        norm(f"{block}/LayerNorm_0", source + names["norm1"])
        norm(f"{block}/LayerNorm_1", source + names["norm2"])
        packed = (parts(tensors, source + names["qkv"] + kind) for kind in ("weight", "bias"))
        attention(f"{block}/{heads}", *packed, proj=source + names["proj"])
        linear(f"{block}/MlpBlock_0/Dense_0", source + names["fc1"])
        linear(f"{block}/MlpBlock_0/Dense_1", source + names["fc2"])
    packed = (
        [tensors[f"{pool}q.{kind}"], *np.split(tensors[f"{pool}kv.{kind}"], 2)]
        for kind in ("weight", "bias")
    )
    attention(f"img/MAPHead_0/{heads}", *packed, proj=f"{pool}proj")
    norm("img/MAPHead_0/LayerNorm_0", f"{pool}norm")
    linear("img/MAPHead_0/MlpBlock_0/Dense_0", f"{pool}mlp.fc1")
    linear("img/MAPHead_0/MlpBlock_0/Dense_1", f"{pool}mlp.fc2")
    norm("img/Transformer/encoder_norm", f"{TRUNK}norm")
    norm("txt/Encoder_0/encoder_norm", "text.ln_final")
    linear("txt/head", "text.text_projection")
    return {f"params/{name}": value for name, value in out.items()}


def stacked(tensors):
    """With the layers of each stack along a first axis, as SigLIP 2's are."""
    out, layers = {}, {}
    for name, value in tensors.items():
        if found := re.search(r"encoderblock_(\d+)/", name):
            place = name.replace(found[0], "encoderblock/")
            layers.setdefault(place, {})[int(found[1])] = value
        else:
            out[name] = value
    return out | {n: np.stack([x[i] for i in range(len(x))]) for n, x in layers.items()}


def blocks(tensors):
    """(number, prefix, names) of each block of the two towers."""
    towers = {f"{TRUNK}blocks.": TIMM, "text.transformer.resblocks.": OPEN_CLIP}
    for prefix, names in towers.items():
        found = {int(name[len(prefix) :].split(".")[0]) for name in tensors if prefix in name}
        yield from ((i, f"{prefix}{i}.", names) for i in sorted(found))


def parts(tensors, name):
    return np.split(tensors[name], 3)


def timm(tensors):
    return {name.removeprefix(TRUNK): value for name, value in tensors.items()}


def wrapped(tensors):
    return {f"model._orig_mod.{name}": value for name, value in tensors.items()}


def write(path, tensors):
    if path.suffix == ".npz":
        np.savez(path, **tensors)
    else:
        write_safetensors(path, tensors)
    return path


FILES = {
    "Hugging Face's": ("x.safetensors", hugging_face),
    "big_vision's": ("x.npz", big_vision),
    "big_vision's, layers stacked": ("x.npz", lambda tensors: stacked(big_vision(tensors))),
    "timm's": ("x.safetensors", timm),
    "open_clip's, in a module": ("x.safetensors", wrapped),
    "Hugging Face's, in a module": ("x.safetensors", lambda x: wrapped(hugging_face(x))),
}


@pytest.mark.parametrize("package", FILES)
def test_the_parameters_are_bit_equal_to_those_of_open_clips_file(
    package, tensors, expected, tmp_path, capsys
):
    name, make = FILES[package]
    path = write(tmp_path / name, make(tensors))
    weights = read_weights(path)
    assert weights.config == expected.config
    got, want = (flax.traverse_util.flatten_dict(x.params, sep="/") for x in (weights, expected))
    assert got.keys() == want.keys()
    for key, value in want.items():
        assert (got[key].shape, got[key].dtype) == (value.shape, value.dtype), key
        np.testing.assert_array_equal(np.asarray(got[key]), value, err_msg=key)
    for layout in ("scanned", "unrolled"):
        assert convert(["to-jax", str(path), str(tmp_path / layout), f"--layout={layout}"]) == 0
        assert convert(["verify", str(path), str(tmp_path / layout)]) == 0
    if "open" not in package:
        assert convert(["inspect", str(path)]) == 0
        assert package.split(",")[0] in capsys.readouterr().out


def test_the_heads_of_big_vision_need_no_flag(tensors, tmp_path):
    renamed = stacked(big_vision(tensors))
    stacks = [name for name in renamed if "/encoderblock/" in name and "img/" in name]
    shorter = renamed | {name: renamed[name][:2] for name in stacks}  # no named size
    config = read_weights(write(tmp_path / "x.npz", shorter)).config
    assert (config.vision.depth, config.vision.num_heads, config.text.num_heads) == (
        2,
        HEADS,
        HEADS,
    )


ODD = {
    "a projection missing": ("encoder.layers.0.self_attn.k_proj.weight", lambda x: None),
    "a projection wider": (
        "encoder.layers.0.self_attn.k_proj.weight",
        lambda x: np.concatenate([x, x]),
    ),
    "positions of three axes": ("embeddings.position_embedding.weight", lambda x: x[None]),
    "patches of many sizes": ("patch_embedding.weight", lambda x: x.reshape(len(x), -1)),
    "a scalar": ("head.attention.in_proj_bias", lambda x: x[0].reshape(())),
    "a type": ("encoder.layers.0.self_attn.v_proj.bias", lambda x: x.astype(np.float16)),
}


@pytest.mark.parametrize("odd", ODD)
def test_parts_that_do_not_fit_end_in_one_line_with_the_file(odd, tensors, tmp_path, capsys):
    part, change = ODD[odd]
    renamed = hugging_face(tensors)
    name = next(name for name in renamed if name.endswith(part) and "vision" in name)
    changed = change(renamed.pop(name))
    if changed is not None:
        renamed[name] = changed
    path = write(tmp_path / "odd.safetensors", renamed)
    assert convert(["to-jax", str(path), str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: can't use {path}: ")
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("axes", [0, 1, 2, 3])
def test_kernels_of_other_ranks_end_in_one_line_with_the_file(axes, tensors, tmp_path, capsys):
    renamed = big_vision(tensors)
    for name in ("embedding/kernel", "Transformer/encoderblock_0/MlpBlock_0/Dense_0/kernel"):
        odd = renamed | {f"params/img/{name}": np.ones((3,) * axes, np.float32)}
        path = write(tmp_path / "odd.npz", odd)
        assert convert(["to-jax", str(path), str(tmp_path / "out")]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"error: can't use {path}: ")


ALONE = {
    "timm's": ("x.safetensors", timm),
    "open_clip's": ("x.safetensors", lambda tensors: tensors),
    "Hugging Face's": ("x.safetensors", hugging_face),
    "big_vision's": ("x.npz", big_vision),
}


@pytest.mark.parametrize("package", ALONE)
def test_an_image_tower_alone_is_read_and_starts_nothing(
    package, tensors, expected, tmp_path, capsys, golden
):
    name, make = ALONE[package]
    tower = {key: x for key, x in tensors.items() if key.startswith(TRUNK)}
    renamed = make(tensors)
    only = {key: x for key, x in renamed.items() if key.split("/")[-1] not in ("t", "b")}
    text = ("text", "params/txt", "logit_")
    path = write(tmp_path / name, {key: x for key, x in only.items() if not key.startswith(text)})
    weights = read_weights(path)
    assert weights.config.text is None
    assert weights.config.vision == expected.config.vision
    got, want = (
        flax.traverse_util.flatten_dict(x.params["image_tower"]) for x in (weights, expected)
    )
    assert got.keys() == want.keys()
    assert all(np.array_equal(np.asarray(got[key]), want[key]) for key in want)
    assert convert(["to-jax", str(path), str(tmp_path / "jax")]) == 0
    back = tmp_path / "back.safetensors"
    assert convert(["to-torch", str(tmp_path / "jax"), str(back)]) == 0
    assert read_checkpoint(back).tensors.keys() == tower.keys()
    assert convert(["verify", str(back), str(tmp_path / "jax")]) == 0
    vq = golden("vq_tiny/checkpoint.safetensors")
    assert convert(["start", str(back), str(vq), str(tmp_path / "start")]) == 2
    assert "expected a SigLIP with its text tower" in capsys.readouterr().err

"""The names that VILA-U's tokenizer has in PyTorch: `RQVAESiglipModel`, alone or in its tower.

SigLIP's part has Hugging Face's names (`SiglipModel`), the quantiser those of RQ-VAE, the decoder
VQGAN's.
"""

import logging
import math
from typing import Any

import numpy as np

from toklip_jax.core.errors import UserError
from toklip_jax.files.layouts import (
    HEADS_IN,
    HEADS_IN_BIAS,
    HEADS_OUT,
    conv_rules,
    linear_rules,
    norm_rules,
)
from toklip_jax.files.rules import Rule
from toklip_jax.files.shapes import count_layers, shape_of
from toklip_jax.models.base import Dialect, ForeignKeys, Hints, Tensors
from toklip_jax.models.vila_u.config import VilaUConfig
from toklip_jax.models.vila_u.sizes import SIZES
from toklip_jax.models.vqgan_names import MAX_LEVELS, MAX_RES_BLOCKS, decoder_rules
from toklip_jax.ops.grids import square_grid

logger = logging.getLogger(__name__)

SIGLIP, CODEBOOKS = "siglip_model.", "quantizer.codebooks."
VISION, TEXT = f"{SIGLIP}vision_model.", f"{SIGLIP}text_model."
PATCHES = f"{VISION}embeddings.patch_embedding.weight"
TOWER, DEPTH_TRANSFORMER = "rqvaesiglip.", "rqtransformer."  # in the file of the vision tower

DEPTH = "a part of VILA-U's language model: the transformer over a place's codes"
COPY = "a second name of the codebook that all depths share"
RUNNING = "a running mean from which training by moving averages sets the codebook"
UNUSED = "a part of SigLIP after the block whose output is quantised"
TEXT_TOWER = "SigLIP's text tower, which VILA-U was trained with, no part of the tokenizer"
SIMILARITY = "the scale or bias of SigLIP's similarity of images and texts"

# Layers of one of SigLIP's blocks, and of its pooling, which has three more tensors.
BLOCK = (
    "layer_norm1",
    "self_attn.{A}_proj",
    "self_attn.out_proj",
    "layer_norm2",
    "mlp.fc1",
    "mlp.fc2",
)
POOL = ("attention.out_proj", "layernorm", "mlp.fc1", "mlp.fc2")
PACKED = ("probe", "attention.in_proj_weight", "attention.in_proj_bias")


def infer(tensors: Tensors, hints: Hints, prefix: str = "") -> VilaUConfig:
    """Returns the config of the tokenizer whose tensors' names begin with `prefix`."""
    width, _, _, patch_size = shape_of(tensors, f"{prefix}{PATCHES}", 4)
    vision = f"{prefix}{VISION}"
    num_places = shape_of(tensors, f"{vision}embeddings.position_embedding.weight", 2)[0]
    depth = _infer_depth(tensors, vision)
    named = next((c for c in SIZES.values() if (c.width, c.depth) == (width, depth)), None)
    decoder = _infer_decoder(tensors, f"{prefix}decoder.")
    side = square_grid(num_places)[0]
    levels = len(decoder.get("multipliers", VilaUConfig.multipliers))
    return VilaUConfig(
        **_infer_size(side, patch_size, 2 ** (levels - 1)),
        patch_size=patch_size,
        width=width,
        depth=depth,
        # Within TokLIP's file, the hint is for the token encoder.
        num_heads=_num_heads(None if prefix else hints.num_heads, named),
        mlp_dim=shape_of(tensors, f"{vision}encoder.layers.0.mlp.fc1.weight", 2)[0],
        **_infer_codes(tensors, f"{prefix}{CODEBOOKS}", named),
        **decoder,
    )


def rules(config: VilaUConfig, source: str = "", target: str = "") -> list[Rule]:
    """Returns the map; `source` and `target` end with their separators, or are empty."""
    return [
        *_unused_rules(config, source),
        *_encoder_rules(f"{source}{VISION}", f"{target}encoder"),
        *_codebook_rules(config, f"{source}{CODEBOOKS}", f"{target}quantiser"),
        *conv_rules(f"{source}post_quant_conv", f"{target}post_quant_conv"),
        *decoder_rules(f"{source}decoder", f"{target}decoder", len(config.multipliers)),
    ]


def _encoder_rules(source, target):
    """Embeddings, and the blocks that run."""
    layer, block = f"{source}encoder.layers.{{i}}", f"{target}/stack/blocks_{{i}}"
    attention = f"{layer}.self_attn"
    return [
        *conv_rules(f"{source}embeddings.patch_embedding", f"{target}/patch_embed"),
        Rule(f"{source}embeddings.position_embedding.weight", f"{target}/pos_embed"),
        *norm_rules(f"{layer}.layer_norm1", f"{block}/norm1"),
        Rule(f"{attention}.{{A}}_proj.weight", f"{block}/attn/{{A}}/kernel", HEADS_IN),
        Rule(f"{attention}.{{A}}_proj.bias", f"{block}/attn/{{A}}/bias", HEADS_IN_BIAS),
        *linear_rules(f"{attention}.out_proj", f"{block}/attn/proj", HEADS_OUT),
        *norm_rules(f"{layer}.layer_norm2", f"{block}/norm2"),
        *linear_rules(f"{layer}.mlp.fc1", f"{block}/mlp/fc1"),
        *linear_rules(f"{layer}.mlp.fc2", f"{block}/mlp/fc2"),
    ]


def _codebook_rules(config, source, target):
    """The codebooks, each with its padding row; of a shared one, the first name is the one read."""
    if config.is_shared:
        books = [
            Rule(f"{source}0.weight", f"{target}/padded_codebook_0"),
            Rule(f"{source}{{i}}.weight", None, reason=COPY),
        ]
    else:
        books = [Rule(f"{source}{{i}}.weight", f"{target}/padded_codebook_{{i}}")]
    means = ("cluster_size_ema", "embed_ema")
    return [*books, *(Rule(f"{source}{{i}}.{name}", None, reason=RUNNING) for name in means)]


def _unused_rules(config, source):
    """What the tokenizer has no use for; these go before the rules of the blocks that run."""
    vision, text = f"{source}{VISION}", f"{source}{TEXT}"
    last, head = f"{vision}encoder.layers.{config.depth}.", f"{vision}head."
    layers = [f"{last}{layer}" for layer in BLOCK] + [f"{head}{layer}" for layer in POOL]
    of_text = [f"{text}encoder.layers.{{i}}.{layer}" for layer in BLOCK]
    of_text += [f"{text}final_layer_norm", f"{text}head"]
    tables = [f"{text}embeddings.{name}_embedding.weight" for name in ("token", "position")]
    scalars = [f"{source}{part}logit_{kind}" for part in ("", SIGLIP) for kind in ("scale", "bias")]
    return [
        *_carried(_with_kinds([*layers, f"{vision}post_layernorm"]), UNUSED),
        *_carried([f"{head}{name}" for name in PACKED], UNUSED),
        *_carried([*_with_kinds(of_text), *tables], TEXT_TOWER),
        *_carried(scalars, SIMILARITY),
    ]


def _with_kinds(layers):
    return [f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")]


def _carried(names, reason):
    return [Rule(name, None, reason=reason) for name in names]


def _infer_depth(tensors: Tensors, vision: str) -> int:
    """The blocks that run: all but the last of SigLIP's, which is there if what follows it is.

    Weights that were trained here, and not converted, never had it.
    """
    depth = count_layers(tensors, vision + r"encoder\.layers\.(\d+)\.")
    if f"{vision}post_layernorm.weight" in tensors:
        return depth - 1
    logger.warning(
        "took all %d blocks of SigLIP to run: the file has none of the parts after its last, which "
        "VILA-U's own files have and don't use",
        depth,
    )
    return depth


def _infer_codes(tensors: Tensors, codebooks: str, named: VilaUConfig | None) -> dict[str, Any]:
    """The fields of the quantiser; a shared codebook may be there once, or under every name."""
    rows, _ = shape_of(tensors, f"{codebooks}0.weight", 2)
    if rows < 2:
        raise UserError(
            f"expected codes and a padding row in {codebooks}0.weight, got {rows} row: the "
            f"checkpoint is damaged or another model's"
        )
    count = count_layers(tensors, codebooks + r"(\d+)\.weight")
    books = [tensors[f"{codebooks}{i}.weight"] for i in range(count)]
    fields = {"codebook_size": rows - 1, "codes_per_place": count}
    if count > 1:
        return fields | {"is_shared": all(_is_same(books[0], book) for book in books[1:])}
    fields["codes_per_place"] = (named or VilaUConfig).codes_per_place
    logger.warning(
        "took the one codebook of these weights to be shared by %d codes a place: the file does "
        "not say how many there are",
        fields["codes_per_place"],
    )
    return fields | {"is_shared": True}


def _is_same(a, b):
    return a.shape == b.shape and np.array_equal(np.asarray(a), np.asarray(b))


def _infer_decoder(tensors: Tensors, decoder: str) -> dict[str, Any]:
    """The fields of the decoder, whose levels' names count from the highest resolution."""
    if f"{decoder}conv_in.weight" not in tensors:
        return {"has_decoder": False}
    up = f"{decoder}up."
    levels = range(count_layers(tensors, up + r"(\d+)\.", MAX_LEVELS))
    widths = [shape_of(tensors, f"{up}{i}.block.0.conv1.weight", 4)[0] for i in levels]
    channels = math.gcd(*widths)
    return {
        "channels": channels,
        "multipliers": tuple(width // channels for width in widths),
        "num_res_blocks": count_layers(tensors, up + r"0\.block\.(\d+)\.", MAX_RES_BLOCKS + 1) - 1,
        "attention_levels": tuple(i for i in levels if f"{up}{i}.attn.0.q.weight" in tensors),
        "z_channels": shape_of(tensors, f"{decoder}conv_in.weight", 4)[1],
    }


def _infer_size(side: int, patch_size: int, factor: int) -> dict[str, int | None]:
    """The image size and the decoder's grid, which the shapes tell together.

    The images that are decoded have the size of those that are encoded. So it is the multiple of
    the decoder's factor of which whole patches cover all but less than a patch: 384 where there are
    27 patches of 14 pixels and the decoder enlarges 16 times, from a grid of 24.
    """
    covered = side * patch_size
    image_size = -(-covered // factor) * factor
    if image_size >= covered + patch_size:
        return {"image_size": covered, "decoder_grid": None}
    if image_size == side * factor:
        return {"image_size": image_size, "decoder_grid": None}
    logger.warning(
        "took these weights to be for images of %d pixels, decoded from a grid of %d: the file "
        "does not say",
        image_size,
        image_size // factor,
    )
    return {"image_size": image_size, "decoder_grid": image_size // factor}


def _num_heads(hint: int | None, named: VilaUConfig | None) -> int:
    if hint is not None:
        return hint
    if named is None:
        raise UserError(
            "expected a named size or num_heads: shapes don't tell the number of attention heads "
            "of VILA-U's encoder. Pass --num-heads (or num_heads=...) with the tokenizer's own file"
        )
    return named.num_heads


def _from_tower(tensors: Tensors) -> Tensors:
    """Returns the tokenizer's tensors of the file of VILA-U's vision tower."""
    return {name.removeprefix(TOWER): x for name, x in tensors.items()}


MARKS = (f"{CODEBOOKS}0.weight", PATCHES)
VISION_TOWER = Dialect(
    "the names of VILA-U's vision tower", tuple(f"{TOWER}{mark}" for mark in MARKS), _from_tower
)
KEYS = ForeignKeys(
    MARKS,
    infer,
    rules,
    hints=("num_heads",),
    dialects=(VISION_TOWER,),
    unused={DEPTH_TRANSFORMER: DEPTH},
)

"""The names that LlamaGen's VQ-16 has in Hugging Face's Janus: transformers' `JanusVQVAE`.

The weights are the same. `JanusVQVAE.encode` compares latents with the codebook's raw rows, though,
where the original compares at unit length; its `decode` takes rows at unit length, as the original
does. The ids here are the original's. Those of transformers need `is_l2_normalised=False`, and
their images are what the tokenizer at unit length makes of them.
"""

import re

from toklip_jax.core.errors import UserError
from toklip_jax.core.printable import printable
from toklip_jax.models.base import Dialect, Tensors

# VQGAN's names but for the decoder's levels, which are counted from the lowest resolution.
RENAMED = (
    (re.compile(r"^(encoder\.)down(\.\d+\.)block\."), r"\1conv_blocks\2res."),
    (re.compile(r"^(decoder\.)up(\.\d+\.)block\."), r"\1conv_blocks\2res."),
    (re.compile(r"^(encoder\.)down\."), r"\1conv_blocks."),
    (re.compile(r"^(decoder\.)up\."), r"\1conv_blocks."),
    (re.compile(r"^((?:en|de)coder\.mid\.)block_1\."), r"\g<1>0."),
    (re.compile(r"^((?:en|de)coder\.mid\.)attn_1\."), r"\g<1>1."),
    (re.compile(r"^((?:en|de)coder\.mid\.)block_2\."), r"\g<1>2."),
)


def from_janus(tensors: Tensors) -> Tensors:
    """Returns the tensors in LlamaGen's names.

    Raises:
        ValueError: two names stand for the same tensor.
    """
    renamed = {}
    for name, tensor in tensors.items():
        theirs = _llamagen_name(name)
        if theirs in renamed:
            raise UserError(f"expected each tensor once, got {printable(theirs)} twice")
        renamed[theirs] = tensor
    return renamed


def _llamagen_name(name):
    for pattern, replacement in RENAMED:
        name = pattern.sub(replacement, name)
    return name


JANUS = Dialect(
    "Hugging Face's Janus names",
    (
        "quantize.embedding.weight",
        "encoder.down.0.block.0.conv1.weight",
        "decoder.up.0.upsample.conv.weight",
    ),
    from_janus,
)

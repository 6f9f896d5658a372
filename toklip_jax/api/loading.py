"""`load`: weights from a path become the object of their kind."""

import dataclasses
import inspect
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from jax.sharding import Mesh
from jax.typing import DTypeLike

from toklip_jax.api.base import LoadedModel
from toklip_jax.api.generator import Generator
from toklip_jax.api.language_model import LanguageModel
from toklip_jax.api.multimodal import MultimodalModel
from toklip_jax.api.tokenizer import Tokenizer
from toklip_jax.api.vq_tokenizer import VQTokenizer
from toklip_jax.core.errors import UserError
from toklip_jax.core.fields import check_name, check_type
from toklip_jax.data.images import sides_of
from toklip_jax.models.registry import family_of
from toklip_jax.parallel.sharding import AXES
from toklip_jax.weights.catalogue import locate
from toklip_jax.weights.generator_part import join_tokenizer
from toklip_jax.weights.read import read_weights


def load(
    path: str | pathlib.Path,
    *,
    dtype: DTypeLike = "float32",
    param_dtype: DTypeLike = "float32",
    mesh: Mesh | None = None,
    batch_size: int | None = None,
    image_size: int | tuple[int, ...] | None = None,
    resize: str | None = None,
    tokenizer: str | pathlib.Path | None = None,
    vq: str | pathlib.Path | None = None,
    text_encoder: str | pathlib.Path | None = None,
    **sizes: Any,
) -> Tokenizer | VQTokenizer | Generator | LanguageModel | MultimodalModel:
    """Loads a model: TokLIP as a `Tokenizer`, a VQ tokenizer as a `VQTokenizer`, a `Generator`,
    a `LanguageModel` or a `MultimodalModel`.

    Args:
        path: the path of a converted directory; of a `.safetensors`, PyTorch or `.npz` file; or of
            safetensors files with an index, the index or the directory that holds it
            (docs/formats.md). Where nothing is at that path, a name of `list_models`, such as
            "toklip-s-256"; or weights on the Hugging Face hub, "owner/name" or
            "hf://owner/name[@revision][/file]" (docs/models.md). They are fetched once.
        dtype: the type of activations: float32, bfloat16 or float16, as a name or as
            `jnp.bfloat16`. The VQ encoder within TokLIP stays float32, so that ids don't change.
        param_dtype: the type that parameters are kept in. Scalars and, within TokLIP, the VQ
            tokenizer's parameters stay float32, since logits and ids depend on them. TokLIP and
            a generator also take "int8": the products of the token encoder, or of the GPT, are with
            whole numbers times a scale for each output channel, and other parameters float32;
            needs the extra `int8`.
        mesh: a mesh from `parallel.sharding.make_mesh` to shard parameters over, by the rules of
            their model family; each device reads its part of the files.
        batch_size: how many rows are computed at a time: see `LoadedModel`.
        image_size: side of the images in pixels, or (height, width), if it shall differ from the
            weights': TokLIP's position table is resampled. A VQ tokenizer takes images of any size
            that has a grid unless it is given.
        resize: how Pillow images are resized: "crop", to the centre of the image, as the released
            evaluation does and the default is, or "squash", to all of it at another aspect ratio,
            the default of a multimodal model, which questions may ask about any part.
        tokenizer: a Hugging Face `tokenizer.json`, a directory that holds one, or a hub id; by
            default the one saved with the weights, or the one that goes with their name. A language
            model's is a directory.
        vq: the weights of a generator's VQ tokenizer, where its own hold none, as published ones:
            a path or a name.
        text_encoder: the directory, or the name, of the text encoder whose features a generator of
            captions was trained with, such as "flan-t5-xl"; captions may then be strings.
        **sizes: what a PyTorch file's shapes can't tell where no named size fits: `num_heads`,
            `text_num_heads`, `is_causal`; `grid`, the grid of a generator's ids; `family`, the name
            of the VQ tokenizer's family where several have the same names; `is_l2_normalised`,
            whether its codebook is used at unit length; and `is_ema`, whether to take the running
            mean of a checkpoint's weights or the raw ones (by default the mean, or raw where a part
            of the model alone has one).

    Raises:
        ValueError: weights of another kind, sizes that can't be told, or an argument that these
            weights have no use for; says what to pass.
        FileNotFoundError: nothing at `path`, or no connection to fetch it; lists the files.
    """
    _check_path("the weights", path)
    for name, given in {"tokenizer": tokenizer, "vq": vq, "text_encoder": text_encoder}.items():
        if given is not None:
            _check_path(name, given)
    _check_arguments(sizes, image_size, batch_size, mesh)
    located = [locate(path, FROM_WEIGHTS)]
    weights = read_weights(located[0].path, **{**located[0].options, **sizes})
    if vq is not None:
        located.append(locate(vq, ("vq", "toklip")))
        weights = join_tokenizer(weights, read_weights(located[1].path, **located[1].options))
    family = family_of(weights.config)
    if family.role not in FROM_WEIGHTS:
        raise UserError(
            f"expected the weights of TokLIP, a VQ tokenizer, a generator or a language model in "
            f"{path}, got those of {family.title}: `python -m toklip_jax.convert start` joins a "
            f"teacher and a VQ tokenizer"
        )
    if tokenizer is None and weights.tokenizer_path is None:
        tokenizer = next((each.tokenizer() for each in located if each.tokenizer), None)
    own = {} if resize is None else {"resize": resize}
    if text_encoder is not None:
        if family.role != "generator":
            raise UserError(
                f"expected no text_encoder with the weights of {family.title}, got "
                f"{text_encoder!r}: it is for generators"
            )
        own["text_encoder"] = locate(text_encoder, ("text_encoder",)).path
    model = FROM_WEIGHTS[family.role](
        weights,
        dtype=_dtype_name(dtype),
        param_dtype=_dtype_name(param_dtype),
        mesh=mesh,
        batch_size=batch_size,
        image_size=None if image_size is None else sides_of(image_size),
        tokenizer=tokenizer,
        **own,
    )
    model.origin = dataclasses.replace(weights, params={}, file=None)
    return model


def _check_path(name, given):
    if not (isinstance(given, str | pathlib.Path) and str(given)):
        raise UserError(f"expected a path or a name for {name}, got {given!r}")


def _check_arguments(sizes, image_size, batch_size, mesh):
    for name in sizes:
        check_name("an argument of load", name, ARGUMENTS)
    check_type(image_size, int | Sequence[int] | None, "image_size")
    check_type(batch_size, int | None, "batch_size")
    if mesh is not None and getattr(mesh, "axis_names", None) != AXES:
        raise UserError(
            f"expected a mesh with the axes {AXES}, as parallel.sharding.make_mesh gives, got "
            f"{mesh!r}"
        )


def _dtype_name(dtype):
    try:
        return dtype if isinstance(dtype, str) else jnp.dtype(dtype).name
    except TypeError as error:
        raise UserError(
            f"expected a dtype such as jnp.bfloat16 or 'bfloat16', got {dtype!r}"
        ) from error


ARGUMENTS = tuple(
    name
    for function in (load, read_weights)
    for name, parameter in inspect.signature(function).parameters.items()
    if parameter.kind is parameter.KEYWORD_ONLY
)
# What makes an object of weights, by the role of their family.
FROM_WEIGHTS: dict[str, Callable[..., LoadedModel]] = {
    "toklip": Tokenizer.from_weights,
    "vq": VQTokenizer.from_weights,
    "generator": Generator.from_weights,
    "language_model": LanguageModel.from_weights,
    "multimodal": MultimodalModel.from_weights,
}
LoadedModel._load = staticmethod(load)

"""The public API: load weights, turn images to ids, use the ids."""

import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from toklip_jax.data.images import check_images
from toklip_jax.data.text import TextTokenizer
from toklip_jax.models.toklip.config import TokLIPConfig
from toklip_jax.models.toklip.model import TokLIP, similarity
from toklip_jax.models.toklip.resize import resize_model
from toklip_jax.nn.config import Compute
from toklip_jax.ops.normalize import l2_normalize
from toklip_jax.weights.directory import Weights
from toklip_jax.weights.read import read_weights


def load(
    path: str | pathlib.Path,
    *,
    dtype: str = "float32",
    image_size: int | None = None,
    tokenizer: str | pathlib.Path | None = None,
    **sizes: Any,
) -> "Tokenizer":
    """Loads TokLIP from a converted directory, a `.safetensors` file or a PyTorch file.

    Args:
        dtype: of activations: "float32" or "bfloat16". The VQ encoder stays float32, so that ids
            don't change.
        image_size: side of the images in pixels, if it shall differ from the weights': the
            position table is resampled.
        tokenizer: a Hugging Face `tokenizer.json`, a directory that holds one, or a hub id; by
            default the one saved with the weights.
        **sizes: what a PyTorch file's shapes can't tell where no named size fits: `num_heads`,
            `text_num_heads`, `is_causal`.

    Raises:
        ValueError: not TokLIP's weights, or sizes that can't be told; says what to pass.
        FileNotFoundError: nothing at `path`.
    """
    weights = read_weights(path, **sizes)
    if not isinstance(weights.config, TokLIPConfig):
        raise ValueError(
            f"expected TokLIP's weights in {path}, got those of a {type(weights.config).__name__}: "
            f"`python -m toklip_jax.convert start` joins a teacher and a VQ tokenizer"
        )
    return Tokenizer.from_weights(weights, dtype, image_size, tokenizer)


class Tokenizer:
    """TokLIP with its parameters: images to ids, ids to tokens, features and images.

    Each method compiles once per batch shape. Results are JAX arrays. Ids, where taken, are
    integers [b, n] in [0, codebook_size), as arrays or nested lists; others raise ValueError.

    Attributes:
        config: the model's sizes.
        params: nested dict of float32 arrays.
    """

    def __init__(
        self,
        config: TokLIPConfig,
        params: dict[str, Any],
        compute: Compute,
        text_tokenizer: TextTokenizer | None = None,
    ):
        self.config = config
        self.params = params
        self._model = TokLIP(config, compute)
        self._text_tokenizer = text_tokenizer

    def tokenize(self, images: Any) -> Int[Array, "b n"]:
        """Returns ids, int32, row by row.

        Args:
            images: uint8 or float in [-1, 1], RGB [b, h, w, 3]; or a list of PIL images, which
                are resized (squashed) as the released model's evaluation does.

        Raises:
            ValueError: another shape, type or range.
        """
        return self._apply(check_images(images, self.config.vision.image_size), "tokenize")

    def code_vectors(self, ids: Any) -> Float[Array, "b n c"]:
        """Returns the vectors of ids in the VQ's codebook, float32: ids before meaning."""
        return self._apply(self._check_ids(ids), "code_vectors")

    def semantic_tokens(self, ids: Any) -> Float[Array, "b n d"]:
        """Returns the token encoder's output after the final norm, float32; no pixels needed."""
        return self._apply(self._check_ids(ids), "semantic_tokens")

    def detokenize(self, ids: Any) -> Float[Array, "b h w 3"]:
        """Returns images, RGB float32, clipped to [-1, 1]."""
        return jnp.clip(self._apply(self._check_ids(ids), "detokenize"), -1, 1)

    def image_features(
        self, images: Any = None, *, ids: Any = None, normalize: bool = True
    ) -> Float[Array, "b d"]:
        """Returns pooled features, float32, of `images` or of their `ids`."""
        if (images is None) == (ids is None):
            raise ValueError("expected either images or ids, got both or neither")
        ids = self.tokenize(images) if ids is None else self._check_ids(ids)
        features = self._apply(ids, "image_features")
        return l2_normalize(features) if normalize else features

    def token_features(self, ids: Any, *, normalize: bool = True) -> Float[Array, "b n d"]:
        """Returns each token's own feature, float32, in the space of `text_features`.

        What the pool makes of that token alone; its similarity to a text says where the text is.
        """
        features = self._apply(self._check_ids(ids), "token_features")
        return l2_normalize(features) if normalize else features

    def text_features(self, texts: Any, *, normalize: bool = True) -> Float[Array, "b d"]:
        """Returns features, float32, of texts (a list of strings, or one) or of token ids [b, t].

        Raises:
            ValueError: texts without a tokenizer, or token ids of another shape or range.
        """
        features = self._apply(self._token_ids(texts), "text_features")
        return l2_normalize(features) if normalize else features

    def similarity(
        self, image_features: Float[Array, "b d"], text_features: Float[Array, "t d"]
    ) -> Float[Array, "b t"]:
        """Returns the logits of normalised features, scale and bias included, float32."""
        scale, bias = self.params["logit_scale"], self.params.get("logit_bias")
        return similarity(image_features, text_features, scale, bias)

    @classmethod
    def from_weights(
        cls,
        weights: Weights,
        dtype: str = "float32",
        image_size: int | None = None,
        tokenizer: str | pathlib.Path | None = None,
    ) -> "Tokenizer":
        """Builds the API around weights in memory; arguments as `load`'s."""
        config, params = weights.config, weights.params
        if image_size is not None:
            config, params = resize_model(config, params, image_size)
        params = jax.tree.map(functools.partial(_to_device, file=weights.file), params)
        compute = Compute(dtype=dtype, is_scanned=weights.is_scanned)
        path = tokenizer or weights.tokenizer_path
        text = path and TextTokenizer.load(path, config.text.context_length)
        return cls(config, params, compute, text)

    def _apply(self, inputs, method):
        # Float32 is meant as such: accelerators would otherwise round products to bfloat16.
        precision = "highest" if self._model.compute.dtype == "float32" else None
        with jax.default_matmul_precision(precision):
            out = self._jitted(self.params, inputs, method)
        return out

    @functools.cached_property
    def _jitted(self):
        def apply(params, inputs, method):
            out = self._model.apply({"params": params}, inputs, method=method)
            return out.astype(jnp.float32) if jnp.issubdtype(out.dtype, jnp.floating) else out

        return jax.jit(apply, static_argnames="method")

    def _check_ids(self, ids):
        ids = np.asarray(ids)
        n, size = self.config.vision.num_tokens, self.config.vq.codebook_size
        if ids.ndim != 2 or ids.shape[1] != n or not np.issubdtype(ids.dtype, np.integer):
            raise ValueError(f"expected integer ids [b, {n}], got {ids.dtype} {ids.shape}")
        if ids.size and (ids.min() < 0 or ids.max() >= size):
            raise ValueError(
                f"expected ids in [0, {size}), got {ids.min()} to {ids.max()}: they come from "
                f"another codebook"
            )
        return ids.astype(np.int32)

    def _token_ids(self, texts):
        length, size = self.config.text.context_length, self.config.text.vocab_size
        if isinstance(texts, str) or (len(texts) and isinstance(texts[0], str)):
            if self._text_tokenizer is None:
                hub = self.config.text.tokenizer
                raise ValueError(
                    "expected token ids, got text, and these weights hold no text tokenizer: pass "
                    "load(..., tokenizer=PATH)" + (f" or tokenizer={hub!r}" if hub else "")
                )
            return self._text_tokenizer([texts] if isinstance(texts, str) else list(texts))
        ids = np.asarray(texts)
        if ids.ndim != 2 or ids.shape[1] != length or not np.issubdtype(ids.dtype, np.integer):
            raise ValueError(f"expected token ids [b, {length}], got {ids.dtype} {ids.shape}")
        if ids.size and (ids.min() < 0 or ids.max() >= size):
            raise ValueError(f"expected token ids in [0, {size}), got {ids.min()} to {ids.max()}")
        return ids.astype(np.int32)


def _to_device(array, file):
    """A parameter in float32 on the device; the pages of a mapped file are let go of at once."""
    array = jnp.asarray(array, jnp.float32).block_until_ready()
    if file is not None:
        file.release()
    return array

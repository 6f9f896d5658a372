"""The text encoder that gives a generator the features of captions."""

import functools
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from toklip_jax.api.program import bucket, map_rows, platform_of, precision
from toklip_jax.core.errors import UserError
from toklip_jax.core.home import expand_user
from toklip_jax.data.text import TOKENIZER_FILE, TextTokenizer
from toklip_jax.models.generator.config import GPTConfig
from toklip_jax.models.registry import build_model, family_of
from toklip_jax.nn.config import Compute
from toklip_jax.weights import place_params, read_weights

ROLE = "text_encoder"


class TextEncoder:
    """A text encoder with its parameters and its tokenizer.

    Attributes:
        config: the encoder's sizes.
        params: nested dict of arrays.
    """

    def __init__(
        self,
        path: str | pathlib.Path,
        gpt: GPTConfig,
        *,
        dtype: str = "float32",
        param_dtype: str = "float32",
    ):
        """Reads an encoder for the captions of a generator.

        Args:
            path: a directory with the weights, the Hugging Face hub's or a converted one, and
                `tokenizer.json`.
            gpt: the generator's sizes; they give the length of captions and of their features.

        Raises:
            ValueError: no text encoder's weights, features of another length, or no tokenizer.
            FileNotFoundError: nothing at `path`, or no tokenizer in it.
        """
        weights = read_weights(path)
        family = family_of(weights.config)
        if family.role != ROLE:
            raise UserError(f"expected the weights of a text encoder, got {family.title} in {path}")
        if not gpt.caption_dim:
            raise UserError(f"expected no {ROLE} with a generator of classes, got {path}")
        if weights.config.width != gpt.caption_dim:
            raise UserError(
                f"expected a text encoder with features of {gpt.caption_dim}, as the generator was "
                f"trained with, got {weights.config.width} in {path}"
            )
        folder = expand_user(path)
        folder = folder if folder.is_dir() else folder.parent
        tokenizer = weights.tokenizer_path or folder / TOKENIZER_FILE
        self._tokenizer = TextTokenizer.load(tokenizer, gpt.caption_length)
        if self._tokenizer.vocab_size > weights.config.vocab_size:
            raise UserError(
                f"expected a tokenizer of at most {weights.config.vocab_size} ids in {path}, got "
                f"one of {self._tokenizer.vocab_size}: take the one that the encoder came with"
            )
        self.config = weights.config
        self._model = build_model(self.config, Compute(dtype=dtype, is_scanned=weights.is_scanned))
        self.params = place_params(weights, param_dtype, exact=family.full_precision)

    def token_ids(self, texts: Sequence[str]) -> Int[np.ndarray, "b t"]:
        """Returns the token ids of texts, as long as the generator's captions.

        Raises:
            ValueError: a text is longer.
        """
        return self._tokenizer(list(texts), truncates=False)

    def __call__(
        self, texts: Sequence[str], batch_size: int | None = None
    ) -> tuple[Float[Array, "b t d"], Bool[Array, "b t"]]:
        """Returns the features of texts, float32, and which of them count.

        Args:
            batch_size: how many texts are encoded at a time; None takes all at once.
        """
        ids = self.token_ids(texts)
        size = batch_size or bucket(len(ids), None, platform_of(self.params))
        encode = functools.partial(_encode, self._model, self.params)
        return map_rows(encode, [ids], size)


@functools.partial(jax.jit, static_argnums=0)
def _encode(model: Any, params: Any, token_ids: Any) -> tuple[jax.Array, jax.Array]:
    with jax.default_matmul_precision(precision(model)):
        out = model.apply({"params": params}, token_ids)
    return out.tokens.astype(jnp.float32), out.valid

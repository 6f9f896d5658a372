"""A model that holds the tokenizer of its ids: images to ids and back, and TokLIP's features."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from toklip_jax.api.base import ImageModel
from toklip_jax.api.inputs import Ids, Images, Vectors, are_texts
from toklip_jax.api.program import Method, map_chunks, run_method
from toklip_jax.core.errors import UserError
from toklip_jax.core.fields import check_name
from toklip_jax.data.images import DEFAULT_RESIZE, RESIZES
from toklip_jax.data.text import TextTokenizer
from toklip_jax.models.base import place_size
from toklip_jax.models.generator.config import GeneratorConfig, vq_of
from toklip_jax.nn.config import Compute
from toklip_jax.ops.normalize import l2_normalize


class TokenizedModel(ImageModel):
    """An image model with the tokenizer that its ids are of: a VQ tokenizer, TokLIP, or none.

    Attributes:
        config: the model's sizes; `config.tokenizer` are those of the tokenizer, or None.
    """

    config: GeneratorConfig

    def __init__(
        self,
        config: GeneratorConfig,
        params: dict[str, Any],
        compute: Compute,
        batch_size: int | None = None,
        resize: str = DEFAULT_RESIZE,
        text_tokenizer: TextTokenizer | None = None,
    ):
        super().__init__(config, params, compute, batch_size)
        self._resize = check_name("resize", resize, RESIZES)
        if text_tokenizer is not None:
            text_tokenizer.expect_fits(config.tokenizer.text)
        self._text_tokenizer = text_tokenizer

    def text_features(self, texts: Any) -> Float[Array, "b d"]:
        """Returns TokLIP's normalised features of texts, or of token ids [b, t], float32."""
        self._expect_toklip()
        return l2_normalize(self._call("text_features", self._token_ids(texts)))

    def image_features(self, ids: Any) -> Float[Array, "b d"]:
        """Returns TokLIP's normalised pooled features of ids, float32."""
        self._expect_toklip()
        return l2_normalize(self._call("image_features", ids))

    def prefix_features(self, ids: Any) -> Float[Array, "b d"]:
        """Returns TokLIP's normalised pooled features of the first ids of images, float32.

        Args:
            ids: the first m ids of each image, [b, m] or [b, m, q].
        """
        self._expect_toklip()
        gpt = self.config.gpt
        some = Ids((None, *gpt.ids_shape[1:]), gpt.codebook_sizes)
        ids = some.check(ids)
        places = ids.shape[1]
        if not len(ids) or not 1 <= places <= gpt.num_places:
            raise UserError(
                f"expected from 1 to {gpt.num_places} ids of at least one image, got {ids.shape}"
            )
        padding = [(0, 0), (0, gpt.num_places - places), *[(0, 0)] * (ids.ndim - 2)]
        kind = Ids.of(vq_of(self.config.tokenizer), gpt.grid)
        method = Method("prefix_features", kind, (("counts", (places,)),))
        pad = jnp.pad if isinstance(ids, jax.Array) else np.pad
        padded = self._check(method, pad(ids, padding))
        run = functools.partial(run_method, self.model, self.params, method=method)
        features = map_chunks(run, padded, kind, self.batch_size, self._mesh)
        return l2_normalize(features[:, 0])

    def tokenize(self, images: Any) -> Int[Array, "b n *q"]:
        """Returns ids, int32, of the images that `ImageModel` takes.

        Raises:
            ValueError: the generator was loaded without a tokenizer.
        """
        self._expect_tokenizer()
        return self._call("tokenize", images)

    def detokenize(self, ids: Any) -> Float[Array, "b h w 3"]:
        """Returns images, RGB float32, clipped to [-1, 1].

        Raises:
            ValueError: the generator was loaded without a tokenizer.
        """
        self._expect_tokenizer()
        return self._map(
            "detokenize", ids, lambda chunk: jnp.clip(self._run("detokenize", chunk), -1, 1)
        )

    def _methods(self):
        if self.config.tokenizer is None:
            return {}
        vq, gpt = vq_of(self.config.tokenizer), self.config.gpt
        sides = [side * place for side, place in zip(gpt.grid, place_size(vq), strict=True)]
        ids = Ids.of(vq, gpt.grid)
        methods = {
            "tokenize": Method("tokenize", Images(vq, tuple(sides), self._resize)),
            "detokenize": Method("detokenize", ids),
            "image_features": Method("image_features", ids),
        }
        if text := getattr(self.config.tokenizer, "text", None):
            token_ids = Ids((text.context_length,), (text.vocab_size,), "token ids")
            for name in ("text_features", "text_tokens"):
                methods[name] = Method(name, token_ids)
        return methods

    def _token_ids(self, texts):
        """Token ids of strings; others as they are."""
        if not are_texts(texts):
            return texts
        if self._text_tokenizer is None:
            raise UserError(
                "expected token ids, got text, and these weights hold no text tokenizer: pass "
                "load(..., tokenizer=PATH), or --tokenizer=PATH to a command"
            )
        texts = [texts] if isinstance(texts, str) else list(texts)
        return self._text_tokenizer(texts, truncates=False)

    def _text_features(self, texts, rows):
        """A normalised feature for each row."""
        self._expect_toklip()
        is_float = hasattr(texts, "dtype") and jnp.issubdtype(texts.dtype, jnp.floating)
        if is_float:
            kind = Vectors((self.config.tokenizer.text.embed_dim,), "features of texts")
            features = jnp.asarray(kind.prepare(kind.check(texts)))
            if not np.isfinite(np.asarray(features)).all():
                raise UserError("expected finite features of texts, got NaN or infinity")
        else:
            features = self.text_features(texts)
        if len(features) != rows:
            raise UserError(f"expected a text for each of {rows} conditions, got {len(features)}")
        return features

    def _expect_toklip(self):
        if not hasattr(self.config.tokenizer, "text"):
            raise UserError(
                "expected a generator with TokLIP, whose features are asked for, got one without: "
                "load it with vq=PATH of TokLIP's weights"
            )

    def _expect_tokenizer(self):
        if self.config.tokenizer is None:
            raise UserError(
                "expected a generator with its tokenizer, got one alone, as published files hold "
                "it: load it with vq=PATH, the weights of the VQ tokenizer that it was trained with"
            )

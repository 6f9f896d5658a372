"""TokLIP with its parameters: images to ids, ids to tokens, features and images."""

import dataclasses
import operator
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from toklip_jax.api.base import ImageModel, ids_text
from toklip_jax.api.inputs import Ids, Images, Vectors, are_texts
from toklip_jax.api.program import Method, map_chunks, run_method
from toklip_jax.core.errors import UserError
from toklip_jax.core.fields import check_name
from toklip_jax.data.images import DEFAULT_RESIZE, RESIZES
from toklip_jax.data.text import TextTokenizer
from toklip_jax.models.registry import family_of
from toklip_jax.models.toklip.config import TokLIPConfig
from toklip_jax.models.toklip.model import similarity
from toklip_jax.models.toklip.resize import resize_model
from toklip_jax.nn.config import Compute
from toklip_jax.ops.normalize import l2_normalize
from toklip_jax.weights import Weights
from toklip_jax.weights.quantised import place_model


class Tokenizer(ImageModel):
    """TokLIP with its parameters.

    Each method compiles once for each shape of a batch. Results are JAX arrays. Ids, where taken,
    are integers [b, n] below the codebook's size, or [b, n, q] where a place has q ids, as arrays
    or nested lists; others raise ValueError. See `ImageModel` for the images that are taken, and
    `LoadedModel` for what the methods have in common.

    Attributes:
        config: the model's sizes.
        model: the Linen module.
        params: nested dict of arrays.
        batch_size: how many rows are computed at a time, or None.
    """

    def __init__(
        self,
        config: TokLIPConfig,
        params: dict[str, Any],
        compute: Compute,
        text_tokenizer: TextTokenizer | None = None,
        batch_size: int | None = None,
        resize: str = DEFAULT_RESIZE,
    ):
        super().__init__(config, params, compute, batch_size)
        if text_tokenizer is not None:
            text_tokenizer.expect_fits(config.text)
        self._text_tokenizer = text_tokenizer
        self._resize = check_name("resize", resize, RESIZES)

    def tokenize(self, images: Any) -> Int[Array, "b n *q"]:
        """Returns ids, int32, row by row of the grid.

        Args:
            images: those that `ImageModel` takes: Pillow images, paths, or an array.

        Raises:
            ValueError: another shape, type or range.
            FileNotFoundError: a path at which there is no file.
        """
        return self._call("tokenize", images)

    def encode(self, images: Any) -> Float[Array, "b n c"]:
        """Returns the code vectors of images, float32; gradients pass straight to the pixels.

        The images are those that `tokenize` takes.
        """
        return self._call("encode", images)

    def code_vectors(self, ids: Any) -> Float[Array, "b n c"]:
        """Returns the vectors of ids in the VQ's codebook, float32: ids before meaning."""
        return self._call("code_vectors", ids)

    def semantic_tokens(self, ids: Any) -> Float[Array, "b n d"]:
        """Returns the token encoder's output after the final norm, float32; no pixels needed.

        No gradient passes to the codebook.
        """
        return self._call("semantic_tokens", ids)

    def tokens_from_code_vectors(self, code_vectors: Any) -> Float[Array, "b n d"]:
        """Returns `semantic_tokens` of the ids' code vectors, through which gradients pass."""
        return self._call("tokens_from_code_vectors", code_vectors)

    def detokenize(self, ids: Any) -> Float[Array, "b *size 3"]:
        """Returns images, RGB float32, clipped to [-1, 1]."""

        def function(chunk):
            return jnp.clip(self._run("detokenize", chunk), -1, 1)

        return self._map("detokenize", ids, function)

    def image_features(
        self, images: Any = None, *, ids: Any = None, normalize: bool = True
    ) -> Float[Array, "b d"]:
        """Returns pooled features, float32, of `images` or of their `ids`."""
        if (images is None) == (ids is None):
            raise UserError("expected either images or ids, got both or neither")
        if images is None:
            return self._features("image_features", ids, normalize)

        def function(chunk):
            return _normalised(self._run("image_features", self._run("tokenize", chunk)), normalize)

        return self._map("tokenize", images, function)

    def encode_image(self, images: Any, *, normalize: bool = True) -> Float[Array, "b d"]:
        """Returns `image_features`: an alias under open_clip's name, where the default differs.

        open_clip's does not normalise unless it is told to.
        """
        return self.image_features(images, normalize=normalize)

    def features_from_code_vectors(
        self, code_vectors: Any, *, normalize: bool = True
    ) -> Float[Array, "b d"]:
        """Returns `image_features` of the ids' code vectors, through which gradients pass."""
        return self._features("features_from_code_vectors", code_vectors, normalize)

    def token_features(self, ids: Any, *, normalize: bool = True) -> Float[Array, "b n d"]:
        """Returns each token's own feature, float32, in the space of `text_features`.

        It is what the pool makes of that token alone; its similarity to a text says where in the
        image the text is.
        """
        return self._features("token_features", ids, normalize)

    def prefix_features(
        self, ids: Any, counts: Any, *, normalize: bool = True
    ) -> Float[Array, "b k d"]:
        """Returns the pooled features that the first ids of images give, float32.

        Args:
            counts: numbers of ids; they are compiled in, so pass the same ones every time.

        Raises:
            ValueError: a count out of range, or a token encoder that isn't causal.
        """
        kind = self._methods()["image_features"].inputs
        try:
            counts = tuple(map(operator.index, counts))
        except TypeError as error:
            raise UserError(
                f"expected counts as whole numbers, as (1, 8), got {counts!r}"
            ) from error
        method = Method("prefix_features", kind, (("counts", counts),))

        def function(chunk):
            return _normalised(run_method(self.model, self.params, chunk, method), normalize)

        return map_chunks(function, self._check(method, ids), kind, self.batch_size, self._mesh)

    def text_features(self, texts: Any, *, normalize: bool = True) -> Float[Array, "b d"]:
        """Returns features, float32, of texts (a list of strings, or one) or of token ids [b, t].

        Raises:
            ValueError: texts without a tokenizer, or token ids of another shape or range.
        """
        return self._features("text_features", self._token_ids(texts), normalize)

    def encode_text(self, texts: Any, *, normalize: bool = True) -> Float[Array, "b d"]:
        """Returns `text_features`: an alias under open_clip's name, as `encode_image`."""
        return self.text_features(texts, normalize=normalize)

    def similarity(self, image_features: Any, text_features: Any) -> Float[Array, "b t"]:
        """Returns the logits of normalised features, scale and bias included, float32.

        Args:
            image_features: floats [b, d].
            text_features: floats [t, d].

        Raises:
            ValueError: another shape or type.
        """
        kind = Vectors((self.config.text.embed_dim,), "features")
        images, texts = (kind.prepare(kind.check(x)) for x in (image_features, text_features))
        scale, bias = self.params["logit_scale"], self.params.get("logit_bias")
        with jax.default_matmul_precision("highest"):
            return similarity(jnp.asarray(images), jnp.asarray(texts), scale, bias)

    @classmethod
    def from_weights(
        cls,
        weights: Weights,
        *,
        dtype: str = "float32",
        param_dtype: str = "float32",
        mesh: Mesh | None = None,
        batch_size: int | None = None,
        image_size: int | tuple[int, ...] | None = None,
        resize: str = DEFAULT_RESIZE,
        tokenizer: str | pathlib.Path | None = None,
    ) -> "Tokenizer":
        """Returns the tokenizer of weights in memory; arguments as `load`'s."""
        compute = Compute(dtype=dtype, is_scanned=weights.is_scanned)
        if image_size is not None:
            config, params = resize_model(weights.config, weights.params, image_size)
            weights = dataclasses.replace(weights, config=config, params=params)
        config, family = weights.config, family_of(weights.config)
        params = place_model(weights, family, param_dtype, mesh)
        path = tokenizer or weights.tokenizer_path
        text = path and TextTokenizer.load(path, config.text.context_length)
        return cls(config, params, compute, text, batch_size=batch_size, resize=resize)

    def _sizes(self):
        vision = self.config.vision
        size = " x ".join(map(str, vision.size))
        ids = ids_text(self.config.vq, vision.num_tokens)
        return [f"{size} px", ids, f"width {vision.width}"]

    def _features(self, method, inputs, normalize):
        return self._map(
            method, inputs, lambda chunk: _normalised(self._run(method, chunk), normalize)
        )

    def _methods(self):
        vq, vision, text = self.config.vq, self.config.vision, self.config.text
        images, ids = Images(vq, vision.size, self._resize), Ids.of(vq, vision.grid)
        vectors = Vectors((vision.num_tokens, vq.code_dim), "code vectors")
        kinds = {
            "tokenize": images,
            "encode": images,
            "code_vectors": ids,
            "semantic_tokens": ids,
            "detokenize": ids,
            "image_features": ids,
            "token_features": ids,
            "tokens_from_code_vectors": vectors,
            "features_from_code_vectors": vectors,
            "text_features": Ids((text.context_length,), (text.vocab_size,), "token ids"),
        }
        return {name: Method(name, kind) for name, kind in kinds.items()}

    def _token_ids(self, texts):
        if not are_texts(texts):
            return texts
        if self._text_tokenizer is None:
            hub = self.config.text.tokenizer
            raise UserError(
                "expected token ids, got text, and these weights hold no text tokenizer: pass "
                "load(..., tokenizer=PATH)" + (f" or tokenizer={hub!r}" if hub else "")
            )
        return self._text_tokenizer([texts] if isinstance(texts, str) else list(texts))


def _normalised(features, is_wanted):
    return l2_normalize(features) if is_wanted else features

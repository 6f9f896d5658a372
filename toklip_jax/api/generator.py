"""The image generator: ids, and with a tokenizer images, drawn for classes or captions."""

import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from toklip_jax.api.base import LoadedModel
from toklip_jax.api.best_of import Chosen, choose
from toklip_jax.api.inputs import Ids, Images, Vectors
from toklip_jax.api.program import Method, run_method
from toklip_jax.core.errors import UserError
from toklip_jax.core.fields import check_name, check_type
from toklip_jax.data.images import DEFAULT_RESIZE, RESIZES
from toklip_jax.data.text import TextTokenizer
from toklip_jax.decoding import Sampling, row_keys
from toklip_jax.decoding.images import sample_images
from toklip_jax.models.base import place_size
from toklip_jax.models.generator.config import GeneratorConfig, vq_of
from toklip_jax.models.generator.model import GeneratorModel, left_padded
from toklip_jax.models.registry import family_of
from toklip_jax.nn.config import Compute
from toklip_jax.ops.normalize import l2_normalize
from toklip_jax.parallel.sharding import BATCH_AXES, batch_sharding, to_host
from toklip_jax.weights import Weights, place_params


class Generator(LoadedModel):
    """An autoregressive image generator with its parameters, and perhaps its tokenizer.

    Conditions are `classes`, integers [b], or `captions`, features of a text encoder [b, p, c] with
    `valid`, bool [b, p], for those that count; they are shifted to the end. Batches may have any
    size: they are padded to a power of two, or taken `batch_size` at a time. What is drawn for a
    sample depends on `key`, its index and its condition alone, not on the batch or on how it is
    sharded.

    Attributes:
        config: the model's sizes; `config.gpt` are the generator's, `config.tokenizer` those of the
            tokenizer or None.
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

    def logits(
        self, ids: Any, *, classes: Any = None, captions: Any = None, valid: Any = None
    ) -> Float[Array, "b s v"]:
        """Returns the logits of every position, computed in parallel, float32.

        The condition has p positions (one for a class). Position p - 1 + i gives the logits of id
        i; the last gives those of the id that would follow. Where a place has q ids, it is a tuple
        of q arrays [b, n, v], and the i-th row of one gives the logits of place i.

        Args:
            ids: the first n ids of each image, all or fewer.
        """
        gpt = self.config.gpt
        kind = Ids(
            (None, *gpt.ids_shape[1:]),
            gpt.codebook_sizes,
            remedy=": they come from another codebook",
        )
        ids = kind.prepare(kind.check(ids))
        if not 0 < ids.shape[1] <= gpt.num_places:
            raise UserError(f"expected from 1 to {gpt.num_places} ids an image, got {ids.shape[1]}")
        condition, valid = self._condition(classes, captions, valid)
        if len(condition) != len(ids):
            raise UserError(
                f"expected a condition for each of {len(ids)} images, got {len(condition)}"
            )
        return _logits(self.model, self.params, ids, condition, valid)

    def sample(
        self,
        *,
        classes: Any = None,
        captions: Any = None,
        valid: Any = None,
        key: Any = 0,
        first_index: int = 0,
        negative_class: int | None = None,
        temperature: float | int = 1.0,
        top_k: int = 0,
        top_p: float | int = 1.0,
        cfg_scale: float | int = 1.0,
        cfg_interval: int = -1,
    ) -> Int[Array, "b n *q"]:
        """Returns the ids of an image for each condition, int32.

        Args:
            key: a seed, or a key of `jax.random.key`.
            first_index: index of the first sample; those of a long run continue from one call to
                the next, so that each is drawn as in one call.
            negative_class: the class that guidance leads away from; by default the null class.
            temperature: divides logits; 0 takes the most probable id.
            top_k: how many values may be drawn; 0 for all.
            top_p: the share of the probability that they have together; 1 for all.
            cfg_scale: scale of classifier-free guidance; 1 or less uses none.
            cfg_interval: only ids 0 to cfg_interval + 1 are guided; -1 guides all.

        Raises:
            ValueError: a class out of range, captions of another shape, or neither or both.
        """
        sampling = Sampling(temperature, top_k, top_p, cfg_scale, cfg_interval)
        condition, valid = self._condition(classes, captions, valid)
        return self._sample(condition, valid, None, key, first_index, negative_class, sampling)

    def complete(
        self,
        ids: Any,
        *,
        keep: int,
        classes: Any = None,
        captions: Any = None,
        valid: Any = None,
        key: Any = 0,
        first_index: int = 0,
        negative_class: int | None = None,
        temperature: float | int = 1.0,
        top_k: int = 0,
        top_p: float | int = 1.0,
        cfg_scale: float | int = 1.0,
        cfg_interval: int = -1,
    ) -> Int[Array, "b n *q"]:
        """Returns ids whose first `keep` are given and whose others are drawn, int32.

        Args:
            ids: those of an image for each condition; what follows the first `keep` is not looked
                at. Without a condition the null class is taken.
            keep: ids that stay, in row-major order: half of the places keep an image's upper half.

        The other arguments are those of `sample`.
        """
        gpt = self.config.gpt
        check_type(keep, int, "keep")
        if not 0 <= keep < gpt.num_places:
            raise UserError(f"expected keep in [0, {gpt.num_places - 1}] ids, got {keep}")
        kind = Ids(gpt.ids_shape, gpt.codebook_sizes, remedy=": they come from another codebook")
        ids = jnp.asarray(kind.prepare(kind.check(ids)))
        if classes is None and captions is None and gpt.num_classes:
            classes = np.full(len(ids), gpt.null_class)
        sampling = Sampling(temperature, top_k, top_p, cfg_scale, cfg_interval)
        condition, valid = self._condition(classes, captions, valid)
        if len(condition) != len(ids):
            raise UserError(
                f"expected a condition for each of {len(ids)} images, got {len(condition)}"
            )
        kept = ids[:, :keep] if keep else None
        return self._sample(condition, valid, kept, key, first_index, negative_class, sampling)

    def best_of(
        self,
        texts: Any,
        *,
        num: int = 8,
        drop_at: int = 0,
        classes: Any = None,
        captions: Any = None,
        valid: Any = None,
        key: Any = 0,
        first_index: int = 0,
        negative_class: int | None = None,
        temperature: float | int = 1.0,
        top_k: int = 0,
        top_p: float | int = 1.0,
        cfg_scale: float | int = 1.0,
        cfg_interval: int = -1,
    ) -> "Chosen":
        """Draws several candidates for each condition, and returns that which fits its text best.

        TokLIP scores ids: no candidate is decoded. The score is the inner product of its
        normalised pooled feature and the text's.

        Args:
            texts: a text for each condition, strings or token ids [b, t]; or features, float
                [b, d], normalised.
            num: candidates of a condition. Those of sample i have the indices i * num, ...
            drop_at: places after which the worse half of the candidates is given up, by the score
                of what is drawn until then; 0 draws all to the end.

        The other arguments are those of `sample`.

        Raises:
            ValueError: the generator was loaded without TokLIP.
        """
        sampling = Sampling(temperature, top_k, top_p, cfg_scale, cfg_interval)
        condition, valid = self._condition(classes, captions, valid)
        wanted = self._text_features(texts, len(condition))
        options = key, negative_class, sampling
        return choose(self, condition, valid, wanted, num, drop_at, first_index, options)

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
        ids = np.asarray(ids)
        places = ids.shape[1] if ids.ndim > 1 else 0
        if not 1 <= places <= gpt.num_places:
            raise UserError(f"expected from 1 to {gpt.num_places} ids an image, got {places}")
        padding = [(0, 0), (0, gpt.num_places - places), *[(0, 0)] * (ids.ndim - 2)]
        kind = Ids.of(vq_of(self.config.tokenizer), gpt.grid)
        method = Method("prefix_features", kind, (("counts", (places,)),))
        padded = self._check(method, np.pad(ids, padding))
        features = run_method(self.model, self.params, padded, method)
        return l2_normalize(features[:, 0])

    def tokenize(self, images: Any) -> Int[Array, "b n *q"]:
        """Returns ids, int32, of the images that `VQTokenizer.tokenize` takes.

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
    ) -> "Generator":
        """Returns the generator of weights in memory; arguments as `load`'s.

        Raises:
            ValueError: arguments that a generator has no use for.
        """
        if image_size is not None:
            raise UserError(
                f"expected no image_size with a generator, whose grid is trained, got {image_size}"
            )
        text_config = getattr(weights.config.tokenizer, "text", None)
        if tokenizer is not None and text_config is None:
            raise UserError(
                f"expected no text tokenizer with a generator without TokLIP, which reads no "
                f"texts, got {tokenizer}; vq=... names the VQ tokenizer"
            )
        family = family_of(weights.config)
        compute = Compute(dtype=dtype, is_scanned=weights.is_scanned)
        params = place_params(
            weights, param_dtype, mesh, rules=family.sharding, exact=family.full_precision
        )
        path = text_config and (tokenizer or weights.tokenizer_path)
        text = path and TextTokenizer.load(path, text_config.context_length)
        return cls(weights.config, params, compute, batch_size, resize, text)

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

    def _condition(self, classes, captions, valid):
        """The condition and which of its rows count, checked; at least one."""
        gpt = self.config.gpt
        name = "captions" if gpt.caption_dim else "classes"
        given = {"classes": classes, "captions": captions}
        other = "classes" if gpt.caption_dim else "captions"
        if given[other] is not None or given[name] is None:
            raise UserError(f"expected {name}=... with this generator, and no {other}")
        if not gpt.caption_dim:
            if valid is not None:
                raise UserError("expected valid with captions only, got it with classes")
            return _classes(classes, gpt.num_classes), None
        if isinstance(captions, list | tuple) and captions and isinstance(captions[0], str):
            return self._text_tokens(captions), None
        kind = Vectors((gpt.caption_length, gpt.caption_dim), "captions' features")
        captions = kind.prepare(kind.check(captions))
        if valid is not None:
            valid = np.asarray(valid)
            if valid.shape != captions.shape[:2] or valid.dtype != bool:
                raise UserError(
                    f"expected valid as bool {list(captions.shape[:2])}, got {valid.dtype} "
                    f"{list(valid.shape)}"
                )
            captions, valid = left_padded(jnp.asarray(captions), jnp.asarray(valid))
        return captions, valid

    def _text_tokens(self, texts):
        """The condition of texts, where it is the tokens of TokLIP's own text tower."""
        text, gpt = getattr(self.config.tokenizer, "text", None), self.config.gpt
        sizes = (gpt.caption_length, gpt.caption_dim)
        if text is None or (text.context_length, text.width) != sizes:
            raise UserError(
                f"expected captions as features [b, {sizes[0]}, {sizes[1]}] of the text encoder "
                f"that the generator was trained with, got text: encode it first"
            )
        return self._call("text_tokens", self._token_ids(texts))

    def _token_ids(self, texts):
        """Token ids of strings; others as they are."""
        texts = [texts] if isinstance(texts, str) else texts
        if not (isinstance(texts, list | tuple) and texts and isinstance(texts[0], str)):
            return texts
        if self._text_tokenizer is None:
            raise UserError(
                "expected token ids, got text, and these weights hold no text tokenizer: pass "
                "load(..., tokenizer=PATH)"
            )
        return self._text_tokenizer(list(texts))

    def _text_features(self, texts, rows):
        """A normalised feature for each row."""
        self._expect_toklip()
        is_float = hasattr(texts, "dtype") and jnp.issubdtype(texts.dtype, jnp.floating)
        features = jnp.asarray(texts) if is_float else self.text_features(texts)
        if len(features) != rows:
            raise UserError(f"expected a text for each of {rows} conditions, got {len(features)}")
        return features

    def _expect_toklip(self):
        if not hasattr(self.config.tokenizer, "text"):
            raise UserError(
                "expected a generator with TokLIP, whose features are asked for, got one without: "
                "load it with vq=PATH of TokLIP's weights"
            )

    def _null(self, condition, negative_class):
        """The null condition of each row."""
        gpt = self.config.gpt
        if gpt.caption_dim:
            if negative_class is not None:
                raise UserError("expected no negative_class with captions, got one")
            uncond = self.params["gpt"]["condition"]["uncond"]
            return jnp.broadcast_to(uncond.astype(condition.dtype), condition.shape)
        chosen = gpt.null_class if negative_class is None else negative_class
        return _classes(np.full(len(condition), chosen), gpt.num_classes)

    def _sample(
        self, condition, valid, kept, key, first_index, negative_class, sampling, last=None
    ):
        """Draws in chunks; every chunk has the same number of rows, the last of them repeated."""
        if negative_class is not None and not sampling.is_guided:
            raise UserError(
                f"expected a cfg_scale above 1 with negative_class, which only guidance uses, got "
                f"{sampling.cfg_scale}"
            )
        null = self._null(condition, negative_class) if sampling.is_guided else None
        keys = row_keys(as_key(key), jnp.arange(first_index, first_index + len(condition)))
        size = self.batch_size or _bucket(len(condition), self._mesh)
        out = []
        for start in range(0, len(condition), size):
            rows = np.minimum(np.arange(start, start + size), len(condition) - 1)
            chunk = [None if x is None else x[rows] for x in (condition, keys, null, valid, kept)]
            chunk = [self._put(x) for x in chunk]
            ids = _draw(self.model, sampling, self._mesh, last, self.params, *chunk)
            out.append(to_host(ids)[: len(condition) - start])
        return jnp.asarray(np.concatenate(out))

    def _put(self, x):
        if x is None or self._mesh is None:
            return x
        ways = self._mesh.shape["data"] * self._mesh.shape["fsdp"]
        rows = batch_sharding(self._mesh) if len(x) % ways == 0 else NamedSharding(self._mesh, P())
        return jax.device_put(x, rows)

    def _expect_tokenizer(self):
        if self.config.tokenizer is None:
            raise UserError(
                "expected a generator with its tokenizer, got one alone, as published files hold "
                "it: load it with vq=PATH, the weights of the VQ tokenizer that it was trained with"
            )


def as_key(key: Any) -> jax.Array:
    """Returns a key of a seed, or the key itself."""
    if isinstance(key, int | np.integer):
        return jax.random.key(int(key))
    if isinstance(key, jax.Array) and jax.dtypes.issubdtype(key.dtype, jax.dtypes.prng_key):
        return key
    raise UserError(f"expected a seed or a key of jax.random.key, got {key!r}")


@functools.partial(jax.jit, static_argnums=0)
def _logits(model: GeneratorModel, params, ids, condition, valid):
    with jax.default_matmul_precision(_precision(model)):
        return model.apply({"params": params}, ids, condition, valid, method="logits")


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _draw(model, sampling, mesh, last, params, condition, keys, null, valid, kept):
    others = {"null": null, "valid": valid, "kept": kept, "last": last}

    def run():
        with jax.default_matmul_precision(_precision(model)):
            return sample_images(model, params, condition, keys, sampling, **others)

    if mesh is None:
        return run()
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        return jax.lax.with_sharding_constraint(run(), P(BATCH_AXES))


def _precision(model):
    return "highest" if model.compute.dtype == "float32" else None


def _classes(classes, num_classes):
    """Class ids, int32 [b], checked: those of the model, or the null class after them."""
    array = np.asarray(classes)
    if array.ndim != 1 or array.dtype.kind not in "iu" or not array.size:
        raise UserError(f"expected integer classes [b], got {array.dtype} {list(array.shape)}")
    if not (array.min() >= 0 and array.max() <= num_classes):
        raise UserError(
            f"expected classes from 0 to {num_classes - 1}, or {num_classes} for none, got "
            f"{array.min()} to {array.max()}"
        )
    return array.astype(np.int32)


def _bucket(rows, mesh):
    """The next power of two, and a multiple of the devices that share a batch."""
    size = 1 << (rows - 1).bit_length()
    ways = 1 if mesh is None else mesh.shape["data"] * mesh.shape["fsdp"]
    return -(-size // ways) * ways

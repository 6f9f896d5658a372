"""The image generator: ids, and with a tokenizer images, drawn for classes or captions."""

import functools
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from toklip_jax.api.base import ImageModel
from toklip_jax.api.best_of import Chosen, choose
from toklip_jax.api.conditions import Condition, check_condition, null_condition
from toklip_jax.api.drawing import (
    Draws,
    bucket,
    draw_images,
    first_drawn,
    mean_nats,
    next_drawn,
    parallel_logits,
    read_sampling,
    whole_number,
)
from toklip_jax.api.inputs import Ids, Images, Vectors
from toklip_jax.api.program import (
    Method,
    is_traced,
    is_whole,
    map_chunks,
    map_rows,
    platform_of,
    run_method,
)
from toklip_jax.api.text_encoder import TextEncoder
from toklip_jax.core.errors import UserError
from toklip_jax.core.fields import check_name
from toklip_jax.data.images import DEFAULT_RESIZE, RESIZES
from toklip_jax.data.text import TextTokenizer
from toklip_jax.decoding import row_keys
from toklip_jax.models.base import place_size
from toklip_jax.models.generator.config import GeneratorConfig, vq_of
from toklip_jax.models.registry import family_of
from toklip_jax.nn.config import Compute
from toklip_jax.ops.normalize import l2_normalize
from toklip_jax.parallel.sharding import batch_sharding
from toklip_jax.weights import Weights
from toklip_jax.weights.quantised import INT8, place_model


class Generator(ImageModel):
    """An autoregressive image generator with its parameters, and perhaps its tokenizer.

    Conditions are `classes`, integers [b], or `captions`, features of a text encoder [b, p, c] with
    `valid`, bool [b, p], for those that count; they are shifted to the end. With the text encoder,
    or TokLIP's own text tower in its place, captions may be strings. Batches may have any
    size: they are padded to a power of two, or taken `batch_size` at a time. What is drawn for a
    sample depends on `key`, its index and its condition alone, not on the batch or on how it is
    sharded. Conditions and draws are the host's: to trace sampling, use `decoding.images`.

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
        text_encoder: TextEncoder | None = None,
    ):
        super().__init__(config, params, compute, batch_size)
        self._text_encoder = text_encoder
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
        ids = self._first_ids("logits", ids)
        condition = self._condition(classes, captions, valid, len(ids))
        return self._map_images(parallel_logits, ids, condition)

    def nats_per_id(
        self, ids: Any, *, classes: Any = None, captions: Any = None, valid: Any = None
    ) -> Float[Array, " b"]:
        """Returns the mean of -log p(id | ids before it, condition) over each image's ids, nats.

        Args:
            ids: the first n ids of each image, all or fewer.
        """
        ids = self._first_ids("nats_per_id", ids)
        condition = self._condition(classes, captions, valid, len(ids))
        return self._map_images(mean_nats, ids, condition)

    def sample(
        self,
        *,
        classes: Any = None,
        captions: Any = None,
        valid: Any = None,
        key: Any = 0,
        first_index: Any = 0,
        negative_class: Any = None,
        **sampling: Any,
    ) -> Int[Array, "b n *q"]:
        """Returns the ids of an image for each condition, int32.

        Args:
            key: a seed, or a key of `jax.random.key`.
            first_index: index of the first sample; those of a long run continue from one call to
                the next, so that each is drawn as in one call.
            negative_class: the class that guidance leads away from; by default the null class.
            **sampling: how ids are drawn, the fields of `decoding.Sampling`: `temperature` (0 is
                greedy), `top_k`, `top_p`, `cfg_scale` and `cfg_interval`.

        Raises:
            ValueError: a class out of range, captions of another shape, or neither or both; an
                unknown or wrong setting.
        """
        condition = self._condition(classes, captions, valid)
        draws = Draws(key, first_index, negative_class, read_sampling(sampling))
        return self._draw(condition, None, draws)

    def complete(
        self,
        ids: Any,
        *,
        keep: Any,
        classes: Any = None,
        captions: Any = None,
        valid: Any = None,
        key: Any = 0,
        first_index: Any = 0,
        negative_class: Any = None,
        **sampling: Any,
    ) -> Int[Array, "b n *q"]:
        """Returns ids whose first `keep` are given and whose others are drawn, int32.

        Args:
            ids: those of an image for each condition, [b, n] or [b, n, q]; those after the first
                `keep` may be any of the codebook. Without a condition the null class is taken.
            keep: ids that stay, in row-major order: half of the places keep an image's upper half.

        The other arguments are those of `sample`.
        """
        condition, kept = self._kept(ids, keep, classes, captions, valid)
        draws = Draws(key, first_index, negative_class, read_sampling(sampling))
        return self._draw(condition, kept, draws)

    def stream(
        self,
        *,
        ids: Any = None,
        keep: Any = 0,
        classes: Any = None,
        captions: Any = None,
        valid: Any = None,
        key: Any = 0,
        first_index: Any = 0,
        negative_class: Any = None,
        **sampling: Any,
    ) -> Iterator[Int[Array, "b *q"]]:
        """Returns an iterator over the ids of one place after another, each as soon as it is drawn.

        They are those that `sample` draws, or with `ids` and `keep` those that `complete` does,
        without the ones that stay. The arguments are those of these two.
        """
        if ids is None:
            if keep != 0:
                raise UserError(
                    f"expected ids with keep={keep!r}, which says how many of them stay"
                )
            condition, kept = self._condition(classes, captions, valid), None
        else:
            condition, kept = self._kept(ids, keep, classes, captions, valid)
        draws = Draws(key, first_index, negative_class, read_sampling(sampling))
        return self._places(condition, kept, draws)

    def best_of(
        self,
        texts: Any,
        *,
        num: Any = 8,
        drop_at: Any = 0,
        classes: Any = None,
        captions: Any = None,
        valid: Any = None,
        key: Any = 0,
        first_index: Any = 0,
        negative_class: Any = None,
        **sampling: Any,
    ) -> Chosen:
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
        condition = self._condition(classes, captions, valid)
        wanted = self._text_features(texts, len(condition.rows))
        draws = Draws(key, first_index, negative_class, read_sampling(sampling))
        return choose(self, condition, wanted, draws, num=num, drop_at=drop_at)

    def token_ids(self, texts: str | Sequence[str]) -> Int[np.ndarray, "b t"]:
        """Returns the token ids of texts that are conditions, or that candidates are compared with.

        Args:
            texts: one or several.

        Raises:
            ValueError: weights without a text tower that reads them, or without a text tokenizer;
                a text that is too long.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        if self.config.gpt.caption_dim and self._text_encoder is not None:
            return self._text_encoder.token_ids(texts)
        if self.config.gpt.caption_dim:
            self._expect_own_captions()
        else:
            self._expect_toklip()
        return np.asarray(self._token_ids(texts))

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
        text_encoder: str | pathlib.Path | None = None,
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
        params = place_model(weights, family, param_dtype, mesh)
        path = text_config and (tokenizer or weights.tokenizer_path)
        text = path and TextTokenizer.load(path, text_config.context_length)
        encoder = None
        if text_encoder is not None:
            kept = "float32" if param_dtype == INT8 else param_dtype
            types = {"dtype": dtype, "param_dtype": kept}
            encoder = TextEncoder(text_encoder, weights.config.gpt, **types)
        return cls(weights.config, params, compute, batch_size, resize, text, encoder)

    def _sizes(self):
        gpt = self.config.gpt
        codes = " and ".join(f"{size:,}" for size in sorted(set(gpt.codebook_sizes)))
        condition = f"{gpt.num_classes} classes" if gpt.num_classes else "captions"
        return [condition, f"{gpt.num_places:,} ids of {codes}", f"width {gpt.width}"]

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

    def _first_ids(self, name, ids):
        """The first ids of each image, some or all, checked."""
        gpt = self.config.gpt
        kind = Ids(
            (None, *gpt.ids_shape[1:]),
            gpt.codebook_sizes,
            remedy=": they come from another codebook",
        )
        ids = jnp.asarray(kind.prepare(self._check(Method(name, kind), ids)))
        if not 0 < ids.shape[1] <= gpt.num_places:
            raise UserError(f"expected from 1 to {gpt.num_places} ids an image, got {ids.shape[1]}")
        return ids

    def _condition(self, classes, captions, valid, rows=None) -> Condition:
        """The condition, checked; one for each of `rows` images, if that is known."""
        gpt = self.config.gpt
        captions = [captions] if isinstance(captions, str) else captions
        is_text = isinstance(captions, list | tuple) and captions and isinstance(captions[0], str)
        if is_text and gpt.caption_dim:
            if valid is not None:
                raise UserError("expected valid with captions' features only, got it with texts")
            condition = self._text_condition(captions)
        else:
            condition = check_condition(gpt, classes, captions, valid)
        if rows not in (None, len(condition.rows)):
            raise UserError(
                f"expected a condition for each of {rows} images, got {len(condition.rows)}"
            )
        return condition

    def _text_condition(self, texts):
        """The condition of texts: tokens of the text encoder, or of TokLIP's own text tower."""
        if self._text_encoder is not None:
            features = self._text_encoder(texts, self.batch_size)
            return check_condition(self.config.gpt, None, *features)
        self._expect_own_captions()
        return Condition(self._call("text_tokens", self._token_ids(texts)))

    def _kept(self, ids, keep, classes, captions, valid):
        """The condition of images that are completed, and their ids that stay, or None."""
        gpt = self.config.gpt
        keep = whole_number(keep, "keep")
        if not 0 <= keep < gpt.num_places:
            raise UserError(f"expected keep in [0, {gpt.num_places - 1}] ids, got {keep}")
        kind = Ids(gpt.ids_shape, gpt.codebook_sizes, remedy=": they come from another codebook")
        ids = jnp.asarray(kind.prepare(self._check(Method("complete", kind), ids)))
        if classes is None and captions is None and gpt.num_classes:
            classes = np.full(len(ids), gpt.null_class)
        condition = self._condition(classes, captions, valid, len(ids))
        return condition, ids[:, :keep] if keep else None

    def _expect_own_captions(self):
        """Raises ValueError where captions are another encoder's features, or there is none."""
        text, gpt = getattr(self.config.tokenizer, "text", None), self.config.gpt
        sizes = (gpt.caption_length, gpt.caption_dim)
        if text is None or (text.context_length, text.width) != sizes:
            raise UserError(
                f"expected captions as features [b, {sizes[0]}, {sizes[1]}] of the text encoder "
                f"that the generator was trained with, got text: load it with text_encoder=PATH"
            )

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
        return self._text_tokenizer(list(texts), truncates=False)

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

    def _draw(self, condition, kept, draws, *, numbers=None, last=None):
        """Draws in chunks; rows have the numbers 0, 1, ... from `first_index` on unless given."""
        static = self.model, draws.sampling, self._mesh, last
        draw = functools.partial(draw_images, *static, self.params)
        return self._map_rows(draw, *self._drawn_from(condition, kept, draws, numbers))

    def _places(self, condition, kept, draws):
        """Yields the ids of each place, of all images at once; their rows are padded."""
        count, static = len(condition.rows), (self.model, draws.sampling, self._mesh)
        rows = np.minimum(np.arange(bucket(count, self._mesh, platform_of(self.params))), count - 1)
        whole = self._drawn_from(condition, kept, draws)
        placed = [None if x is None else self._put(x[rows]) for x in whole]
        first = 0 if kept is None else kept.shape[1]
        drawing, keys = first_drawn(*static, self.params, *placed), placed[1]
        yield drawing.ids[:count]
        for place in range(first + 1, self.config.gpt.num_places):
            drawing = next_drawn(*static, self.params, drawing, np.int32(place), keys)
            yield drawing.ids[:count]

    def _drawn_from(self, condition, kept, draws, numbers=None):
        """What images are drawn from: condition, keys, null condition, what counts, kept ids."""
        gpt, null = self.config.gpt, None
        if draws.sampling.is_guided:
            uncond = self.params["gpt"]["condition"].get("uncond")
            null = null_condition(gpt, condition.rows, uncond, draws.negative_class)
        numbers = jnp.arange(len(condition.rows)) if numbers is None else numbers
        keys = row_keys(draws.key, draws.first_index + numbers)
        return condition.rows, keys, null, condition.valid, kept

    def _map_images(self, function, ids, condition):
        """A function of the model, its parameters, ids and conditions: in chunks, or traced."""
        of_rows = functools.partial(function, self.model, self.params)
        if is_whole(ids) or is_traced(self.params):
            return of_rows(ids, *condition)
        return self._map_rows(of_rows, ids, *condition)

    def _map_rows(self, function, *arrays):
        size = self.batch_size or bucket(len(arrays[0]), self._mesh, platform_of(self.params))
        return map_rows(function, arrays, size, self._put)

    def _put(self, x):
        if self._mesh is None:
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

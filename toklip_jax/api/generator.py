"""The image generator: ids, and with a tokenizer images, drawn for classes or captions."""

import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from toklip_jax.api.best_of import Chosen, choose
from toklip_jax.api.conditions import Condition, check_condition
from toklip_jax.api.drawing import ImageDrawer, mean_nats, parallel_logits
from toklip_jax.api.inputs import Ids, are_texts
from toklip_jax.api.program import Method
from toklip_jax.api.settings import read_draws, whole_number
from toklip_jax.api.text_encoder import TextEncoder
from toklip_jax.api.tokenized import TokenizedModel
from toklip_jax.core.errors import UserError
from toklip_jax.data.images import DEFAULT_RESIZE
from toklip_jax.data.text import TextTokenizer
from toklip_jax.models.generator.config import GeneratorConfig
from toklip_jax.models.registry import family_of
from toklip_jax.nn.config import Compute
from toklip_jax.weights import Weights
from toklip_jax.weights.quantised import INT8, place_model


class Generator(TokenizedModel):
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
        super().__init__(config, params, compute, batch_size, resize, text_tokenizer)
        self._text_encoder = text_encoder

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
        return self._drawer.score(parallel_logits, ids, condition)

    def nats_per_id(
        self, ids: Any, *, classes: Any = None, captions: Any = None, valid: Any = None
    ) -> Float[Array, " b"]:
        """Returns the mean of -log p(id | ids before it, condition) over each image's ids, nats.

        Args:
            ids: the first n ids of each image, all or fewer.
        """
        ids = self._first_ids("nats_per_id", ids)
        condition = self._condition(classes, captions, valid, len(ids))
        return self._drawer.score(mean_nats, ids, condition)

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
        draws = read_draws(key, first_index, negative_class, sampling)
        condition = self._condition(classes, captions, valid)
        return self._drawer.draw(condition, None, draws)

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
        draws = read_draws(key, first_index, negative_class, sampling)
        condition, kept = self._kept(ids, keep, classes, captions, valid)
        return self._drawer.draw(condition, kept, draws)

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
        draws = read_draws(key, first_index, negative_class, sampling)
        if ids is None:
            if keep != 0:
                raise UserError(
                    f"expected ids with keep={keep!r}, which says how many of them stay"
                )
            condition, kept = self._condition(classes, captions, valid), None
        else:
            condition, kept = self._kept(ids, keep, classes, captions, valid)
        return self._drawer.places(condition, kept, draws)

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
        draws = read_draws(key, first_index, negative_class, sampling)
        condition = self._condition(classes, captions, valid)
        wanted = self._text_features(texts, len(condition.rows))
        return choose(self, self._drawer, condition, wanted, draws, num=num, drop_at=drop_at)

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

    @property
    def _drawer(self):
        return ImageDrawer(self.model, self.params, self._mesh, self.batch_size)

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
        if isinstance(captions, list | tuple) and are_texts(captions) and gpt.caption_dim:
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

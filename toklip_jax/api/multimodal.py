"""The multimodal language model: answers to questions about images, and images of texts."""

import functools
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from toklip_jax.api.answers import answers, drawn_images, expect_two_ways, stream_answer
from toklip_jax.api.base import ImageModel, ids_text
from toklip_jax.api.chat import stop_ids_in
from toklip_jax.api.conversing import (
    Prompting,
    expect_texts,
    find_template,
    find_tokenizer,
    group_images,
    pieces,
    resizable,
)
from toklip_jax.api.inputs import Ids, Images
from toklip_jax.api.program import Method, bucket, map_rows, platform_of
from toklip_jax.api.prompts import padded_length
from toklip_jax.api.settings import as_key, read_answer_sampling, read_sampling, whole_number
from toklip_jax.core.errors import UserError
from toklip_jax.core.home import expand_user
from toklip_jax.data.conversations import Template
from toklip_jax.data.images import RESIZES
from toklip_jax.decoding import row_keys
from toklip_jax.models.base import place_size
from toklip_jax.models.multimodal.config import PIXELS, MultimodalConfig
from toklip_jax.models.registry import family_of
from toklip_jax.nn.config import Compute
from toklip_jax.parallel.sharding import to_host
from toklip_jax.weights import Weights
from toklip_jax.weights.base import files_beside
from toklip_jax.weights.quantised import place_model

WHOLE = "squash"  # questions may be about any part of an image; as in training
LONGEST_ANSWER = 256  # tokens of a streamed answer, unless said otherwise


class MultimodalModel(ImageModel):
    """A multimodal language model with its parameters.

    Images are Pillow images, paths, or uint8 arrays [h, w, 3] of any size, which are resized, or
    float arrays in [-1, 1] of the model's size, or their `ids`: for each question one, or a list of
    several, or None for none. Prompts and answers are padded to a few lengths, so that little is
    compiled; neither that nor the batch changes an answer.

    Attributes:
        stop_ids: ids that end an answer besides the template's end marker.
    """

    _reads_images = "read_images"

    def __init__(
        self,
        config: MultimodalConfig,
        params: dict[str, Any],
        compute: Compute,
        batch_size: int | None = None,
        directory: pathlib.Path | None = None,
        resize: str = WHOLE,
    ):
        """Wraps parameters.

        Args:
            directory: holds the language model's `tokenizer.json` and perhaps its stop ids.
            resize: how images are resized, one of `data.images.RESIZES`.
        """
        super().__init__(config, params, compute, batch_size)
        if resize not in RESIZES:
            raise UserError(f"expected resize of {sorted(RESIZES)}, got {resize!r}")
        self._directory, self._resize = directory, resize
        self.stop_ids = stop_ids_in(directory)

    @functools.cached_property
    def tokenizer(self) -> Any:
        """The language model's text tokenizer, of the library `tokenizers`.

        Raises:
            FileNotFoundError: there is none with the weights.
            ValueError: it has more ids than the language model.
        """
        found = find_tokenizer(self._directory)
        largest, size = max(found.get_vocab().values()), self.config.language_model.vocab_size
        if largest >= size:
            raise UserError(
                f"expected a text tokenizer of at most {size} ids, the language model's, got one "
                f"with the id {largest}: pass load(..., tokenizer=DIRECTORY) with its own"
            )
        return found

    def answer(
        self,
        images: Any,
        questions: Any,
        *,
        ids: Any = None,
        max_new_tokens: Any = 128,
        template: str | Template | None = None,
        key: Any = 0,
        **sampling: Any,
    ) -> list[str]:
        """Returns the answers to questions, each about its images.

        Args:
            images: for each question an image, a list of images, or None; None for none at all.
            questions: texts, with `<image>` where an image stands; without, images come first.
            ids: the images' ids in place of `images`, in the same form.
            max_new_tokens: the number of tokens after which an answer ends.
            template: a name (`data.conversations.TEMPLATES`) or a template; by default the one that
                the model was trained with.
            key: a seed, or a key of `jax.random.key`.
            **sampling: `temperature` (0, the default, is greedy), `top_k` (0 for all) and `top_p`.

        Raises:
            ValueError: another number of `<image>` than of images, prompts that are too long, or
                what images or settings are refused for.
        """
        expect_texts(questions, "questions")
        prompting = self._prompting(template)
        groups, inputs = self._read(images, ids, len(questions))
        rows = [prompting.row(q, n) for q, n in zip(questions, groups, strict=True)]
        most, stops = self._most(max_new_tokens, rows), self._stops(prompting)
        settings, room, count = read_answer_sampling(sampling), padded_length(most), len(rows)
        ids, places, positions = prompting.batch(rows, sum(groups))
        keys = row_keys(as_key(key), jnp.arange(count))

        def draw(ids, places, positions, keys):
            static = self.model, settings, self._mesh, room
            embedded, others = (ids, places, inputs), (positions, keys, stops, np.int32(most))
            return answers(*static, self.params, embedded, *others)

        size = self.batch_size or bucket(count, self._mesh, platform_of(self.params))
        drawn = to_host(map_rows(draw, (ids, places, positions, keys), size))
        pairs = zip(*drawn, strict=True)
        return [prompting.text_of(row[:length].tolist()) for row, length in pairs]

    def stream(
        self,
        images: Any,
        question: Any,
        *,
        ids: Any = None,
        history: Sequence[tuple[str, str]] = (),
        max_new_tokens: Any = None,
        template: str | Template | None = None,
        key: Any = 0,
        **sampling: Any,
    ) -> Iterator[str]:
        """Returns an iterator over the pieces of one answer, each as soon as it is drawn.

        Arguments and errors are those of `answer`.

        Args:
            images: an image, a list of images, or None.
            history: earlier questions and their answers; images stand where `<image>` is, or before
                all.
            max_new_tokens: by default 256, or fewer where the model has no room for as many.
        """
        if not isinstance(question, str):
            raise UserError(f"expected one question as a text, got {question!r:.100}")
        prompting = self._prompting(template)
        groups, inputs = self._read(
            None if images is None else [images], None if ids is None else [ids], 1
        )
        rows = [prompting.row(question, groups[0], history)]
        if max_new_tokens is None:
            max_new_tokens = self._room(rows)
        most, stops = self._most(max_new_tokens, rows), self._stops(prompting)
        token_ids, places, positions = prompting.batch(rows, groups[0])
        keys = row_keys(as_key(key), jnp.arange(1))
        static = self.model, read_answer_sampling(sampling), self._mesh
        embedded, others = (token_ids, places, inputs), (positions, keys, stops, most)
        return pieces(stream_answer(*static, self.params, embedded, *others), prompting)

    def generate_images(
        self,
        texts: Any,
        *,
        key: Any = 0,
        template: str | Template | None = None,
        **sampling: Any,
    ) -> Int[Array, "b n"]:
        """Returns ids of an image for each text, int32, row by row of the grid.

        Args:
            texts: what the images show; each is a question that an image answers.
            key: a seed, or a key of `jax.random.key`.
            template: as `answer`.
            **sampling: `temperature`, `top_k`, `top_p`, `cfg_scale` (above 1, guides away from the
                empty text, which a share of the conversations trained on must have asked with) and
                `cfg_interval`.

        Raises:
            ValueError: a model that doesn't read "ids", or settings that are refused.
        """
        if not self.config.predicts_images:
            raise UserError(
                f"expected a model that reads 'ids', which draws images, got one that reads "
                f"{self.config.reads}"
            )
        expect_texts(texts, "texts")
        prompting, settings = self._prompting(template), read_sampling(sampling)
        every = [*texts, *([""] * len(texts) if settings.is_guided else [])]
        rows, count = [prompting.row(text, 0) for text in every], len(texts)
        self._expect_room(max(map(len, rows)) + self.config.num_tokens)
        ids, _, positions = prompting.batch(rows, 0)
        keys = row_keys(as_key(key), jnp.arange(count))
        size, parts = self.batch_size or bucket(count, self._mesh, platform_of(self.params)), []
        for start in range(0, count, size):
            chosen = np.minimum(np.arange(start, start + size), count - 1)
            copies = np.concatenate([chosen, chosen + count]) if settings.is_guided else chosen
            static, prompts = (self.model, settings, self._mesh), (ids[copies], positions[copies])
            parts.append(drawn_images(*static, self.params, *prompts, keys[chosen]))
        return jnp.concatenate(parts)[:count]

    def detokenize(self, ids: Any) -> Float[Array, "b h w 3"]:
        """Returns images of ids, RGB float32, clipped to [-1, 1]."""
        return self._map("detokenize", ids, lambda x: jnp.clip(self._run("detokenize", x), -1, 1))

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
        resize: str = WHOLE,
        tokenizer: str | pathlib.Path | None = None,
    ) -> "MultimodalModel":
        """Returns the model of weights in memory; arguments as `load`'s.

        Raises:
            ValueError: an image_size, which the weights fix.
        """
        if image_size is not None:
            raise UserError(
                f"expected no image_size with a multimodal model, whose weights fix it, got "
                f"{image_size}"
            )
        family = family_of(weights.config)
        compute = Compute(dtype=dtype, is_scanned=weights.is_scanned)
        expect_two_ways(mesh)
        params = place_model(weights, family, param_dtype, mesh)
        path = weights.tokenizer_path or next(iter(weights.beside), None)
        directory = path.parent if path is not None else None
        if tokenizer is not None:
            directory = expand_user(tokenizer)
        return cls(weights.config, params, compute, batch_size, directory, resize)

    def _sizes(self):
        config = self.config
        ids = [ids_text(config.vq, config.num_tokens)] if config.needs_ids else []
        return [f"reads {' and '.join(config.reads)}", *ids, f"width {config.language_model.width}"]

    def _beside(self):
        found = self._directory and files_beside(self._directory, self.config)
        return found or super()._beside()

    def _methods(self):
        config = self.config
        images = Images(config.vq, self._size, self._resize)
        methods = {"read_images": Method("read_images", images)}
        if config.needs_ids:
            ids = Ids.of(config.vq, config.grid)
            methods["detokenize"] = Method("detokenize", ids)
            if PIXELS not in config.reads:
                methods["image_inputs"] = Method("image_inputs", ids)
        return methods

    @property
    def _size(self):
        """(height, width) of the images."""
        if self.config.image_tower is not None:
            return tuple(self.config.image_tower.size)
        sides = zip(self.config.grid, place_size(self.config.vq), strict=True)
        return tuple(side * pixels for side, pixels in sides)

    def _prompting(self, template) -> Prompting:
        found = find_template(template, self.config.template)
        return Prompting(self.tokenizer, found, self.config.num_tokens)

    def _read(self, images, ids, count):
        """How many images each question has, and what the model reads of all, or None."""
        if images is not None and ids is not None:
            raise UserError("expected either images or ids, got both")
        given, name = (images, "read_images") if ids is None else (ids, "image_inputs")
        if name == "image_inputs" and PIXELS in self.config.reads:
            raise UserError("expected images with a model that reads 'pixels', got ids")
        if given is None:
            return [0] * count, None
        is_deep = ids is not None and self.config.vq.codes_per_place > 1
        groups = group_images(given, 3 if ids is None else 1 + is_deep, count)
        flat = [one for group in groups for one in group]
        if not flat:
            return [0] * count, None
        counts = [len(group) for group in groups]
        if ids is None:
            flat = resizable(flat, self._size)
        filled = flat + [flat[-1]] * (padded_count(len(flat)) - len(flat))
        return counts, self._call(name, filled)

    def _room(self, rows):
        """The tokens of an answer that the model has positions for, at most `LONGEST_ANSWER`."""
        left = self.config.language_model.max_positions - max(map(len, rows))
        return max(1, min(LONGEST_ANSWER, left))

    def _most(self, value, rows):
        most = whole_number(value, "max_new_tokens")
        if most < 1:
            raise UserError(f"expected max_new_tokens of at least 1, got {most}")
        self._expect_room(max(map(len, rows)) + most)
        return most

    def _expect_room(self, length):
        most = self.config.language_model.max_positions
        if length > most:
            raise UserError(
                f"expected a prompt and its answer of at most {most} tokens together, of which "
                f"each image takes {self.config.num_tokens}, got {length}: shorten the question, "
                f"pass fewer images, or lower max_new_tokens"
            )

    def _stops(self, prompting):
        return np.asarray([*prompting.stop_ids(), *self.stop_ids], np.int32)


def padded_count(count: int) -> int:
    """Returns the next power of two: images are padded to it, so that few programs are compiled."""
    return 1 << (count - 1).bit_length()

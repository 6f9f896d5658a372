"""The language model: logits of token ids, and ids drawn after prompts."""

import functools
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float

from toklip_jax.api.answers import answers, expect_two_ways, stream_answer
from toklip_jax.api.base import LoadedModel
from toklip_jax.api.chat import SETTINGS, chat_ids, load_tokenizer, stop_ids_in
from toklip_jax.api.inputs import Ids
from toklip_jax.api.program import Method, bucket, map_rows, platform_of
from toklip_jax.api.prompts import pad_left, pad_right, padded_length, read_prompts
from toklip_jax.api.settings import as_key, read_answer_sampling, whole_number
from toklip_jax.core.errors import UserError
from toklip_jax.core.home import expand_user
from toklip_jax.data.images import DEFAULT_RESIZE
from toklip_jax.decoding import row_keys
from toklip_jax.models.registry import family_of
from toklip_jax.nn.config import Compute
from toklip_jax.parallel.sharding import to_host
from toklip_jax.weights import Weights
from toklip_jax.weights.base import files_beside
from toklip_jax.weights.quantised import place_model


class LanguageModel(LoadedModel):
    """A language model with its parameters, over token ids.

    Prompts are a list of lists of ids, of any lengths, or an array [b, t]. Both prompts and answers
    are padded to a few lengths, and batches to a power of two, so that little is compiled; neither
    changes what is drawn, nor does the batch: it depends on `key`, the row's index and the prompt.

    Attributes:
        stop_ids: ids that end an answer, of `generation_config.json` or `config.json`.
    """

    def __init__(
        self,
        config: Any,
        params: dict[str, Any],
        compute: Compute,
        batch_size: int | None = None,
        directory: pathlib.Path | None = None,
        tokenizer: pathlib.Path | None = None,
    ):
        """Wraps parameters.

        Args:
            directory: holds the files beside the weights, which say the stop ids.
            tokenizer: the tokenizer's directory; `directory` unless given.
        """
        super().__init__(config, params, compute, batch_size)
        self._tokenizer_directory = directory if tokenizer is None else tokenizer
        self.stop_ids = self._read_stop_ids(stop_ids_in(directory))

    @functools.cached_property
    def tokenizer(self) -> Any:
        """The text tokenizer that lies with the weights, as transformers reads it.

        Raises:
            ValueError: there is none, or transformers is not installed.
        """
        return load_tokenizer(self._tokenizer_directory)

    def chat_ids(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> list[int]:
        """Returns the token ids of a conversation, up to where the model's next answer begins.

        Args:
            messages: such as [{"role": "user", "content": "Hello"}].
            **options: what the chat template takes, such as `enable_thinking=False` of Qwen3's.

        Raises:
            ValueError: no tokenizer, no chat template, or one without a generation prompt.
        """
        return chat_ids(self.tokenizer, messages, **options)

    def logits(self, ids: Any) -> Float[Array, "b t v"]:
        """Returns the logits of every token's successor, computed in parallel, float32.

        Args:
            ids: prompts. Where they differ in length, t is that of the longest, and logits are 0
                behind the others' ends.
        """
        if isinstance(ids, jax.Array):  # traced, or on devices: as it is
            return self._call("logits", ids)
        prompts = read_prompts(ids, self.config.vocab_size)
        longest = max(map(len, prompts))
        self._expect_room(longest)
        padded = pad_right(prompts, padded_length(longest))
        logits = self._call("logits", padded)[:, :longest]
        lengths = np.array([len(prompt) for prompt in prompts])
        if lengths.min() == longest:
            return logits
        return jnp.where((np.arange(longest) < lengths[:, None])[..., None], logits, 0)

    def generate(
        self,
        ids: Any,
        *,
        max_new_tokens: Any = 128,
        key: Any = 0,
        stop_ids: Any = None,
        **sampling: Any,
    ) -> list[list[int]]:
        """Returns the ids that follow each prompt, up to its first stop id, which is left out.

        Args:
            ids: prompts.
            max_new_tokens: the number of ids after which a row ends without a stop id.
            key: a seed, or a key of `jax.random.key`.
            stop_ids: ids that end a row in place of the model's own; () ends none.
            **sampling: `temperature` (0, the default, is greedy), `top_k` (0 for all) and `top_p`.

        Raises:
            ValueError: prompts that don't fit the vocabulary or, with the new ids, the longest
                sequence; an unknown or wrong setting.
        """
        prompts = read_prompts(ids, self.config.vocab_size)
        most, stops = self._most(max_new_tokens, prompts), self._stops(stop_ids)
        settings, count = read_answer_sampling(sampling), len(prompts)
        length, room = padded_length(max(map(len, prompts))), padded_length(most)
        places = pad_left(prompts, length)
        keys = row_keys(as_key(key), jnp.arange(count))

        def draw(*rows):
            static = self.model, settings, self._mesh, room
            return answers(*static, self.params, *rows, stops, np.int32(most))

        size = self.batch_size or bucket(count, self._mesh, platform_of(self.params))
        drawn = to_host(map_rows(draw, (*places, keys), size))
        return [row[:length].tolist() for row, length in zip(*drawn, strict=True)]

    def stream(
        self,
        ids: Any,
        *,
        max_new_tokens: Any = 128,
        key: Any = 0,
        stop_ids: Any = None,
        **sampling: Any,
    ) -> Iterator[int]:
        """Returns an iterator over the ids that follow one prompt, each as soon as it is drawn.

        They are those of `generate([ids], ...)`; arguments and errors too.

        Args:
            ids: one prompt, a list of token ids or an array [t].
        """
        prompts = read_prompts([ids], self.config.vocab_size)
        most, stops = self._most(max_new_tokens, prompts), self._stops(stop_ids)
        static = self.model, read_answer_sampling(sampling), self._mesh
        places = pad_left(prompts, padded_length(len(prompts[0])))
        keys = row_keys(as_key(key), jnp.arange(1))
        return stream_answer(*static, self.params, *places, keys, stops, most)

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
    ) -> "LanguageModel":
        """Returns the model of weights in memory; arguments as `load`'s.

        Raises:
            ValueError: arguments that a language model has no use for.
        """
        if image_size is not None or resize != DEFAULT_RESIZE:
            raise UserError(
                f"expected no image_size or resize with a language model, which sees no images, "
                f"got {image_size} and {resize!r}"
            )
        family = family_of(weights.config)
        compute = Compute(dtype=dtype, is_scanned=weights.is_scanned)
        expect_two_ways(mesh)
        params = place_model(weights, family, param_dtype, mesh)
        return cls(
            weights.config,
            params,
            compute,
            batch_size,
            directory=weights.beside[0].parent if weights.beside else None,
            tokenizer=None if tokenizer is None else expand_user(tokenizer),
        )

    def _sizes(self):
        return [f"vocabulary {self.config.vocab_size:,}", f"width {self.config.width}"]

    def _beside(self):
        own = {path.name: path for path in super()._beside()}
        given = self._tokenizer_directory and files_beside(self._tokenizer_directory, self.config)
        own.update({path.name: path for path in given or () if path.name not in SETTINGS})
        return tuple(own.values())

    def _methods(self):
        return {"logits": Method("logits", Ids((None,), (self.config.vocab_size,), "token ids"))}

    def _most(self, value, prompts):
        most = whole_number(value, "max_new_tokens")
        if most < 1:
            raise UserError(f"expected max_new_tokens of at least 1, got {most}")
        self._expect_room(max(map(len, prompts)) + most)
        return most

    def _expect_room(self, length):
        if length > self.config.max_positions:
            raise UserError(
                f"expected at most {self.config.max_positions} tokens of a prompt and its answer, "
                f"got {length}: shorten the prompt, or lower max_new_tokens"
            )

    def _stops(self, given):
        stops = self.stop_ids if given is None else self._read_stop_ids(given)
        return np.asarray(stops, np.int32).reshape(-1)

    def _read_stop_ids(self, ids):
        ids = ids if isinstance(ids, Sequence | np.ndarray) else (ids,)
        ids = tuple(whole_number(i, "stop id") for i in ids)
        if any(not 0 <= i < self.config.vocab_size for i in ids):
            raise UserError(f"expected stop ids in [0, {self.config.vocab_size}), got {ids}")
        return ids

"""Turns texts into token ids of a fixed length, as the released models take them."""

import contextlib
import functools
import hashlib
import json
import logging
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int32
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from toklip_jax.core.errors import NotFound, UserError
from toklip_jax.core.home import expand_user
from toklip_jax.core.whole_files import write_whole
from toklip_jax.data.text.cleaning import CLEANERS, clean_text

logger = logging.getLogger(__name__)

PAD, EOS, UNK = "<pad>", "<eos>", "<unk>"  # Gemma's spelling; ids 0, 1 and (in ours) 2
# The end token, of which a tokenizer has one, and the cleaning of the models whose it is: SigLIP 2
# with Gemma's; generators of captions with T5's, which lower-case them.
ENDS = {EOS: "canonicalize", "</s>": "lower"}
TOKENIZER_FILE = "tokenizer.json"
_MAX_BYTES = 2**26  # Gemma's, of 256,000 tokens, has 34 MB


class TextTokenizer:
    """Turns texts into int32 ids of one length, by a Hugging Face `tokenizers` tokenizer.

    Texts are cleaned, encoded without the tokenizer's own special tokens, truncated to leave room
    for one end token, ended, and padded, as by open_clip's HFTokenizer with SigLIP 2's Gemma
    tokenizer, or by transformers with T5's. Padding, truncation and dropout that a file stores are
    not applied.

    Attributes:
        context_length: ids per text.
        clean: how texts are cleaned, one of `CLEANERS`.
        vocab_size: ids are in [0, vocab_size).
    """

    def __init__(self, tokenizer: Tokenizer, context_length: int, clean: str = ""):
        """Wraps `tokenizer`, which must know the token `<pad>` and one of `ENDS`.

        Args:
            clean: one of `CLEANERS`; "" for that which goes with the end token.

        Raises:
            ValueError: a token is missing, or a wrong length or cleaner.
        """
        if context_length < 1:
            raise UserError(f"expected a context_length of at least 1, got {context_length}")
        if clean not in ("", *CLEANERS):
            raise UserError(f"expected clean to be one of {sorted(CLEANERS)}, got {clean!r}")
        self.context_length = context_length
        self._tokenizer = tokenizer = _without_stored_settings(tokenizer)
        end = next((token for token in ENDS if tokenizer.token_to_id(token) is not None), EOS)
        self._pad_id, self._eos_id = (_special_id(tokenizer, token) for token in (PAD, end))
        self.clean = clean or ENDS[end]
        self._has_reported = False

    @classmethod
    def load(
        cls, name: str | pathlib.Path, context_length: int, clean: str = ""
    ) -> "TextTokenizer":
        """Reads `tokenizer.json`: `name` is a file, a directory that holds one, or a hub id.

        The hub is used only for a name of the form "owner/name" that is no local path.

        Raises:
            FileNotFoundError: there is no such file, nor such a model on the hub.
            ValueError: the file is no tokenizer.
        """
        name = expand_user(name)
        is_hub_id = str(name).count("/") == 1 and pathlib.Path(name).suffix != ".json"
        if is_hub_id and not pathlib.Path(name).exists():
            return cls.from_hub(name, context_length, clean)
        return cls.from_file(name, context_length, clean)

    @classmethod
    def from_file(
        cls, path: str | pathlib.Path, context_length: int, clean: str = ""
    ) -> "TextTokenizer":
        """Reads a Hugging Face `tokenizer.json`, or the one in directory `path`.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is no tokenizer.
        """
        tokenizer = read_tokenizer(path)
        try:
            return cls(tokenizer, context_length, clean)
        except UserError as error:
            raise UserError(f"{error} (in {expand_user(path)})") from error

    @classmethod
    def from_hub(
        cls, name: str | pathlib.Path, context_length: int, clean: str = ""
    ) -> "TextTokenizer":
        """Reads from a local path if there is one, else from the Hugging Face hub.

        Args:
            name: such as "timm/ViT-L-16-SigLIP2-384", whose tokenizer is Gemma's.

        Raises:
            FileNotFoundError: the hub does not give the file; says what to pass instead.
        """
        if pathlib.Path(name).exists():
            return cls.from_file(name, context_length, clean)
        import huggingface_hub  # slow to import, and needed by the hub only

        try:
            path = huggingface_hub.hf_hub_download(str(name), TOKENIZER_FILE)
        except Exception as error:  # offline, gated, misnamed: many types, one thing to do
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise NotFound(
                f"expected {TOKENIZER_FILE} of {name} locally or on the Hugging Face hub, got: "
                f"{reason}: pass the path of a local {TOKENIZER_FILE}"
            ) from error
        return cls.from_file(path, context_length, clean)

    @property
    def without_cleaning(self) -> Tokenizer:
        """The tokenizer itself, which neither cleans texts nor ends, cuts or pads them."""
        return self._tokenizer

    @functools.cached_property
    def vocab_size(self) -> int:
        # Not the number of tokens: a file may leave ids out.
        return 1 + max(self._tokenizer.get_vocab(with_added_tokens=True).values())

    def expect_fits(self, tower: Any) -> None:
        """Checks that a text tower takes the ids.

        Args:
            tower: its config, with a `vocab_size` and a `context_length`.

        Raises:
            ValueError: it has fewer ids, or texts of another length.
        """
        if self.vocab_size > tower.vocab_size:
            raise UserError(
                f"expected a text tokenizer of at most {tower.vocab_size} ids, the model's "
                f"vocab_size, got one of {self.vocab_size}: name the tokenizer that the weights "
                f"were trained with, or raise model.text.vocab_size of a new model"
            )
        if self.context_length != tower.context_length:
            raise UserError(
                f"expected text.context_length of {tower.context_length}, the model's, got "
                f"{self.context_length}: set --config.text.context_length={tower.context_length}"
            )

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hex, of all that the ids depend on, which excludes the file's white space."""
        content = json.loads(self._tokenizer.to_str())
        content = [content, self.clean, self.context_length]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def __call__(self, texts: Sequence[str], truncates: bool = True) -> Int32[np.ndarray, "b t"]:
        """Returns ids, each row ended by the end token and padded to `context_length`.

        Args:
            truncates: whether texts that are too long are truncated, as in training; the first
                time, a warning is logged. Otherwise they are refused.

        Raises:
            ValueError: not a sequence of strings, one that the tokenizer can't encode, or one that
                is too long.
        """
        _check_texts(texts)
        room = self.context_length - 1
        cleaned = [clean_text(text, self.clean) for text in texts]
        with _library_errors(
            lambda reason: (
                f"expected texts that the text tokenizer can encode, got others "
                f"({reason}): name a tokenizer that has an unknown token, or correct them"
            )
        ):
            encodings = self._tokenizer.encode_batch(cleaned, add_special_tokens=False)
        ids = np.full((len(cleaned), self.context_length), self._pad_id, np.int32)  # [b, t]
        for row, encoding in zip(ids, encodings, strict=True):
            kept = encoding.ids[:room]
            row[: len(kept)] = kept
            row[len(kept)] = self._eos_id
        long = [i for i, e in enumerate(encodings) if len(e.ids) > room]
        if long and not truncates:
            raise UserError(
                f"expected texts of at most {room} tokens, got {len(encodings[long[0]].ids)} for "
                f"{texts[long[0]][:60]!r}: shorten it"
            )
        self._report_truncated(long, texts)
        return ids

    def is_empty(self, ids: Int32[np.ndarray, " t"]) -> bool:
        """Says whether ids are those of no text: the end token comes first."""
        return self.context_length > 1 and bool(ids[0] == self._eos_id)

    def save(self, path: str | pathlib.Path) -> pathlib.Path:
        """Writes a `tokenizer.json`, into `path` if that is a directory; returns its path.

        It is written whole or not at all.
        """
        path = pathlib.Path(path)
        path = path / TOKENIZER_FILE if path.is_dir() else path
        write_whole(path, self._tokenizer.to_str(pretty=True))
        return path

    def _report_truncated(self, rows, texts):
        if not rows or self._has_reported:
            return
        self._has_reported = True
        logger.warning(
            "%d of %d texts are longer than %d tokens and are truncated, first %r; "
            "later ones are not reported",
            len(rows), len(texts), self.context_length, texts[rows[0]][:60],
        )  # fmt: skip


def read_tokenizer(path: str | pathlib.Path) -> Tokenizer:
    """Reads a Hugging Face `tokenizer.json`, or the one in directory `path`.

    Padding, truncation and dropout that it stores are left out.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no tokenizer.
    """
    path = expand_user(path)
    path = path / TOKENIZER_FILE if path.is_dir() else path
    if not path.is_file():
        raise NotFound(
            f"expected a Hugging Face {TOKENIZER_FILE}, found no file {path}: a tokenizer "
            f"in another format becomes one by transformers' AutoTokenizer and save_pretrained"
        )
    if path.stat().st_size > _MAX_BYTES:
        raise UserError(
            f"expected a Hugging Face {TOKENIZER_FILE} of at most {_MAX_BYTES} bytes, got "
            f"{path}, which is larger: save it again with Tokenizer.save(path, pretty=False)"
        )
    with _library_errors(
        lambda reason: (
            f"expected a Hugging Face {TOKENIZER_FILE}, could not read {path} "
            f"({reason}): save it again with Tokenizer.save"
        )
    ):
        return _without_stored_settings(Tokenizer.from_file(str(path)))


def train_tokenizer(
    captions: Iterable[str], vocab_size: int, clean: str = "canonicalize"
) -> Tokenizer:
    """Trains byte-pair encoding on `captions`: `<pad>` is 0, `<eos>` 1, `<unk>` 2.

    Words keep a mark at their start, as in Gemma's tokenizer. The result is a function of the set
    of captions: neither order nor repetition changes it.

    Args:
        vocab_size: number of ids at most; there are fewer if the captions give no more.
    """
    tokenizer = Tokenizer(models.BPE(unk_token=UNK))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[PAD, EOS, UNK], show_progress=False
    )
    cleaned = sorted({clean_text(caption, clean) for caption in captions})
    tokenizer.train_from_iterator(cleaned, trainer)
    return tokenizer


@contextlib.contextmanager
def _library_errors(message: Callable[[str], str]) -> Iterator[None]:
    """Raises `message(reason)` for what `tokenizers` raises: Exception itself, and Rust's panics.

    The latter are no Exceptions, and their class can't be imported.
    """
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(message(reason)) from error


def _without_stored_settings(tokenizer: Tokenizer) -> Tokenizer:
    """Returns a tokenizer that gives each text its own ids: all of them, and always the same.

    A file may store padding and truncation, as transformers' save_pretrained writes them, and the
    dropout of merges that the tokenizer was trained for.
    """
    dropout = getattr(tokenizer.model, "dropout", None)
    if tokenizer.padding is None and tokenizer.truncation is None and dropout is None:
        return tokenizer
    plain = Tokenizer.from_str(tokenizer.to_str())
    plain.no_padding()
    plain.no_truncation()
    if dropout is not None:
        plain.model.dropout = None
    return plain


def _special_id(tokenizer, token):
    if (token_id := tokenizer.token_to_id(token)) is None:
        raise UserError(
            f"expected a tokenizer with the token {token}, as Gemma's has, got one without: "
            f"name the tokenizer that the weights were trained with"
        )
    return token_id


def _check_texts(texts):
    if isinstance(texts, str):
        raise UserError(f"expected a list of texts, got one string: pass [{texts[:40]!r}]")
    for text in texts:
        if not isinstance(text, str):
            raise UserError(f"expected a list of texts, got a {type(text).__name__} in it")

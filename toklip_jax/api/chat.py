"""A language model's own text tokenizer and chat template, read by transformers."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from toklip_jax.core.errors import NotFound, UserError
from toklip_jax.core.extras import missing_line
from toklip_jax.core.imports import import_extra
from toklip_jax.core.whole_files import read_object

TOKENIZERS = ("tokenizer.json", "vocab.json", "tokenizer_config.json")  # one of them is there
# Where generation reads the ids that end an answer, the first that says any.
SETTINGS = ("generation_config.json", "config.json")


def load_tokenizer(directory: pathlib.Path | None) -> Any:
    """Returns the tokenizer in a directory, as transformers' `AutoTokenizer` reads it.

    Raises:
        FileNotFoundError: no tokenizer there.
        ValueError: transformers is not installed, or can't read it.
    """
    if directory is None or not any((directory / name).is_file() for name in TOKENIZERS):
        where = "with these weights" if directory is None else f"in {directory}"
        raise NotFound(
            f"expected a text tokenizer {where} ({', '.join(TOKENIZERS)}), found none: fetch it "
            f"from where the weights came, or pass load(..., tokenizer=DIRECTORY)"
        )
    transformers = import_extra("transformers")
    try:
        return transformers.AutoTokenizer.from_pretrained(str(directory), local_files_only=True)
    except Exception as error:  # of several libraries, each with its own
        raise UserError(
            f"expected a text tokenizer that transformers reads in {directory}, got "
            f"{type(error).__name__}: {error}"
        ) from error


def chat_ids(tokenizer: Any, messages: Sequence[Mapping[str, Any]], **options: Any) -> list[int]:
    """Returns the token ids of a conversation, up to where the model's next answer begins.

    Args:
        tokenizer: one of transformers.
        messages: such as [{"role": "user", "content": "Hello"}].
        **options: what the template takes, such as `enable_thinking=False` of Qwen3's.

    Raises:
        ValueError: no template, messages that it refuses, or one that doesn't say where an answer
            begins; jinja2 is not installed.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise UserError(
            "expected a chat template with the tokenizer, found none, as with base models: "
            "fetch the tokenizer_config.json or chat_template.jinja of the model that was tuned to "
            "follow instructions, or tokenize the text yourself"
        )

    def render(is_answer_next):
        return tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=is_answer_next, **options
        )

    try:
        prompt, without = render(True), render(False)
    except ImportError as error:
        raise UserError(missing_line("jinja2")) from error
    except Exception as error:  # jinja's, or what the template raises
        raise UserError(
            f"expected messages that the chat template takes, got {type(error).__name__}: {error}"
        ) from error
    if prompt == without:
        raise UserError(
            "expected a chat template with a generation prompt, which says where an answer begins, "
            "got one that ignores add_generation_prompt: the model would continue your message"
        )
    return list(tokenizer(prompt, add_special_tokens=False)["input_ids"])


def stop_ids_in(directory: pathlib.Path | None) -> tuple[int, ...]:
    """Returns the ids that end an answer, by `generation_config.json` or else `config.json`.

    Raises:
        ValueError: a file is damaged, or says something else than ids.
    """
    for name in SETTINGS if directory is not None else ():
        path = directory / name
        found = read_object(path, "fetch it again") if path.is_file() else {}
        ids = found.get("eos_token_id")
        if ids is None:
            continue
        ids = ids if isinstance(ids, list) else [ids]
        if not all(isinstance(i, int) and not isinstance(i, bool) for i in ids):
            raise UserError(f"expected token ids for eos_token_id in {path}, got {ids!r}")
        return tuple(ids)
    return ()

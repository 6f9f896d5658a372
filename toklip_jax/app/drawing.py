"""Pictures that fill in as their ids are drawn, and answers word by word."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from toklip_jax.app.models import Models
from toklip_jax.app.pictures import as_uri, opened_uri
from toklip_jax.core.errors import UserError

GUIDANCE = 2.0  # scale of classifier-free guidance, as `toklip generate` takes it
MAX_PICTURES = 36  # of one drawing, that are decoded on the way
MAX_NEW_TOKENS = 64  # of an answer
MAX_QUESTION = 500  # letters


def draw(models: Models, condition: int | str, seed: int) -> Iterator[dict[str, Any]]:
    """Returns an iterator over the places of a picture of a class, or of a text.

    Each has its `ids`; some have an `image`, that of all ids so far, the others being the last.
    """
    generator = _generator(models)
    name = "classes" if generator.config.gpt.num_classes else "captions"
    if isinstance(condition, str) != (name == "captions"):
        raise UserError(f"expected {'a text' if name == 'captions' else 'the number of a class'}")
    places = generator.stream(**{name: [condition]}, key=seed, cfg_scale=GUIDANCE)
    return _pictures(models, places, [])


def complete(models: Models, ids: np.ndarray, seed: int) -> Iterator[dict[str, Any]]:
    """Returns an iterator over the places of the lower half of a picture, drawn after the upper.

    See `draw`; ids are [n] or [n, q]. A generator of captions gets the empty one.
    """
    generator = _generator(models)
    if not models.generator_shares_ids:
        raise UserError(
            "expected a generator of the ids of --weights, got one with another tokenizer in "
            "--generator"
        )
    height, width = generator.config.gpt.grid
    keep = max(1, height // 2) * width if height > 1 else 0
    texts = {} if generator.config.gpt.num_classes else {"captions": [""]}
    places = generator.stream(ids=ids[None], keep=keep, key=seed, **texts)
    return _pictures(models, places, list(ids[:keep]))


def ask(
    models: Models, question: str, ids: np.ndarray, picture: str | None
) -> Iterator[dict[str, Any]]:
    """Returns an iterator over the pieces of an answer, each as `piece`.

    Args:
        ids: the picture's, [n] or [n, q].
        picture: the picture itself as a data URI, for a model that doesn't read these ids.
    """
    model = models.answering
    if model is None:
        raise UserError("expected a model that answers: start the app with --model=WEIGHTS")
    if not question.strip():
        raise UserError("expected a question, got none")
    options = {"max_new_tokens": MAX_NEW_TOKENS}
    if models.is_asked_by_ids:
        pieces = model.stream(None, question, ids=ids, **options)
    else:
        pieces = model.stream(opened_uri(picture), question, **options)
    return ({"piece": piece} for piece in pieces)


def warm_up(models: Models) -> None:
    """Compiles all that is needed."""
    if models.generator is not None:
        gpt = models.generator.config.gpt
        if gpt.num_classes or draws_texts(models):
            list(draw(models, 0 if gpt.num_classes else "a", 0))
        if models.generator_shares_ids:
            list(complete(models, models.some_ids(1)[0], 0))
    if models.answering is not None:
        black = np.full((*models.size, 3), -1.0, np.float32)
        list(ask(models, "a?", models.some_ids(1)[0], as_uri(black)))


def draws_texts(models: Models) -> bool:
    """Whether the generator draws texts, by an encoder that is here."""
    if models.generator is None or not models.generator.config.gpt.caption_dim:
        return False
    try:
        models.generator.token_ids(["a"])
    except UserError:
        return False
    return True


def _generator(models):
    if models.generator is None:
        raise UserError("expected a generator: start the app with --generator=WEIGHTS")
    return models.generator


def _pictures(models, places, drawn):
    """Yields the ids of each place, and of some the picture so far."""
    generator, n = models.generator, models.generator.config.gpt.num_places
    every = max(1, n // MAX_PICTURES)
    for place in places:
        one = np.asarray(place)[0]
        drawn = [*drawn, one]
        event: dict[str, Any] = {"ids": np.atleast_1d(one).tolist()}
        if len(drawn) % every == 0 or len(drawn) == n:
            filled = np.stack(drawn + [one] * (n - len(drawn)))
            event["image"] = as_uri(np.asarray(generator.detokenize(filled[None])[0]))
        yield event

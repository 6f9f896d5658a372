"""Conversations as a data source of configs: lines of one length, with their images."""

from collections.abc import Mapping
from typing import Any

from toklip_jax.core.errors import UserError
from toklip_jax.data.conversations import known_tokenizer, template_of
from toklip_jax.data.conversations.images import CachedIds, Pixels, cached_names
from toklip_jax.data.conversations.llava import LlavaSource
from toklip_jax.data.conversations.packed import Encoder, PackedSource
from toklip_jax.data.sources import ARRAYS, CacheSource, SourceConfig, SourceKind, register
from toklip_jax.data.text import read_tokenizer


def open_conversations(
    path: str,
    text_tokenizer: str,
    template: str,
    tokens_per_image: int,
    images: str = "",
    cache: str = "",
    source: Mapping[str, Any] | None = None,
    image_size: int | tuple[int, ...] = 0,
    length: int = 2048,
    max_images: int = 1,
    seed: int = 0,
    lengths: str = "",
) -> PackedSource:
    """Returns lines of packed conversations in LLaVA's JSON.

    Args:
        path: the JSON file.
        text_tokenizer: a `tokenizer.json`, or a directory that holds one: the language model's.
        template: name of the template, one of `data.conversations.TEMPLATES`.
        tokens_per_image: places that an image takes: the model's.
        images: the folder of the images.
        cache: a cache of their ids instead, so that nothing is decoded.
        source: the source that the cache was made of, which has the images' names.
        image_size: side of the images in pixels, or (height, width), with `images`.
        length: tokens of a line.
        max_images: images of a line.
        seed: of the order in which conversations are put into lines.
        lengths: a file where the rows' lengths are kept from one start to the next; "" for none.

    Raises:
        ValueError: neither or both of `images` and `cache`, or what the parts refuse.
    """
    if bool(images) == bool(cache):
        raise UserError(
            f"expected either images, a folder, or cache, a cache of ids, got {images!r} and "
            f"{cache!r}"
        )
    if cache:
        if source is None:
            raise UserError("expected the source that the cache was made of, got none: set source")
        ids, named = CacheSource(cache), SourceConfig.from_plain(source, "source.source").open()
        conversations, loader = LlavaSource(path, cached_names(ids, named)), CachedIds(ids)
    else:
        if not image_size:
            raise UserError("expected image_size with images, the model's, got 0: set it")
        conversations, loader = LlavaSource(path, images), Pixels(image_size)
    encoder = Encoder(
        known_tokenizer(read_tokenizer(text_tokenizer)),
        template_of(template),
        tokens_per_image,
        length,
    )
    return PackedSource(
        conversations,
        encoder,
        loader,
        max_images=max_images,
        seed=seed,
        lengths=lengths or None,
    )


CONVERSATIONS = register(SourceKind("conversations", open_conversations, ARRAYS, size="image_size"))

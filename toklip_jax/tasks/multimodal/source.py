"""Conversations as a data source of configs: lines of one length, with their images."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from toklip_jax.core.errors import UserError
from toklip_jax.data.conversations import known_tokenizer, template_of
from toklip_jax.data.conversations.images import (
    CachedIds,
    GivenIds,
    ImageLoader,
    Pixels,
    cached_names,
)
from toklip_jax.data.conversations.llava import LlavaSource
from toklip_jax.data.conversations.messages import TRAIN, MessagesSource
from toklip_jax.data.conversations.packed import Encoder, PackedSource
from toklip_jax.data.sources import ARRAYS, CacheSource, SourceConfig, SourceKind, register
from toklip_jax.data.text import read_tokenizer


def open_conversations(
    *,
    text_tokenizer: str,
    template: str,
    tokens_per_image: int,
    path: str = "",
    images: str = "",
    cache: str = "",
    source: Mapping[str, Any] | None = None,
    messages: str = "",
    split: str = TRAIN,
    codebook_size: int = 0,
    image_size: int | tuple[int, ...] = 0,
    exif_orientation: bool = False,
    length: int = 2048,
    max_images: int = 1,
    seed: int = 0,
    lengths: str = "",
) -> PackedSource:
    """Returns lines of packed conversations, in LLaVA's JSON or in Parquet with ids.

    Args:
        text_tokenizer: a `tokenizer.json`, or a directory that holds one: the language model's.
        template: name of the template, one of `data.conversations.TEMPLATES`.
        tokens_per_image: places that an image takes: the model's.
        path: the JSON file.
        images: the folder of its images.
        cache: a cache of their ids instead, so that nothing is decoded.
        source: the source that the cache was made of, which has the images' names.
        messages: the directory of Parquet files, which hold the images' ids, in place of `path`.
        split: of these files, "train" or "eval-NAME".
        codebook_size: the size of these ids' codebook: the model's.
        image_size: side of the images in pixels, or (height, width), with `images`.
        exif_orientation: turns the images as their EXIF data say; or the cache's were turned so.
        length: tokens of a line.
        max_images: images of a line.
        seed: of the order in which conversations are put into lines.
        lengths: a file (`.npz`) where the rows' lengths are kept from one start to the next; "" for
            none.

    Raises:
        ValueError: not exactly one of `images`, `cache` and `messages`, or what the parts refuse.
    """
    _expect_one_kind(path, images, cache, messages)
    if messages:
        opened = _open_messages(
            messages,
            split,
            tokens_per_image=tokens_per_image,
            codebook_size=codebook_size,
            exif_orientation=exif_orientation,
        )
    elif cache:
        opened = _open_cache(path, cache, source, exif_orientation=exif_orientation)
    else:
        opened = _open_images(path, images, image_size, exif_orientation=exif_orientation)
    encoder = Encoder(
        known_tokenizer(read_tokenizer(text_tokenizer)),
        template_of(template),
        tokens_per_image,
        length,
    )
    return PackedSource(
        opened.conversations,
        encoder,
        opened.loader,
        max_images=max_images,
        seed=seed,
        lengths=lengths or None,
    )


class _Opened(NamedTuple):
    """Conversations, and what loads their images."""

    conversations: Any
    loader: ImageLoader


def _expect_one_kind(path, images, cache, messages):
    """Raises ValueError unless one kind of images is named, with its file of conversations."""
    if [bool(images), bool(cache), bool(messages)].count(True) != 1:
        raise UserError(
            f"expected either images, a folder, or cache, a cache of ids, or messages, a directory "
            f"of Parquet files, got {images!r}, {cache!r} and {messages!r}"
        )
    if bool(path) == bool(messages):
        raise UserError(
            f"expected path, a JSON file, with images or cache, and none with messages, got "
            f"{path!r}"
        )


def _open_messages(
    messages, split, *, tokens_per_image, codebook_size, exif_orientation
) -> _Opened:
    """Conversations in Parquet, which holds the images' ids."""
    if exif_orientation:
        raise UserError("expected no exif_orientation with messages, which hold ids, got it")
    if codebook_size < 1:
        raise UserError(
            f"expected codebook_size with messages, the tokenizer's, got {codebook_size}: set it"
        )
    return _Opened(MessagesSource(messages, split), GivenIds(tokens_per_image, codebook_size))


def _open_cache(path, cache, source, *, exif_orientation) -> _Opened:
    """Conversations in JSON, the images' ids in a cache and their names in its source."""
    if source is None:
        raise UserError("expected the source that the cache was made of, got none: set source")
    ids = CacheSource(cache)
    if (theirs := ids.header.transform.get("exif_orientation", False)) != exif_orientation:
        raise UserError(
            f"expected a cache with exif_orientation {exif_orientation}, the source's, got "
            f"{theirs} in {cache}: set source.exif_orientation to that, or encode again"
        )
    named = SourceConfig.from_plain(source, "source.source").open()
    return _Opened(LlavaSource(path, cached_names(ids, named)), CachedIds(ids))


def _open_images(path, images, image_size, *, exif_orientation) -> _Opened:
    """Conversations in JSON, and images in a folder."""
    if not image_size:
        raise UserError("expected image_size with images, the model's, got 0: set it")
    return _Opened(LlavaSource(path, images), Pixels(image_size, exif_orientation=exif_orientation))


CONVERSATIONS = register(SourceKind("conversations", open_conversations, ARRAYS, size="image_size"))


def gives_ids(source: SourceConfig) -> bool:
    """Returns whether a source of this kind gives images as ids, not pixels."""
    arguments = source.completed if source.kind == CONVERSATIONS.name else {}
    return bool(arguments.get("cache") or arguments.get("messages"))

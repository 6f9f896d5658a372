"""Conversations about images, as training data of a multimodal language model.

What reads files and makes batches is imported once it is asked for, as it needs grain, which a
program that only answers questions doesn't.
"""

import importlib
from typing import TYPE_CHECKING

from toklip_jax.data.conversations.batching import (
    batch_rows,
    bucket_length,
    first_fit,
    pack_rows,
)
from toklip_jax.data.conversations.chat_template import ChatTemplate
from toklip_jax.data.conversations.conversation import (
    ASSISTANT,
    IMAGE,
    ROLES,
    SYSTEM,
    USER,
    BadConversation,
    Conversation,
    Turn,
)
from toklip_jax.data.conversations.encoding import (
    IGNORED,
    IMAGE_ID,
    TEXT_PLACE,
    Row,
    encode_conversation,
    encode_prompt,
    place_images,
    tokenize_pieces,
    truncate,
)
from toklip_jax.data.conversations.named_templates import TEMPLATES, ending_with, template_of
from toklip_jax.data.conversations.templates import (
    CaptionTemplate,
    Piece,
    Template,
    TurnTemplate,
    chatml,
)
from toklip_jax.data.conversations.tokenizers import (
    ChatTokenizer,
    FastTokenizer,
    TransformersTokenizer,
    chat_tokenizer,
    known_tokenizer,
)

if TYPE_CHECKING:
    from toklip_jax.data.conversations.export import (
        IMAGE_FIRST,
        ORDERS,
        MessagesLayout,
        export_messages,
    )
    from toklip_jax.data.conversations.images import (
        CachedIds,
        GivenIds,
        ImageLoader,
        Pixels,
        cached_names,
    )
    from toklip_jax.data.conversations.llava import (
        LlavaSource,
    )
    from toklip_jax.data.conversations.messages import (
        TRAIN,
        MessagesSource,
        expect_no_others,
        write_messages,
    )
    from toklip_jax.data.conversations.packed import (
        Encoder,
        PackedSource,
        conversation_batches,
    )

__all__ = [
    "ASSISTANT",
    "IGNORED",
    "IMAGE",
    "IMAGE_FIRST",
    "IMAGE_ID",
    "ORDERS",
    "ROLES",
    "SYSTEM",
    "TEMPLATES",
    "TEXT_PLACE",
    "TRAIN",
    "USER",
    "BadConversation",
    "CachedIds",
    "CaptionTemplate",
    "ChatTemplate",
    "ChatTokenizer",
    "Conversation",
    "Encoder",
    "FastTokenizer",
    "GivenIds",
    "ImageLoader",
    "LlavaSource",
    "MessagesLayout",
    "MessagesSource",
    "PackedSource",
    "Piece",
    "Pixels",
    "Row",
    "Template",
    "TransformersTokenizer",
    "Turn",
    "TurnTemplate",
    "batch_rows",
    "bucket_length",
    "cached_names",
    "chat_tokenizer",
    "chatml",
    "conversation_batches",
    "encode_conversation",
    "encode_prompt",
    "ending_with",
    "expect_no_others",
    "export_messages",
    "first_fit",
    "known_tokenizer",
    "pack_rows",
    "place_images",
    "template_of",
    "tokenize_pieces",
    "truncate",
    "write_messages",
]

_LATE = {
    "export": (
        "IMAGE_FIRST",
        "ORDERS",
        "MessagesLayout",
        "export_messages",
    ),
    "images": (
        "CachedIds",
        "GivenIds",
        "ImageLoader",
        "Pixels",
        "cached_names",
    ),
    "llava": ("LlavaSource",),
    "messages": (
        "TRAIN",
        "MessagesSource",
        "expect_no_others",
        "write_messages",
    ),
    "packed": (
        "Encoder",
        "PackedSource",
        "conversation_batches",
    ),
}


def __getattr__(name: str):
    """Imports the module that has a name of `_LATE`."""
    for module, names in _LATE.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

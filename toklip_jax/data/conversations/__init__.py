"""Conversations about images, as training data of a multimodal language model.

What reads files and makes batches is in the modules `export`, `images`, `llava`, `messages` and
`packed`, which need grain; a program that only answers questions doesn't.
"""

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

__all__ = [
    "ASSISTANT",
    "IGNORED",
    "IMAGE",
    "IMAGE_ID",
    "ROLES",
    "SYSTEM",
    "TEMPLATES",
    "TEXT_PLACE",
    "USER",
    "BadConversation",
    "CaptionTemplate",
    "ChatTemplate",
    "ChatTokenizer",
    "Conversation",
    "FastTokenizer",
    "Piece",
    "Row",
    "Template",
    "TransformersTokenizer",
    "Turn",
    "TurnTemplate",
    "batch_rows",
    "bucket_length",
    "chat_tokenizer",
    "chatml",
    "encode_conversation",
    "encode_prompt",
    "ending_with",
    "first_fit",
    "known_tokenizer",
    "pack_rows",
    "place_images",
    "template_of",
    "tokenize_pieces",
    "truncate",
]

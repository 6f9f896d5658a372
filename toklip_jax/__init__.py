"""TokLIP in JAX: images to discrete ids, and ids to tokens with CLIP-level meaning."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from toklip_jax.api import (
        Generator,
        LanguageModel,
        MultimodalModel,
        Tokenizer,
        VQTokenizer,
        list_models,
        load,
    )

__all__ = [
    "Generator",
    "LanguageModel",
    "MultimodalModel",
    "Tokenizer",
    "VQTokenizer",
    "__version__",
    "list_models",
    "load",
]
__version__ = "0.1.0"


def __getattr__(name: str):
    """Imports the API once something of it is asked for, so that commands start before JAX does."""
    if not name.startswith("_"):
        api = importlib.import_module("toklip_jax.api")  # and with it most subpackages
        if name in __all__:
            return getattr(api, name)
        if name in globals():
            return globals()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

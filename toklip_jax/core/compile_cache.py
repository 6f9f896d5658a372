"""JAX's cache of compiled programs on disk, on by default for the commands: a second start is fast.

`JAX_COMPILATION_CACHE_DIR` in the environment names another directory, or none if it is empty.
"""

import hashlib
import os
import pathlib
import platform

import jax

from toklip_jax.core.processor import processor_flags

VARIABLE = "JAX_COMPILATION_CACHE_DIR"


def enable() -> None:
    """Turns the cache on, in the user's cache directory, unless the environment decides.

    A program compiled for one processor's instructions may not run on another, so each kind of
    processor has a directory of its own: homes are shared between machines.
    """
    if VARIABLE in os.environ or jax.config.jax_compilation_cache_dir:
        return
    home = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    directory = home / "toklip_jax" / "compiled" / _processor()
    jax.config.update("jax_compilation_cache_dir", str(directory))


def _processor() -> str:
    # Where the flags aren't known, the architecture's name has to do.
    digest = hashlib.sha256(f"{platform.processor()}{processor_flags()}".encode()).hexdigest()[:12]
    return f"{platform.machine()}-{digest}"

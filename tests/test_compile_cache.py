"""Compiled programs are kept by default, and where is the environment's to say."""

import os
import subprocess
import sys

import pytest

CODE = """
import jax
from toklip_jax.core import compile_cache
compile_cache.enable()
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.jit(lambda x: x * 2 + 1)(3.0)
"""


@pytest.mark.parametrize("said", [None, "elsewhere", ""])
def test_compiled_programs_are_kept_unless_the_environment_says_otherwise(said, tmp_path):
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache"), "JAX_PLATFORMS": "cpu"}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    if said is not None:
        environment["JAX_COMPILATION_CACHE_DIR"] = said and str(tmp_path / said)
    subprocess.run([sys.executable, "-c", CODE], env=environment, check=True)
    found = {path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("*-cache")}
    assert found == {None: {"cache"}, "elsewhere": {"elsewhere"}, "": set()}[said]

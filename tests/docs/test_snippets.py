"""Every Python block of a page compiles, and what it takes from toklip_jax is there."""

import ast
import importlib
import importlib.util
import pathlib
import re
import textwrap

import pytest

import toklip_jax

ROOT = pathlib.Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^( *)```python\n(.*?)^\1```$", re.M | re.S)
# What the pages call the objects that `load` returns.
OBJECTS = {
    "toklip": toklip_jax.Tokenizer,
    "generator": toklip_jax.Generator,
    "language_model": toklip_jax.LanguageModel,
}
ALL = [
    pytest.param(textwrap.dedent(block), id=f"{page.stem}-{number}")
    for page in PAGES
    for number, (_, block) in enumerate(BLOCK.findall(page.read_text()))
]


def missing(code):
    """Names that a block takes from toklip_jax and that are not there."""
    tree, aliases, found = ast.parse(code), {}, []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "toklip_jax":
                    name = alias.name if alias.asname else "toklip_jax"
                    aliases[alias.asname or "toklip_jax"] = importlib.import_module(name)
                    importlib.import_module(alias.name)
        elif isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "toklip_jax":
            module = importlib.import_module(node.module)
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                if not hasattr(module, alias.name) and not _is_module(full):
                    found.append(full)
    roots = OBJECTS | aliases
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            root = roots.get(node.value.id)
            if root is not None and not _has(root, node.attr):
                found.append(f"{node.value.id}.{node.attr}")
    return found


def _is_module(name):
    return importlib.util.find_spec(name) is not None


def _has(root, name):
    # Attributes that objects have besides their classes' are described in the docstrings.
    return hasattr(root, name) or any(
        re.search(rf"^ +{name}: ", cls.__doc__ or "", re.M) for cls in getattr(root, "__mro__", ())
    )


@pytest.mark.parametrize("code", ALL)
def test_it_compiles_and_its_names_are_there(code):
    compile(code, "page", "exec")
    assert not missing(code)


def test_what_is_not_there_is_found():
    code = "import toklip_jax\nfrom toklip_jax.data.text import TextTokeniser\ntoklip_jax.lod('x')"
    assert missing(code) == ["toklip_jax.data.text.TextTokeniser", "toklip_jax.lod"]
    assert missing("toklip.tokenise(images)\ntoklip.params") == ["toklip.tokenise"]

"""Programs of a model for runtimes without this package: StableHLO, with the weights beside it.

OUTPUT/
    manifest.json        what the programs take and give, what they were made from, and with
    params.safetensors   the parameters, which all programs share
    encode.jax_export    a program for each function; `jax.export.deserialize` reads it

Weights are no constants of the programs: each of them would hold its own copy, a serialised module
ends at 2 GiB, and compilers fold and copy constants. A program is some 100 KB, compiles as fast as
the model does, and takes the parameters that it uses as its first argument, in the manifest's
order.
"""

import dataclasses
import importlib.metadata
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from toklip_jax.api.base import LoadedModel
from toklip_jax.api.tokenizer import Tokenizer
from toklip_jax.api.vq_tokenizer import VQTokenizer
from toklip_jax.core.errors import AlreadyExists, UserError
from toklip_jax.core.fields import check_name
from toklip_jax.core.home import expand_user
from toklip_jax.core.imports import import_extra
from toklip_jax.files import write_safetensors
from toklip_jax.models.base import ids_shape
from toklip_jax.models.registry import VQConfig, family_of
from toklip_jax.models.serialization import config_to_dict
from toklip_jax.weights.description import file_digest
from toklip_jax.weights.fingerprints import fingerprint

FORMAT = 1  # of the manifest
MANIFEST, PARAMS, SUFFIX = "manifest.json", "params.safetensors", ".jax_export"
BATCH = "b"  # the symbolic size of the first axis
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
PIXELS = {"uint8": [0, 255], "float32": [-1.0, 1.0]}  # images that programs take, and their range
PACKAGES = ("toklip_jax", "jax", "jaxlib", "flax", "numpy")


@dataclasses.dataclass(frozen=True)
class Function:
    """What a program computes.

    Attributes:
        method: the name of the model's method, and of its module's.
        takes: what it takes: images, ids or token_ids.
        gives: what it gives.
    """

    method: str
    takes: str
    gives: str

    def __call__(self, model: LoadedModel, inputs: jax.Array) -> jax.Array:
        call = getattr(model, self.method)
        return call(ids=inputs) if self.method == "image_features" else call(inputs)


FUNCTIONS = {
    "encode": Function("tokenize", "images", "ids"),
    "tokens": Function("semantic_tokens", "ids", "tokens"),
    "features": Function("image_features", "ids", "image_features"),
    "decode": Function("detokenize", "ids", "images"),
    "texts": Function("text_features", "token_ids", "text_features"),
}
OF_VQ = ("encode", "decode")  # those that a VQ tokenizer alone has


def export(
    model: Tokenizer | VQTokenizer,
    output: str | os.PathLike[str],
    *,
    functions: Sequence[str] | None = None,
    platforms: Sequence[str] = ("cpu",),
    images: str = "uint8",
    source: str | os.PathLike[str] | None = None,
) -> dict[str, Any]:
    """Writes programs of a model that need jax alone to run, and returns their manifest.

    Results are those of the model's methods: ids int32 [b, n] or [b, n, q], tokens float32
    [b, n, d], normalised features float32 [b, d], images float32 [b, h, w, 3] in [-1, 1]. The batch
    b is symbolic: a program takes any number of rows, and is compiled for each.

    Args:
        output: a new directory.
        functions: names of `FUNCTIONS`; by default all that the model has.
        platforms: those of `PLATFORMS` that the programs are lowered for.
        images: the type of images that `encode` takes: "uint8", or "float32" in [-1, 1].
        source: the weights that the model was loaded from, whose hash the manifest then holds.

    Raises:
        FileExistsError: something is at `output`.
        ValueError: a model without such programs, or without a size of images; an unknown name.
    """
    import_extra("flatbuffers")  # with which jax writes programs
    shapes = _shapes(model)
    names = _checked("function", functions, OF_VQ if "token_ids" not in shapes else FUNCTIONS)
    platforms = _checked("platform", platforms, PLATFORMS)
    check_name("type of images", images, PIXELS)
    output = expand_user(output).absolute()
    if output.exists():
        raise AlreadyExists(
            f"expected a new directory, got {output}, which exists: choose another name"
        )
    leaves, treedef = jax.tree_util.tree_flatten_with_path(model.params)
    params = {jax.tree_util.keystr(path, simple=True, separator="/"): x for path, x in leaves}
    manifest = {
        "format": FORMAT,
        "model": family_of(model.config).name,
        "config": config_to_dict(model.config),
        "dtype": model.model.compute.dtype,
        "source": None if source is None else _source(source),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "platforms": list(platforms),
    }
    draft = output.with_name(f".{output.name}.part")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        manifest["functions"] = {
            name: _write_program(
                draft / f"{name}{SUFFIX}",
                _Program(model, FUNCTIONS[name], shapes, images, params, treedef),
                platforms,
            )
            for name in names
        }
        used = {name for entry in manifest["functions"].values() for name in entry["params"]}
        arrays = {name: np.asarray(x) for name, x in params.items() if name in used}
        write_safetensors(draft / PARAMS, arrays)
        manifest["params"] = _file(draft / PARAMS)
        (draft / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
        draft.rename(output)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return manifest


@dataclasses.dataclass(frozen=True)
class _Program:
    """A function of a model, of some of its parameters and its input.

    Attributes:
        shapes: a row of each kind of input.
        pixels: the type of images.
        params: the model's parameters by name.
        treedef: their tree.
    """

    model: LoadedModel
    function: Function
    shapes: dict[str, tuple[int, ...]]
    pixels: str
    params: dict[str, Any]
    treedef: Any

    @property
    def dtype(self) -> str:
        return self.pixels if self.function.takes == "images" else "int32"

    def inputs(self, rows: Any) -> jax.ShapeDtypeStruct:
        """The shape of its input; `rows` may be symbolic."""
        return jax.ShapeDtypeStruct((rows, *self.shapes[self.function.takes]), self.dtype)

    def used(self) -> list[str]:
        """Names of the parameters that it needs."""

        def apply(leaves, inputs):
            return self.model.apply(
                self.treedef.unflatten(leaves), inputs, method=self.function.method
            )

        leaves = [_shape_of(x) for x in self.params.values()]
        jaxpr = jax.make_jaxpr(apply)(leaves, self.inputs(1)).jaxpr
        read = {id(x) for equation in jaxpr.eqns for x in equation.invars}
        read |= {id(x) for x in jaxpr.outvars}
        variables = zip(self.params, jaxpr.invars, strict=False)  # the last is the input
        return [name for name, variable in variables if id(variable) in read]

    def __call__(self, names: Sequence[str]) -> Callable[[list, Any], jax.Array]:
        """Returns the function of the parameters of these names, in their order, and the input."""

        def run(leaves, inputs):
            given = dict(zip(names, leaves, strict=True))
            # No program reads the others, which would be constants of it.
            tree = self.treedef.unflatten([given.get(name) for name in self.params])
            return self.function(self.model.with_params(tree), inputs)

        return run


def _write_program(path: pathlib.Path, program: _Program, platforms: Sequence[str]) -> dict:
    """Writes a program, and returns its entry in the manifest."""
    names = program.used()
    (rows,) = jax.export.symbolic_shape(BATCH)
    leaves = [_shape_of(program.params[name]) for name in names]
    exporter = jax.export.export(jax.jit(program(names)), platforms=platforms)
    exported = exporter(leaves, program.inputs(rows))
    path.write_bytes(exported.serialize())
    (result,) = exported.out_avals
    function = program.function
    return {
        **_file(path),
        "params": names,
        "input": _described(program, function.takes, exported.in_avals[-1]),
        "output": _described(program, function.gives, result),
    }


def _described(program, name, aval):
    """An array as the manifest has it; ids have a range for each codebook."""
    shape = [size if isinstance(size, int) else str(size) for size in aval.shape]
    dtype = aval.dtype.name
    return {"name": name, "shape": shape, "dtype": dtype, "range": _range(program, name, dtype)}


def _range(program, name, dtype):
    """The least and the greatest value of an array, or None where any may come."""
    config = program.model.config
    if name == "images":
        return PIXELS[dtype]
    if name == "ids":
        return [[0, size - 1] for size in getattr(config, "vq", config).codebook_sizes]
    return [0, config.text.vocab_size - 1] if name == "token_ids" else None


def _shapes(model) -> dict[str, tuple[int, ...]]:
    """The shape of a row of each kind of input."""
    if isinstance(model, Tokenizer):
        vision, text = model.config.vision, model.config.text
        ids = ids_shape(model.config.vq, vision.grid)
        return {
            "images": (*vision.size, 3), "ids": ids, "token_ids": (text.context_length,)
        }  # fmt: skip
    if not isinstance(model, VQTokenizer):
        raise UserError(
            f"expected TokLIP or a VQ tokenizer to export, got {model!r}: generators and language "
            f"models have no programs of one call"
        )
    if model.image_size is None:
        raise UserError(
            "expected a VQ tokenizer with a size of images, got one that takes several: load it "
            "with image_size=..."
        )
    config: VQConfig = model.config
    grid = config.grid_of(*model.image_size)
    return {"images": (*model.image_size, 3), "ids": ids_shape(config, grid)}


def _checked(what, names, known):
    names = tuple(known) if names is None else tuple(names)
    if not names:
        raise UserError(f"expected at least one {what} of {', '.join(known)}, got none")
    for name in names:
        check_name(what, name, known)
    return names


def _source(path):
    path = expand_user(path)
    return {"path": str(path), "sha256": fingerprint(path)}


def _file(path):
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": file_digest(path)}


def _shape_of(x):
    return jax.ShapeDtypeStruct(jnp.shape(x), x.dtype)

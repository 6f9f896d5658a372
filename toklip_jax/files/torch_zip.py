"""Reads PyTorch's zip format (torch >= 1.6) without torch. This is the security boundary.

A `.pt` file is a zip of raw storages and one pickle, and a pickle is a program. It is read as data
(`pickle_data`): nothing that it names is ever imported or called, whatever the name is. Of names,
there are three kinds:

- those that describe tensors and plain containers, which are understood here;
- those that only code-running pickles mention (`os`, `subprocess`, `builtins.eval`, ...). They
  would do nothing either, but a file that holds one was made to attack whoever opens it, and is
  refused by that name, so that nobody opens it with something less careful;
- any other (`argparse.Namespace`, a path, an optimizer's enum, a config class): an `Inert` note of
  the name. Weights never need one, so they are tolerated beside the weights.

Everything is checked before it becomes an array: geometry within the storage, storage within its
zip entry, entry within the file and as its checksum says. Arrays are read-only views of the mapped
file; nothing is decompressed, so nothing can grow. Texts of the file are shortened and escaped in
messages.
"""

import contextlib
import dataclasses
import pathlib
from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import ml_dtypes
import numpy as np

from toklip_jax.core.errors import UserError
from toklip_jax.core.printable import printable
from toklip_jax.files import MappedFile
from toklip_jax.files.limits import MAX_NDIM, MAX_TENSORS
from toklip_jax.files.pickle_data import (
    MAX_INSTRUCTIONS,
    MAX_PICKLE_BYTES,
    Call,
    Global,
    PersistentId,
    PickleData,
    WrappedKey,
    read_pickle,
)
from toklip_jax.files.stored_zip import StoredZip

DTYPES = {
    "DoubleStorage": np.dtype(np.float64),
    "FloatStorage": np.dtype(np.float32),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
}
DICTS = frozenset(
    [
        Global("collections", "OrderedDict"),
        Global("collections", "defaultdict"),
        Global("builtins", "dict"),
        Global("__builtin__", "dict"),
    ]
)
TENSOR = Global("torch._utils", "_rebuild_tensor_v2")
PARAMETER = Global("torch._utils", "_rebuild_parameter")
SIZE = Global("torch", "Size")

HARMLESS = frozenset(  # of the modules below
    """
    builtins.bool builtins.bytearray builtins.bytes builtins.complex builtins.dict builtins.float
    builtins.frozenset builtins.int builtins.list builtins.object builtins.range builtins.set
    builtins.slice builtins.str builtins.tuple types.SimpleNamespace
    """.split()
)
DANGEROUS_MODULES = frozenset(  # with all that is in them
    """
    _io _posixsubprocess _pickle asyncio bdb builtins cffi cloudpickle code codeop commands
    concurrent ctypes dill distutils doctest ensurepip fileinput ftplib http imp importlib inspect
    io joblib linecache marshal multiprocessing nt ntpath numpy.distutils numpy.testing operator os
    pdb pickle pip pkgutil platform popen2 posix posixpath profile pty pydoc requests runpy
    setuptools shelve shutil signal site smtplib socket sqlite3 ssl subprocess sys tempfile test
    threading timeit torch.hub torch.jit torch.load torch.serialization torch.utils.cpp_extension
    trace types urllib venv webbrowser xmlrpc zipfile zipimport
    """.split()
)
OLD_MODULES = {"__builtin__": "builtins", "_operator": "operator"}

DANGEROUS_DEPTH = max(module.count(".") for module in DANGEROUS_MODULES) + 1
MAX_AXIS = 2**48


class UnsafeFileError(UserError):
    """The file's pickle names code that it would have run."""


@dataclasses.dataclass(frozen=True)
class Inert:
    """Stands for an object of a class that is not known here."""

    name: str


@runtime_checkable
class Storages(Protocol):
    """The places of a file's tensor entries."""

    path: pathlib.Path

    def storage(self, dtype: np.dtype, key: str, numel: int) -> np.ndarray:
        """Returns the entries of a storage, a read-only view.

        Raises:
            ValueError: no such storage, or one too small.
        """


def read_torch_zip(file: MappedFile) -> Any:
    """Returns what `torch.save` wrote: dicts, lists and scalars, with arrays for tensors.

    Tuples and sets become lists. Arrays are read-only views of the file.

    Raises:
        UnsafeFileError: the pickle names something that runs code.
        ValueError: damaged, compressed, big-endian, or not written by `torch.save`.
    """
    with one_clear_error(file.path):
        archive = _Archive(file)
        return resolve(read_pickle(archive.pickle_bytes()), archive)


@contextlib.contextmanager
def one_clear_error(path: pathlib.Path) -> Iterator[None]:
    """Turns whatever hostile bytes make a reader raise into a ValueError that names the file."""
    try:
        yield
    except UnsafeFileError:
        raise
    except ValueError as error:
        raise UserError(f"can't read {path}: {error}") from error
    except Exception as error:  # hostile bytes make zipfile and recursion raise nearly anything
        raise UserError(
            f"can't read {path}: damaged or cut off ({type(error).__name__})"
        ) from error


def resolve(data: PickleData, storages: Storages) -> Any:
    """Returns what a pickle of torch describes, its tensors as views of their storages.

    Raises:
        UnsafeFileError: the pickle names something that runs code.
        ValueError: damaged.
    """
    for found in data.globals:
        if is_dangerous(found):
            raise UnsafeFileError(
                f"refused {storages.path}: its pickle names {printable(str(found))}, which runs "
                f"code where it is loaded; nothing was run. Get the weights from a source you "
                f"trust, as .safetensors"
            )
    return _Resolver(storages).resolve(data.value)


def storage_id(found: PersistentId) -> tuple[np.dtype, str, int]:
    """Returns a storage's dtype, key and number of entries, checked."""
    pid = found.value
    # Before torch 1.6 a sixth entry could make a storage a part of another; torch 0.1 used it last.
    is_whole = isinstance(pid, tuple) and (len(pid) == 5 or (len(pid) == 6 and pid[5] is None))
    if not is_whole or pid[0] != "storage":
        raise UserError("damaged: a tensor without storage")
    _, kind, key, _, numel = pid[:5]
    if not isinstance(kind, Global) or kind.module not in ("torch", "torch.storage"):
        raise UserError("damaged: a storage of no type of torch's")
    if kind.name not in DTYPES:
        raise UserError(f"expected a storage of {sorted(DTYPES)}, got {printable(kind.name)}")
    if not isinstance(key, str) or type(numel) is not int or not 0 <= numel < MAX_AXIS:
        raise UserError("damaged: a storage without a proper size")
    return DTYPES[kind.name], key, numel


def is_dangerous(found: Global) -> bool:
    """Tells whether only pickles that run code mention this name."""
    head, dot, rest = found.module.partition(".")
    path = f"{OLD_MODULES.get(head, head)}{dot}{rest}.{found.name}"
    parts = path.split(".", DANGEROUS_DEPTH)[:DANGEROUS_DEPTH]
    prefixes = {".".join(parts[:i]) for i in range(1, len(parts) + 1)}
    return path not in HARMLESS and not prefixes.isdisjoint(DANGEROUS_MODULES)


class _Resolver:
    """Turns the pickle's notes into values, each once: shared and cyclic nests stay small."""

    def __init__(self, archive):
        self._archive = archive
        self._seen: dict[int, Any] = {}  # by id: the notes live as long as this does
        self._tensors = self._entries = 0

    def resolve(self, node):
        if isinstance(node, Global):
            return Inert(str(node))
        if isinstance(node, PersistentId):
            return Inert("a storage")
        if not isinstance(node, (dict, list, tuple, Call)):
            return node
        if id(node) not in self._seen:
            self._resolve_new(node)
        return self._seen[id(node)]

    def _resolve_new(self, node):
        if isinstance(node, dict):
            self._fill(node, node.items())
        elif isinstance(node, Call):
            self._resolve_call(node)
        else:
            self._seen[id(node)] = out = []
            out.extend(map(self.resolve, node))

    def _resolve_call(self, call):
        function = call.function
        if isinstance(function, Global) and function in DICTS:
            self._fill(call, [*_first_pairs(call.args), *call.items.items()])
        elif function == TENSOR:
            self._tensors += 1
            if self._tensors > MAX_TENSORS:
                raise UserError(f"expected at most {MAX_TENSORS} tensors, got more: save fewer")
            self._seen[id(call)] = _array(_tensor(call), self._archive)
        elif function in (PARAMETER, SIZE) and isinstance(call.args, tuple) and call.args:
            self._seen[id(call)] = self.resolve(call.args[0])
        else:
            name = str(function) if isinstance(function, Global) else "an object"
            self._seen[id(call)] = Inert(name)

    def _fill(self, node, pairs):
        self._entries += len(pairs)  # pairs that many calls share are counted each time
        if self._entries > MAX_INSTRUCTIONS:
            raise UserError("damaged: its dicts have more entries than the pickle wrote")
        self._seen[id(node)] = out = {}
        for key, value in pairs:
            key = Inert("a key that is no scalar") if isinstance(key, WrappedKey) else key
            out[key] = self.resolve(value)


def _first_pairs(args):
    """Returns the pairs that an OrderedDict was built from, if it was built from pairs."""
    first = args[0] if isinstance(args, tuple) and args else None
    if not isinstance(first, list):
        return []
    pairs = [p for p in first if isinstance(p, (tuple, list)) and len(p) == 2]
    return [p for p in pairs if isinstance(p[0], str)]


@dataclasses.dataclass(frozen=True)
class _Tensor:
    dtype: np.dtype
    key: str
    numel: int
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


def _tensor(call) -> _Tensor:
    """Checks the kinds of everything that describes a tensor."""
    args = call.args
    if not isinstance(args, tuple) or not 4 <= len(args) <= 7 or call.has_state or call.items:
        raise UserError("damaged: a tensor is described in an unknown way")
    if len(args) == 7 and args[6]:
        raise UserError("a tensor is stored negated or conjugated: re-save it from PyTorch")
    storage, offset, size, stride = args[:4]
    if not isinstance(storage, PersistentId):
        raise UserError("damaged: a tensor without storage")
    dtype, key, numel = storage_id(storage)
    size, stride = _unwrap_size(size), _unwrap_size(stride)
    if (
        not isinstance(size, tuple)
        or not isinstance(stride, tuple)
        or len(size) != len(stride)
        or len(size) > MAX_NDIM
        or any(type(x) is not int or not 0 <= x < MAX_AXIS for x in (*size, *stride, offset))
    ):
        raise UserError("damaged: a tensor without a proper shape")
    return _Tensor(dtype, key, numel, offset, size, stride)


def _unwrap_size(value):
    if isinstance(value, Call) and value.function == SIZE and isinstance(value.args, tuple):
        value = value.args[0] if value.args else ()
    return value


def _array(tensor, archive):
    values = archive.storage(tensor.dtype, tensor.key, tensor.numel)
    count, last = 1, tensor.offset
    for length, stride in zip(tensor.size, tensor.stride, strict=True):
        count *= length
        last += (length - 1) * stride
    if not count:
        return np.zeros(tensor.size, tensor.dtype)
    # An expanded tensor (stride 0) may be larger than its storage; no checkpoint needs one.
    if last >= len(values) or count > len(values):
        raise UserError(
            f"damaged: a tensor of shape {tensor.size} reaches outside its storage of "
            f"{len(values)} entries"
        )
    strides = tuple(stride * values.itemsize for stride in tensor.stride)
    tail = values[tensor.offset :]
    return np.lib.stride_tricks.as_strided(tail, tensor.size, strides, writeable=False)


class _Archive:
    """The entries of torch's zip."""

    def __init__(self, file: MappedFile):
        self.path, self._zip = file.path, StoredZip(file)
        pickles = [n for n in self._zip.names if n == "data.pkl" or n.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise UserError("expected a file of torch.save, got another kind of zip")
        self._root = pickles[0].removesuffix("data.pkl")
        if any(name.startswith(f"{self._root}code/") for name in self._zip.names):
            raise UserError(
                "expected weights, got a TorchScript program: save its state_dict() with torch.save"
            )
        order = self._root + "byteorder"
        if order in self._zip.names and bytes(self._zip.view(order)[:8]) != b"little":
            raise UserError("expected little-endian storages, got big-endian ones: re-save it")

    def pickle_bytes(self) -> bytes:
        view = self._zip.view(self._root + "data.pkl")
        if len(view) > MAX_PICKLE_BYTES:
            raise UserError(
                f"expected a pickle of at most {MAX_PICKLE_BYTES} bytes, got one of {len(view)}: "
                f"save the weights alone, by torch.save(model.state_dict(), path)"
            )
        return view.tobytes()

    def storage(self, dtype: np.dtype, key: str, numel: int) -> np.ndarray:
        view = self._zip.view(f"{self._root}data/{key}")
        size = numel * dtype.itemsize
        if size > len(view):
            raise UserError(
                f"damaged: storage {printable(key)} should hold {numel} {dtype} and has "
                f"{len(view)} bytes"
            )
        return view[:size].view(dtype)

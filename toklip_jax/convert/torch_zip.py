"""Reads PyTorch's zip format (torch >= 1.6) without torch. This is the security boundary.

A `.pt` file is a zip of raw storages and one pickle, and a pickle is a program. Ours runs none of
it. What the unpickler meets is one of three things:

- the few names that describe tensors and plain containers, which become inert records;
- a name that only code-running pickles use (`os`, `subprocess`, `builtins.eval`, ...): the file is
  refused, naming it;
- any other name (`argparse.Namespace`, an optimizer's enum, a config class): an inert stand-in that
  is never imported, and that accepts construction and state without doing anything.

Records check nothing while the pickle runs and everything when they become arrays: geometry within
the storage, storage within its zip entry, entry within the file. Arrays are read-only views of the
memory-mapped file; nothing is decompressed, so no entry can grow.
"""

import collections
import io
import mmap
import pathlib
import pickle
import zipfile
from typing import Any

import ml_dtypes
import numpy as np

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
HARMLESS_BUILTINS = frozenset(
    [
        "bool",
        "bytearray",
        "bytes",
        "complex",
        "dict",
        "float",
        "frozenset",
        "int",
        "list",
        "object",
        "range",
        "set",
        "slice",
        "str",
        "tuple",
    ]
)
DANGEROUS_MODULES = frozenset(
    [
        "__builtin__",
        "_io",
        "asyncio",
        "bdb",
        "builtins",
        "cffi",
        "code",
        "codeop",
        "commands",
        "ctypes",
        "dill",
        "distutils",
        "cloudpickle",
        "fileinput",
        "ftplib",
        "functools",
        "http",
        "importlib",
        "imp",
        "inspect",
        "io",
        "joblib",
        "linecache",
        "logging",
        "marshal",
        "multiprocessing",
        "nt",
        "ntpath",
        "numpy.testing",
        "operator",
        "os",
        "pathlib",
        "pdb",
        "pickle",
        "pip",
        "pkgutil",
        "platform",
        "posix",
        "posixpath",
        "profile",
        "pty",
        "pydoc",
        "requests",
        "runpy",
        "setuptools",
        "shelve",
        "shutil",
        "signal",
        "site",
        "smtplib",
        "socket",
        "sqlite3",
        "ssl",
        "subprocess",
        "sys",
        "tempfile",
        "test",
        "threading",
        "timeit",
        "torch.hub",
        "torch.jit",
        "torch.utils.cpp_extension",
        "trace",
        "types",
        "urllib",
        "uuid",
        "venv",
        "webbrowser",
        "xmlrpc",
        "zipfile",
    ]
)
MAX_PICKLE_BYTES = 256 * 2**20  # a state dict of ten thousand tensors takes about 2 MiB
MAX_NDIM = 32
RESAVE = (
    "python -c \"import torch; torch.save(torch.load('{name}', weights_only=True), 'resaved.pt')\""
)


class UnsafeFileError(ValueError):
    """The file's pickle would run code."""


def is_zip(path: str | pathlib.Path) -> bool:
    """Tells whether a file begins as a zip does."""
    with open(path, "rb") as file:
        return file.read(4) == b"PK\x03\x04"


def read_torch_zip(path: str | pathlib.Path) -> Any:
    """Returns what `torch.save` wrote: dicts, lists and scalars, with arrays for tensors.

    Arrays are read-only views of the memory-mapped file. Objects of unknown classes are `Inert`.

    Raises:
        UnsafeFileError: the pickle names something that runs code.
        ValueError: damaged, compressed, big-endian, or not written by `torch.save`.
    """
    path = pathlib.Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            storages = _Archive(path, archive)
            tree = _Unpickler(storages).load()
            return _materialise(tree, storages, {})
    except ValueError:
        raise
    except Exception as error:  # hostile bytes make pickle and zipfile raise nearly anything
        raise ValueError(
            f"{path} is damaged, or no file of torch.save: {type(error).__name__}: {error}"
        ) from error


class Inert:
    """Stands for an object of a class that is not known here. It does nothing."""

    name = "?"

    def __init__(self, *args, **kwargs):
        self.args = args

    def __setstate__(self, state):
        self.state = state

    def __setitem__(self, key, value):
        pass

    def append(self, value):
        pass

    def extend(self, values):
        pass

    def add(self, value):
        pass

    def __call__(self, *args, **kwargs):
        return Inert()

    def __repr__(self):
        return f"<inert {self.name}>"


class _Sealed:
    """A record that the pickle cannot change once it is built."""

    __slots__ = ()

    def __setstate__(self, state):
        raise pickle.UnpicklingError("state set on a tensor's record")


class _StorageType(_Sealed):
    __slots__ = ("dtype",)

    def __init__(self, dtype):
        self.dtype = dtype


class _Storage(_Sealed):
    __slots__ = ("dtype", "key", "numel")

    def __init__(self, dtype, key, numel):
        self.dtype, self.key, self.numel = dtype, key, numel


class _Tensor(_Sealed):
    __slots__ = ("offset", "size", "storage", "stride")

    def __init__(self, storage, offset, size, stride, *_):
        self.storage, self.offset, self.size, self.stride = storage, offset, size, stride


def _parameter(data, *_):
    return data


def _size(*args):
    return tuple(*args)


KNOWN = {
    ("torch._utils", "_rebuild_tensor_v2"): _Tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch", "Size"): _size,
}


class _Unpickler(pickle.Unpickler):
    def __init__(self, storages):
        super().__init__(io.BytesIO(storages.pickle_bytes()), encoding="utf-8")
        self._path = storages.path

    def find_class(self, module, name):
        if (module, name) in KNOWN:
            return KNOWN[module, name]
        if module in ("torch", "torch.storage") and name in DTYPES:
            return _StorageType(DTYPES[name])
        if module in ("builtins", "__builtin__") and name in HARMLESS_BUILTINS:
            return type(name, (Inert,), {"name": name})
        if _is_dangerous(module):
            raise UnsafeFileError(
                f"refused {self._path}: its pickle names {module}.{name}, which runs code on load; "
                f"nothing was run. Get the weights from a source you trust, as .safetensors"
            )
        return type("Inert", (Inert,), {"name": f"{module}.{name}"})

    def persistent_load(self, pid):
        is_storage = isinstance(pid, tuple) and len(pid) == 5 and pid[0] == "storage"
        if not is_storage or not isinstance(pid[1], _StorageType):
            raise pickle.UnpicklingError(f"unknown persistent id {pid!r:.80}")
        return _Storage(pid[1].dtype, pid[2], pid[4])


def _is_dangerous(module):
    parts = module.split(".")
    return any(".".join(parts[: i + 1]) in DANGEROUS_MODULES for i in range(len(parts)))


class _Archive:
    """The zip's entries as views of the mapped file."""

    def __init__(self, path: pathlib.Path, archive: zipfile.ZipFile):
        self.path = path
        names = [info.filename for info in archive.infolist()]
        if len(set(names)) != len(names):
            raise ValueError(f"{path} is damaged: its zip holds the same entry twice")
        pickles = [name for name in names if name == "data.pkl" or name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError(f"expected a file of torch.save, got another zip: {path}")
        self._root = pickles[0].removesuffix("data.pkl")
        self._entries = {info.filename: info for info in archive.infolist()}
        with path.open("rb") as file:
            self._bytes = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), "u1")
        order = self._root + "byteorder"
        if order in self._entries and bytes(self._view(order)) != b"little":
            raise ValueError(f"expected little-endian storages, got big-endian ones in {path}")

    def pickle_bytes(self) -> bytes:
        view = self._view(self._root + "data.pkl")
        if len(view) > MAX_PICKLE_BYTES:
            raise ValueError(f"{self.path} holds a pickle of {len(view)} bytes: no state dict")
        return view.tobytes()

    def storage(self, storage: _Storage) -> np.ndarray:
        if not isinstance(storage.key, str) or type(storage.numel) is not int:
            raise ValueError(f"{self.path} is damaged: a storage without name or size")
        view = self._view(f"{self._root}data/{storage.key}")
        if storage.numel < 0 or storage.numel * storage.dtype.itemsize > len(view):
            raise ValueError(
                f"{self.path} is damaged: storage {storage.key} should hold {storage.numel} "
                f"{storage.dtype} and has {len(view)} bytes"
            )
        return view[: storage.numel * storage.dtype.itemsize].view(storage.dtype)

    def _view(self, name):
        if name not in self._entries:
            raise ValueError(f"{self.path} is damaged: entry {name} is missing")
        info = self._entries[name]
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise ValueError(
                f"expected stored zip entries, as torch.save writes them, got compressed or "
                f"encrypted ones in {self.path}: re-save it"
            )
        head = bytes(self._bytes[info.header_offset : info.header_offset + 30])
        if len(head) < 30 or head[:4] != b"PK\x03\x04":
            raise ValueError(f"{self.path} is damaged: entry {name} has no header")
        lengths = int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little")
        start = info.header_offset + 30 + lengths
        if start + info.file_size > len(self._bytes):
            raise ValueError(f"{self.path} is damaged or cut off: entry {name} ends past the file")
        return self._bytes[start : start + info.file_size]


def _materialise(node, storages, seen):
    """Replaces records by arrays; each object once, so that shared or cyclic nests stay small."""
    if isinstance(node, _Tensor):
        return _array(node, storages)
    if not isinstance(node, (dict, list, tuple)):
        return node
    if id(node) in seen:
        return seen[id(node)]
    if isinstance(node, dict):
        seen[id(node)] = out = {}
        out.update({key: _materialise(value, storages, seen) for key, value in node.items()})
        return out
    seen[id(node)] = out = []
    out.extend(_materialise(value, storages, seen) for value in node)
    return out


def _array(tensor, storages):
    size, stride, offset = tensor.size, tensor.stride, tensor.offset
    sequences = isinstance(size, (tuple, list)) and isinstance(stride, (tuple, list))
    if (
        not isinstance(tensor.storage, _Storage)
        or not sequences
        or len(size) != len(stride)
        or len(size) > MAX_NDIM
        or any(type(x) is not int or x < 0 for x in (*size, *stride, offset))
    ):
        raise ValueError(f"{storages.path} is damaged: a tensor without a proper shape")
    values = storages.storage(tensor.storage)
    count = 1
    for length in size:
        count *= length
    last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
    if count and (last >= len(values) or count > len(values)):
        raise ValueError(
            f"{storages.path} is damaged: a tensor of shape {tuple(size)} reaches outside its "
            f"storage of {len(values)} entries"
        )
    if not count:
        return np.zeros(tuple(size), values.dtype)
    strides = tuple(s * values.itemsize for s in stride)
    return np.lib.stride_tricks.as_strided(values[offset:], tuple(size), strides, writeable=False)

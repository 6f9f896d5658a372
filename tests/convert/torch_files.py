"""Files as `torch.save` writes them, made without torch: any pickle, any storages."""

import pickle
import zipfile

import numpy as np


class Named:
    """Pickles as the global `module.name`, called with `args`."""

    def __init__(self, name, *args):
        self.name, self.args = name, args


class Pid:
    def __init__(self, dtype, key, numel):
        self.pid = ("storage", dtype, key, "cpu", numel)


def tensor(size, stride=None, offset=0, key="0", numel=6, dtype="FloatStorage"):
    stride = stride if stride is not None else strides(size)
    return Named("torch._utils _rebuild_tensor_v2", Pid(dtype, key, numel), offset, size, stride)


def strides(size):
    out = []
    for i in range(len(size)):
        out.append(int(np.prod(size[i + 1 :], dtype=np.int64)))
    return tuple(out)


def dumps(value):
    """A pickle (protocol 2) written by hand, so that no real class is needed."""
    return b"\x80\x02" + encode(value) + b"."


def encode(value):
    if isinstance(value, Named):
        module, _, name = value.name.partition(" ")
        args = encode(tuple(value.args))
        return f"c{module}\n{name}\n".encode() + args + b"R"
    if isinstance(value, Pid):
        head, dtype, *rest = value.pid
        items = encode(head) + f"ctorch\n{dtype}\n".encode() + b"".join(map(encode, rest))
        return b"(" + items + b"tQ"
    if isinstance(value, dict):
        items = b"".join(encode(k) + encode(v) for k, v in value.items())
        return b"}(" + items + b"u"
    if isinstance(value, tuple):
        return b"(" + b"".join(map(encode, value)) + b"t"
    return pickle.dumps(value, 2)[2:-1]


def write(path, tree, storages=None, raw=None, compression=zipfile.ZIP_STORED, names=()):
    storages = {"0": np.arange(6, dtype="<f4").tobytes()} if storages is None else storages
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", dumps(tree) if raw is None else raw)
        archive.writestr("archive/byteorder", "little")
        for key, data in storages.items():
            archive.writestr(f"archive/data/{key}", data)
        for name, data in names:
            archive.writestr(name, data)
    return path


TORCH_TYPES = {"float32": "FloatStorage", "float16": "HalfStorage", "int32": "IntStorage"}


def save(path, tree):
    """Writes nested dicts of arrays and plain values, as `torch.save` does."""
    storages = {}

    def stored(value):
        if isinstance(value, dict):
            return {name: stored(inner) for name, inner in value.items()}
        if not isinstance(value, np.ndarray):
            return value
        key = str(len(storages))
        storages[key] = np.ascontiguousarray(value).tobytes()
        kind = TORCH_TYPES[str(value.dtype)]
        return tensor(value.shape, key=key, numel=value.size, dtype=kind)

    return write(path, stored(tree), storages)

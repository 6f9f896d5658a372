"""Seeded damage to files of weights: to their bytes, and to what the bytes mean.

`Mutator(seed)` is a source of random choices; `mutated(files, kind, random)` returns the bytes of
one damaged file of that kind. The same seed gives the same bytes.
"""

import io
import json
import zipfile

import numpy as np

from tests.convert.torch_files import Named, Pid, dumps, encode, tensor

MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
SYSTEM = {"protocol_version": 1001, "little_endian": True}
NUMBERS = (0, 1, -1, 2, 3, 31, 2**15, 2**31, 2**32, 2**61 - 1, 2**63, 2**64, -(2**63), 10**30)
ODD_VALUES = (None, True, 1.5, float("nan"), "", "x", [], {}, [[]], {"a": 1}, *NUMBERS)
ODD_NAMES = (
    "",
    "x",
    "\x1b]0;owned\x07",
    "a" * 3000,
    "\u202ereversed",
    "../../etc/passwd",
    "model.model.module.x",
    "blocks.99999999.norm1.weight",
    "__metadata__",
    "\ud800",
    "a\nb",
    "%s{0}{i}",
)
GLOBALS = (
    "os system",
    "builtins eval",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    "torch Size",
    "collections OrderedDict",
    "argparse Namespace",
    "a.b.c.d.e.f g.h",
    "torch FloatStorage",
)
DTYPES = ("F64", "F32", "F16", "BF16", "I64", "I8", "U8", "BOOL", "F8_E4M3", "C64", "", 5, None)
STORAGES = ("FloatStorage", "DoubleStorage", "CharStorage", "BFloat16Storage", "EvilStorage")


def safetensors(tensors, random):
    """A safetensors file with a changed header, sometimes made consistent again."""
    header, body = {}, b""
    for name, array in tensors.items():
        data = array.tobytes()
        header[name] = {
            "dtype": "F32",
            "shape": list(array.shape),
            "data_offsets": [len(body), len(body) + len(data)],
        }
        body += data
    for _ in range(random.integers(1, 4)):
        _change_header(header, random)
    if random.random() < 0.5:
        header, body = _consistent(header, body)
    text = json.dumps(header)
    if random.random() < 0.1 and len(header) > 1:  # a name twice
        name = pick(list(header), random)
        text = f"{text[:-1]}, {json.dumps(name)}: {json.dumps(header[name])}}}"
    text = text.encode()
    length = len(text) if random.random() < 0.9 else abs(pick(NUMBERS, random)) % 2**64
    return length.to_bytes(8, "little") + text + body


def _change_header(header, random):
    names = [name for name in header if name != "__metadata__"]
    if not names:
        return
    name = pick(names, random)
    entry = header[name]
    change = random.integers(8)
    if change == 0:
        del header[name]
    elif change == 1:
        header[pick([*ODD_NAMES, renumbered(name, random)], random)] = header.pop(name)
    elif change == 2:
        header[name] = pick(ODD_VALUES, random)
    elif change == 3:
        header["__metadata__"] = pick(ODD_VALUES, random)
    elif isinstance(entry, dict):
        field = pick(["dtype", "shape", "data_offsets"], random)
        if change == 4:
            entry[field] = pick(ODD_VALUES, random)
        elif change == 5:
            entry["dtype"] = pick(DTYPES, random)
        elif isinstance(entry.get("shape"), list):
            entry["shape"] = changed_list(entry["shape"], random)


def _consistent(header, body):
    """Offsets that fit dtypes and shapes, as far as these have a meaning."""
    sizes = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I8": 1, "U8": 1, "BOOL": 1}
    made, parts = {}, b""
    for name, entry in header.items():
        try:
            size = sizes[entry["dtype"]] * int(np.prod(entry["shape"], dtype=np.float64))
            first = int(entry["data_offsets"][0])
        except (KeyError, TypeError, ValueError, OverflowError, IndexError):
            made[name] = entry
            continue
        if not 0 <= size < 10**6:
            made[name] = entry
            continue
        data = body[first : first + size].ljust(size, b"\0")[:size]
        made[name] = entry | {"data_offsets": [len(parts), len(parts) + size]}
        parts += data
    return made, parts


def torch_zip(tensors, random):
    """A zip as torch.save writes it, whose pickle, storages or entries were changed."""
    tree, storages = _tree(tensors, random)
    for _ in range(random.integers(3)):
        _change_tree(tree, random)
    pickled = _edited(dumps(tree), random) if random.random() < 0.4 else dumps(tree)
    out = io.BytesIO()
    kind = zipfile.ZIP_DEFLATED if random.random() < 0.05 else zipfile.ZIP_STORED
    with zipfile.ZipFile(out, "w", kind) as archive:
        archive.writestr("archive/data.pkl", pickled)
        order = "little" if random.random() < 0.95 else pick(["big", "", "lit"], random)
        archive.writestr("archive/byteorder", order)
        for key, data in storages.items():
            if random.random() > 0.01:
                archive.writestr(f"archive/data/{key}", data)
    return out.getvalue()


def torch_legacy(tensors, random):
    """The five pickles and the storages of torch before 1.6, changed."""
    tree, storages = _tree(tensors, random)
    for _ in range(random.integers(3)):
        _change_tree(tree, random)
    keys = list(storages)
    if random.random() < 0.2:
        keys = changed_list(keys, random)
    pickles = [dumps(1001), dumps(SYSTEM), dumps(tree), dumps(keys)]
    if random.random() < 0.4:
        place = int(random.integers(len(pickles)))
        pickles[place] = _edited(pickles[place], random)
    body = b"".join((len(data) // 4).to_bytes(8, "little") + data for data in storages.values())
    return MAGIC + b"".join(pickles) + body


def npz(tensors, random):
    """A zip of numpy's arrays, with changed headers."""
    out = io.BytesIO()
    place = int(random.integers(len(tensors)))
    with zipfile.ZipFile(out, "w") as archive:
        for number, (name, array) in enumerate(tensors.items()):
            data = io.BytesIO()
            np.save(data, array)
            data = data.getvalue()
            if number == place:
                data = _changed_npy(data, array, random)
            archive.writestr(f"{name}.npy", data)
    return out.getvalue()


def _changed_npy(data, array, random):
    shape = tuple(changed_list(list(array.shape), random))
    descr = pick(["<f4", ">f4", "<f8", "|V2", "|O", "<i1", "|S4", [("a", "<f4")], "x", 5], random)
    header = repr({"descr": descr, "fortran_order": bool(random.integers(2)), "shape": shape})
    header = pick([header, "(" * 9000, "__import__('os')", header + "'", "{}"], random) + "\n"
    body = data[10 + int.from_bytes(data[8:10], "little") :]
    version = pick([b"\x01\x00", b"\x02\x00", b"\x09\x00"], random)
    width = 2 if version == b"\x01\x00" else 4
    return b"\x93NUMPY" + version + len(header).to_bytes(width, "little") + header.encode() + body


def damaged_bytes(data, random):
    """Bytes flipped, cut off, left out, doubled, or overwritten."""
    data = bytearray(data)
    # Half of the time near the beginning or the end, where formats keep what they say.
    reach = len(data) if random.random() < 0.5 else min(len(data), 4000)
    start = int(random.integers(reach))
    start = start if random.random() < 0.7 else len(data) - 1 - start
    length = int(2 ** (random.random() * 12))
    change = random.integers(6)
    if change == 0:
        for _ in range(random.integers(1, 9)):
            data[int(random.integers(len(data)))] ^= 1 << int(random.integers(8))
    elif change == 1:
        del data[start:]
    elif change == 2:
        del data[start : start + length]
    elif change == 3:
        data[start:start] = data[start : start + length]
    elif change == 4:
        data[start : start + length] = random.bytes(length)
    else:
        data[start : start + length] = bytes([pick([0, 255], random)]) * length
    return bytes(data)


def changed_json(value, random):
    """Json data of which one value was replaced, left out or renamed, at any depth."""
    if isinstance(value, dict) and value and random.random() < 0.85:
        name = pick(list(value), random)
        change = random.integers(6)
        rest = {key: value[key] for key in value if key != name}
        if change == 0:
            return rest
        if change == 1:
            return rest | {pick(ODD_NAMES, random): value[name]}
        return value | {name: changed_json(value[name], random)}
    if isinstance(value, list) and random.random() < 0.5:
        return changed_list(value, random)
    return pick(ODD_VALUES, random)


def changed_list(values, random):
    values, change = list(values), random.integers(4)
    place = int(random.integers(len(values) + 1))
    if change == 0 or not values:
        values.insert(place, pick([*NUMBERS, None, "x"], random))
    elif change == 1:
        del values[min(place, len(values) - 1)]
    elif change == 2:
        values[min(place, len(values) - 1)] = pick([*NUMBERS, None, "x", 1.5], random)
    else:
        values.reverse()
    return values


def renumbered(name, random):
    parts = [
        str(abs(pick(NUMBERS, random))) if part.isdigit() and random.random() < 0.9 else part
        for part in name.split(".")
    ]
    return ".".join(parts)


def pick(values, random):
    return values[int(random.integers(len(values)))]


def _tree(tensors, random):
    """A state dict, often within containers, and its storages."""
    entries, storages = {}, {}
    for key, (name, array) in enumerate(tensors.items()):
        entries[name] = tensor(array.shape, key=str(key), numel=array.size)
        storages[str(key)] = array.tobytes()
    containers = ("model", "state_dict", "ema", "state_dict_ema", "net", "other")
    for _ in range(random.integers(3)):
        beside = {"step": tensor((), numel=1), "epoch": 3, "args": Named("argparse Namespace")}
        entries = {pick(containers, random): entries, pick(list(beside), random): 1} | beside
    return entries, storages


def _change_tree(tree, random):
    """Changes one entry of the tree, or one argument of a tensor in it, in place."""
    name = pick(list(tree), random)
    value = tree[name]
    if isinstance(value, dict) and value and random.random() < 0.9:
        return _change_tree(value, random)
    change = random.integers(6)
    if change == 0:
        del tree[name]
        return tree.setdefault("left", 1)
    if change == 1:
        del tree[name]
        tree[pick([*ODD_NAMES[:9], *NUMBERS[:8], renumbered(str(name), random)], random)] = value
    elif change == 2 or not isinstance(value, Named) or len(value.args) < 4:
        tree[name] = pick([*ODD_VALUES[:9], Named(pick(GLOBALS, random), "x"), tree], random)
        if tree[name] is tree:  # a dict that holds itself can't be written by hand
            tree[name] = {"model": {"model": 1}}
    elif change == 3:
        pid = list(value.args[0].pid)
        place = int(random.integers(1, len(pid)))
        pid[place] = pick(STORAGES, random) if place == 1 else pick([*NUMBERS[:8], "0", ""], random)
        value.args[0].pid = tuple(pid)
    else:
        args = list(value.args)
        place = int(random.integers(1, len(args)))
        arg = args[place]
        args[place] = (
            tuple(changed_list(arg, random)) if isinstance(arg, tuple) else pick(NUMBERS, random)
        )
        value.args = tuple(args)
    return None


OPCODES = (
    b"(.012FIJKLMNPQRSTUVX]abcdeghijlopqrstu}\x80\x81\x82\x85\x86\x87\x88\x89\x8a\x8b\x8c\x94\x95"
)


def _edited(pickled, random):
    """A pickle with opcodes of any kind written into it, or over it."""
    data = bytearray(pickled)
    for _ in range(random.integers(1, 4)):
        place = int(random.integers(2, len(data)))
        inserted = bytes([pick(OPCODES, random)]) + random.bytes(int(random.integers(3)))
        if random.random() < 0.3:
            inserted = encode(Named(pick(GLOBALS, random), "x"))
        data[place : place + int(random.integers(3))] = inserted
    return bytes(data)


KINDS = {
    "safetensors": safetensors,
    "torch": torch_zip,
    "torch before 1.6": torch_legacy,
    "npz": npz,
}
__all__ = ["KINDS", "Pid", "changed_json", "damaged_bytes"]

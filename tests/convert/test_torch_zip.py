"""The reader of PyTorch's files, as an attacker would meet it."""

import pickle
import struct
import time
import tracemalloc
import zipfile

import numpy as np
import pytest

from tests.convert.torch_files import Named, encode, tensor, write
from toklip_jax.cli.convert import main
from toklip_jax.files import MappedFile
from toklip_jax.files.torch_zip import Inert, UnsafeFileError, read_torch_zip
from toklip_jax.weights.checkpoint_file import read_checkpoint


def read(path):
    return read_torch_zip(MappedFile(path))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "checkpoint.pt"


def test_views_strides_and_scalars_are_exact(path):
    tree = {
        "whole": tensor((2, 3)),
        "transposed": tensor((3, 2), (1, 3)),
        "part": tensor((2,), (3,), 1),
        "scalar": tensor((), (), 5),
        "empty": tensor((0, 4)),
    }
    got = read(write(path, tree))
    whole = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.testing.assert_array_equal(got["whole"], whole)
    np.testing.assert_array_equal(got["transposed"], whole.T)
    np.testing.assert_array_equal(got["part"], [1, 4])
    assert got["scalar"] == 5
    assert got["empty"].shape == (0, 4)
    assert not got["whole"].flags.writeable


def test_bfloat16_keeps_its_bits(path):
    bits = np.array([0x3F80, 0xC049], "<u2")
    write(path, {"x": tensor((2,), numel=2, dtype="BFloat16Storage")}, {"0": bits.tobytes()})
    got = read(path)["x"]
    assert got.dtype.name == "bfloat16"
    np.testing.assert_array_equal(got.view(np.uint16), bits)


@pytest.mark.parametrize(
    "name",
    [
        "posix system",
        "os system",
        "builtins eval",
        "builtins getattr",
        "subprocess Popen",
        "runpy run_path",
        "torch.hub load",
        "urllib.request urlopen",
        "__builtin__ eval",
        "torch.serialization load",
    ],
)
def test_a_pickle_that_runs_code_is_refused_and_nothing_runs(path, tmp_path, name):
    victim = tmp_path / "ran"
    write(path, {"w": tensor((2, 3)), "x": Named(name, f"touch {victim}")})
    with pytest.raises(UnsafeFileError, match=name.replace(" ", ".")):
        read(path)
    assert not victim.exists()


def test_the_command_refuses_such_a_file_in_one_line(path, capsys):
    write(path, {"w": tensor((2, 3)), "x": Named("os system", "true")})
    assert main(["inspect", str(path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: refused {path}: its pickle names os.system")


def test_an_unknown_class_is_inert_and_never_imported(path):
    write(path, {"w": tensor((2, 3)), "args": Named("toklip_no_such_module Config", "x")})
    got = read(path)
    assert isinstance(got["args"], Inert)
    np.testing.assert_array_equal(got["w"].shape, (2, 3))


@pytest.mark.parametrize(
    ("what", "hostile"),
    [
        ("outside", tensor((2, 4))),
        ("offset", tensor((2, 3), offset=1)),
        ("negative size", tensor((-2, 3), (3, 1))),
        ("negative offset", tensor((2,), (1,), -1)),
        ("negative stride", tensor((2,), (-1,), 3)),
        ("overflow", tensor((2**62, 4), (4, 1))),
        ("expanded", tensor((10**12,), (0,))),
        ("float size", tensor((2.0,), (1,))),
        ("ragged", tensor((2, 3), (1,))),
        ("missing storage", tensor((2, 3), key="../../etc/passwd")),
        ("storage too small", tensor((2, 3), numel=10**9)),
        ("no storage", Named("torch._utils _rebuild_tensor_v2", 3, 0, (1,), (1,))),
    ],
)
def test_hostile_tensors_are_refused(path, what, hostile):
    with pytest.raises(ValueError, match="damaged"):
        read(write(path, {"w": hostile}))


def test_a_tensors_record_cannot_be_changed_after_it_is_built(path):
    build = encode(tensor((2, 3))) + encode((None, {"offset": 10**6})) + b"b"
    raw = b"\x80\x02}(" + encode("w") + build + b"u."
    with pytest.raises(ValueError, match="damaged"):
        read(write(path, None, raw=raw))


def shared_nest(depth, make):
    """A nest whose every level holds the one below twice: 2^depth leaves, if walked."""
    level = encode("leaf") + b"q\x00"
    for i in range(depth):
        level += b"0" + make(b"h" + bytes([i]) + b"h" + bytes([i])) + b"q" + bytes([i + 1])
    return level


TUPLES = shared_nest(60, lambda pair: b"(" + pair + b"t")
LISTS = shared_nest(60, lambda pair: b"](" + pair + b"e")
STORAGE_OF_A_NEST = (
    b"ctorch._utils\n_rebuild_tensor_v2\n((" + TUPLES + b"tQK\x00K\x01\x85K\x01\x85tR"
)


@pytest.mark.parametrize(
    ("attack", "is_readable"),
    [
        pytest.param(encode("x") + LISTS, True, id="lists"),
        pytest.param(encode("x") + TUPLES, True, id="tuples"),
        pytest.param(TUPLES + encode("x"), True, id="a key that takes ages to hash"),
        pytest.param(encode("x") + STORAGE_OF_A_NEST, False, id="a message that takes ages"),
        pytest.param(encode("x") + b"]r\xff\xff\xff\x7f", True, id="a memo of 2^31 places"),
        pytest.param(encode("x") + b"\x8b\xff\xff\xff\x7f" + b"1", False, id="an integer of 2 GB"),
        pytest.param(encode("x") + b"(" * 10_000 + b"t" * 10_000, False, id="ten thousand deep"),
        pytest.param(encode("x") + b"c" + b"a." * 300_000 + b"\nb\n", True, id="a name of 600 KB"),
    ],
)
def test_no_pickle_takes_more_than_it_weighs(path, attack, is_readable):
    write(path, None, raw=b"\x80\x02}(" + attack + encode("w") + encode(tensor((6,))) + b"u.")
    begin = time.process_time()
    tracemalloc.start()
    if is_readable:
        np.testing.assert_array_equal(read(path)["w"], np.arange(6))
    else:
        with pytest.raises(ValueError, match=r"^.{,200}damaged.{,200}$"):
            read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert time.process_time() - begin < 10  # the attacks take hours, or gigabytes
    assert peak < 100e6


HUGE = [(i + 1) * (2**61 - 1) for i in range(20_000)]  # whose hashes are all 0
HUGE_KEYS = b"".join(b"\x8a" + bytes([len(n)]) + n + b"N" for n in map(pickle.encode_long, HUGE))
HUGE_PUTS = b"".join(b"p%d\n" % n for n in HUGE)
PAIRS = b"](" + encode(("k", 1)) * 5_000 + b"e\x85q\x01"
SHARED_PAIRS = (
    b"](" + PAIRS + b"ccollections\nOrderedDict\nq\x02h\x01R" + b"h\x02h\x01R" * 999 + b"e"
)


@pytest.mark.parametrize(
    ("attack", "is_readable"),
    [
        pytest.param(b"}(" + HUGE_KEYS + b"u", True, id="keys of one hash"),
        pytest.param(b"N" + HUGE_PUTS, False, id="places of one hash"),
        pytest.param(SHARED_PAIRS, False, id="a dict's pairs in many calls"),
    ],
)
def test_no_pickle_takes_time_that_grows_with_its_square(path, attack, is_readable, monkeypatch):
    monkeypatch.setattr("toklip_jax.files.torch_zip.MAX_INSTRUCTIONS", 50_000)
    raw = b"\x80\x02}(" + encode("x") + attack + encode("w") + encode(tensor((6,))) + b"u."
    write(path, None, raw=raw)
    begin = time.process_time()
    if is_readable:
        np.testing.assert_array_equal(read(path)["w"], np.arange(6))
    else:
        with pytest.raises(ValueError, match="damaged"):
            read(path)
    assert time.process_time() - begin < 5  # minutes otherwise


@pytest.mark.parametrize("objects", [b"}", b"]", b"(", b"N", b"\x8c\x00"])
def test_a_pickle_of_nothing_but_objects_is_refused(path, objects, monkeypatch):
    monkeypatch.setattr("toklip_jax.files.pickle_data.MAX_INSTRUCTIONS", 1000)
    write(path, None, raw=b"\x80\x02" + objects * 1001 + b".")
    with pytest.raises(ValueError, match=r"at most 1000 instructions.*model\.state_dict"):
        read(path)


def test_long_pickles_and_many_entries_are_refused_before_they_are_parsed(path, monkeypatch):
    write(path, {"w": tensor((2, 3))})
    monkeypatch.setattr("toklip_jax.files.torch_zip.MAX_PICKLE_BYTES", 20)
    with pytest.raises(ValueError, match="expected a pickle of at most 20 bytes"):
        read(path)
    monkeypatch.setattr("toklip_jax.files.stored_zip.MAX_DIRECTORY_BYTES", 100)
    with pytest.raises(ValueError, match="directory takes at most 100 bytes"):
        read(path)
    monkeypatch.undo()
    monkeypatch.setattr("toklip_jax.files.torch_zip.MAX_TENSORS", 1)
    with pytest.raises(ValueError, match="expected at most 1 tensors"):
        read(write(path, {"v": tensor((2,)), "w": tensor((2, 3))}))


@pytest.mark.parametrize("entry", ["data/0", "data.pkl", "byteorder"])
def test_a_flipped_bit_in_an_entry_is_found(path, entry):
    write(path, {"w": tensor((2, 3))})
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        header = archive.getinfo(f"archive/{entry}").header_offset
    data[header + 30 + len(f"archive/{entry}") + 4] ^= 2
    path.write_bytes(data)
    with pytest.raises(ValueError, match=f"can't read {path}: damaged: entry archive/{entry}"):
        read(path)


def test_entries_that_share_bytes_are_refused(path):
    """Each would be read to compare its checksum: a hundred thousand times the whole file."""
    write(path, {"w": tensor((2, 3)), "x": tensor((2, 3), key="1")}, {"0": b"a" * 999, "1": b""})
    archive = bytearray(path.read_bytes())
    first, second = (archive.rindex(b"archive/data/" + key) - 46 for key in (b"0", b"1"))
    archive[second + 16 : second + 28] = archive[first + 16 : first + 28]  # checksum and sizes
    archive[second + 42 : second + 46] = archive[first + 42 : first + 46]  # where it begins
    path.write_bytes(archive)
    with pytest.raises(ValueError, match="overlap"):
        read(path)


def test_a_pickle_changes_nothing_outside_its_own_values(path):
    # BUILD on a function of ours would set its attributes for the rest of the process.
    functions = (b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctoklip_jax.convert.torch_zip\nshown\n")
    for function in functions:
        attack = function + encode((None, {"__defaults__": (1, 2)})) + b"b"
        write(path, None, raw=b"\x80\x02}(" + encode("x") + attack + encode("w") + b"Nu.")
        with pytest.raises(ValueError, match="attributes set on what has none"):
            read(path)


def test_cycles_and_subclasses_of_dict_are_read(path):
    cycle = b"]q\x07h\x07a"
    ordered = b"ccollections\nOrderedDict\n)R(" + encode("w") + encode(tensor((6,))) + b"u"
    ordered += b"}" + encode("_metadata") + b"}sb"  # what a module's state_dict() carries along
    raw = b"\x80\x02}(" + encode("c") + cycle + encode("state_dict") + ordered + b"u."
    got = read(write(path, None, raw=raw))
    assert got["c"][0] is got["c"]
    np.testing.assert_array_equal(got["state_dict"]["w"], np.arange(6))


def test_compressed_and_duplicate_entries_are_refused(path):
    with pytest.raises(ValueError, match="compressed"):
        read(write(path, {"w": tensor((2, 3))}, compression=zipfile.ZIP_DEFLATED))
    with pytest.warns(UserWarning, match="Duplicate"):
        write(path, {"w": tensor((2, 3))}, names=[("archive/data/0", b"x" * 24)])
    with pytest.raises(ValueError, match="twice"):
        read(path)


def test_files_cut_off_anywhere_give_one_clear_error(path, golden, tmp_path):
    data = golden("toklip_tiny/checkpoint.pt").read_bytes()
    for share in (0.001, 0.3, 0.9, 0.999):
        path.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(ValueError, match=r"damaged|cut"):
            read_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "0 bytes"),
        (b"\x89PNG\r\n\x1a\n" + b"0" * 64, "something else"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "something else"),
        (b"\x1f\x8b\x08" + b"\0" * 64, "compressed by gzip"),
        (b"BZh9" + b"\0" * 64, "compressed by bzip2"),
        (b"\xfd7zXZ\0" + b"\0" * 64, "compressed by xz"),
        (b"w".ljust(257, b"\0") + b"ustar\0" + bytes(249), "an early torch's tar"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git-lfs"),
        (pickle.dumps({"state": [1.0] * 9}, 2), "plain pickle.*weights_only=True"),
        (struct.pack("<Q", 10**9) + b"{" + b" " * 64, "cut off"),
        (struct.pack("<Q", 20) + b"{not json at all....", "header can't be read"),
        (
            struct.pack("<Q", 65)
            + b'{"w":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}'.ljust(65)
            + b"1234",
            "damaged or cut off",
        ),
    ],
)
def test_foreign_files_are_named_for_what_they_are(path, content, message):
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_checkpoint(path)


def test_zips_that_are_no_checkpoint_are_refused(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("word/document.xml", "<xml/>")
    with pytest.raises(ValueError, match="another kind of zip"):
        read_checkpoint(path)


def test_the_recorded_pt_and_safetensors_hold_the_same(golden):
    for name in ("toklip_tiny", "teacher_tiny"):
        pt = read_checkpoint(golden(f"{name}/checkpoint.pt")).tensors
        safe = read_checkpoint(golden(f"{name}/checkpoint.safetensors")).tensors
        assert pt.keys() == safe.keys()
        assert all(pt[k].dtype == safe[k].dtype and (pt[k] == safe[k]).all() for k in pt)

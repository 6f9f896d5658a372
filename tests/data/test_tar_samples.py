"""What a tar's headers say, and which of its members make a sample: nothing is lost unsaid."""

import io
import tarfile
import time

import pytest

from toklip_jax.data.sources.tar_members import BLOCK, MAX_EXTENDED, BrokenTar, read_members
from toklip_jax.data.sources.tar_samples import (
    AFTER_END,
    BROKEN,
    DOTTED,
    REPEATED,
    SECOND,
    TOO_LONG,
    Extensions,
    read_samples,
)


def members_of(data):
    return list(read_members(io.BytesIO(data), len(data)))


def samples_of(data, **extensions):
    members = read_members(io.BytesIO(data), len(data))
    return read_samples(members, Extensions(**extensions), "t")


def contents(data, samples):
    """Each sample as its key and the bytes of its fields."""
    return [
        (key, {f: data[at : at + size] for f, (at, size) in places.items()})
        for key, places in samples.rows
    ]


def tar_of(*members, form=tarfile.GNU_FORMAT):
    """A tar of TarInfo, or of (name, data)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
                continue
            info = tarfile.TarInfo(member[0])
            info.size = len(member[1])
            archive.addfile(info, io.BytesIO(member[1]))
    return buffer.getvalue()


def with_header(data, name, change):
    """The tar with the header of a member changed, and its checksum made to fit."""
    start = data.index(name.encode())
    header = bytearray(data[start : start + BLOCK])
    change(header)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return data[:start] + bytes(header) + data[start + BLOCK :]


def special(name, kind, **others):
    info = tarfile.TarInfo(name)
    info.type = kind
    for field, value in others.items():
        setattr(info, field, value)
    return info


@pytest.mark.parametrize(
    "form",
    [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT],
    ids=["ustar", "gnu", "pax"],
)
def test_members_are_where_pythons_tarfile_finds_them(form):
    long = () if form == tarfile.USTAR_FORMAT else (("f/" * 200 + "y.txt", b"long"),)
    data = tar_of(
        ("x.jpg", b"z" * 700),
        ("d" * 90 + "/" + "e" * 80 + ".jpg", b""),
        ("é.txt", b"t" * BLOCK),
        *long,
        special("dir", tarfile.DIRTYPE),
        special("link.jpg", tarfile.LNKTYPE, linkname="x.jpg"),
        ("last.cls", b"7"),
        form=form,
    )
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        expected = [(member.name, member.offset_data, member.size) for member in archive]
    assert [(m.name.rstrip("/"), m.offset, m.size) for m in members_of(data)] == expected


def negative(header):
    header[124:136] = b"\xff" * 10 + (-BLOCK & 0xFFFF).to_bytes(2, "big")


def enormous(header):
    header[124:136] = b"\x80" + b"\x7f" * 11


def no_number(header):
    header[124:136] = b"-0000001000\0"


@pytest.mark.parametrize("change", [negative, enormous, no_number])
@pytest.mark.parametrize("kind", [b"0", b"L", b"x", b"g", b"S", b"D"])
def test_sizes_that_lie_end_a_tar_where_they_stand(change, kind):
    def changed(header):
        header[156:157] = kind
        change(header)

    data = with_header(tar_of(("a.jpg", b"1"), ("b.jpg", b"2"), ("c.jpg", b"3")), "b.jpg", changed)
    samples = samples_of(data)
    # Without a name after it, the last sample before the fault may lack members.
    kept, named = ("a", "b") if change is enormous and kind in b"0SD" else ("", "a")
    assert "".join(key for key, _ in samples.rows) == kept
    assert samples.problems == [(f"t:{named}", BROKEN)]
    with pytest.raises(BrokenTar):
        members_of(data)


@pytest.mark.parametrize(
    "records", [b"5 a=\n" * 30_000, b"99999 path=x\n", b"path=x\n", b"7 size=\n"]
)
def test_pax_records_that_lie_are_a_broken_tar(records):
    info = special("x", b"x", size=len(records))
    header = info.tobuf(tarfile.GNU_FORMAT)
    data = header + records + bytes(-len(records) % BLOCK) + tar_of(("a.jpg", b"1"))
    assert samples_of(data).problems == [("t", BROKEN)]


@pytest.mark.parametrize("kind", [b"L", b"K", b"x", b"g"])
def test_an_extended_header_of_megabytes_is_a_broken_tar(kind):
    header = special("x", kind, size=MAX_EXTENDED + BLOCK).tobuf(tarfile.GNU_FORMAT)
    data = header + bytes(MAX_EXTENDED + BLOCK) + tar_of(("a.jpg", b"1"))
    assert samples_of(data).problems == [("t", BROKEN)]


HEADERS = 4000


@pytest.mark.parametrize("kind", ["files", "joined", "pax", "long names", "zeros"])
def test_headers_are_read_in_time_that_grows_with_their_number(kind):
    files = [tarfile.TarInfo(f"{i}.jpg").tobuf(tarfile.GNU_FORMAT) for i in range(HEADERS)]
    data = {
        "files": b"".join(files),
        "joined": bytes(BLOCK).join(files),
        "pax": HEADERS * special("x", b"x").tobuf(tarfile.GNU_FORMAT) + files[0],
        "long names": HEADERS * special("x", b"L").tobuf(tarfile.GNU_FORMAT) + files[0],
        "zeros": files[0] + bytes(HEADERS * BLOCK) + b"no header",
    }[kind]
    begin = time.process_time()
    samples = samples_of(data)
    assert time.process_time() - begin < 3  # about 0.1 s; the square of their number takes minutes
    assert samples.problems


def test_tars_that_were_joined_are_all_read_and_never_mixed():
    first = tar_of(("x.jpg", b"1"), ("y.jpg", b"2"), ("y.txt", b"of 2"))
    second = tar_of(("x.txt", b"of 4"), ("z.jpg", b"3"))
    samples = samples_of(first + second)
    assert contents(first + second, samples) == [
        ("x", {"image": b"1"}),
        ("y", {"image": b"2", "text": b"of 2"}),
        ("x", {"text": b"of 4"}),
        ("z", {"image": b"3"}),
    ]
    assert samples.problems == []


@pytest.mark.parametrize("rest", [b"garbage", b"\0" * 700 + b"g" * 900])
def test_what_follows_the_end_of_a_tar_is_named(rest):
    samples = samples_of(tar_of(("x.jpg", b"1")) + rest)
    assert len(samples.rows) == 1
    assert samples.problems == [("t", AFTER_END)]


def test_a_joined_tar_that_is_cut_off_keeps_the_first():
    second = tar_of(("y.jpg", b"2"), ("z.jpg", bytes(2000)))
    samples = samples_of(tar_of(("x.jpg", b"1")) + second[:2000])
    assert [key for key, _ in samples.rows] == ["x", "y"]
    assert samples.problems == [("t:z", BROKEN)]


def test_pictures_and_texts_may_stand_apart():
    data = tar_of(("x.jpg", b"1"), ("y.jpg", b"2"), ("x.txt", b"of 1"), ("y.txt", b"of 2"))
    samples = samples_of(data)
    assert contents(data, samples) == [
        ("x", {"image": b"1", "text": b"of 1"}),
        ("y", {"image": b"2", "text": b"of 2"}),
    ]


def test_where_names_are_repeated_only_neighbours_make_a_sample():
    data = tar_of(
        *(("x.jpg", b"1"), ("x.txt", b"of 1"), ("y.jpg", b"2"), ("z.jpg", b"3")),
        *(("x.jpg", b"4"), ("x.txt", b"of 4"), ("y.txt", b"of another")),
    )
    samples = samples_of(data)
    assert contents(data, samples) == [
        ("x", {"image": b"1", "text": b"of 1"}),
        ("y", {"image": b"2"}),
        ("z", {"image": b"3"}),
        ("x", {"image": b"4", "text": b"of 4"}),
        ("y", {"text": b"of another"}),
    ]


def test_a_field_that_a_sample_has_twice_leaves_it_out():
    data = tar_of(("x.jpg", b"1"), ("x.jpg", b"2"), ("x.txt", b"of 2"), ("y.jpg", b"3"))
    samples = samples_of(data)
    assert contents(data, samples) == [("y", {"image": b"3"})]
    assert samples.problems == [("t:x", REPEATED)]


def test_of_two_pictures_the_extension_named_first_is_taken_and_the_other_named():
    data = tar_of(("x.png", b"mask"), ("x.jpg", b"1"))
    samples = samples_of(data)
    assert contents(data, samples) == [("x", {"image": b"1"})]
    assert samples.problems == [("t:x.png", SECOND)]
    only = samples_of(data, image=(".JPG",))
    assert (contents(data, only), only.problems) == ([("x", {"image": b"1"})], [])


def test_keys_with_dots_are_named_unless_they_are_another_field():
    data = tar_of(("a.v2.jpg", b"1"), ("a.v2.txt", b"no"), ("b.jpg", b"2"), ("b.mask.png", b"3"))
    samples = samples_of(data)
    assert contents(data, samples) == [("b", {"image": b"2"})]
    assert samples.problems == [("t:a.v2.jpg", DOTTED)]
    whole = samples_of(data, image=("v2.jpg", "jpg"), text=("v2.txt",))
    assert [key for key, _ in whole.rows] == ["a", "b"]
    assert whole.problems == []


def test_hidden_files_are_no_members():
    data = tar_of(("./._a.jpg", b"x"), ("./a.jpg", b"1"), ("./._a.txt", b"x"), ("./a.txt", b"hi"))
    samples = samples_of(data)
    assert contents(data, samples) == [("./a", {"image": b"1", "text": b"hi"})]
    assert samples.problems == []


@pytest.mark.parametrize(
    ("member", "cause"),
    [
        (special("x.jpg", tarfile.SYMTYPE, linkname="y.jpg"), "a link in a tar"),
        (special("x.jpg", tarfile.LNKTYPE, linkname="y.jpg"), "a link in a tar"),
        (special("x.jpg", tarfile.GNUTYPE_SPARSE), "a sparse member"),
        (special("d/" * 600 + "x.jpg", tarfile.REGTYPE), TOO_LONG),
    ],
)
def test_members_without_data_of_their_own_are_named(member, cause):
    data = tar_of(("y.jpg", b"1"), member, ("x.txt", b"hi"))
    samples = samples_of(data)
    assert [key for key, _ in samples.rows][:1] == ["y"]
    assert all("image" in places for key, places in samples.rows if key == "y")
    assert [problem[1] for problem in samples.problems] == [cause]


def test_a_sparse_file_in_pax_format_is_named():
    records = b"22 GNU.sparse.major=1\n30 GNU.sparse.name=sparse.jpg\n"
    info = special("x", b"x", size=len(records))
    head = info.tobuf(tarfile.GNU_FORMAT) + records + bytes(-len(records) % BLOCK)
    samples = samples_of(head + tar_of(("GNUSparseFile.0/sparse.jpg", b"1")))
    assert samples.problems == [("t:sparse.jpg", "a sparse member")]


def test_an_extension_of_two_fields_is_refused():
    with pytest.raises(ValueError, match="each extension for one field"):
        Extensions(text=("txt",), label=("TXT",))

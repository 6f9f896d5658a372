import contextlib
import io
import itertools
import logging
import struct
import zlib

import numpy as np
import PIL.Image
import pytest

from toklip_jax.data import build
from toklip_jax.data.health import BadSample, BadSamples
from toklip_jax.data.images import Decode
from toklip_jax.data.pipeline import batches, evaluation_batches
from toklip_jax.data.reader import MAX_TRIES
from toklip_jax.data.sources import ArraySource, SourceConfig

SIZE = 16


class Records:
    """Records in memory, named r0, r1, ..."""

    def __init__(self, records):
        self.records = records

    def __len__(self):
        return len(self.records)

    def __getitem__(self, index):
        return self.records[index]

    def key(self, index):
        return f"r{index}"


def png_header(width, height):
    """A PNG that says its size and holds no picture."""

    def chunk(name, data):
        body = name + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", b"")


def bad_records(raw):
    """A record for each cause."""
    good = {"image": raw.jpeg(size=(64, 64)), "text": b"one circle"}
    corrupt = bytearray(raw.encoded(PIL.Image.new("RGB", (40, 40), "red"), "PNG"))
    corrupt[60] ^= 255
    return {
        "truncated image": [good | {"image": good["image"][:700]}],
        "undecodable image": [good | {"image": bytes(corrupt)}],
        "not an image": [good | {"image": b"<html>not found</html>"}],
        "missing image": [good | {"image": b""}],
        "too small": [good | {"image": raw.jpeg(size=(1, 1))}],
        "too many pixels": [
            good | {"image": png_header(20_000, 10_000)},
            good | {"image": png_header(10_000, 8_000)},  # Pillow alone would decode this one
        ],
        "missing caption": [good | {"text": text} for text in (None, "", b" \n")]
        + [good | {"text": text} for text in (" ... ", b"&amp;nbsp;", "_")]
        + [{"image": good["image"]}],
        "too long a caption": [good | {"text": "one " * 2**19}],
        "non-UTF-8 text": [good | {"text": b"caf\xe9"}],
    }


CAUSES = {
    "truncated image": 1,
    "undecodable image": 1,
    "not an image": 1,
    "missing image": 1,
    "too small": 1,
    "too many pixels": 2,
    "missing caption": 7,
    "too long a caption": 1,
    "non-UTF-8 text": 1,
}


@pytest.fixture
def mixed(raw):
    """Good records with every bad one among them: the source, and its bad (key, cause)s."""
    records, bad = [], []
    for cause, some in bad_records(raw).items():
        for record in some:
            bad.append((f"r{len(records)}", cause))
            good = {"image": raw.jpeg(len(records), (30, 30)), "text": "one red"}
            records += [record, good, good]
    return Records(records), bad


@pytest.mark.parametrize("cause", CAUSES)
def test_each_cause_is_told(raw, tokenizer, cause):
    for record in bad_records(raw)[cause]:
        for is_training in (True, False):
            with pytest.raises(BadSample) as told:
                Decode(SIZE, is_training, tokenizer)(record, np.random.default_rng(0))
            assert told.value.cause == cause


def test_a_bomb_is_refused_before_it_is_decoded(monkeypatch):
    monkeypatch.setattr(PIL.Image.Image, "load", lambda *_: pytest.fail("decoded"))
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", lambda *_: pytest.fail("decoded"))
    with pytest.raises(BadSample, match="too many pixels"):
        Decode(SIZE, True)({"image": png_header(20_000, 10_000)}, np.random.default_rng(0))


def test_pictures_of_any_mode_become_rgb(raw):
    red = PIL.Image.new("RGB", (20, 20), (250, 10, 10))
    pictures = {
        "cmyk": raw.encoded(red.convert("CMYK"), "JPEG"),
        "palette": raw.encoded(red.convert("P", palette=PIL.Image.Palette.ADAPTIVE), "PNG"),
        "alpha": raw.encoded(red.convert("RGBA"), "PNG"),
        "webp": raw.encoded(red, "WEBP"),
    }
    for name, data in pictures.items():
        for is_training in (True, False):
            sample = Decode(SIZE, is_training)({"image": data}, np.random.default_rng(0))
            assert sample["images"].shape == (SIZE, SIZE, 3)
            assert sample["images"].dtype == np.uint8
            error = np.abs(sample["images"].astype(int) - [250, 10, 10]).max()
            assert error < 12, name
    gray = Decode(SIZE, False)({"image": raw.jpeg(mode="L")}, np.random.default_rng(0))
    assert np.ptp(gray["images"], -1).max() == 0


def test_training_crops_and_evaluation_squashes(raw):
    """The picture's values grow from corner to corner: their span tells how much is seen."""
    record = {"image": raw.jpeg(size=(100, 100)), "label": 3}
    crops = [
        Decode(100, True)(record, np.random.default_rng(i))["images"].astype(int) for i in range(8)
    ]
    whole = Decode(100, False, has_labels=True)(record, np.random.default_rng(0))
    assert np.ptp(whole["images"]) > 194
    assert len({np.ptp(crop) for crop in crops}) > 3
    assert all(np.ptp(crop) > 0.8 * 198 for crop in crops)
    assert whole["labels"] == 3
    assert whole["labels"].dtype == np.int32
    np.testing.assert_array_equal(
        Decode(100, False)(record, np.random.default_rng(1))["images"], whole["images"]
    )


def test_every_bad_sample_is_replaced_counted_and_named(mixed, tokenizer, caplog):
    source, bad = mixed
    account = BadSamples(max_share=1.0)
    steps = len(source) // 4
    with caplog.at_level(logging.WARNING):
        for batch in itertools.islice(batches(source, Decode(SIZE, True, tokenizer), 4, 0), steps):
            assert batch["images"].shape == (4, SIZE, SIZE, 3)
            assert batch["token_ids"].dtype == np.int32
            assert len(batch["keys"]) == 4
            assert not set(batch["keys"]) & {key for key, _ in bad}
            account.add(4, batch["skipped"])
    assert account.counts == CAUSES
    assert account.tried == len(source) + len(bad)
    report = account.report()
    for key, cause in bad:
        assert f"skipped {key}: {cause}" in caplog.text
        line = next(line for line in report.splitlines() if line.startswith(f"  {cause}: "))
        assert f": {CAUSES[cause]}: " in line
        assert key in line.split(": ", 2)[2].split(", ")


def test_the_next_good_sample_stands_in_for_a_bad_one(mixed):
    source, _ = mixed
    for batch in itertools.islice(batches(source, Decode(SIZE, True), 6, 0), 6):
        for key, cause in batch["skipped"]:
            assert cause in CAUSES
            assert f"r{int(key[1:]) + 1}" in batch["keys"]
    bad, good = source.records[:2]
    wrapped = Records([bad, good, bad])
    evaluated = next(iter(evaluation_batches(wrapped, 3, Decode(SIZE, False))))
    assert evaluated["keys"] == ["r1", "r1", "r1"]
    assert [key for key, _ in evaluated["skipped"]] == ["r0", "r2", "r0"]


def test_a_source_without_a_good_sample_stops_with_names():
    source = Records([{"image": b"x"}] * (MAX_TRIES + 5))
    with pytest.raises(ValueError, match=rf"got {MAX_TRIES} bad ones.*\n  r\d+: not an image"):
        next(batches(source, Decode(SIZE, True), 1, 0))


def test_a_bad_sample_without_a_name_is_not_skipped_in_silence():
    source = ArraySource(image=np.array([b"x", b"y"]))
    with pytest.raises(ValueError, match=r"sample at \d, got one with: not an image.*key\(index\)"):
        next(batches(source, Decode(SIZE, True), 1, 0))


def test_above_the_share_the_run_stops_with_the_list():
    account = BadSamples(max_share=0.1, minimum=20)
    account.add(8, [("a", "truncated image"), ("b", "too small")])  # 20 %, of too few to count
    account.add(8, [])
    account.add(8, [])  # 2 of 26: below
    with pytest.raises(ValueError, match=r"at most 10\.00% bad") as told:
        account.add(1, [("a", "truncated image")])  # 3 of 28
    text = str(told.value)
    assert "3 of 28 samples tried (10.71%)" in text
    assert "  truncated image: 2: a\n  too small: 1: b" in text


def test_what_is_left_out_of_the_data_is_a_share_of_all_of_them():
    problems = [(f"k{i}", "repeated key") for i in range(30)]
    account = BadSamples(max_share=0.1, minimum=20)
    account.leave_out(problems, 2000)
    account.add(30, [("a", "too small")])  # 1 of 31 that were tried
    assert account.share == 1 / 31
    assert "1 of 31 samples tried (3.23%), and 30 left out of the data" in account.report()
    with pytest.raises(ValueError, match=r"at most 10\.00% bad(.|\n)*repeated key: 30: k0, k1"):
        BadSamples(max_share=0.1, minimum=20).leave_out(problems, 200)


def test_names_of_samples_cannot_steer_a_terminal(caplog):
    account = BadSamples(max_share=1.0)
    account.add(1, [("é\x1b[2J\n\u202e\udcff" + "x" * 999, "too small")])
    for text in (caplog.text, account.report()):
        assert "é\\x1b[2J\\n\\u202e\\udcff" in text
        assert "x" * 400 not in text


def test_a_worker_that_meets_bad_samples_reports_them_to_the_main_process(mixed, tokenizer):
    source, bad = mixed
    found = []
    iterator = batches(source, Decode(SIZE, True, tokenizer), 4, 0, num_workers=1)
    for batch in itertools.islice(iterator, len(source) // 4):
        found += batch["skipped"]
        assert all(isinstance(key, str) for key in batch["keys"])
    iterator.close()
    assert sorted(found) == sorted(bad)


def test_what_a_source_found_broken_is_logged_and_can_be_counted(tmp_path, raw, caplog):
    data = raw.tar_bytes(raw.pairs(0, 2))[:4200]
    (tmp_path / "0.tar").write_bytes(data)
    config = {"kind": "webdataset", "shards": f"{tmp_path}/0.tar"}
    source = SourceConfig.from_plain(config)
    made = build.training_batches(source, build.Batching(1, SIZE), has_text=False)
    account = BadSamples(max_share=0.5)
    account.leave_out(made.problems, made.num_samples)
    assert "left out 0.tar:000000001: broken tar tail" in caplog.text
    assert account.counts == {"broken tar tail": 1}
    assert next(made(0))["keys"] == ["0.tar:000000000"]


@pytest.mark.filterwarnings("ignore")  # Pillow's, about broken tags
def test_bytes_that_start_like_a_picture_never_raise_another_error():
    """Whatever a cut or flipped file makes Pillow raise is a BadSample."""
    decoded = 0
    rng = np.random.default_rng(0)
    for form in ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"):
        buffer = io.BytesIO()
        PIL.Image.fromarray(rng.integers(0, 256, (20, 20, 3), np.uint8)).save(buffer, form)
        for _ in range(40):
            data = bytearray(buffer.getvalue())
            for at in rng.integers(0, min(len(data), 400), 5):
                data[at] = rng.integers(256)
            del data[rng.integers(len(data) // 2, len(data)) :]
            with contextlib.suppress(BadSample):  # any other error fails the test
                Decode(SIZE, True)({"image": bytes(data)}, rng)
                decoded += 1
    assert 0 < decoded < 200  # of 240: some are broken, some are not


@pytest.mark.parametrize("arguments", [(-0.1,), (1.1,), (0.5, 0)])
def test_a_share_that_is_none_is_refused(arguments):
    with pytest.raises(ValueError, match="max_share in"):
        BadSamples(*arguments)


@pytest.mark.parametrize(
    ("size", "scale", "message"),
    [
        (0, (0.9, 1.0), "image_size of at least 1"),
        ((8, 0), (0.9, 1.0), "image_size of at least 1"),
        ((8,), (0.9, 1.0), r"or \(height, width\).*, got \(8,\)"),
        (8, (0.0, 1.0), "scale within"),
        (8, (0.9, 2.0), "scale within"),
    ],
)
def test_sizes_and_scales_that_do_not_fit_are_refused(size, scale, message):
    with pytest.raises(ValueError, match=message):
        Decode(size, True, scale=scale)

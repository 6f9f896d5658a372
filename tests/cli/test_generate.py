"""The command that draws images."""

import json
import os
import pathlib
import resource
import signal
import struct
import zlib

import numpy as np
import PIL.Image
import pytest

import toklip_jax
from toklip_jax.api import drawing
from toklip_jax.cli.generate import main
from toklip_jax.data.text import TextTokenizer, train_tokenizer
from toklip_jax.run import generate as run


@pytest.fixture(scope="module")
def weights(golden):
    return [
        f"--weights={golden('gpt_c2i_tiny/checkpoint.safetensors')}",
        f"--vq={golden('toklip_tiny/checkpoint.pt')}",
    ]


def images_of(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("0*.png"))}


def test_images_a_grid_and_the_evaluators_file_are_written(weights, tmp_path, capsys):
    out = tmp_path / "samples"
    flags = ["--classes=2,5", "--num=5", "--batch-size=2", "--npz"]
    assert main([*weights, *flags, f"--output={out}"]) == 0
    assert "5 images" in capsys.readouterr().out
    assert len(images_of(out)) == 5
    assert PIL.Image.open(out / "grid.png").size == (3 * 64 + 4, 2 * 64 + 2)
    with np.load(out / "samples.npz") as arrays:
        assert arrays["arr_0"].shape == (5, 64, 64, 3)
        assert arrays["arr_0"].dtype == np.uint8
        np.testing.assert_array_equal(arrays["arr_1"], [2, 5, 2, 5, 2])
        first = np.asarray(PIL.Image.open(out / "000000.png"))
        np.testing.assert_array_equal(arrays["arr_0"][0], first)
        files = (flag.partition("=")[2] for flag in weights)
        generator = toklip_jax.load(next(files), vq=next(files))
        drawn = np.load(out / "ids" / "part-00000.npz")["ids"]
        images = np.asarray(generator.detokenize(drawn))
        # As LlamaGen's script writes samples; rounding this sum would move half of the values.
        expected = np.floor(np.clip(127.5 * images + 128, 0, 255))
        assert np.mean(arrays["arr_0"][:2] == expected) > 0.999  # float32 there


def test_a_run_that_was_interrupted_continues_to_the_same_images(weights, tmp_path, monkeypatch):
    flags = [*weights, "--num=4", "--batch-size=2", "--cfg-scale=1.5"]
    assert main([*flags, f"--output={tmp_path / 'whole'}"]) == 0
    out, writes = tmp_path / "part", []
    write = run.write_npz

    def full(path, **arrays):
        if writes:
            raise OSError(28, "No space left on device", str(path))
        writes.append(path)
        write(path, **arrays)

    monkeypatch.setattr(run, "write_npz", full)
    assert main([*flags, f"--output={out}"]) == 2
    assert len(list(out.glob("ids/part-*"))) == 1
    monkeypatch.setattr(run, "write_npz", write)
    assert main([*flags, f"--output={out}"]) == 0
    assert images_of(out) == images_of(tmp_path / "whole")


def test_another_request_in_the_same_directory_is_refused(weights, tmp_path, capsys):
    flags = [*weights, "--num=2", f"--output={tmp_path / 'a'}"]
    assert main(flags) == 0
    assert main([*flags, "--seed=1"]) == 2
    assert "other settings (seed: 0 there, 1 now)" in capsys.readouterr().err
    assert main([*flags, "--cfg-scale=3"]) == 2
    error = capsys.readouterr().err
    assert "(sampling: [['cfg_scale', 2.0]] there, [['cfg_scale', 3.0]] now)" in error
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mine.txt").write_text("kept")
    assert main([*weights, "--num=2", f"--output={tmp_path / 'b'}"]) == 2


@pytest.mark.parametrize(
    ("flag", "name"), [("--prompt=x", "--text"), ("--guidance-scale=2", "--cfg-scale")]
)
def test_a_flag_of_another_package_is_refused_with_the_name_here(tmp_path, capsys, flag, name):
    assert main(["--weights=x", f"--output={tmp_path}", flag]) == 2
    assert f"did you mean {name}?" in capsys.readouterr().err


def test_a_refused_command_leaves_the_settings_as_they_are(weights, tmp_path, capsys):
    flags = ["--num=1", f"--output={tmp_path}"]
    assert main([weights[0], *flags]) == 0
    settings = (tmp_path / "samples.json").read_text()
    assert main([*weights, *flags, "--seed=1"]) == 2
    assert "other settings (seed" in capsys.readouterr().err
    assert (tmp_path / "samples.json").read_text() == settings
    assert main([*weights, *flags]) == 0
    assert json.loads((tmp_path / "samples.json").read_text())["vq"]


def no_room(*args):
    raise OSError(28, "No space left on device")


def test_a_disk_that_is_full_at_once_does_not_claim_the_directory(weights, tmp_path, monkeypatch):
    flags = [weights[0], "--num=1", f"--output={tmp_path / 'out'}"]
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", no_room)
        assert main(flags) == 2
    assert main(flags) == 0


def test_a_full_disk_leaves_no_drafts(weights, tmp_path, monkeypatch):
    def half(image, path, *args):
        pathlib.Path(path).write_bytes(b"half")
        no_room()

    flags = [*weights, "--num=1", "--npz", f"--output={tmp_path}"]
    for module, name, broken in [
        (PIL.Image.Image, "save", half),
        (np.lib.format, "write_array_header_1_0", no_room),
    ]:
        with monkeypatch.context() as patch:
            patch.setattr(module, name, broken)
            assert main(flags) == 2
        assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]
    assert main(flags) == 0


def test_the_lower_half_of_a_picture_is_drawn(weights, golden, tmp_path):
    pixels = np.load(golden("toklip_tiny/inputs.npz"))["image_nhwc"][0]
    picture = ((pixels + 1) * 127.5).round().astype(np.uint8)
    PIL.Image.fromarray(picture).save(tmp_path / "p.png")
    out = tmp_path / "out"
    flags = [f"--image={tmp_path / 'p.png'}", "--keep-rows=2", "--num=3", f"--output={out}"]
    assert main([*weights, *flags]) == 0
    ids = np.load(out / "ids" / "part-00000.npz")["ids"]
    assert (ids[:, :8] == ids[:1, :8]).all()
    assert (ids[0, 8:] != ids[1, 8:]).any()
    settings = json.loads((out / "samples.json").read_text())
    assert settings["keep_rows"] == 2


def test_a_picture_is_read_and_resized_as_tokenizers_do(weights, golden, tmp_path, monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 256, (90, 70, 4), np.uint8)
    picture = PIL.Image.fromarray(pixels)  # what is transparent counts less in the resize
    picture.save(tmp_path / "p.png")
    monkeypatch.setenv("HOME", str(tmp_path))
    flags = [*weights, "--image=~/p.png", "--keep-rows=3", "--num=1", "--no-png"]
    assert main([*flags, f"--output={tmp_path / 'out'}"]) == 0
    ids = np.load(tmp_path / "out" / "ids" / "part-00000.npz")["ids"]
    want = toklip_jax.load(golden("toklip_tiny/checkpoint.pt")).tokenize([picture])
    np.testing.assert_array_equal(ids[0, :12], want[0, :12])


def test_a_picture_of_too_many_pixels_is_one_clear_line(weights, tmp_path, capsys):
    header = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    (tmp_path / "p.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk)
    flags = [f"--image={tmp_path / 'p.png'}", "--keep-rows=2", f"--output={tmp_path / 'out'}"]
    assert main([*weights, *flags]) == 2
    assert "expected an image of" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--classes=1,99"], "from 0 to 9"),
        (["--classes=cat"], "numbers with commas"),
        (["--num=0"], "num and a batch size"),
        (["--num=100000000000"], "expected num of at most 10,000,000, got 100,000,000,000"),
        (["--num=99999999999999999999"], "expected num of at most 10,000,000, got 99,999"),
        (["--keep-rows=2"], "together"),
        (["--top-p=3"], "top_p"),
        (["--image=none.png", "--keep-rows=2"], "found no file none.png"),
    ],
)
def test_bad_flags_are_one_clear_line(weights, tmp_path, capsys, flags, message):
    assert main([*weights, f"--output={tmp_path / 'x'}", *flags]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1 or "warning: " in error


def test_images_that_were_left_out_at_first_are_written_by_the_same_command(weights, tmp_path):
    flags = [*weights, "--num=3", "--batch-size=2", f"--output={tmp_path}"]
    assert main([*flags, "--no-png"]) == 0
    assert not images_of(tmp_path)
    assert main(flags) == 0
    assert len(images_of(tmp_path)) == 3


def test_thousands_of_parts_do_not_stay_open(weights, tmp_path):
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    here = len(list(pathlib.Path("/proc/self/fd").iterdir()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (here + 40, limit[1]))
    try:
        flags = [*weights, "--num=80", "--batch-size=1", "--npz", "--no-png"]
        assert main([*flags, f"--output={tmp_path}"]) == 0
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)


@pytest.mark.parametrize(
    "wrong",
    [
        ["--temperature=-1"],
        ["--image=none.png", "--keep-rows=2"],
        ["--negative-class=2", "--cfg-scale=1"],
    ],
)
def test_a_command_that_is_refused_claims_nothing(weights, tmp_path, wrong):
    flags = [*weights, "--num=1", f"--output={tmp_path / 'o'}"]
    assert main([*flags, *wrong]) == 2
    assert not (tmp_path / "o").exists()
    assert main(flags) == 0


def test_ids_of_another_picture_or_type_are_not_mixed(weights, golden, tmp_path, capsys):
    pixels = np.load(golden("toklip_tiny/inputs.npz"))["image_nhwc"]
    for i in range(2):
        picture = ((pixels[i] + 1) * 127.5).round().astype(np.uint8)
        PIL.Image.fromarray(picture).save(tmp_path / f"{i}.png")
    flags = [*weights, "--keep-rows=2", "--num=1", f"--output={tmp_path / 'o'}"]
    assert main([*flags, f"--image={tmp_path / '0.png'}"]) == 0
    assert main([*flags, f"--image={tmp_path / '1.png'}"]) == 2
    assert "other settings (kept" in capsys.readouterr().err
    assert main([*flags, f"--image={tmp_path / '0.png'}", "--dtype=bfloat16"]) == 2
    assert "other settings (dtype" in capsys.readouterr().err


def test_a_tokenizer_may_come_later_and_a_damaged_part_is_named(weights, tmp_path, capsys):
    flags = ["--num=2", "--batch-size=1", f"--output={tmp_path}"]
    assert main([weights[0], *flags]) == 0
    assert not images_of(tmp_path)
    assert main([*weights, *flags]) == 0
    assert len(images_of(tmp_path)) == 2
    part = tmp_path / "ids" / "part-00001.npz"
    part.write_bytes(b"PK")
    assert main([*weights, *flags]) == 2
    assert "part-00001.npz, which is damaged" in capsys.readouterr().err
    part.unlink()
    assert main([*weights, *flags]) == 0


def test_a_part_of_another_number_of_rows_is_damaged(weights, tmp_path, capsys):
    flags = [weights[0], "--num=3", "--batch-size=2", f"--output={tmp_path}"]
    assert main(flags) == 0
    part = tmp_path / "ids" / "part-00001.npz"
    with np.load(part) as arrays:
        np.savez(part, **{name: np.repeat(array, 2, axis=0) for name, array in arrays.items()})
    assert main([*weights, *flags[1:]]) == 2
    error = capsys.readouterr().err
    assert "part-00001.npz, which is damaged (expected 1 rows in it): delete it" in error


def test_sigterm_ends_with_the_status_that_asks_for_a_restart(
    weights, tmp_path, monkeypatch, capsys
):
    draw = run._draw

    def and_be_told(*args):
        os.kill(os.getpid(), signal.SIGTERM)
        return draw(*args)

    monkeypatch.setattr(run, "_draw", and_be_told)
    flags = [*weights, "--num=3", "--batch-size=1", f"--output={tmp_path}"]
    assert main(flags) == 75
    assert "preempted" in capsys.readouterr().err
    monkeypatch.setattr(run, "_draw", draw)
    assert main(flags) == 0
    assert len(images_of(tmp_path)) == 3


def test_generators_of_captions_want_texts_of_their_own_encoder(golden, tmp_path, capsys):
    weights = f"--weights={golden('gpt_t2i_tiny/checkpoint.safetensors')}"
    assert main([weights, f"--output={tmp_path / 'x'}"]) == 2
    assert "expected texts" in capsys.readouterr().err
    assert main([weights, f"--output={tmp_path / 'y'}", "--text=a dog"]) == 2
    assert "of the text encoder" in capsys.readouterr().err
    assert not (tmp_path / "y").exists()
    assert main([weights, f"--output={tmp_path / 'z'}", "--text=a", "--negative-class=0"]) == 2
    assert "no negative_class with captions" in capsys.readouterr().err


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    learned = TextTokenizer(train_tokenizer(["a dog", "two cats"], 64), 16)
    return learned.save(tmp_path_factory.mktemp("tokenizer"))


def test_the_best_of_several_candidates_is_kept(weights, tokenizer, golden, tmp_path):
    flags = [*weights, f"--tokenizer={tokenizer}", "--num=3", "--temperature=1.5", "--no-png"]
    flags += ["--classes=2,5", "--text=a dog", "--text=two cats", "--best-of=4"]
    assert main([*flags, f"--output={tmp_path}", "--batch-size=2"]) == 0
    found = [np.load(tmp_path / "ids" / f"part-0000{i}.npz") for i in range(2)]
    generator = toklip_jax.load(
        golden("gpt_c2i_tiny/checkpoint.safetensors"),
        vq=golden("toklip_tiny/checkpoint.pt"),
        tokenizer=tokenizer,
    )
    want = generator.best_of(
        ["a dog", "two cats", "a dog"],
        num=4,
        classes=[2, 5, 2],
        key=0,
        temperature=1.5,
        cfg_scale=2.0,
    )
    np.testing.assert_array_equal(np.concatenate([part["ids"] for part in found]), want.ids)
    np.testing.assert_array_equal(np.concatenate([p["labels"] for p in found]), [2, 5, 2])
    other = TextTokenizer(train_tokenizer(["a cat", "two dogs"], 40), 16).save(tmp_path / "other")
    again = [*flags, f"--output={tmp_path}", "--batch-size=2"]
    assert main([*again[:2], f"--tokenizer={other}", *again[3:]]) == 2
    # Another number of candidates is another run.
    assert main([*flags[:-1], "--best-of=2", f"--output={tmp_path}", "--batch-size=2"]) == 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--best-of=0"], "best_of of at least 1"),
        (["--drop-at=4"], "above 1 with drop_at"),
        (["--best-of=2"], "a text for each"),
        (["--best-of=1000", "--num=3000000", "--text=a dog"], "num of at most 2,147,483"),
        (["--best-of=2", "--text=a dog", "--classes=1,2"], "a text for each of 2 classes"),
        (["--text=a dog"], "add --best-of"),
        (["--best-of=3", "--drop-at=4", "--text=a dog", "--classes=1"], "even where half"),
        (["--best-of=2", "--drop-at=16", "--text=a dog", "--classes=1"], "drop_at in [0, 15]"),
        (["--best-of=2", "--image=a.png", "--keep-rows=1"], "whole images"),
        (["--best-of=2", "--text=a dog", "--classes=1"], "load(..., tokenizer=PATH)"),
    ],
)
def test_what_does_not_go_with_best_of_is_one_clear_line(weights, tmp_path, capsys, flags, message):
    assert main([*weights, f"--output={tmp_path / 'x'}", *flags]) == 2
    assert not (tmp_path / "x").exists()
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1 or "warning: " in error


def test_a_tokenizer_is_no_generator(golden, tmp_path, capsys):
    weights = f"--weights={golden('toklip_tiny/checkpoint.pt')}"
    assert main([weights, f"--output={tmp_path / 'x'}"]) == 2
    assert "a generator's weights" in capsys.readouterr().err


HOST = """
import os, sys
number, port, *argv = sys.argv[1:]
os.environ |= {"TOKLIP_COORDINATOR": f"localhost:{port}", "TOKLIP_NUM_PROCESSES": "2"}
os.environ["TOKLIP_PROCESS_ID"] = number
from toklip_jax.run import generate
if "--fail" in argv and number == "1":
    def full(path, **arrays):
        raise OSError(28, "No space left on device", str(path))
    generate.write_npz = full
from toklip_jax.cli.generate import main
raise SystemExit(main([flag for flag in argv if flag != "--fail"]))
"""


def test_two_hosts_share_samples_out_and_agree_on_a_failure(weights, tmp_path, run_on_two_hosts):
    flags = [weights[0], "--classes=2,5,7", "--num=5", "--batch-size=2"]  # ids alone
    out = tmp_path / "out"
    for status, output in run_on_two_hosts(HOST, *flags, f"--output={out}", "--fail"):
        assert status == 2, output
        assert "No space left on device" in output  # on the host, too, that has met nothing
    assert list(parts_of(out)) == ["part-00000.npz"]  # of host 0
    for status, output in run_on_two_hosts(HOST, *flags, f"--output={out}"):
        assert status == 0, output
    assert main([*flags, f"--output={tmp_path / 'alone'}"]) == 0
    assert len(parts_of(out)) == 3
    assert parts_of(out) == parts_of(tmp_path / "alone")


def parts_of(folder):
    """The ids and labels of each part."""
    found = {}
    for path in sorted(folder.glob("ids/part-*")):
        with np.load(path) as part:
            found[path.name] = part["ids"].tolist(), part["labels"].tolist()
    return found


@pytest.mark.parametrize(("num", "rows"), [(1, 1), (3, 4)])
def test_a_few_images_are_not_padded_to_a_whole_batch(weights, tmp_path, monkeypatch, num, rows):
    """The images are those of a large batch all the same."""
    drawn, draw = [], drawing.draw_images

    def counted(*inputs):
        drawn.append(len(inputs[5]))  # conditions
        return draw(*inputs)

    monkeypatch.setattr(drawing, "draw_images", counted)
    for size, name in ((2 * num - 1, "large"), (32, "few")):
        flags = [f"--num={num}", "--classes=1", f"--batch-size={size}"]
        assert main([*weights, *flags, f"--output={tmp_path / name}"]) == 0
    assert drawn[-1] == rows
    assert images_of(tmp_path / "few") == images_of(tmp_path / "large")

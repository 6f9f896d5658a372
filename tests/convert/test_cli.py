"""`python -m toklip_jax.convert`, from outside: exact both ways, and clear about what is wrong."""

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tokenizers

import toklip_jax
from toklip_jax.cli.convert import main
from toklip_jax.files import write_safetensors
from toklip_jax.weights.checkpoint_file import read_checkpoint
from toklip_jax.weights.read import read_weights

FILES = [
    "toklip_tiny/checkpoint.pt",
    "teacher_tiny/checkpoint.safetensors",
    "vq_tiny/checkpoint.safetensors",
    "vq_tiny_8/checkpoint.safetensors",  # stored as float16
]


def convert(*args):
    return main([str(arg) for arg in args])


@pytest.fixture
def toklip(golden):
    return golden("toklip_tiny/checkpoint.pt")


@pytest.mark.parametrize("layout", ["scanned", "unrolled"])
@pytest.mark.parametrize("name", FILES)
def test_to_jax_then_to_torch_is_bit_exact(name, layout, golden, tmp_path, capsys):
    source, out, back = golden(name), tmp_path / "jax", tmp_path / "back.safetensors"
    assert convert("to-jax", source, out, "--layout", layout) == 0
    assert convert("to-torch", out, back) == 0
    want, got = read_checkpoint(source).tensors, read_checkpoint(back).tensors
    assert set(got) == set(want)
    for key in want:
        assert got[key].dtype == want[key].dtype, key
        assert got[key].tobytes() == want[key].tobytes(), key
    assert convert("verify", source, out) == 0
    assert f"bit-exact: {len(want)} tensors" in capsys.readouterr().out


@pytest.mark.parametrize("layout", ["scanned", "unrolled"])
def test_a_converted_directory_computes_what_the_file_does(toklip, layout, tmp_path):
    assert convert("to-jax", toklip, tmp_path / "jax", "--layout", layout) == 0
    ids = np.arange(32, dtype=np.int32).reshape(2, 16)
    tokens = [toklip_jax.load(p).semantic_tokens(ids) for p in (toklip, tmp_path / "jax")]
    np.testing.assert_allclose(*tokens, atol=1e-6)


def test_writing_pt_needs_torch_and_is_read_back_equal(toklip, tmp_path, capsys):
    assert convert("to-jax", toklip, tmp_path / "jax") == 0
    status = convert("to-torch", tmp_path / "jax", tmp_path / "back.pt")
    try:
        import torch  # noqa: F401
    except ImportError:
        assert status == 2
        assert "pip install 'toklip_jax[torch]'" in capsys.readouterr().err
        assert not list(tmp_path.glob("*back*"))
        return
    assert status == 0
    assert convert("verify", tmp_path / "back.pt", tmp_path / "jax") == 0


def test_inspect_tells_family_sizes_and_dtypes(toklip, golden, tmp_path, capsys):
    assert convert("inspect", toklip) == 0
    out = capsys.readouterr().out
    for part in ("torch file", "float32", "family: TokLIP", "'width': 64", "'codebook_size': 512"):
        assert part in out
    assert convert("inspect", golden("vq_tiny_8/checkpoint.safetensors")) == 0
    out = capsys.readouterr().out
    assert "float16" in out
    assert "family: LlamaGen's VQ tokenizer" in out
    assert convert("to-jax", toklip, tmp_path / "jax") == 0
    capsys.readouterr()
    assert convert("inspect", tmp_path / "jax") == 0
    assert "layout: unrolled" in capsys.readouterr().out


def test_verify_names_what_differs(toklip, tmp_path, capsys):
    assert convert("to-jax", toklip, tmp_path / "jax") == 0
    tensors = dict(read_checkpoint(toklip).tensors)
    tensors["text.ln_final.bias"] = tensors["text.ln_final.bias"] + 1
    tensors["extra"] = tensors.pop("logit_bias")
    write_safetensors(tmp_path / "other.safetensors", tensors)
    assert convert("verify", tmp_path / "other.safetensors", tmp_path / "jax") == 2
    error = capsys.readouterr().err
    for part in ("3 tensors differ", "differs: text.ln_final.bias", ": extra", ": logit_bias"):
        assert part in error
    write_safetensors(
        tmp_path / "all.safetensors", {k: np.array(v + 1) for k, v in tensors.items()}
    )
    assert convert("verify", tmp_path / "all.safetensors", tmp_path / "jax") == 2
    error = capsys.readouterr().err
    more = int(re.search(r"and (\d+) more", error)[1])
    assert f"{more + 40} tensors differ" in error


def test_toklips_start_takes_all_but_the_patch_embedding(golden, tmp_path, capsys):
    """As the reference's own load of the teacher's file into the student did."""
    teacher = golden("teacher_tiny/checkpoint.safetensors")
    vq = golden("vq_tiny/checkpoint.safetensors")
    assert convert("start", teacher, vq, tmp_path / "start") == 0
    printed = capsys.readouterr().out
    assert "token_encoder/mapping: fresh" in printed
    assert "image_tower/patch_embed of SigLIP 2" in printed
    assert convert("to-torch", tmp_path / "start", tmp_path / "start.safetensors") == 0
    got = read_checkpoint(tmp_path / "start.safetensors").tensors
    want = read_checkpoint(teacher).tensors
    report = json.loads(golden("toklip_tiny/load_report.json").read_text())
    report = report["teacher_ckpt_into_student"]
    assert set(want) - set(got) == set(report["in_checkpoint_but_dropped"])
    for name in report["loaded"]:
        assert got[name].tobytes() == want[name].tobytes(), name
    for name, array in read_checkpoint(vq).tensors.items():
        assert got[f"visual.trunk.vq.{name}"].tobytes() == array.tobytes(), name
    fresh = {name for name in got if "vq_table" in name or "vq_mapping" in name}
    assert len(fresh) == 4
    for name in fresh:
        bound = got[name.rsplit(".", 1)[0] + ".weight"].shape[1] ** -0.5  # torch.nn.Linear's
        assert 0.5 * bound < np.abs(got[name]).max() <= bound


def test_what_shapes_cannot_tell_is_asked_for(toklip, tmp_path, capsys):
    tensors = {
        name: array
        for name, array in read_checkpoint(toklip).tensors.items()
        if "blocks.2." not in name or ".vq." in name  # depth 2: no named size
    }
    write_safetensors(tmp_path / "odd.safetensors", tensors)
    assert convert("to-jax", tmp_path / "odd.safetensors", tmp_path / "jax") == 2
    assert "Pass --num-heads" in capsys.readouterr().err
    heads = ["--num-heads=4", "--text-num-heads=4"]
    assert convert("to-jax", tmp_path / "odd.safetensors", tmp_path / "jax", *heads) == 0
    assert read_weights(tmp_path / "jax").config.vision.num_heads == 4  # loading asks nothing


def test_nothing_is_overwritten(toklip, tmp_path, capsys):
    (tmp_path / "jax").mkdir()
    (tmp_path / "jax" / "mine").write_text("kept")
    assert convert("to-jax", toklip, tmp_path / "jax") == 2
    assert "which exists" in capsys.readouterr().err
    assert (tmp_path / "jax" / "mine").read_text() == "kept"
    assert convert("to-jax", toklip, tmp_path / "new") == 0
    (tmp_path / "there.safetensors").write_text("kept")
    assert convert("to-torch", tmp_path / "new", tmp_path / "there.safetensors") == 2
    assert (tmp_path / "there.safetensors").read_text() == "kept"


def test_a_failed_conversion_leaves_nothing(toklip, tmp_path):
    write_safetensors(tmp_path / "f.safetensors", {"quantize.embedding.weight": np.zeros((4, 2))})
    assert convert("to-jax", tmp_path / "f.safetensors", tmp_path / "jax") == 2
    assert [path.name for path in tmp_path.iterdir()] == ["f.safetensors"]


@pytest.mark.parametrize("damage", ["params.safetensors", "toklip.json"])
def test_a_damaged_directory_is_named(toklip, damage, tmp_path, capsys):
    assert convert("to-jax", toklip, tmp_path / "jax") == 0
    file = tmp_path / "jax" / damage
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert convert("inspect", tmp_path / "jax") == 2
    assert "damaged" in capsys.readouterr().err


def test_other_directories_and_missing_files_are_named(toklip, tmp_path, capsys):
    assert convert("inspect", tmp_path / "none.pt") == 2
    assert "expected a checkpoint at" in capsys.readouterr().err
    assert convert("inspect", tmp_path) == 2
    assert "toklip.json" in capsys.readouterr().err
    assert convert("verify", toklip, tmp_path / "none") == 2
    assert "found nothing" in capsys.readouterr().err


def test_the_command_exits_with_2_and_one_line(tmp_path):
    command = [sys.executable, "-m", "toklip_jax.convert", "inspect", str(tmp_path / "none.pt")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: expected a checkpoint at")


def test_a_reader_that_stops_early_is_no_crash(toklip):
    command = f"{sys.executable} -m toklip_jax.convert inspect {toklip} | head -c 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert len(done.stdout) == 1
    assert "Traceback" not in done.stderr


def test_a_text_tokenizer_is_kept_with_the_weights(toklip, tmp_path):
    from toklip_jax.data.text import TextTokenizer, train_tokenizer

    tokenizer = TextTokenizer(train_tokenizer(["a dog", "two cats"], 64), 16)
    path = tokenizer.save(tmp_path)
    assert convert("to-jax", toklip, tmp_path / "jax", "--tokenizer", tmp_path) == 0
    path.unlink()
    loaded = toklip_jax.load(tmp_path / "jax")
    by_text = loaded.text_features(["a dog"])
    np.testing.assert_array_equal(by_text, loaded.text_features(tokenizer(["a dog"])))
    moved = tmp_path / "moved"
    shutil.move(tmp_path / "jax", moved)
    np.testing.assert_array_equal(by_text, toklip_jax.load(moved).text_features(["a dog"]))


def test_a_text_tokenizer_of_more_ids_is_not_kept(toklip, tmp_path, capsys):
    words = tokenizers.models.WordLevel({"<pad>": 0, "<eos>": 1, "a": 3000})
    tokenizers.Tokenizer(words).save(str(tmp_path / "tokenizer.json"))
    assert convert("to-jax", toklip, tmp_path / "jax", "--tokenizer", tmp_path) == 2
    assert "got one of 3001" in capsys.readouterr().err
    assert not (tmp_path / "jax").exists()

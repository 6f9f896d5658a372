"""What shapes can't tell is passed; what a file has no use for is refused."""

import dataclasses
import inspect
import pathlib

import pytest

from toklip_jax.cli.convert import main as convert
from toklip_jax.models.base import Hints
from toklip_jax.models.recognition import Recognised, recognise
from toklip_jax.models.registry import FAMILIES
from toklip_jax.weights.checkpoint_file import read_checkpoint
from toklip_jax.weights.read import read_weights


@pytest.mark.parametrize(
    "family", [f for f in FAMILIES if f.keys is not None], ids=lambda family: family.name
)
@pytest.mark.parametrize(
    "hint",
    [{"num_heads": 4}, {"text_num_heads": 4}, {"is_causal": False}, {"is_l2_normalised": False}],
)
def test_a_hint_reaches_the_family_or_is_refused(family, hint):
    seen, keys = [], family.keys
    recording = dataclasses.replace(keys, infer=lambda tensors, hints, prefix: seen.append(hints))
    fake = dataclasses.replace(family, keys=recording)
    (name,) = hint
    if name in keys.hints:
        Recognised(fake, {}).infer(Hints(**hint))
        assert getattr(seen[0], name) == hint[name]
    else:
        with pytest.raises(ValueError, match=f"expected no {name} with weights of .*leave it out"):
            Recognised(fake, {}).infer(Hints(**hint))
        assert not seen


def test_no_heads_are_refused_for_a_generator_too(golden):
    with pytest.raises(ValueError, match=r"num_heads of at least 1 .*got 64, 3, 0 and"):
        read_weights(golden("gpt_c2i_tiny/checkpoint.safetensors"), num_heads=0)


CONVERTED = pathlib.Path(__file__).parents[1] / "weights" / "format_1"


@pytest.mark.parametrize("flag", ["--num-heads=2", "--weights=raw"])
@pytest.mark.parametrize(
    "command", ["inspect teacher", "to-jax teacher OUT", "start teacher vq OUT"]
)
def test_a_converted_directory_takes_none(command, flag, tmp_path, capsys):
    name, *paths = command.split()
    paths = [str(tmp_path / "out" if path == "OUT" else CONVERTED / path) for path in paths]
    assert convert([name, *paths, flag]) == 2
    assert "with the converted directory" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["inspect DIR --vq=DIR", "verify DIR DIR"])
def test_a_converted_directory_is_no_pytorch_file(command, capsys):
    assert convert(command.replace("DIR", str(CONVERTED / "vq")).split()) == 2
    assert "expected a file of PyTorch's names, got the converted dir" in capsys.readouterr().err


@pytest.mark.parametrize("value", [None, "no"])
def test_whether_a_codebook_is_at_unit_length_is_said_by_a_bool_alone(value):
    unchecked = inspect.unwrap(read_weights)  # as users call it, without the tests' type checks
    with pytest.raises(ValueError, match="expected bool for is_l2_normalised, got"):
        unchecked("vq.pt", is_l2_normalised=value)


def test_weights_of_another_family_than_was_named_say_whose_they_are(golden):
    tensors = read_checkpoint(golden("emu3_tiny/checkpoint.safetensors")).tensors
    message = r"expected weights of UniTok, got those of Emu3's .*: leave the .*, or say 'emu3'"
    with pytest.raises(ValueError, match=message):
        recognise(tensors, "unitok")
    with pytest.raises(ValueError, match="did you mean 'emu3'"):
        recognise(tensors, "emu")


def test_a_choice_of_weights_is_for_the_files_beside_a_converted_directory(tmp_path, capsys):
    flags = [str(tmp_path / "vq.pt"), str(tmp_path / "out"), "--weights=raw"]
    assert convert(["start", str(CONVERTED / "teacher"), *flags]) == 2
    assert "vq.pt, found nothing" in capsys.readouterr().err

"""Weights on a disk that damages them, and directories whose parts don't fit one another."""

import json
import math
import pathlib
import re
import shutil

import numpy as np
import pytest

from toklip_jax.cli.convert import main as convert
from toklip_jax.files import MappedFile, read_safetensors, write_safetensors
from toklip_jax.weights import load_weights, save_weights
from toklip_jax.weights.read import read_weights

FORMAT_1 = pathlib.Path(__file__).parent / "format_1"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """TokLIP with all kinds of files: shards with an index, carried tensors, a tokenizer."""
    directory = tmp_path_factory.mktemp("damage") / "written"
    save_weights(directory, load_weights(FORMAT_1 / "toklip"), max_shard_bytes=300_000)
    return directory


@pytest.fixture
def copy(written, tmp_path):
    return shutil.copytree(written, tmp_path / "copy")


def files_of(directory):
    return sorted(path.name for path in directory.iterdir())


def flip(path, place, bit):
    data = bytearray(path.read_bytes())
    data[place] ^= 1 << bit
    path.write_bytes(data)


def test_a_flipped_bit_anywhere_in_any_file_is_found(written, copy):
    random = np.random.default_rng(0)
    names = files_of(written)
    assert len(names) > 5
    for name in names:
        path, size = copy / name, (copy / name).stat().st_size
        for place in {0, size // 2, size - 1, *random.integers(size, size=4).tolist()}:
            flip(path, place, bit := int(random.integers(8)))
            with pytest.raises(ValueError, match=str(copy)) as caught:
                load_weights(copy)
            assert "\n" not in str(caught.value), name
            flip(path, place, bit)
    load_weights(copy)


def test_a_missing_file_is_named(written, copy):
    for name in files_of(written):
        (copy / name).rename(copy.parent / "away")
        with pytest.raises(ValueError, match=re.escape(name)):
            load_weights(copy)
        (copy.parent / "away").rename(copy / name)


@pytest.mark.parametrize("command", [["inspect"], ["to-torch"]])
def test_no_command_reads_damaged_weights(copy, command, capsys):
    flip(copy / "params-00002-of-00003.safetensors", 9999, 3)
    rest = [str(copy.parent / "out.safetensors")] if command == ["to-torch"] else []
    assert convert([*command, str(copy), *rest]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert "params-00002-of-00003.safetensors is damaged" in error
    assert not (copy.parent / "out.safetensors").exists()


def test_a_description_that_was_changed_says_how_to_keep_the_change(copy):
    path = copy / "toklip.json"
    fields = json.loads(path.read_text())
    fields["config"]["vision"]["norm_eps"] = 1e-5  # which no shape tells
    path.write_text(json.dumps(fields))
    with pytest.raises(ValueError, match="if the change is yours, remove its field 'checksum'"):
        load_weights(copy)
    del fields["checksum"]
    path.write_text(json.dumps(fields))
    assert load_weights(copy).config.vision.norm_eps == 1e-5


def description(change):
    def edit(directory):
        path = directory / "toklip.json"
        fields = json.loads(path.read_text())
        path.write_text(json.dumps(change(fields) or fields))

    return edit


def parameters(change):
    def edit(directory):
        tensors = read_safetensors(MappedFile(directory / "params.safetensors"))
        tensors = {name: np.array(x) for name, x in tensors.items()}
        change(tensors)
        write_safetensors(directory / "params.safetensors", tensors)

    return edit


def replace(name, change):
    return parameters(lambda tensors: tensors.update({name: change(tensors[name])}))


VISION = {"width": 128, "depth": 9, "num_heads": 1, "mlp_dim": 8, "patch_size": 2}
# Of directories without checksums, which earlier versions wrote.
CHANGES = {
    "no config": description(lambda fields: fields.pop("config") and None),
    "a config of another kind": description(lambda fields: fields.update(config=[])),
    "no layout": description(lambda fields: fields.pop("is_scanned") and None),
    "the other layout": description(lambda fields: fields.update(is_scanned=False)),
    "a layout that is no bool": description(lambda fields: fields.update(is_scanned="yes")),
    "no source": description(lambda fields: fields.pop("source") and None),
    "a list": description(lambda fields: [fields]),
    "another format": description(lambda fields: fields.update(format=True)),
    "a million layers": description(lambda fields: fields["config"]["text"].update(depth=10**6)),
    "a parameter missing": parameters(lambda tensors: tensors.pop("logit_scale") and None),
    "one too many": parameters(lambda tensors: tensors.update(more=np.zeros(3, np.float32))),
    "a shape": replace("token_encoder/norm/scale", lambda x: x.reshape(1, -1)),
    "a type": replace("text_tower/norm/scale", lambda x: x.astype(np.int32)),
    "not a number": replace("text_tower/norm/scale", lambda x: x * np.nan),
} | {
    name: description(lambda fields, n=name, v=value: fields["config"]["vision"].update({n: v}))
    for name, value in VISION.items()
}


@pytest.mark.parametrize("change", CHANGES)
def test_parts_that_do_not_fit_are_found_at_loading(change, tmp_path):
    directory = shutil.copytree(FORMAT_1 / "toklip", tmp_path / "copy")
    CHANGES[change](directory)
    with pytest.raises(ValueError, match=str(directory)) as caught:
        read_weights(directory)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "\xff", "[" * 99_999, '{"format": ' + "9" * 5000 + "}"])
def test_a_damaged_description_is_named(text, tmp_path):
    directory = shutil.copytree(FORMAT_1 / "vq", tmp_path / "copy")
    (directory / "toklip.json").write_bytes(text.encode("latin1"))
    with pytest.raises(ValueError, match=r"copy/toklip\.json is damaged"):
        load_weights(directory)
    with (directory / "toklip.json").open("wb") as file:
        file.truncate(2 * 10**6)
    with pytest.raises(ValueError, match="more than"):
        load_weights(directory)


def test_sizes_of_shapes_are_checked(tmp_path):
    """An entry of no numbers is as damaged as one of too many."""
    directory = shutil.copytree(FORMAT_1 / "vq", tmp_path / "copy")
    replace("codebook", lambda x: x[:0])(directory)
    with pytest.raises(ValueError, match=r"codebook is \(0, \d+\), expected"):
        load_weights(directory)
    assert math.prod(load_weights(FORMAT_1 / "vq").params["codebook"].shape)

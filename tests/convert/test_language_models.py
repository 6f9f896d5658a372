"""Language models from and to directories of Hugging Face: sizes, tied heads, shards."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import toklip_jax
from tests.models.qwen_recordings import SETS, write_directory
from toklip_jax.cli.convert import main
from toklip_jax.files import read_safetensors
from toklip_jax.files.mapped import MappedFile
from toklip_jax.models.qwen.config import QwenConfig
from toklip_jax.models.qwen.settings import read, write
from toklip_jax.models.qwen.sizes import SIZES
from toklip_jax.weights import load_weights, read_weights, save_weights
from toklip_jax.weights.conversion import export_tensors
from toklip_jax.weights.hugging_face import write_hugging_face

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


@pytest.fixture(params=SETS)
def directory(golden, request, tmp_path):
    return write_directory(golden, request.param, tmp_path / "theirs")


@pytest.fixture
def tied(golden, tmp_path):
    return write_directory(golden, "qwen3", tmp_path / "theirs")


def convert(*args):
    return main([str(arg) for arg in args])


def tensors_of(path):
    return load_file(path / "model.safetensors")


def expect_equal(got, want):
    assert set(got) == set(want)
    for name in want:
        assert np.asarray(got[name]).tobytes() == np.asarray(want[name]).tobytes(), name


def test_there_and_back_is_bit_exact_and_keeps_the_other_files(directory, tmp_path, capsys):
    (directory / "generation_config.json").write_text('{"eos_token_id": 7}')
    ours, back = tmp_path / "ours", tmp_path / "back-0.5"
    assert convert("to-jax", directory, ours, "--layout=scanned") == 0
    assert convert("verify", directory, ours) == 0
    assert convert("to-torch", ours, back) == 0
    assert convert("to-torch", ours, tmp_path / "one.safetensors") == 0
    assert convert("inspect", ours) == 0
    assert "is_tied: " in capsys.readouterr().out
    want = tensors_of(directory)
    expect_equal(tensors_of(back), want)
    expect_equal(load_file(tmp_path / "one.safetensors"), want)
    assert (HEAD in want) == (not read_weights(back).config.is_tied)
    for path in (ours, back):
        assert toklip_jax.load(path).stop_ids == (7,)
    assert json.loads((back / "config.json").read_text()) == json.loads(
        (directory / "config.json").read_text()
    )
    prompt = [[5, 9, 2]]
    answers = [
        toklip_jax.load(path).generate(prompt, max_new_tokens=5) for path in (directory, ours, back)
    ]
    assert answers[0] == answers[1] == answers[2]


def test_shards_with_an_index_are_read_and_written(directory, tmp_path):
    want = tensors_of(directory)
    weights = read_weights(directory)
    write_hugging_face(tmp_path / "shards", weights, max_shard_bytes=200_000)
    shards = sorted(path.name for path in (tmp_path / "shards").glob("*.safetensors"))
    assert len(shards) > 1
    assert shards[0] == f"model-00001-of-{len(shards):05d}.safetensors"
    found = {}
    for shard in shards:
        found |= read_safetensors(MappedFile(tmp_path / "shards" / shard))
    expect_equal(found, want)
    first = (tmp_path / "shards" / shards[0]).read_bytes()[8:100]
    assert first.startswith(b'{"__metadata__": {"format": "pt"}')  # transformers 4 asks for it
    again = read_weights(tmp_path / "shards")
    assert again.config == weights.config
    expect_equal(export_tensors(again), want)


def test_a_copy_of_the_embedding_is_read_as_tied_and_written_back(tied, tmp_path):
    """As in the published files of Qwen3-0.6B and 1.7B."""
    tensors = tensors_of(tied)
    save_file(tensors | {HEAD: tensors[EMBEDDING].copy()}, tied / "model.safetensors")
    weights = read_weights(tied)
    assert "head_kernel" not in weights.params
    assert list(weights.carried) == [HEAD]
    save_weights(tmp_path / "ours", weights)
    again = load_weights(tmp_path / "ours")
    expect_equal(export_tensors(again), tensors | {HEAD: tensors[EMBEDDING]})
    # After training it is what the embedding is by then.
    changed = dict(again.params, token_embed=np.asarray(again.params["token_embed"]) + 1)
    again.params.update(changed)
    found = export_tensors(again)
    np.testing.assert_array_equal(found[HEAD], found[EMBEDDING])
    assert not np.array_equal(np.asarray(found[HEAD]), tensors[EMBEDDING])


def test_another_head_in_a_file_that_says_tied_is_an_error(tied):
    tensors = tensors_of(tied)
    save_file(tensors | {HEAD: tensors[EMBEDDING] + 1}, tied / "model.safetensors")
    with pytest.raises(ValueError, match=r"expected lm_head.weight to be a copy of model.embed"):
        read_weights(tied)


def test_an_untied_file_without_a_head_is_an_error(tied):
    settings = json.loads((tied / "config.json").read_text())
    (tied / "config.json").write_text(json.dumps(settings | {"tie_word_embeddings": False}))
    with pytest.raises(ValueError, match=r"missing: lm_head\.weight"):
        read_weights(tied)


def test_a_file_alone_tells_its_sizes_by_shapes_and_names(golden, tmp_path):
    path = tmp_path / "alone.safetensors"
    shutil.copyfile(golden("qwen3_tiny/checkpoint.safetensors"), path)
    assert read_weights(path).config == SIZES["qwen3_tiny"]
    shutil.copyfile(golden("qwen2_tiny/checkpoint_tied.safetensors"), path)
    assert read_weights(path).config == SIZES["qwen2.5_tiny"]
    tensors = load_file(path)
    tensors = {name: x for name, x in tensors.items() if ".layers.2." not in name}  # no named size
    save_file(tensors, path)
    with pytest.raises(ValueError, match=r"expected a config\.json beside the weights"):
        read_weights(path)
    with pytest.raises(ValueError, match="expected num_heads to divide 64 rows"):
        read_weights(path, num_heads=5)
    config = read_weights(path, num_heads=4).config
    assert (config.depth, config.num_heads, config.num_kv_heads, config.head_dim) == (2, 4, 2, 16)


def test_files_of_llama_are_not_taken_for_qwens(golden, tmp_path):
    tensors = load_file(golden("qwen2_tiny/checkpoint_tied.safetensors"))
    llama = {name: x for name, x in tensors.items() if not name.endswith(".bias")}
    save_file(llama, tmp_path / "llama.safetensors")
    with pytest.raises(ValueError, match="expected weights of"):
        read_weights(tmp_path / "llama.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "olmo2"}, "of model_type qwen2 or qwen3, got 'olmo2'"),
        ({"hidden_act": "gelu"}, "expected hidden_act 'silu'"),
        ({"use_sliding_window": True}, "expected use_sliding_window False"),
        ({"attention_bias": True}, "expected attention_bias False"),
        ({"quantization_config": {"bits": 4}}, "expected quantization_config None"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "got sliding_attention"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "got 'yarn'"),
        ({"hidden_size": None}, "hidden_size"),
        ({"num_hidden_layers": 2}, "unknown: model.layers.2"),
    ],
)
def test_a_config_of_another_model_is_one_clear_error(tied, change, message):
    settings = json.loads((tied / "config.json").read_text())
    (tied / "config.json").write_text(json.dumps(settings | change))
    with pytest.raises(ValueError, match=message):
        read_weights(tied)


def test_sizes_beside_a_config_are_refused(tied):
    with pytest.raises(ValueError, match=r"expected no num_heads with a config\.json"):
        read_weights(tied, num_heads=4)


def test_the_base_of_rotary_positions_is_read_in_every_form(golden):
    theirs = json.loads(golden("qwen3_tiny/hf_config.json").read_text())
    assert read(theirs) == SIZES["qwen3_tiny"].__class__(
        **{**vars(SIZES["qwen3_tiny"]), "max_positions": 40_960}
    )
    bare = {n: x for n, x in theirs.items() if n not in ("rope_parameters", "rope_theta")}
    assert read(bare).rotary_base == 10_000.0  # the default of transformers' classes
    assert read(bare | {"rope_theta": 5e5, "rope_scaling": None}).rotary_base == 5e5
    assert read({n: x for n, x in bare.items() if n != "head_dim"}).head_dim == 128


@pytest.mark.parametrize("name", SIZES)
def test_a_config_that_is_written_is_read_back(name):
    assert read(json.loads(json.dumps(write(SIZES[name])))) == SIZES[name]


def test_a_model_that_neither_class_describes_has_no_config_json():
    with pytest.raises(ValueError, match="expected biases of queries"):
        write(QwenConfig(64, 2, 4, 2, 160, has_qk_norm=True))

"""The language model as users call it: prompts of any lengths, streams, stop ids, chats."""

import json
import os
import pickle
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import toklip_jax
from tests.models.qwen_recordings import SETS, write_directory
from toklip_jax.api.answers import answers
from toklip_jax.api.prompts import padded_length

PROMPTS = [[5, 9, 2], [7] * 17, [100, 3, 250, 4, 77, 9]]


@pytest.fixture(scope="module")
def directories(golden, tmp_path_factory):
    return {name: write_directory(golden, name, tmp_path_factory.mktemp("lm")) for name in SETS}


@pytest.fixture(scope="module")
def model(directories):
    return toklip_jax.load(directories["qwen3"])


@pytest.mark.parametrize("name", SETS)
def test_answers_are_the_recorded_ones(name, directories, golden):
    model = toklip_jax.load(directories[name])
    folder, _, suffix, _ = SETS[name]
    want = np.load(golden(f"{folder}/outputs{suffix}.npz"))
    ids = want["gen_ids"]
    assert model.generate(ids[:, :6], max_new_tokens=20) == ids[:, 6:].tolist()
    inputs = np.load(golden(f"{folder}/inputs.npz"))
    masks = inputs["left_pad_mask"].astype(bool)
    prompts = [row[mask].tolist() for row, mask in zip(inputs["left_pad_ids"], masks, strict=True)]
    assert len({len(prompt) for prompt in prompts}) > 1
    assert model.generate(prompts, max_new_tokens=20) == want["gen_left_pad_ids"].tolist()
    assert list(model.stream(prompts[1], max_new_tokens=20)) == want["gen_left_pad_ids"][1].tolist()
    logits = np.load(golden(f"{folder}/outputs{suffix}.npz"))["logits"]
    np.testing.assert_allclose(model.logits(inputs["ids"]), logits, atol=1e-4, rtol=1e-5)


@pytest.mark.plain
def test_draws_depend_on_neither_batch_nor_padding(model):
    options = {"max_new_tokens": 12, "temperature": 1.0, "top_k": 50, "top_p": 0.9, "key": 3}
    together = model.generate(PROMPTS, **options)
    assert together != model.generate(PROMPTS, **options | {"key": 4})
    assert together[:1] == model.generate(PROMPTS[:1], **options)
    longer = model.generate([PROMPTS[0], [1] * 40], **options)
    assert longer[0] == together[0]
    assert list(model.stream(PROMPTS[0], **options)) == together[0]
    few = toklip_jax.api.LanguageModel(
        model.config, model.params, model.model.compute, batch_size=2
    )
    assert few.generate(PROMPTS, **options) == together


def test_prompts_and_answers_of_near_lengths_share_a_program(model):
    before = answers._cache_size()
    for length, most in ((1, 17), (9, 20), (16, 32)):
        rows = model.generate([[4] * length], max_new_tokens=most, temperature=0.5, stop_ids=())
        assert len(rows[0]) == most
    assert answers._cache_size() == before + 1


def test_padded_lengths_are_few_and_waste_little():
    lengths = [padded_length(n) for n in range(1, 4097)]
    assert sorted(set(lengths))[:8] == [16, 32, 48, 64, 96, 128, 192, 256]
    assert len(set(lengths)) < 20
    assert all(n <= found <= max(1.5 * n, n + 15) for n, found in enumerate(lengths, start=1))


@pytest.mark.plain
def test_logits_of_prompts_of_several_lengths_are_those_of_each(model):
    together = np.asarray(model.logits(PROMPTS))
    assert together.shape == (3, 17, model.config.vocab_size)
    for prompt, got in zip(PROMPTS, together, strict=True):
        want = model.apply(model.params, jnp.asarray([prompt]), "logits")[0]
        np.testing.assert_allclose(got[: len(prompt)], want, atol=1e-5, rtol=1e-5)
        assert not got[len(prompt) :].any()
    traced = jax.jit(model.logits)(jnp.asarray([PROMPTS[2]]))
    np.testing.assert_allclose(traced[0], together[2, :6], atol=1e-5, rtol=1e-5)


def test_answers_end_before_stop_ids_and_streams_too(model):
    whole = model.generate(PROMPTS, max_new_tokens=20)
    stop = whole[1][5]
    expected = [row[: row.index(stop)] if stop in row else row for row in whole]
    assert model.generate(PROMPTS, max_new_tokens=20, stop_ids=stop) == expected
    assert list(model.stream(PROMPTS[1], max_new_tokens=20, stop_ids=[stop])) == expected[1]


def test_stop_ids_are_those_of_the_files_beside_the_weights(directories, tmp_path):
    folder = shutil.copytree(directories["qwen3"], tmp_path / "lm")
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"eos_token_id": 11}))
    assert toklip_jax.load(folder).stop_ids == (11,)
    generation = folder / "generation_config.json"
    generation.write_text(json.dumps({"eos_token_id": [11, 12]}))
    assert toklip_jax.load(folder).stop_ids == (11, 12)
    generation.write_text(json.dumps({"eos_token_id": "twelve"}))
    with pytest.raises(ValueError, match="expected token ids for eos_token_id"):
        toklip_jax.load(folder)


def test_a_model_is_pickled_and_says_what_it_is(model):
    assert repr(model).startswith("LanguageModel(qwen, ")
    assert repr(model).endswith("vocabulary 512, width 64, 0.2 M parameters, float32)")
    again = pickle.loads(pickle.dumps(model))
    assert again.generate(PROMPTS, max_new_tokens=3) == model.generate(PROMPTS, max_new_tokens=3)


@pytest.mark.parametrize(
    ("ids", "options", "message"),
    [
        ([1, 2], {}, "expected prompts as a list of lists"),
        (np.ones(3, int), {}, r"pass \[ids\] for one prompt"),
        ([], {}, "got none"),
        ([[]], {}, "at least one token id in every prompt"),
        ([[1, 512]], {}, r"expected token ids in \[0, 512\), got 1 to 512"),
        ([[-1]], {}, "got -1 to -1"),
        ([[1.5]], {}, "expected prompts as a list of lists"),
        (["hello"], {}, "expected prompts as a list of lists"),
        ([[1]], {"max_new_tokens": 0}, "max_new_tokens of at least 1"),
        ([[1]], {"max_new_tokens": 2.0}, "expected an integer max_new_tokens"),
        ([[1] * 40_900], {"max_new_tokens": 61}, "expected at most 40960 tokens"),
        ([[1]], {"cfg_scale": 2.0}, "expected a setting of sampling"),
        ([[1]], {"temprature": 1.0}, "did you mean 'temperature'"),
        ([[1]], {"top_p": 2.0}, "expected a top_p"),
        ([[1]], {"stop_ids": [600]}, r"expected stop ids in \[0, 512\)"),
        ([[1]], {"key": "a"}, "expected a seed"),
    ],
)
def test_what_does_not_fit_is_one_clear_error(model, ids, options, message):
    with pytest.raises(ValueError, match=message):
        model.generate(ids, **options)


def test_arguments_of_images_are_refused(directories):
    with pytest.raises(ValueError, match="expected no image_size or resize"):
        toklip_jax.load(directories["qwen3"], image_size=64)


TEMPLATE = (
    "{% for m in messages %}<|im_start|> {{ m['role'] }} {{ m['content'] }} <|im_end|> {% endfor %}"
    "{% if add_generation_prompt %}<|im_start|> assistant {% endif %}"
)


@pytest.fixture
def chatting(directories, tmp_path):
    """`chatting(template)` is a model with a tokenizer of words, and perhaps a chat template."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["<|im_start|>", "<|im_end|>", "user", "assistant", "hello", "<unk>"]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()

    def make(template):
        folder = shutil.copytree(directories["qwen3"], tmp_path / "chat")
        tokenizer.save(str(folder / "tokenizer.json"))
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": template}
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
        return toklip_jax.load(folder)

    return make


MESSAGES = [{"role": "user", "content": "hello"}]


def test_a_chat_ends_where_the_answer_begins(chatting, tmp_path):
    model = chatting(TEMPLATE)
    assert model.tokenizer("hello")["input_ids"] == [4]
    ids = model.chat_ids(MESSAGES)
    assert ids == [0, 2, 4, 1, 0, 3]
    assert len(model.generate([ids], max_new_tokens=2)[0]) == 2
    other = toklip_jax.load(tmp_path / "chat" / "model.safetensors", tokenizer=tmp_path / "chat")
    assert other.chat_ids(MESSAGES) == ids


def test_messages_that_a_template_refuses_are_said(chatting):
    refusing = "{{ raise_exception('only user and assistant') }}"
    with pytest.raises(ValueError, match="only user and assistant"):
        chatting(refusing).chat_ids(MESSAGES)


def test_a_template_without_a_generation_prompt_is_refused(chatting):
    with pytest.raises(ValueError, match="expected a chat template with a generation prompt"):
        chatting(TEMPLATE.partition("{% if")[0]).chat_ids(MESSAGES)


def test_a_tokenizer_without_a_template_is_refused(chatting):
    with pytest.raises(ValueError, match="expected a chat template with the tokenizer"):
        chatting(None).chat_ids(MESSAGES)


def test_a_missing_tokenizer_and_missing_transformers_are_said(chatting, model, monkeypatch):
    with pytest.raises(FileNotFoundError, match="expected a text tokenizer in"):
        _ = model.tokenizer
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match="expected the package transformers"):
        _ = chatting(TEMPLATE).tokenizer


CODE = """
import sys
import toklip_jax
from toklip_jax.parallel.sharding import make_mesh

prompts = [[5, 9, 2], [7] * 17, [100, 3, 250, 4, 77, 9]]
want = toklip_jax.load(sys.argv[1]).generate(prompts, max_new_tokens=8)
for sizes in ({"data": 4}, {"fsdp": 2, "tensor": 2}):
    model = toklip_jax.load(sys.argv[1], mesh=make_mesh(sizes))
    assert model.generate(prompts, max_new_tokens=8) == want, sizes
    assert list(model.stream(prompts[0], max_new_tokens=8)) == want[0], sizes
print("equal")
"""


@pytest.mark.plain
def test_answers_over_any_mesh_are_those_of_one_device(directories):
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4"
    done = subprocess.run(
        [sys.executable, "-c", CODE, directories["qwen2.5 untied"]],
        env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "equal" in done.stdout

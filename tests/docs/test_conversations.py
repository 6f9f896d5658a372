"""The examples of docs/conversations.md work as they stand."""

import ast
import pathlib
import re

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from toklip_jax.data.sources import SourceConfig
from toklip_jax.tasks.multimodal.source import CONVERSATIONS

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "conversations.md"


def test_the_example_runs(tmp_path, monkeypatch):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["You are Qwen. You are a helpful assistant."], trainer)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "images").mkdir()
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    exec(compile(code, str(PAGE), "exec"), {})
    assert (tmp_path / "lengths.npz").exists()


def test_the_source_of_a_config_is_one():
    (literal,) = re.findall(r"source = (\{.*?\})", PAGE.read_text(), re.S)
    assert SourceConfig.from_plain(ast.literal_eval(literal)).kind == CONVERSATIONS.name

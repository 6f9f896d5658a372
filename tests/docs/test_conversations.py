"""The example of docs/conversations.md runs as it stands."""

import pathlib
import re

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

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
    assert (tmp_path / "lengths.json").exists()

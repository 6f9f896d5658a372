"""Decoding by a language model: ours, as users call it, against transformers' `generate`.

    python -m benchmarks.run --suite=language

The peer is `Qwen2ForCausalLM` with its own cache and its own attention (`sdpa`), loaded from the
directory that ours wrote: the same weights and type. Both decode greedily, the same number of
tokens after the same prompts, and must agree before anything is timed. transformers' files of
published weights are not needed: widths are the real ones, the numbers random.
"""

import dataclasses
import pathlib
import tempfile
from typing import Any

import numpy as np

from benchmarks.timing import Case, Quiet, against_bar, alternate, compare, machine
from benchmarks.weights import random_params
from toklip_jax.api import LanguageModel, load
from toklip_jax.models.qwen.config import QwenConfig
from toklip_jax.models.qwen.sizes import SIZES
from toklip_jax.models.registry import init_params
from toklip_jax.nn.config import Compute
from toklip_jax.weights import Weights
from toklip_jax.weights.hugging_face import write_hugging_face

BAR = 1.5  # times transformers' speed
PEER = "transformers"


@dataclasses.dataclass(frozen=True)
class Setting:
    """One measurement.

    Attributes:
        size: the named size whose widths are taken.
        depth: layers in place of its own.
        vocab_size: the vocabulary in place of its own.
        batches: rows, each timed on its own.
        prompt: tokens of a prompt.
        answer: tokens that are drawn.
        rounds: repetitions that count.
    """

    size: str = "qwen2.5_0.5b"
    depth: int = 6
    vocab_size: int = 32_000
    batches: tuple[int, ...] = (1, 8)
    prompt: int = 64
    answer: int = 64
    rounds: int = 8

    @property
    def config(self) -> QwenConfig:
        return dataclasses.replace(SIZES[self.size], depth=self.depth, vocab_size=self.vocab_size)


SETTINGS = {"qwen2.5": Setting(), "qwen3": Setting("qwen3_0.6b")}
REHEARSAL = {"depth": 1, "vocab_size": 512, "batches": (2,), "prompt": 8, "answer": 4, "rounds": 1}


def measure(name: str, is_rehearsal: bool = False) -> dict:
    """Returns the rows of one of `SETTINGS`.

    Args:
        is_rehearsal: a layer and a round of two short rows: whether it runs, not how fast.
    """
    setting, quiet = SETTINGS[name], Quiet()
    setting = dataclasses.replace(setting, **REHEARSAL) if is_rehearsal else setting
    rows, checks, problems = measure_setting(setting, quiet)
    return {
        "machine": machine(),
        "rows": rows,
        "checks": checks,
        "problems": problems,
        "quiet": quiet.record(),
    }


def measure_setting(
    setting: Setting, quiet: Quiet
) -> tuple[list[dict[str, Any]], dict[str, float], dict[str, str]]:
    """Returns (rows of the table, what was checked, contenders that failed and why)."""
    rows, checks, problems = [], {}, {}
    with tempfile.TemporaryDirectory() as folder:
        directory = pathlib.Path(folder) / "weights"
        write_random(directory, setting.config)
        ours, peer = load(directory), None
        try:
            peer = Peer(directory)
        except ImportError:
            problems[PEER] = "torch is not installed"
        for batch in setting.batches:
            label = f"decoding, {setting.size} at {setting.depth} layers, batch {batch}"
            cases = {"ours": Case(lambda prompts: decode(ours, prompts, setting.answer))}
            if peer is not None:
                cases[PEER] = Case(lambda prompts: peer.decode(prompts, setting.answer))
                checks[f"{label}: greedy ids that agree"] = check(ours, peer, setting, batch)
            seconds = alternate(
                cases,
                lambda random, batch=batch: (draw_prompts(random, setting, batch),),
                setting.rounds,
                quiet=quiet,
            )
            if peer is not None:
                rows.append(compare(seconds, "ours", PEER, label, BAR))
            tokens = batch * setting.answer / np.median(seconds["ours"])
            row = {"what": f"{label}: tokens a second", "value": float(tokens)}
            rows.append(row | against_bar(0, None))
    return rows, checks, problems


def write_random(directory: pathlib.Path, config: QwenConfig) -> None:
    """Writes a directory of random weights that transformers reads."""
    compute = Compute(is_scanned=False)
    params = random_params(lambda key: init_params(config, compute, key))
    # Embeddings this large do not let a tied head repeat its input.
    params["token_embed"] *= 6
    write_hugging_face(directory, Weights(config, params, is_scanned=False))


def draw_prompts(random: np.random.Generator, setting: Setting, batch: int) -> np.ndarray:
    return random.integers(0, setting.vocab_size, (batch, setting.prompt))


def decode(model: LanguageModel, prompts: np.ndarray, count: int) -> np.ndarray:
    """Returns the ids that follow prompts, [b, count]."""
    return np.asarray(model.generate(prompts, max_new_tokens=count, stop_ids=()))


def check(ours: LanguageModel, peer: "Peer", setting: Setting, batch: int) -> float:
    """Returns the share of greedy ids that agree; raises ValueError where too few do."""
    prompts = draw_prompts(np.random.default_rng(0), setting, batch)
    own, theirs = decode(ours, prompts, setting.answer), peer.decode(prompts, setting.answer)
    share = float(np.mean(own == theirs))
    if share < 0.95:
        raise ValueError(f"greedy ids differ from transformers': {share:.3f} agree")
    return share


class Peer:
    """transformers' model and its `generate`."""

    def __init__(self, directory: pathlib.Path):
        import torch
        from transformers import AutoModelForCausalLM

        self.torch = torch
        self.model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()

    def decode(self, prompts: np.ndarray, count: int) -> np.ndarray:
        """Returns the ids that follow prompts, [b, count]."""
        ids = self.torch.as_tensor(prompts)
        with self.torch.inference_mode():
            out = self.model.generate(
                ids,
                attention_mask=self.torch.ones_like(ids),
                do_sample=False,
                min_new_tokens=count,
                max_new_tokens=count,
                pad_token_id=0,
            )
        return out[:, ids.shape[1] :].numpy()

"""The demo's generator: a small GPT on the ids of a finished demo, conditioned on the group.

    python -m toklip_jax.main --config=configs/demo_generation.py --workdir=runs/demo_generation

`--config=configs/demo_generation.py:semantic=concat` joins TokLIP's token of each id to it;
`condition=caption` takes the caption's tokens, by TokLIP's own text tower, in place of the group.
`--config.stages="('generator','grpo')"` post-trains it with rewards, which needs TokLIP's tokens
(`semantic=add` or `concat`) and the group; the start and the reward are in `grpo.init` and
`grpo.loss.reward`.
The tokenizer is `runs/demo/toklip/weights`; `--config.generator.init.tokenizer` names another.
"""

import pathlib
import runpy

from ml_collections import ConfigDict, FieldReference

import toklip_jax.demo  # noqa: F401 - it registers the kinds "emoji"
from toklip_jax.core.fields import check_name, read_options
from toklip_jax.models.generator.config import SEMANTICS, GPTConfig
from toklip_jax.models.serialization import config_to_dict

# By path: configs are files and not a package.
demo = runpy.run_path(str(pathlib.Path(__file__).with_name("demo.py")))
SIZE, CONTEXT, WIDTH, VOCABULARY = (demo[n] for n in ("SIZE", "CONTEXT", "WIDTH", "VOCABULARY"))
GRID = (SIZE // demo["PATCH"],) * 2
GROUPS = (
    "activities", "animals and nature", "flags", "food and drink", "objects", "people and body",
    "smileys and emotion", "symbols", "travel and places",
)  # fmt: skip
CONDITIONS = {
    "group": {"num_classes": len(GROUPS)},
    "caption": {"num_classes": 0, "caption_dim": WIDTH, "caption_length": CONTEXT},
}
DEFAULTS = {"semantic": "none", "condition": "group", "bits": str(demo["BITS"])}


def get_config(options: str = "") -> ConfigDict:
    """Returns the configuration; override any field with `--config.a.b=value`.

    Args:
        options: "semantic=none|add|concat,condition=group|caption,bits=EVEN", each of them
            optional; the bits of a place are those that the demo was trained with.

    Raises:
        ValueError: other options.
    """
    chosen = read_options(options, DEFAULTS)
    semantic = check_name("a semantic", chosen["semantic"], SEMANTICS)
    condition = CONDITIONS[check_name("a condition", chosen["condition"], CONDITIONS)]
    bits = demo["read_bits"](chosen["bits"])
    gpt = GPTConfig(
        128,
        4,
        4,
        grid=GRID,
        codebook_sizes=(2**bits,),
        semantic=semantic,
        semantic_dim=0 if semantic == "none" else WIDTH,
        **condition,
    )
    split, size = FieldReference("test"), FieldReference(SIZE)
    return ConfigDict(
        {
            "imports": ("toklip_jax.demo",),
            "seed": 0,
            "mesh": {"data": -1, "fsdp": 1, "tensor": 1},
            "compute": {"dtype": "float32", "is_scanned": False, "remat": "none"},
            "source": {"kind": "emoji", "split": split, "size": size, "num_captions": 32},
            "text": {
                "tokenizer": "runs/demo/tokenizer.json",
                "vocab_size": VOCABULARY,
                "context_length": CONTEXT,
            },
            "num_workers": 0,
            "stages": ("generator",),
            "encode": {
                "stage": "generator",
                "crops": 4,
                "features": (),
                "has_text": condition["num_classes"] == 0,
                "batch_size": 64,
                "records_per_shard": 1024,
            },
            "evaluate": (),
            "evaluations": {},
            "models": {},
            "generator": {
                "objective": "generator",
                "model": config_to_dict(gpt),
                "init": {"tokenizer": "runs/demo/toklip/weights", "gpt": ""},
                "cache": "run:cache",  # the run encodes its ids first; "" encodes at every step
                "loss": {"condition_dropout": 0.1},
                "optimizer": {
                    "learning_rate": 1e-3,
                    "warmup_steps": 100,
                    "weight_decay": 0.05,
                    "clip_norm": 1.0,
                },
                "loop": {"steps": 2000, "log_every": 50, "save_every": 1000},
                "batch_size": 64,
                "augment": {"max_shift": 2.0, "max_scale": 1.1},
            },
            "grpo": {
                "objective": "grpo",
                "init": {"generator": "stage:generator", "teacher": ""},
                "prompts": GROUPS,
                "loss": {"group_size": 8, "reward": "toklip", "kl_weight": 0.02},
                "optimizer": {
                    "learning_rate": 1e-4,
                    "warmup_steps": 20,
                    "schedule": "constant",
                    "weight_decay": 0.0,
                    "clip_norm": 1.0,
                },
                "loop": {"steps": 200, "log_every": 10, "save_every": 100},
                "batch_size": 8,
                "augment": {},
            },
        }
    )

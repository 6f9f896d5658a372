"""LlamaGen's class-conditional GPT-B at 256 px, trained on a cache of ids of ImageNet.

    python -m toklip_jax.main --config=configs/gen_c2i_b_256.py --workdir=runs/gen_b_256 \\
        --config.generator.cache=CACHE --config.generator.init.tokenizer=vq_ds16_c2i.pt

The cache holds ids and labels (docs/generation.md says how to make it); without one, images of
`source` are tokenized at every step. `--config=configs/gen_c2i_b_256.py:size=xl,semantic=concat`
takes another of LlamaGen's sizes (b, l, xl, xxl, 3b), and joins TokLIP's token of each id to it, as
the TokLIP paper does; `init.tokenizer` is then TokLIP's weights.

The recipe is LlamaGen's: 300 epochs, a batch of 256, AdamW at a constant 1e-4, ten crops an image.
"""

from ml_collections import ConfigDict, FieldReference

from toklip_jax.core.fields import check_name, read_options
from toklip_jax.models.generator.config import GPTConfig
from toklip_jax.models.generator.sizes import TRANSFORMERS
from toklip_jax.models.serialization import config_to_dict

EPOCHS, SAMPLES, BATCH = 300, 1_281_167, 256
TOKENS = 1152  # width of TokLIP's tokens
DEFAULTS = {"size": "b", "semantic": "none"}


def get_config(options: str = "") -> ConfigDict:
    """Returns the configuration; override any field with `--config.a.b=value`.

    Args:
        options: "size=NAME,semantic=none|add|concat", each of them optional.

    Raises:
        ValueError: other options.
    """
    chosen = read_options(options, DEFAULTS)
    check_name("a size", chosen["size"], TRANSFORMERS)
    dim = 0 if chosen["semantic"] == "none" else TOKENS
    gpt = GPTConfig(*TRANSFORMERS[chosen["size"]], semantic=chosen["semantic"], semantic_dim=dim)
    return released(gpt, image_size=256)


def released(gpt: GPTConfig, image_size: int) -> ConfigDict:
    """LlamaGen's recipe for a GPT."""
    batch = FieldReference(BATCH)
    return ConfigDict(
        {
            "seed": 0,
            "distributed": {
                "kind": "auto",
                "coordinator": "",
                "num_processes": 0,
                "process_id": -1,
            },
            "mesh": {"data": -1, "fsdp": 1, "tensor": 1},
            "compute": {
                "dtype": "bfloat16",
                "vq_dtype": "float32",
                "is_scanned": True,
                "remat": "none",
            },
            "source": {"kind": "tfds", "name": "imagenet2012", "split": "train"},
            "text": {"tokenizer": "", "vocab_size": 256_000, "context_length": 0},
            "image_size": image_size,
            "num_workers": 16,
            "wandb": {},
            "stages": ("generator",),
            "encode": {  # of toklip_jax.encode: docs/cache.md
                "stage": "generator",
                "crops": 10,
                "features": (),
                "has_text": False,
                "batch_size": 256,
                "records_per_shard": 16_384,
            },
            "evaluate": (),
            "evaluations": {},
            "models": {},
            "generator": {
                "objective": "generator",
                "model": config_to_dict(gpt),
                "init": {"tokenizer": "path/to/vq_ds16_c2i.pt", "gpt": ""},
                "cache": "",
                "loss": {"condition_dropout": 0.1},
                "optimizer": {
                    "learning_rate": 1e-4,
                    "warmup_steps": 0,
                    "beta1": 0.9,
                    "beta2": 0.95,
                    "eps": 1e-8,
                    "weight_decay": 0.05,
                    "clip_norm": 1.0,
                    "ema_decay": 0.0,
                    "schedule": "constant",
                },
                "loop": {
                    "steps": FieldReference(EPOCHS * SAMPLES) // batch,
                    "log_every": 100,
                    "save_every": 5000,
                    "keep": 2,
                },
                "batch_size": batch,
                "augment": {"scale": (0.9, 1.0)},
            },
        }
    )

"""The demo's multimodal model: a small language model that answers questions about emoji.

    python -m toklip_jax.main --config=configs/demo_multimodal.py --workdir=runs/demo_multimodal

It reads the ids of a finished demo, `runs/demo`, and is trained from scratch.
`--config=configs/demo_multimodal.py:reads=codes` chooses what it reads of an image: one of `READS`.
`reads=one_model` also draws: text and ids of images are one vocabulary.
"""

import pathlib
import runpy

from ml_collections import ConfigDict, FieldReference

import toklip_jax.demo  # noqa: F401 - it registers the kinds "emoji" and "emoji_questions"
from toklip_jax.core.fields import check_name, read_options
from toklip_jax.models.qwen.config import QwenConfig
from toklip_jax.models.serialization import config_to_dict

# By path: configs are files and not a package.
demo = runpy.run_path(str(pathlib.Path(__file__).with_name("demo.py")))
SIZE, WIDTH, VOCABULARY = (demo[name] for name in ("SIZE", "WIDTH", "VOCABULARY"))
PLACES = (SIZE // demo["PATCH"]) ** 2
LENGTH = PLACES + 60  # of a line: an image, and texts
READS = {
    "tokens": ("tokens",),
    "codes": ("codes",),
    "both": ("tokens", "codes"),
    "ids": ("ids",),
    "tokens_and_ids": ("tokens", "ids"),
    "pixels": ("pixels",),  # the teacher's tokens of the image itself: the ceiling
    "one_model": ("tokens", "ids"),
}
DEMO = "runs/demo"


def get_config(options: str = "reads=tokens") -> ConfigDict:
    """Returns the configuration; override any field with `--config.a.b=value`.

    Args:
        options: "reads=NAME", where the name is one of `READS`.

    Raises:
        ValueError: other options.
    """
    name = check_name("a reading", read_options(options, {"reads": "tokens"})["reads"], READS)
    draws, from_pixels = name == "one_model", name == "pixels"
    language_model = QwenConfig(
        WIDTH,
        4,
        4,
        2,
        3 * WIDTH,
        vocab_size=VOCABULARY,
        max_positions=2 * LENGTH,
        has_qkv_bias=False,
        has_qk_norm=True,
    )
    trainable = ("language_model/.*",)
    trainable += (r"projector_\w+/.*",) if READS[name] != ("ids",) else ()
    trainable += ("image_embed",) if "ids" in READS[name] else ()
    source = {
        "kind": "emoji_questions",
        "text_tokenizer": f"{DEMO}/tokenizer.json",
        "split": FieldReference("test"),
        "size": SIZE,
        "turns": 3,
        "draws": 4,
        "draw_share": 0.5 if draws else 0.0,
        "length": LENGTH,
        "tokens_per_image": PLACES,
        "seed": 0,
    }
    return ConfigDict(
        {
            "imports": ("toklip_jax.demo",),
            "seed": 0,
            "mesh": {"data": -1, "fsdp": 1, "tensor": 1},
            "compute": {"dtype": "float32", "is_scanned": False, "remat": "none"},
            "source": source,
            "text": {"tokenizer": f"{DEMO}/tokenizer.json", "vocab_size": VOCABULARY},
            "num_workers": 0,
            "stages": ("multimodal",),
            "evaluate": (),
            "evaluations": {},
            "models": {},
            "multimodal": {
                "objective": "multimodal",
                "model": {
                    "language_model": config_to_dict(language_model),
                    "reads": READS[name],
                    "template": "short",
                },
                "init": {
                    "tokenizer": "" if from_pixels else f"{DEMO}/toklip/weights",
                    "image_tower": f"{DEMO}/teacher/weights" if from_pixels else "",
                },
                "loss": {
                    "trainable": trainable,
                    "image_weight": 0.5 if draws else 0.0,
                },
                "optimizer": {
                    "learning_rate": 1e-3,
                    "warmup_steps": 50,
                    "weight_decay": 0.05,
                    "clip_norm": 1.0,
                },
                "loop": {"steps": 2400, "log_every": 100, "save_every": 800},
                "batch_size": 16,
            },
        }
    )

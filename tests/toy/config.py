"""A run on the toy tokenizer: its images are 24 x 16 pixels, so its grid is 3 x 2."""

import pathlib
import sys

from ml_collections import ConfigDict

sys.path.append(str(pathlib.Path(__file__).parent))  # where `toy_tokenizer` is

SIZE, CONTEXT, VOCABULARY = (24, 16), 6, 32
VISION = {"kind": "vision", "width": 32, "depth": 1, "num_heads": 4, "mlp_dim": 32}
TEXT = {"kind": "text", "width": 32, "depth": 1, "num_heads": 4, "mlp_dim": 32}


def get_config() -> ConfigDict:
    train, test = _source(12), _source(5, seed=1)
    return ConfigDict(
        {
            "imports": ("toy_tokenizer",),
            "seed": 0,
            "mesh": {"data": 1},
            "compute": {"is_scanned": False},
            "source": train,
            "image_size": SIZE,
            "text": {"vocab_size": VOCABULARY, "context_length": CONTEXT},
            "stages": ("vq", "teacher", "toklip"),
            "encode": {"crops": 1, "batch_size": 4, "records_per_shard": 8},
            "models": {"toklip": "stage:toklip"},
            "evaluate": ("pictures",),
            "evaluation_batch_size": 4,
            "evaluations": {"pictures": {"kind": "reconstruction", "source": test}},
            "report": {"source": test, "num_images": 2},
            "vq": {"objective": "vq", "model": {"kind": "toy_sign"}, **_training()},
            "teacher": {
                "objective": "teacher",
                "model": {
                    "kind": "teacher",
                    "vision": {**VISION, "image_size": SIZE, "patch_size": 8},
                    "text": {**TEXT, "vocab_size": VOCABULARY, "context_length": CONTEXT},
                },
                **_training(),
            },
            "toklip": {
                "objective": "toklip",
                "init": {"vq": "stage:vq", "teacher": "stage:teacher"},
                "cache": "",
                **_training(),
            },
        }
    )


def _training():
    return {
        "loss": {},
        "optimizer": {"learning_rate": 1e-3, "warmup_steps": 1},
        "loop": {"steps": 1, "log_every": 1},
        "batch_size": 4,
        "augment": {},
    }


def _source(num_samples, **others):
    return {
        "kind": "synthetic",
        "num_samples": num_samples,
        "image_size": SIZE,
        "context_length": CONTEXT,
        "vocab_size": VOCABULARY,
        "num_captions": 1,
        **others,
    }

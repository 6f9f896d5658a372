"""The smallest run: random pictures, all three stages, a few steps each."""

import jax
import numpy as np
from ml_collections import ConfigDict

from toklip_jax.models.llamagen.config import LlamaGenConfig
from toklip_jax.models.serialization import config_to_dict
from toklip_jax.models.siglip.config import TeacherConfig, TextConfig, VisionConfig
from toklip_jax.nn.config import Compute
from toklip_jax.tasks.teacher.objective import TeacherObjective
from toklip_jax.tasks.vq.objective import VQObjective
from toklip_jax.weights import Weights, save_weights

SIZE, CONTEXT, VOCABULARY = 16, 6, 32
VQ = LlamaGenConfig(
    32, channels=32, multipliers=(1,), num_res_blocks=1, z_channels=32, stem_patch=8
)
TEACHER = TeacherConfig(
    VisionConfig(32, 2, 4, 64, image_size=SIZE, patch_size=8),
    TextConfig(32, 1, 4, 64, vocab_size=VOCABULARY, context_length=CONTEXT),
)


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "seed": 0,
            "mesh": {"data": -1, "fsdp": 1, "tensor": 1},
            "compute": {"dtype": "float32", "is_scanned": False, "remat": "none"},
            "source": _source(20),
            "text": {"tokenizer": "", "vocab_size": VOCABULARY, "context_length": CONTEXT},
            "num_workers": 0,
            "stages": ("vq", "teacher", "toklip"),
            "models": {"toklip": "stage:toklip", "teacher": "stage:teacher"},
            "evaluate": ("pairs", "pictures", "meaning"),
            "evaluation_batch_size": 8,
            "evaluations": {
                "pairs": {"kind": "retrieval", "source": _validation()},
                "pictures": {"kind": "reconstruction", "source": _validation()},
                "meaning": {"kind": "meaning", "train": _source(20), "test": _validation()},
            },
            "vq": {"objective": "vq", "model": config_to_dict(VQ), "loss": {}, **_training()},
            "teacher": {
                "objective": "teacher",
                "model": config_to_dict(TEACHER),
                "loss": {"contrastive": "sigmoid"},
                **_training(),
                "validation": _validation(),
                "evaluate": ("pairs",),
            },
            "toklip": {
                "objective": "toklip",
                "init": {"vq": "stage:vq", "teacher": "stage:teacher"},
                "is_causal": True,
                "has_logit_bias": False,
                "loss": {},
                **_training(),
                "validation": _validation(),
                "evaluate": ("pairs", "pictures"),
            },
        }
    )


def leave_random_weights(workdir):
    """Leaves random weights where the stages vq and teacher would leave theirs: in no time."""
    compute, rng = Compute(is_scanned=False), np.random.default_rng(0)

    def draw(leaf):
        return rng.normal(0, 0.2, leaf.shape).astype(np.float32)

    objectives = {"vq": VQObjective(VQ, compute), "teacher": TeacherObjective(TEACHER, compute)}
    for name, objective in objectives.items():
        params = jax.tree.map(draw, jax.eval_shape(objective.init, jax.random.key(0)))
        weights = Weights(objective.model_config, params, False)
        save_weights(workdir / name / "weights", weights)


def _training():
    return {
        # Low: where the first codes change hands fast, rounding alone parts two runs.
        "optimizer": {"learning_rate": 3e-5, "warmup_steps": 2, "clip_norm": 1.0},
        "loop": {"steps": 10, "log_every": 1, "save_every": 4, "evaluate_every": 0},
        "batch_size": 8,
        "augment": {},
    }


def _source(num_samples, **others):
    return {
        "kind": "synthetic",
        "num_samples": num_samples,
        "image_size": SIZE,
        "context_length": CONTEXT,
        "vocab_size": VOCABULARY,
        **others,
    }


def _validation():
    return _source(11, seed=1)  # the last batch of 8 is ragged

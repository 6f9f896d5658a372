"""The demo: all of TokLIP's training in miniature, on emoji, in minutes on two CPU cores.

A VQ tokenizer, a SigLIP-style teacher, then TokLIP on the frozen VQ with the teacher's frozen text
tower. Trained on six drawing styles, evaluated on a seventh.

`--config=configs/demo.py:vq=sign` takes another quantiser in the same network, at the same rate of
10 bits a place: one of `QUANTISERS`. `:vq=sign,bits=12` takes another rate. `:preset=long` takes an
hour for pictures that look right: `make demo-long`.
"""

from collections.abc import Callable

from ml_collections import ConfigDict, FieldReference

import toklip_jax.demo  # noqa: F401 - it registers the kinds "emoji"
from toklip_jax.core.fields import check_name, read_options
from toklip_jax.models.conv_vq.config import ConvVQConfig
from toklip_jax.models.serialization import config_to_dict
from toklip_jax.models.siglip.config import TeacherConfig, TextConfig, VisionConfig
from toklip_jax.nn.quantisers import QuantiserConfig

SIZE, PATCH, CONTEXT, VOCABULARY, WIDTH = 48, 6, 16, 2048, 128

BITS = 10  # of a place's ids together, where nothing else is asked for
SIZES = {
    "channels": 64, "multipliers": (1,), "num_res_blocks": 1, "z_channels": 64, "stem_patch": PATCH
}  # fmt: skip
QUANTISERS: dict[str, Callable[[int], QuantiserConfig]] = {
    "l2": lambda bits: QuantiserConfig("l2", 2**bits, 8),  # LlamaGen's
    "plain": lambda bits: QuantiserConfig("plain", 2**bits, 8),  # VQGAN's
    "ibq": lambda bits: QuantiserConfig("inner_product", 2**bits, 8),
    "residual": lambda bits: QuantiserConfig("residual", 2 ** (bits // 2), 8, 2),  # VILA-U's
    "several": lambda bits: QuantiserConfig("several", 2 ** (bits // 2), 4, 2),  # UniTok's
    "sign": lambda bits: QuantiserConfig("sign", 2**bits, bits),  # Open-MAGVIT2's
}
TEACHER = TeacherConfig(
    VisionConfig(WIDTH, 2, 4, 4 * WIDTH, image_size=SIZE, patch_size=PATCH, pool="flatten"),
    TextConfig(WIDTH, 1, 4, 4 * WIDTH, vocab_size=VOCABULARY, context_length=CONTEXT),
)
# Chosen on the tuning style. Unless codes that nothing chooses are replaced, 6 % of the plain ones
# are in use at the end. IBQ's own entropy weight, 0.05, costs 1.3 dB here.
LOSSES = {
    "l2": {"entropy_weight": 0.0, "dead_code_share": 0.1},
    "plain": {"entropy_weight": 0.0, "dead_code_share": 0.1},
    "ibq": {"entropy_weight": 0.001, "dead_code_share": 0.0},
    "residual": {"entropy_weight": 0.0, "dead_code_share": 0.0},  # it has no entropy loss
    "several": {"entropy_weight": 3e-4, "dead_code_share": 0.0},
    "sign": {"entropy_weight": 3e-4, "dead_code_share": 0.0},
}
# Steps, images in a batch, learning rate and decay of the running mean, which were tuned for l2.
TRAINING = dict.fromkeys(QUANTISERS, (3000, 16, 0.003, 0.0)) | {"l2": (2200, 32, 4e-3, 0.998)}


def get_config(options: str = "") -> ConfigDict:
    """Returns the demo's configuration; override any field with `--config.a.b=value`.

    Args:
        options: "vq=NAME,bits=EVEN,preset=NAME", each of them optional; the first name is one of
            `QUANTISERS`, the last "short" or "long".

    Raises:
        ValueError: other options.
    """
    name, bits, is_long = _chosen(options)
    vq = ConvVQConfig(**SIZES, quantiser=QUANTISERS[name](bits))
    steps, batch_size, learning_rate, ema_decay = TRAINING[name]
    # Another split or size goes for training and evaluations alike.
    split, size = FieldReference("test"), FieldReference(SIZE)
    config = ConfigDict(
        {
            "imports": ("toklip_jax.demo",),
            "seed": 0,
            "mesh": {"data": -1, "fsdp": 1, "tensor": 1, "cpu_devices": 2},
            "compute": {"dtype": "float32", "is_scanned": False, "remat": "none"},
            "source": {"kind": "emoji", "split": split, "size": size, "num_captions": 32},
            "text": {"tokenizer": "", "vocab_size": VOCABULARY, "context_length": CONTEXT},
            "num_workers": 0,
            "stages": ("vq", "teacher", "toklip"),
            "encode": {"stage": "toklip", "crops": 4, "batch_size": 64, "records_per_shard": 1024},
            **_evaluating(split, size),
            "vq": {
                "objective": "vq",
                "model": config_to_dict(vq),
                # Less commitment than LlamaGen's 0.25: more codes in use.
                "loss": {"commitment_weight": 0.1, **LOSSES[name]},
                "optimizer": _optimizer(learning_rate, 100, weight_decay=0.0, ema_decay=ema_decay),
                "loop": _loop(steps),
                "batch_size": batch_size,
                "augment": {},
            },
            "teacher": {
                "objective": "teacher",
                "model": config_to_dict(TEACHER),
                # In batches this small the softmax loss learns twice as fast as SigLIP's sigmoid.
                "loss": {"contrastive": "softmax"},
                "optimizer": _optimizer(2e-3, 100),
                "loop": _loop(680),
                "batch_size": 128,
                "augment": {"max_shift": 2.0, "max_scale": 1.1},
            },
            "toklip": {
                "objective": "toklip",
                "init": {"vq": "stage:vq", "teacher": "stage:teacher"},
                "cache": "run:cache",  # the run encodes its ids first; "" encodes at every step
                "is_causal": True,
                "has_logit_bias": False,
                "loss": {
                    "contrastive": "softmax",
                    "contrastive_weight": 1.0,
                    "distillation_weight": 2000.0,
                    "token_weight": 0.0,
                },
                "optimizer": _optimizer(2e-3, 100),
                "loop": {**_loop(1150), "evaluate_every": 575},
                "batch_size": 128,
                "augment": {"max_shift": 2.0, "max_scale": 1.1},
                "evaluate": ("names",),
            },
        }
    )
    return _lengthened(config) if is_long else config


def _chosen(options):
    """The quantiser's name, the bits of a place and whether the run is long, of the options."""
    chosen = read_options(options, {"vq": "l2", "bits": str(BITS), "preset": "short"})
    name = check_name("a quantiser of the demo", chosen["vq"], QUANTISERS)
    preset = check_name("a preset of the demo", chosen["preset"], ("short", "long"))
    return name, read_bits(chosen["bits"]), preset == "long"


def _lengthened(config):
    """The config for an hour: more places and blocks, and more steps of the tokenizer.

    What was tried instead, and lost at equal time, is in docs/results.md.
    """
    config.vq.model.stem_patch = config.teacher.model.vision.patch_size = 4
    config.teacher.model.vision.depth = 4
    steps = {"vq": 6000, "teacher": 820, "toklip": 1000}
    for stage, number in steps.items():
        config[stage].loop.steps = number
    return config


def read_bits(text: str) -> int:
    """Returns the bits of a place; raises ValueError for others than 4, 6, ... 16."""
    if not text.isdecimal() or int(text) % 2 or not 4 <= int(text) <= 16:
        raise ValueError(f"expected 4, 6, ... or 16 bits for the demo's codes, got {text!r}")
    return int(text)


def _evaluating(split, size):
    """The evaluations of the finished run, in `evaluate`, and the page that shows them."""
    train, test = (
        {"kind": "emoji", "split": split, "size": size, "part": part} for part in ("train", "test")
    )
    return {
        "models": {"toklip": "stage:toklip", "teacher": "stage:teacher"},
        "evaluate": ("names", "reconstruction", "meaning", "prefix"),
        "evaluations": {
            "names": {"kind": "emoji", "split": split, "size": size},
            "reconstruction": {"kind": "reconstruction", "source": test, "baseline": train},
            "meaning": {"kind": "meaning", "train": train, "test": test},
            "prefix": {"kind": "prefix", "source": test, "templates": "name", "train": train},
        },
        "report": {"source": test, "num_images": 8, "phrases": ()},
    }


def _optimizer(learning_rate, warmup_steps, **others):
    return {
        "learning_rate": learning_rate,
        "warmup_steps": warmup_steps,
        "weight_decay": 0.1,
        "clip_norm": 1.0,
        **others,
    }


def _loop(steps):
    return {"steps": steps, "log_every": 25, "save_every": 500}

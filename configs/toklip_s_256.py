"""TokLIP-S at 256 px, as the released scripts train it on CC12M; `toklip_l_384.py` is its sibling.

    python -m toklip_jax.main --config=configs/toklip_s_256.py --workdir=runs/s_256 \\
        --config.source.shards=gs://BUCKET/cc12m/{00000..01099}.tar \\
        --config.toklip.init.vq=vq_ds16_t2i.pt --config.toklip.init.teacher=SIGLIP2_DIRECTORY \\
        --config.text.tokenizer=TOKENIZER_JSON --config.toklip.batch_size=8192

Whether a batch fits which machines: `python -m toklip_jax.plan` with the same `--config` flags.

The scripts fix 16 images a GPU (32 at 384 px) and not the number of GPUs; the batch here is that on
256 chips. Two fields follow `toklip.batch_size` until they are set themselves:

- `loop.steps`: 32 epochs of 10,968,539 samples;
- `optimizer.learning_rate`: 1e-5 x sqrt(batch / the batch here), the square-root rule for Adam
  (arXiv 2205.10287). The warm-up stays 782 steps.
"""

import pathlib
import runpy

from ml_collections import ConfigDict, FieldReference

# By path: configs are files and not a package.
evaluations = runpy.run_path(str(pathlib.Path(__file__).with_name("evaluate.py")))["evaluations"]

EPOCHS, SAMPLES = 32, 10_968_539  # CC12M's samples as the released scripts count them
CHIPS = 256


def get_config() -> ConfigDict:
    """Returns the configuration; override any field with `--config.a.b=value`."""
    return released("toklip_s_256", "siglip2_so400m_256", 256, batch_per_chip=16, remat="dots")


def released(
    size: str, teacher_size: str, image_size: int, batch_per_chip: int, remat: str
) -> ConfigDict:
    """The released recipe; its two sizes differ in the arguments only."""
    usual = CHIPS * batch_per_chip
    batch = FieldReference(usual)
    return ConfigDict(
        {
            "seed": 0,
            # Of a program of several processes; "auto" knows Slurm, TPU pods, TOKLIP_COORDINATOR.
            "distributed": {
                "kind": "auto",
                "coordinator": "",
                "num_processes": 0,
                "process_id": -1,
            },
            # Eight chips share a copy of parameters and optimizer, or all where there are fewer:
            # 1152 / 8 is a multiple of 16, so that their parts fill the TPU's tiles.
            "mesh": {"data": -1, "fsdp": 8, "tensor": 1, "adapts": True},
            "compute": {
                "dtype": "bfloat16",
                "vq_dtype": "float32",
                "is_scanned": True,
                "remat": remat,
            },
            "source": {"kind": "webdataset", "shards": "path/to/cc12m/{00000..01099}.tar"},
            "text": {
                "tokenizer": "path/to/tokenizer.json",
                "vocab_size": 256_000,
                "context_length": 64,
            },
            "image_size": image_size,
            "num_workers": 16,
            "wandb": {},  # arguments of wandb.init, such as project; needs pip install wandb
            "stages": ("toklip",),
            "encode": {  # of toklip_jax.encode: docs/cache.md
                "stage": "toklip",
                "crops": 1,
                "features": ("teacher_feature", "text_feature"),
                "feature_dtype": "bfloat16",
                "has_text": True,
                "resize": "",
                "batch_size": 256,
                "records_per_shard": 16_384,
            },
            # Names of `evaluations`, run at the end; `toklip.evaluate` names those of
            # `evaluate_every`.
            "evaluate": (),
            "evaluations": evaluations(),
            "evaluation_resize": "crop",
            "evaluation_batch_size": 1024,
            "models": {"toklip": "stage:toklip", "teacher": "", "inception": ""},
            "toklip": {
                "objective": "toklip",
                "size": size,
                "teacher_size": teacher_size,
                "init": {"vq": "path/to/vq_ds16_t2i.pt", "teacher": "path/to/siglip2"},
                "is_causal": True,
                "has_logit_bias": False,
                "loss": {
                    "contrastive": "softmax",
                    "contrastive_block": 0,
                    "contrastive_weight": 1.0,
                    "distillation_weight": 1000.0,
                    "token_weight": 0.0,
                    # Patterns of parameters; all others are frozen: text tower, VQ, teacher.
                    "trainable": ("token_encoder/.*", "logit_scale"),
                },
                "optimizer": {
                    "learning_rate": FieldReference(1e-5) * (batch / usual) ** 0.5,
                    "warmup_steps": 782,
                    "beta1": 0.9,
                    "beta2": 0.95,
                    "eps": 1e-6,
                    "weight_decay": 0.1,
                    "clip_norm": 0.0,
                    "layer_decay": 1.0,
                    "ema_decay": 0.0,
                },
                "loop": {
                    "steps": FieldReference(EPOCHS * SAMPLES) // batch,
                    "log_every": 50,
                    "save_every": 1000,
                    "keep": 2,
                    "keep_every": 0,
                    "best": "",  # "validation/image_to_text_r1", say, with evaluate_every
                    "evaluate_every": 0,  # on `validation`
                    "accumulation": 1,
                    "max_skipped_in_a_row": 10,
                    "max_bad_share": 0.01,
                    "checkpoints": "",  # a bucket or another disk; "" for the workdir
                },
                "evaluate": (),
                "validation": {"kind": "webdataset", "shards": "path/to/validation/{000..001}.tar"},
                "cache": "",  # of toklip_jax.encode, to train on in place of `source`
                "batch_size": batch,
                # Bicubic random resized crop, of 0.9 to 1 of the area.
                "augment": {"scale": (0.9, 1.0)},
            },
        }
    )

"""One model of Qwen3-1.7B that reads images and draws them: text and ids are one vocabulary.

    python -m toklip_jax.main --config=configs/one_model_qwen3_1_7b.py --workdir=runs/one_model \\
        --config.multimodal.init.language_model=Qwen3-1.7B \\
        --config.multimodal.init.tokenizer=TokLIP_L_384.pt \\
        --config.multimodal.source.path=conversations.json \\
        --config.multimodal.source.images=images

In an image's places stand TokLIP's tokens and an embedding of each id; the model learns the next
token, of text where the template trains it and of every image. Conversations are in LLaVA's JSON:
questions about `<image>`, and requests whose answer is `<image>`. Four images of 576 tokens fit in
a line beside their texts.

The recipe is a starting point that was planned (docs/scaling.md) and never trained at this size.
docs/multimodal.md says what each field means.
"""

from ml_collections import ConfigDict, FieldReference

STEPS, BATCH = 20_000, 256  # 21 billion tokens
IMAGE_SIZE, TOKENS = 384, 576
LENGTH, IMAGES = 4096, 4  # of a line


def get_config() -> ConfigDict:
    """Returns the configuration; override any field with `--config.a.b=value`."""
    model = FieldReference("path/to/Qwen3-1.7B")
    return ConfigDict(
        {
            "seed": 0,
            "distributed": {
                "kind": "auto",
                "coordinator": "",
                "num_processes": 0,
                "process_id": -1,
            },
            "mesh": {"data": 1, "fsdp": -1, "tensor": 1},
            "compute": {
                "dtype": "bfloat16",
                "vq_dtype": "float32",
                "is_scanned": True,
                "remat": "full",
            },
            "source": {},
            "text": {"tokenizer": "", "vocab_size": 256_000, "context_length": 0},
            "image_size": IMAGE_SIZE,
            "num_workers": 16,
            "wandb": {},
            "stages": ("multimodal",),
            "evaluate": (),
            "evaluations": {},
            "models": {},
            "multimodal": {
                "objective": "multimodal",
                "model": {"reads": ("tokens", "ids"), "template": "qwen2.5"},
                "init": {"language_model": model, "tokenizer": "path/to/TokLIP_L_384.pt"},
                "sizes": {"language_model": "qwen3_1.7b", "tokenizer": "toklip_l_384"},
                "source": {
                    "kind": "conversations",
                    "path": "path/to/conversations.json",
                    "images": "path/to/images",
                    "text_tokenizer": model,
                    "template": "qwen2.5",
                    "tokens_per_image": TOKENS,
                    "image_size": IMAGE_SIZE,
                    "length": LENGTH,
                    "max_images": IMAGES,
                },
                "loss": {
                    # Qwen3-1.7B's head is its embedding, and so is that of images.
                    "trainable": (r"projector_\w+/.*", "language_model/.*", "image_embed"),
                    "image_weight": 0.5,
                    "z_loss": 1e-4,
                },
                "optimizer": {
                    "learning_rate": 1e-4,
                    "warmup_steps": 1000,
                    "beta1": 0.9,
                    "beta2": 0.95,
                    "eps": 1e-8,
                    "weight_decay": 0.1,
                    "clip_norm": 1.0,
                    "ema_decay": 0.0,
                    "schedule": "cosine",
                },
                "loop": {"steps": STEPS, "log_every": 10, "save_every": 500, "keep": 2},
                "batch_size": BATCH,
            },
        }
    )

"""A multimodal model of Qwen2.5 and TokLIP-L at 384 px, by LLaVA-1.5's recipe in two stages.

    python -m toklip_jax.main --config=configs/multimodal_qwen2_5_7b.py --workdir=runs/multimodal \\
        --config.projector.init.language_model=Qwen2.5-7B-Instruct \\
        --config.projector.init.tokenizer=TokLIP_L_384.pt \\
        --config.projector.source.path=blip_laion_cc_sbu_558k.json \\
        --config.projector.source.images=images \\
        --config.instructions.source.path=llava_v1_5_mix665k.json \\
        --config.instructions.source.images=data

Stage `projector` trains the projector alone on captions; stage `instructions` trains it and the
language model on conversations. `--config=configs/multimodal_qwen2_5_7b.py:size=0.5b` takes another
language model (0.5b, 1.5b, 7b); `lora=128` trains additions of that rank in place of the language
model's kernels, at LLaVA's rates of 2e-4 for them and 2e-5 for the projector.

docs/multimodal.md leads from released weights to answers.
"""

from ml_collections import ConfigDict, FieldReference

from toklip_jax.core.errors import UserError
from toklip_jax.core.fields import check_name, read_options

SIZES = ("0.5b", "1.5b", "7b")
DEFAULTS = {"size": "7b", "lora": "0"}
CAPTIONS, INSTRUCTIONS = 558_128, 665_298  # conversations of LLaVA-1.5's two files
WARMUP = 0.03  # share of the steps
IMAGE_SIZE, TOKENS = 384, 576
CAPTION_LENGTH, LENGTH = 768, 2048  # tokens of a line, an image's among them


def get_config(options: str = "") -> ConfigDict:
    """Returns the configuration; override any field with `--config.a.b=value`.

    Args:
        options: "size=0.5b|1.5b|7b,lora=RANK", each of them optional.

    Raises:
        ValueError: other options.
    """
    chosen = read_options(options, DEFAULTS)
    size = check_name("a size", chosen["size"], SIZES)
    if not chosen["lora"].isdigit():
        raise UserError(f"expected lora=RANK, a whole number, got {chosen['lora']!r}")
    model = FieldReference(f"path/to/Qwen2.5-{size[:-1]}B-Instruct")
    sizes = {"language_model": f"qwen2.5_{size}", "tokenizer": "toklip_l_384"}  # for plans
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
            "stages": ("projector", "instructions"),
            "evaluate": (),
            "evaluations": {},
            "models": {},
            "projector": {
                "objective": "multimodal",
                "model": {"reads": ("tokens",), "template": "plain"},
                "init": {"language_model": model, "tokenizer": "path/to/TokLIP_L_384.pt"},
                "sizes": sizes,
                "source": _source(model, "plain", CAPTION_LENGTH),
                "loss": {"trainable": (r"projector_\w+/.*",)},
                **_recipe(1e-3, CAPTIONS, batch=256),
            },
            "instructions": _instructions(model, int(chosen["lora"]), sizes),
        }
    )


def _instructions(model, rank, sizes) -> dict:
    """The stage on conversations, with the whole language model or additions of a rank."""
    recipe = _recipe(2e-4 if rank else 2e-5, INSTRUCTIONS, batch=128)
    if rank:
        recipe["optimizer"]["factors"] = ((r"projector_\w+/.*", 0.1),)
    language_model = r".*/lora_(down|up)" if rank else "language_model/.*"
    return {
        "objective": "multimodal",
        "model": {"lora_rank": rank, "template": "qwen2.5"},
        "init": {"model": "stage:projector"},
        "sizes": sizes,
        "source": _source(model, "qwen2.5", LENGTH),
        "loss": {"trainable": (r"projector_\w+/.*", language_model)},
        **recipe,
    }


def _source(model, template, length) -> dict:
    """One image a line, so that a batch of lines is about a batch of LLaVA's conversations."""
    return {
        "kind": "conversations",
        "path": "path/to/conversations.json",
        "images": "path/to/images",
        "text_tokenizer": model,
        "template": template,
        "tokens_per_image": TOKENS,
        "image_size": IMAGE_SIZE,
        "length": length,
        "max_images": 1,
    }


def _recipe(rate, samples, batch) -> dict:
    """LLaVA-1.5's optimizer and schedule, for one epoch."""
    batch = FieldReference(batch)
    steps = FieldReference(samples) // batch
    return {
        "optimizer": {
            "learning_rate": rate,
            "warmup_steps": int(WARMUP * samples / batch.get()),
            "beta1": 0.9,
            "beta2": 0.999,
            "eps": 1e-8,
            "weight_decay": 0.0,
            "clip_norm": 1.0,
            "ema_decay": 0.0,
            "schedule": "cosine",
        },
        "loop": {"steps": steps, "log_every": 10, "save_every": 500, "keep": 2},
        "batch_size": batch,
    }

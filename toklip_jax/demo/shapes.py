"""Drawn shapes with captions, of kind "shapes" in configs, and a run on them that takes seconds.

Nothing is downloaded and no other package is needed: the notebooks train on them where no other
weights are at hand. What a picture shows is known exactly: one shape of one colour.
"""

import math
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageDraw
from jaxtyping import Int32, UInt8
from ml_collections import ConfigDict

from toklip_jax.core.errors import UserError
from toklip_jax.core.fields import check_name
from toklip_jax.data.sources import ARRAYS, SourceKind, register
from toklip_jax.data.text import TextTokenizer
from toklip_jax.data.transforms import Sample
from toklip_jax.experiment import read_experiment
from toklip_jax.run.run import run

COLOURS = {
    "red": (222, 45, 38), "orange": (245, 140, 30), "yellow": (250, 210, 50),
    "green": (60, 160, 75), "blue": (50, 110, 220), "purple": (140, 80, 180),
}  # fmt: skip
# Corners, and the angle of the first one; every second corner of a star is an inner one.
CORNERS = {"triangle": (3, -math.pi / 2), "square": (4, math.pi / 4), "star": (10, -math.pi / 2)}
SHAPES = ("circle", "ring", *CORNERS)
NAMES = tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)
CAPTIONS = ("{}", "a {}", "a picture of a {}", "a {} on white")
SUPERSAMPLING = 4  # drawn this many times as large, then reduced, so that edges are smooth
INNER = 0.5  # radius of a ring's hole and of a star's inner corners, of the whole

SIZE, PATCH, WIDTH, CODES = 48, 8, 64, 128
CONTEXT, VOCABULARY = 12, 128


def draw_shape(name: str, rng: np.random.Generator, size: int = SIZE) -> UInt8[np.ndarray, "s s 3"]:
    """Returns a picture of one of `NAMES` on white; `rng` draws its place and size."""
    colour, shape = check_name("a shape", name, NAMES).split()
    side = size * SUPERSAMPLING
    radius = rng.uniform(0.3, 0.45) * side
    centre = rng.uniform(radius, side - radius, 2)
    image = PIL.Image.new("RGB", (side, side), "white")
    pen = PIL.ImageDraw.Draw(image)
    if shape in CORNERS:
        pen.polygon(_corners(shape, centre, radius), COLOURS[colour])
    else:
        pen.ellipse([*(centre - radius), *(centre + radius)], COLOURS[colour])
    if shape == "ring":
        pen.ellipse([*(centre - INNER * radius), *(centre + INNER * radius)], "white")
    return np.asarray(image.resize((size, size), PIL.Image.Resampling.BOX))


class ShapesSource:
    """Samples of `images`, `labels`, and `captions` [captions, t] with a tokenizer.

    Attributes:
        classes: what is drawn; a label is a place in it.
    """

    classes = NAMES

    def __init__(
        self,
        images: UInt8[np.ndarray, "n s s 3"],
        captions: Int32[np.ndarray, "names captions t"] | None = None,
    ):
        self.images, self.captions = images, captions

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        label = index % len(NAMES)
        sample = {"images": self.images[index], "labels": np.int32(label)}
        if self.captions is not None:
            sample["captions"] = self.captions[label]
        return sample

    def title(self, index: int) -> str:
        """Returns the name of what a picture shows."""
        return NAMES[index % len(NAMES)]


def open_shapes(
    num_images: int = 1200,
    size: int = SIZE,
    seed: int = 0,
    *,
    tokenizer: TextTokenizer | None = None,
) -> ShapesSource:
    """Draws pictures, of each name in turn.

    Args:
        size: the side in pixels.
        seed: another seed gives other pictures.
    """
    if min(num_images, size) < 1 or seed < 0:
        raise UserError(
            f"expected num_images and size of at least 1 and a seed of at least 0, got "
            f"{num_images}, {size} and {seed}"
        )
    rng = np.random.default_rng(seed)
    images = np.stack([draw_shape(NAMES[i % len(NAMES)], rng, size) for i in range(num_images)])
    captions = None
    if tokenizer is not None:
        ids = tokenizer([caption.format(name) for name in NAMES for caption in CAPTIONS])
        captions = ids.reshape(len(NAMES), len(CAPTIONS), tokenizer.context_length)
    return ShapesSource(images, captions)


def shape_texts(arguments: Mapping[str, Any] | None = None) -> list[str]:
    """Returns all captions, whatever the arguments of the source are."""
    return [caption.format(name) for name in NAMES for caption in CAPTIONS]


SHAPES_KIND = register(SourceKind("shapes", open_shapes, ARRAYS, texts=shape_texts, size="size"))


def shapes_config() -> ConfigDict:
    """Returns the config of a run on shapes, small enough to train in half a minute."""
    vq = {
        "kind": "conv_vq",
        "channels": 32,
        "multipliers": (1,),
        "num_res_blocks": 1,
        "z_channels": 32,
        "stem_patch": PATCH,
        "quantiser": {"kind": "quantiser", "method": "l2", "codebook_size": CODES, "dim": 8},
    }
    tower = {"width": WIDTH, "num_heads": 4, "mlp_dim": 2 * WIDTH}
    image = {"image_size": SIZE, "patch_size": PATCH, "pool": "flatten"}
    text = {"vocab_size": VOCABULARY, "context_length": CONTEXT}
    teacher = {
        "kind": "teacher",
        "vision": {"kind": "vision", **tower, "depth": 2, **image},
        "text": {"kind": "text", **tower, "depth": 1, **text},
    }
    return ConfigDict(
        {
            "imports": ("toklip_jax.demo.shapes",),
            "seed": 0,
            "mesh": {"data": -1, "fsdp": 1, "tensor": 1},
            "compute": {"dtype": "float32", "is_scanned": False, "remat": "none"},
            "source": {"kind": "shapes"},
            "text": {"tokenizer": "", **text},
            "num_workers": 0,
            "stages": ("vq", "teacher", "toklip"),
            "encode": {"stage": "toklip"},
            "evaluate": (),
            "evaluations": {},
            "models": {},
            "vq": {
                "objective": "vq",
                "model": vq,
                "loss": {"commitment_weight": 0.1, "entropy_weight": 0.0, "dead_code_share": 0.1},
                **_training(steps=500, batch_size=32, learning_rate=4e-3, weight_decay=0.0),
            },
            "teacher": {
                "objective": "teacher",
                "model": teacher,
                "loss": {"contrastive": "softmax"},
                **_training(steps=200, batch_size=60, learning_rate=2e-3, weight_decay=0.1),
            },
            "toklip": {
                "objective": "toklip",
                "init": {"vq": "stage:vq", "teacher": "stage:teacher"},
                "is_causal": True,
                "has_logit_bias": False,
                "loss": {
                    "contrastive": "softmax",
                    "contrastive_weight": 1.0,
                    "distillation_weight": 1000.0,
                    "token_weight": 0.0,
                },
                **_training(steps=200, batch_size=60, learning_rate=2e-3, weight_decay=0.1),
            },
        }
    )


def train_shapes(workdir: str | pathlib.Path) -> pathlib.Path:
    """Trains `shapes_config` in `workdir`, or does nothing where it is trained.

    Returns TokLIP's weights there, which `toklip_jax.load` takes.
    """
    workdir = pathlib.Path(workdir)
    run(read_experiment(shapes_config()), workdir)
    return workdir / "toklip" / "weights"


def _corners(shape, centre, radius):
    count, angle = CORNERS[shape]
    radii = np.full(count, radius)
    if shape == "star":
        radii[1::2] *= INNER
    angles = angle + 2 * math.pi * np.arange(count) / count
    places = centre + radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], -1)
    return [tuple(place) for place in places]


def _training(steps, batch_size, learning_rate, weight_decay):
    return {
        "optimizer": {
            "learning_rate": learning_rate,
            "warmup_steps": 20,
            "weight_decay": weight_decay,
            "clip_norm": 1.0,
        },
        "loop": {"steps": steps, "log_every": 50, "save_every": steps},
        "batch_size": batch_size,
        "augment": {},
    }

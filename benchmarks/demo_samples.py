"""What samples of the demo's generators are like, by the demo's teacher."""

import dataclasses
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image

import toklip_jax
from toklip_jax.data.text import TextTokenizer
from toklip_jax.demo.emoji import EmojiSet, named_split
from toklip_jax.metrics import Frechet, frechet_distance
from toklip_jax.models.registry import build_model
from toklip_jax.nn.config import Compute
from toklip_jax.ops.pixels import to_uint8, to_unit_range
from toklip_jax.run.generate import to_grid
from toklip_jax.weights import load_weights

SAMPLES, BATCH = 1800, 256
SCALES = (1.0, 2.0)  # of guidance


class Measure:
    """The figures of generators that stand on one demo.

    Nats an id are of pictures in the held-out style. Of samples: FID in the teacher's features
    against training pictures, how often the teacher finds their group, and how different those of
    a group are. The groups asked for are as frequent as in training; captions are the names of
    training pictures.
    """

    def __init__(self, demo: pathlib.Path, split: str, seed: int):
        self.teacher, self.split, self.seed = Teacher(demo), named_split(split, 48), seed
        self._demo, train = demo, self.split.train
        random = np.random.default_rng(0)
        self.seen = take(train, random.choice(len(train), len(self.split.test), replace=False))
        real = self.teacher.features(self.seen.images)
        self._reference = Frechet.from_features(real).statistics()
        random = np.random.default_rng(seed)
        # By their indices, so that a picture's group and its name belong together.
        self.asked = take(train, random.choice(len(train), SAMPLES))

    def generator(self, path: pathlib.Path) -> dict[str, float]:
        """Returns the figures of one, and writes a picture of samples for each scale beside it."""
        generator = toklip_jax.load(path / "weights", batch_size=BATCH)
        figures = {
            "nats an id": self.nats(generator, self.split.test),
            "nats an id, seen style": self.nats(generator, self.seen),
        }
        for scale in SCALES:
            ids = generator.sample(
                **self.conditions(generator, self.asked), key=self.seed, cfg_scale=scale
            )
            picture = path / f"samples_cfg_{scale:g}.png"
            found = self.samples(generator, ids, picture)
            figures |= {f"{name}, cfg {scale:g}": value for name, value in found.items()}
        return figures

    def best_of(self, path: pathlib.Path, num: int, is_dropped: bool) -> dict[str, float]:
        """Returns the figures of samples that were the best of `num` by TokLIP, unguided.

        Args:
            is_dropped: whether the worse half is given up after half of the places.
        """
        generator = toklip_jax.load(path / "weights", batch_size=BATCH)
        drop_at = generator.config.gpt.num_places // 2 if is_dropped else 0
        labels = self.asked.group_ids
        texts = [self.asked.groups[label] for label in labels]
        chosen = generator.best_of(texts, num=num, drop_at=drop_at, classes=labels, key=self.seed)
        picture = path / f"best_of_{num}_drop_at_{drop_at}.png"
        found = self.samples(generator, chosen.ids, picture)
        return {f"{name}, cfg 1": value for name, value in found.items()}

    def samples(self, generator: Any, ids: Any, picture: pathlib.Path) -> dict[str, float]:
        """Returns FID, accuracy and spread of samples, and writes a row of nine for each group."""
        images = np.asarray(to_uint8(generator.detokenize(ids)))
        features, labels = self.teacher.features(images), self.asked.group_ids
        first = [image for g in range(len(self.asked.groups)) for image in images[labels == g][:9]]
        PIL.Image.fromarray(to_grid(first)).save(picture)
        gaussian = Frechet.from_features(features).statistics()
        return {
            "FID": frechet_distance(gaussian, self._reference),
            "accuracy": self.teacher.accuracy(features, labels),
            "spread": spread(features, labels),
        }

    def nats(self, generator: Any, pictures: EmojiSet) -> float:
        """Returns the mean of -log p(id | those before it, condition), nats."""
        total, count = 0.0, 0
        for start in range(0, len(pictures), BATCH):
            part = take(pictures, np.arange(start, min(start + BATCH, len(pictures))))
            ids = np.asarray(generator.tokenize(part.images))
            logits = generator.logits(ids, **self.conditions(generator, part))
            logits = logits[:, -1 - ids.shape[1] : -1]  # a caption has positions before
            chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), ids[..., None], -1)
            total, count = total - float(chosen.sum()), count + ids.size
        return total / count

    def conditions(self, generator: Any, pictures: EmojiSet) -> dict[str, Any]:
        """Returns the condition of each picture: its group, or its name."""
        gpt = generator.config.gpt
        if gpt.num_classes:
            return {"classes": pictures.group_ids}
        tokenizer = TextTokenizer.load(self._demo / "tokenizer.json", gpt.caption_length)
        # The longest names are truncated, as in training.
        token_ids = tokenizer([pictures.concepts[i].name for i in pictures.concept_ids])
        return {"captions": generator.apply(generator.params, token_ids, "text_tokens")}


def teacher_of(demo: pathlib.Path) -> pathlib.Path:
    """Returns where the weights of a demo's teacher are."""
    source = json.loads((demo / "config.json").read_text())["toklip"]["init"]["teacher"]
    is_own = source.startswith("stage:")
    return demo / "teacher" / "weights" if is_own else pathlib.Path(source)


def take(pictures: EmojiSet, rows: np.ndarray) -> EmojiSet:
    """Returns pictures by their indices, which may repeat."""
    return dataclasses.replace(
        pictures,
        images=pictures.images[rows],
        concept_ids=pictures.concept_ids[rows],
        style_ids=pictures.style_ids[rows],
    )


class Teacher:
    """A demo's teacher: features of pictures, and the group that they are nearest to."""

    def __init__(self, demo: pathlib.Path):
        weights = load_weights(teacher_of(demo))
        model = build_model(weights.config, Compute(is_scanned=weights.is_scanned))
        self._apply = jax.jit(
            lambda images: model.apply({"params": weights.params}, images, method="image_features")
        )
        text = TextTokenizer.load(demo / "tokenizer.json", weights.config.text.context_length)
        groups = text(list(named_split("test", 48).test.groups))
        self._groups = _unit(
            model.apply({"params": weights.params}, jnp.asarray(groups), method="text_features")
        )

    def features(self, images) -> np.ndarray:
        """Normalised features of uint8 images."""
        chunks = [images[i : i + 256] for i in range(0, len(images), 256)]
        return np.concatenate([_unit(self._apply(jnp.asarray(to_unit_range(x)))) for x in chunks])

    def accuracy(self, features, labels) -> float:
        """How often the nearest group's name is the label's."""
        return float(np.mean(np.argmax(features @ self._groups.T, axis=1) == labels))


def spread(features, labels) -> float:
    """Returns the mean distance of two samples of one class: 1 - their features' product."""
    means = []
    for label in np.unique(labels):
        own = features[labels == label]
        products = own @ own.T
        n = len(own)
        if n > 1:
            means.append(1 - (products.sum() - np.trace(products)) / (n * (n - 1)))
    return float(np.mean(means))


def _unit(x):
    x = np.asarray(x)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)

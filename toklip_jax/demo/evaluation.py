"""The demo's evaluation: naming pictures in a drawing style that was never trained on."""

import dataclasses
from typing import ClassVar

import numpy as np

from toklip_jax.demo.captions import GROUP_PROMPTS, NAME_PROMPTS
from toklip_jax.demo.emoji import named_split
from toklip_jax.demo.names import (
    chance_row,
    emoji_rows,
    emoji_task,
    largest_group_row,
    pixel_neighbour_row,
)
from toklip_jax.evaluation.base import Encodings, Evaluation, Scores, Sources, features_of
from toklip_jax.evaluation.image_sets import ImageSource
from toklip_jax.evaluation.models import Models
from toklip_jax.evaluation.outputs import available_outputs, text_space_outputs
from toklip_jax.evaluation.registry import register_evaluation
from toklip_jax.evaluation.zeroshot import classify, confusion, prompt_means, prompts


@dataclasses.dataclass(frozen=True)
class Emoji(Evaluation):
    """Evaluates retrieval by name, of seen and unseen names, and zero-shot groups.

    Attributes:
        split: one of `emoji.SPLITS`.
        size: side of the pictures in pixels.
    """

    split: str = "test"
    size: int = 48

    about: ClassVar[str] = (
        "Emoji in a drawing style that no stage saw: naming them, and finding them by name."
    )

    def sets(self) -> dict[str, ImageSource]:
        source = {"kind": "emoji", "split": self.split, "size": self.size, "part": "test"}
        return {"test": source}

    def outputs(
        self, models: Models, sources: Sources, has_baselines: bool
    ) -> dict[str, tuple[str, ...]]:
        return {"test": available_outputs(models, tuple(text_space_outputs()), "emoji")}

    def texts(self, sources: Sources) -> dict[str, list[str]]:
        split = named_split(self.split, self.size)
        return {
            "names": prompts(split.names, NAME_PROMPTS),
            "groups": prompts(split.test.groups, GROUP_PROMPTS),
        }

    def score(self, data: Encodings) -> Scores:
        task = emoji_task(named_split(self.split, self.size))
        names = prompt_means(data.texts["names"], len(NAME_PROMPTS)).T
        groups = prompt_means(data.texts["groups"], len(GROUP_PROMPTS))
        features = dict(features_of(data.images["test"]))
        table = emoji_rows(features, names, groups, task)
        guesses = np.argmax(classify(list(features.values())[-1], groups), axis=-1)
        details = {"confusion": confusion(task.held_out.group_ids, guesses, task.groups)}
        if data.has_baselines:
            table += [pixel_neighbour_row(task), chance_row(task), largest_group_row(task)]
        return Scores(table, details)


register_evaluation("emoji", Emoji)

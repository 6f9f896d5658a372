"""What ids mean, to learners that see only frozen features: the paper's claim as one table.

Code vectors, TokLIP's tokens and its pooled feature are made of the same ids; the teacher's feature
is made of pixels. All but the teacher's can be had from a cache of ids.
"""

import dataclasses

from toklip_jax.evaluation.base import Encodings, Evaluation, Judgement, SourceConfig, Sources, want
from toklip_jax.evaluation.probe import knn, linear_probe
from toklip_jax.evaluation.subject import Subject

FEATURES = {
    "code": "VQ code vectors, mean",
    "token": "TokLIP tokens, mean",
    "image": "TokLIP, pooled",
    "teacher": "teacher, pooled",
}


@dataclasses.dataclass(frozen=True)
class Meaning(Evaluation):
    """Accuracy of a linear probe and of k nearest neighbours on each feature.

    Attributes:
        train: labelled images that the learners see; their features are held in memory.
        test: others of the same classes.
    """

    train: SourceConfig
    test: SourceConfig

    def sets(self) -> dict[str, SourceConfig]:
        return {"train": self.train, "test": self.test}

    def outputs(
        self, subject: Subject, sources: Sources, has_baselines: bool
    ) -> dict[str, tuple[str, ...]]:
        wanted = ("labels", *want(subject, tuple(FEATURES), "meaning"))
        return {"train": wanted, "test": wanted}

    def judge(self, data: Encodings) -> Judgement:
        train, test = data.pictures["train"], data.pictures["test"]
        table = []
        for output, label in FEATURES.items():
            if output in train and output in test:
                arrays = train[output], train["labels"], test[output], test["labels"]
                figures = {"linear_probe": linear_probe(*arrays), "knn": knn(*arrays)}
                table.append({"model": label, **figures})
        return Judgement(table)

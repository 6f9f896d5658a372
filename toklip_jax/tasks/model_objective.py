"""The base of objectives that train a model of a registered family."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from toklip_jax.evaluation.models import Models
from toklip_jax.models.base import family_of
from toklip_jax.training.objective import Objective
from toklip_jax.training.state import Params


class ModelObjective(Objective):
    """Base of the objectives that train a model of a registered family, which evaluations can run.

    Attributes:
        model_config: that model's config; its family says how it is sharded, decayed and cast.
    """

    @property
    def sharding(self):
        return family_of(self.model_config).sharding

    @property
    def embeddings(self):
        return family_of(self.model_config).embeddings

    @property
    def full_precision(self):
        return family_of(self.model_config).full_precision

    @classmethod
    def trained_by(cls, loss: Mapping[str, Any]) -> tuple[str, ...]:
        """Returns the patterns of the parameters that a stage with this section `loss` trains."""
        return tuple(loss.get("trainable", cls.trainable))

    @property
    def text_config(self) -> Any | None:
        """The config of the model's text tower; None if it reads no texts."""
        return getattr(self.model_config, "text", None)

    @property
    def keeps_text_tokenizer(self) -> bool:
        """Whether the tokenizer of the texts that it reads goes with the weights of the model."""
        return True

    @property
    def image_size(self) -> int | tuple[int, ...] | None:
        """The size of the images that the model is trained on; None where any fits."""
        return self.evaluated_models.image_size

    def without_recomputation(self) -> "ModelObjective":
        """Returns the objective whose backward pass recomputes nothing, to count model FLOPs of."""
        return dataclasses.replace(self, compute=dataclasses.replace(self.compute, remat="none"))

    @property
    def evaluated_models(self) -> Models:
        """The models that an evaluation of the task sees."""
        raise NotImplementedError

    def evaluated_params(self, params: Params) -> Mapping[str, Params]:
        """Returns the parameters of `evaluated_models`, by their names."""
        raise NotImplementedError

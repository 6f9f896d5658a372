"""Model configs as plain json data, for saving beside weights."""

import dataclasses

from toklip_jax.models.config import TextConfig, VisionConfig
from toklip_jax.models.inception import InceptionConfig
from toklip_jax.models.teacher import TeacherConfig
from toklip_jax.models.toklip import TokLIPConfig
from toklip_jax.models.vq import VQ_KINDS

KINDS = {
    "toklip": TokLIPConfig,
    "teacher": TeacherConfig,
    "vision": VisionConfig,
    "text": TextConfig,
    "inception": InceptionConfig,
    **VQ_KINDS,
}
NAMES = {cls: name for name, cls in KINDS.items()}


def config_to_dict(config) -> dict:
    """Returns the fields of a model's config, nested configs included, each with its `kind`."""
    fields = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    plain = {
        name: config_to_dict(value) if dataclasses.is_dataclass(value) else value
        for name, value in fields.items()
    }
    return {"kind": NAMES[type(config)], **plain}


def config_from_dict(data: dict):
    """Returns the config that `config_to_dict` described.

    Raises:
        ValueError: unknown kind or field: the data come from another version.
    """
    kind = data.get("kind")
    if kind not in KINDS:
        raise ValueError(f"expected a config of kind {sorted(KINDS)}, got {kind!r}")
    cls = KINDS[kind]
    fields = {name: value for name, value in data.items() if name != "kind"}
    if unknown := set(fields) - {f.name for f in dataclasses.fields(cls)}:
        raise ValueError(
            f"expected the fields of a {kind} config, got {sorted(unknown)} as well: "
            f"the weights may come from a newer version"
        )
    return cls(**{name: _from_plain(value) for name, value in fields.items()})


def _from_plain(value):
    if isinstance(value, list):  # json knows no tuples
        return tuple(value)
    return config_from_dict(value) if isinstance(value, dict) else value

"""LLaVA's names of the projector (llava/model/multimodal_projector, "mlp2x_gelu")."""

from toklip_jax.files.layouts import linear_rules
from toklip_jax.files.rules import Rule

PREFIX = "mm_projector"
LLAVA = "model."  # before it in files of the whole model; files of the projector alone have it too
LAYERS = {"0": "fc1", "2": "fc2"}  # 1 is the activation


def projector_rules(target: str, source: str = f"{LLAVA}{PREFIX}") -> list[Rule]:
    """Returns the map of a projector.

    Args:
        target: the projector's slash path, without a separator at its end.
        source: what stands before the layers' numbers.
    """
    return [
        rule
        for theirs, ours in LAYERS.items()
        for rule in linear_rules(f"{source}.{theirs}", f"{target}/{ours}")
    ]

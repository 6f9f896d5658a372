"""Outputs computed from a batch of images or ids: a registry, and one file for each kind."""

from toklip_jax.evaluation.outputs.base import (
    Context,
    Output,
    available_outputs,
    compute_outputs,
    named_output,
    present_outputs,
    register_output,
    text_space_outputs,
)
from toklip_jax.evaluation.outputs.registry import BUILT_IN

__all__ = [
    "BUILT_IN",
    "Context",
    "Output",
    "available_outputs",
    "compute_outputs",
    "named_output",
    "present_outputs",
    "register_output",
    "text_space_outputs",
]

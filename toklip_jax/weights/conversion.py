"""The conversion engine: a PyTorch file's tensors to parameters and back, by its family's map."""

import flax.traverse_util

from toklip_jax.files import AnyLazy
from toklip_jax.files.rules import copies, match, to_jax, to_torch
from toklip_jax.models.registry import Hints, keys_of, param_shapes, recognise
from toklip_jax.weights.base import Weights, files_beside
from toklip_jax.weights.checkpoint_file import Checkpoint
from toklip_jax.weights.checks import expect_copies, expect_finite, finite, naming


def convert_checkpoint(
    checkpoint: Checkpoint, hints: Hints, expects_finite: bool = True
) -> Weights:
    """Returns a checkpoint's weights, layers unrolled: views of the file where possible.

    Args:
        expects_finite: whether all numbers are read, and must be finite.

    Raises:
        ValueError: an unknown family, sizes that can't be told, keys that don't fit, or numbers
            that are not finite; names the file.
    """
    with naming(checkpoint.file.path):
        recognised = recognise(checkpoint.tensors, hints.family)
        family, config = recognised.family, recognised.infer(hints, checkpoint.settings)
        rules = family.keys.rules(config, "", "")
        flat, carried = to_jax(recognised.tensors, rules, param_shapes(config))
        if expects_finite:
            params = {n: x for n, x in recognised.tensors.items() if n not in carried}
            expect_finite(params, checkpoint.file.release)
            expect_copies(recognised.tensors, copies(carried, rules), checkpoint.file.release)
    taken = f" ({checkpoint.taken})" if checkpoint.taken else ""
    return Weights(
        config,
        flax.traverse_util.unflatten_dict(flat, sep="/"),
        is_scanned=False,
        carried=carried,
        source=f"{family.title}, {checkpoint.file.path.name}{taken}",
        file=checkpoint.file,
        dropped=recognised.dropped,
        beside=files_beside(checkpoint.file.path.parent, config),
    )


def carried_reasons(weights: Weights) -> dict[str, str]:
    """Returns, for each tensor that is carried along, why it is no parameter."""
    rules = _rules(weights)
    matched = {name: match(name, rules)[0] for name in weights.carried}
    return {name: rule.reason if rule else "" for name, rule in matched.items()}


def export_tensors(weights: Weights) -> dict[str, AnyLazy]:
    """Returns PyTorch's tensors of weights; a round trip is bit-exact.

    They are made one by one, as they are read; a parameter that is not finite then raises
    ValueError.
    """
    params = weights.with_layout(False).params
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    checked = {name: finite(name, array) for name, array in flat.items()}
    return to_torch(checked, _rules(weights), weights.carried)


def _rules(weights):
    return keys_of(weights.config).rules(weights.config, "", "")

"""The hash of a model's parameters."""

import ml_dtypes
import numpy as np

from toklip_jax.weights.fingerprints import fingerprint_params


def test_a_hash_of_parameters_is_of_their_values_alone():
    layers = [{"w": np.arange(3, dtype=np.float32) + i} for i in range(2)]
    apart = {"stack": {f"blocks_{i}": layer for i, layer in enumerate(layers)}}
    stacked = {"stack": {"blocks": {"w": np.stack([layer["w"] for layer in layers])}}}
    short = {"stack": {"blocks": {"w": stacked["stack"]["blocks"]["w"].astype(ml_dtypes.bfloat16)}}}
    assert fingerprint_params(apart) == fingerprint_params(stacked) == fingerprint_params(short)
    layers[1]["w"][2] += 1
    assert fingerprint_params(apart) != fingerprint_params(stacked)
    assert fingerprint_params({"v": layers[0]["w"]}) != fingerprint_params({"w": layers[0]["w"]})

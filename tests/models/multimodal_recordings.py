"""LLaVA's recordings: a projector and Qwen, as a multimodal model whose features are given."""

import jax.numpy as jnp
import numpy as np

from tests.models.qwen_recordings import Recording
from toklip_jax.data.conversations import place_images
from toklip_jax.models.multimodal.config import MultimodalConfig
from toklip_jax.models.multimodal.model import Multimodal
from toklip_jax.models.siglip.config import VisionConfig
from toklip_jax.nn.config import Compute
from toklip_jax.weights.checkpoint_file import read_checkpoint
from toklip_jax.weights.llava import projector_params

FLOAT32 = Compute(is_scanned=False)
# An image tower of the recorded features' width and grid, which is never run.
TOWER = VisionConfig(48, 1, 4, 48, image_size=12, patch_size=4)


class LlavaRecording:
    """The recorded model, its rows as arrays of image places, and what was recorded of it."""

    def __init__(self, golden, folder):
        language_model = Recording(golden, "qwen2.5 untied", folder)
        self.config = MultimodalConfig(language_model.config, image_tower=TOWER, reads=("pixels",))
        self.model = Multimodal(self.config, FLOAT32)
        self.file = golden("multimodal_tiny/projector.safetensors")
        tensors = read_checkpoint(self.file).tensors
        projector = {
            layer: {name: np.asarray(x, np.float32) for name, x in arrays.items()}
            for layer, arrays in projector_params(tensors, 48, 64).items()
        }
        self.language_model = language_model
        self.params = {
            "language_model": language_model.params,
            "projector_pixels": projector,
        }
        self.inputs = np.load(golden("multimodal_tiny/inputs.npz"))
        self.outputs = np.load(golden("multimodal_tiny/outputs.npz"))
        self.grads = np.load(golden("multimodal_tiny/grads.npz"))

    def batch(self):
        """The recorded rows as a batch of the objective, one image a row."""
        inputs = self.inputs
        rows = [
            place_images(ids[mask == 1], labels[mask == 1], [0], 9, 0)
            for ids, mask, labels in zip(
                inputs["ids"], inputs["mask"], inputs["labels"], strict=True
            )
        ]
        return lines_of(rows, 24) | {
            "features": {"pixels": jnp.asarray(inputs["features"])[:, None]}
        }


def lines_of(rows, length, side="right"):
    """Rows as lines of a length, places of images counted in the row; -1 where padding is."""
    fills = {"ids": 0, "labels": -100, "image_places": -1, "segment_ids": -1, "positions": -1}
    batch = {n: np.full((len(rows), length), fill, np.int32) for n, fill in fills.items()}
    for i, row in enumerate(rows):
        start = 0 if side == "right" else length - len(row)
        at = i, slice(start, start + len(row))
        for name in ("ids", "labels", "image_places"):
            batch[name][at] = getattr(row, name)
        batch["segment_ids"][at] = 0
        batch["positions"][at] = np.arange(len(row))
    return {name: jnp.asarray(lines) for name, lines in batch.items()}

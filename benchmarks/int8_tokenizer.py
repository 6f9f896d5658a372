"""What int8 weights of the token encoder change of a demo's TokLIP: features, retrieval and size.

    python -m benchmarks.int8_tokenizer runs/demo

The argument is a finished run of `configs/demo.py`. Measured on all pictures of its held-out style
and all names: the cosine of each picture's features in float32 and with the token encoder as int8,
retrieval by name with both, whether ids and reconstructions are the same, and the size of the
token encoder and of the whole model. Printed, and kept in `results/int8_tokenizer.json`.
"""

import json
import pathlib
import sys
from collections.abc import Sequence

import jax
import numpy as np

import toklip_jax
from toklip_jax.demo.captions import NAME_PROMPTS
from toklip_jax.demo.emoji import named_split
from toklip_jax.demo.names import emoji_task, name_recalls
from toklip_jax.evaluation.zeroshot import prompt_means, prompts

BATCH = 64
DTYPES = ("float32", "int8")
RESULTS = pathlib.Path(__file__).parent / "results" / "int8_tokenizer.json"


def main(arguments: Sequence[str]) -> int:
    """Measures a run, and prints the figures."""
    (run,) = map(pathlib.Path, arguments)
    figures = measure(run)
    print(json.dumps(figures, indent=1))
    RESULTS.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


def measure(run: pathlib.Path) -> dict[str, float | int | dict[str, float]]:
    """Returns the figures of a run."""
    models = {
        dtype: toklip_jax.load(run / "toklip" / "weights", param_dtype=dtype, batch_size=BATCH)
        for dtype in DTYPES
    }
    split = named_split("test", models["float32"].config.vision.size[0])
    task = emoji_task(split)
    ids = {dtype: np.asarray(model.tokenize(split.test.images)) for dtype, model in models.items()}
    some = ids["float32"][:BATCH]
    restored = [np.asarray(model.detokenize(some)) for model in models.values()]
    texts = models["float32"].text_features(prompts(split.names, NAME_PROMPTS))
    names = prompt_means(texts, len(NAME_PROMPTS)).T
    features = {
        dtype: np.asarray(model.image_features(ids=ids["float32"]))
        for dtype, model in models.items()
    }
    cosines = np.sum(features["float32"] * features["int8"], axis=-1)
    recalls = {dtype: name_recalls(rows, names, task) for dtype, rows in features.items()}
    return {
        "pictures": len(cosines),
        "ids_changed": int(np.sum(ids["float32"] != ids["int8"])),
        "pixels_changed": int(np.sum(restored[0] != restored[1])),
        "cosine_mean": float(cosines.mean()),
        "cosine_least": float(cosines.min()),
        "recalls": {
            dtype: {name: cell.value for name, cell in cells.items()}
            for dtype, cells in recalls.items()
        },
        "standard_error_of_r1": recalls["float32"]["image_to_text_r1"].error,
        "token_encoder_mb": {
            dtype: _bytes(model.params["token_encoder"]) / 1e6 for dtype, model in models.items()
        },
        "model_mb": {dtype: model.param_bytes / 1e6 for dtype, model in models.items()},
    }


def _bytes(params):
    return sum(leaf.nbytes for leaf in jax.tree.leaves(params))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

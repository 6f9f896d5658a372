"""What int8 weights change of trained generators: likelihood and size.

    python -m benchmarks.int8 runs/generation/none_0 runs/generation/none_1 ...

Each argument is a finished run of a generator of classes. Measured on the first `IDS` samples of
the cache that it trained on, first crop, without dropping the condition: nats an id in float32 and
with the GPT's weights as int8, on the same ids; and the size of the GPT's parameters. One line a
run, and the table's mean, are printed and kept in `results/int8.json`.
"""

import json
import pathlib
import sys
from collections.abc import Sequence

import jax
import numpy as np

import toklip_jax
from toklip_jax.data.sources import SourceConfig

IDS, BATCH = 512, 64
RESULTS = pathlib.Path(__file__).parent / "results" / "int8.json"


def main(runs: Sequence[str]) -> int:
    """Measures each run, and prints the figures."""
    rows = []
    for run in map(pathlib.Path, runs):
        rows.append({"run": run.name, **measure(run)})
        print(json.dumps(rows[-1]))
    names = [name for name in rows[0] if name != "run"]
    mean = {name: float(np.mean([row[name] for row in rows])) for name in names}
    print(json.dumps({"mean": mean}))
    RESULTS.write_text(json.dumps({"rows": rows, "mean": mean}, indent=1) + "\n")
    return 0


def measure(run: pathlib.Path) -> dict[str, float]:
    """Returns nats an id, their largest change of an image, and megabytes, before and after."""
    config = {"kind": "cache", "directory": str(run / "generator" / "cache")}
    source = SourceConfig.from_plain(config).open()
    samples = [source[i] for i in range(min(IDS, len(source)))]
    ids, labels = (np.stack([sample[name] for sample in samples]) for name in ("ids", "labels"))
    nats, megabytes = {}, {}
    for dtype in ("float32", "int8"):
        generator = toklip_jax.load(run / "generator" / "weights", param_dtype=dtype)
        nats[dtype] = np.concatenate(
            [
                generator.nats_per_id(ids[i : i + BATCH], classes=labels[i : i + BATCH])
                for i in range(0, len(ids), BATCH)
            ]
        )
        leaves = jax.tree.leaves(generator.params["gpt"])
        megabytes[dtype] = sum(leaf.nbytes for leaf in leaves) / 1e6
    return {
        "images": len(ids),
        "nats_float32": float(nats["float32"].mean()),
        "nats_int8": float(nats["int8"].mean()),
        "largest_change_of_an_image": float(np.abs(nats["int8"] - nats["float32"]).max()),
        "mb_float32": megabytes["float32"],
        "mb_int8": megabytes["int8"],
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

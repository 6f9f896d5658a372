"""The package, the snippets and the run of docs/adding.md work as they are printed there."""

import json
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

ROOT = pathlib.Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "adding.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S)
FILE = re.compile(r"# (my_\w+[\w/]*\.py)\n")
# What a shell and a Python prompt would run, in one process: importing JAX takes seconds.
TRANSCRIPT = """
import sys
{snippets}
from toklip_jax import main
sys.exit(main.main(["--config=my_config.py", "--workdir=runs/mine"]))
"""


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """Where the page's files are, and what running its snippets and its config left."""
    directory = tmp_path_factory.mktemp("adding")
    snippets = []
    for block in BLOCKS:
        if found := FILE.match(block):
            path = directory / found[1]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block)
        else:
            snippets.append(block)
    assert len(snippets) == 3
    save_file(_patches(), directory / "patches.safetensors")
    (directory / "transcript.py").write_text(TRANSCRIPT.format(snippets="\n".join(snippets)))
    done = subprocess.run(
        [sys.executable, "transcript.py"],
        cwd=directory,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": f"{directory}:{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return directory


def _patches():
    """A PyTorch file of the patch tokenizer with patches of 4 pixels."""
    rng = np.random.default_rng(0)
    shapes = {
        "patch_embed.weight": (8, 3, 4, 4),
        "patch_embed.bias": (8,),
        "codebook.weight": (32, 8),
        "to_pixels.weight": (48, 8),
        "to_pixels.bias": (48,),
    }
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def test_the_tokenizer_converts(directory):
    assert (directory / "patches" / "toklip.json").is_file()


def test_the_task_trains_on_the_source_and_leaves_weights(directory):
    stage = directory / "runs" / "mine" / "vq"
    records = [json.loads(line) for line in (stage / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [2, 4]
    assert np.isfinite(records[-1]["mse"])
    assert (stage / "weights" / "params.safetensors").is_file()


def test_the_evaluation_and_its_output_give_a_table(directory):
    results = json.loads((directory / "runs" / "mine" / "results.json").read_text())["evaluations"]
    vq, no_change = results["colours"]["rows"]
    assert vq["colour_shift"]["value"] > no_change["colour_shift"] == 0
    assert results["colours"]["num_images"] == {"test": 9}
    (restored,) = results["restored"]["rows"]
    assert np.isfinite(restored["psnr"]["value"])


def test_the_page_lists_every_file_of_the_package(directory):
    written = {path.name for path in (directory / "my_package").rglob("*.py")}
    listed = re.search(r"^    my_package/\n(.*?)^    my_config", PAGE, re.M | re.S)[1]
    assert written <= set(re.findall(r"\w+\.py", listed))

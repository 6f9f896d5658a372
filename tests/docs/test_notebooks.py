"""The notebooks run from their first cell to their last, and are kept as they should be.

`make notebooks` runs them all: a small TokLIP is trained once, for all that need one. The default
suite checks how they are kept, and that what they take from toklip_jax is there.
"""

import os
import pathlib
import re
import subprocess
import sys

import nbclient
import nbformat
import pytest

ROOT = pathlib.Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LIMIT = 600  # seconds for a cell, so that a slow machine passes and one that hangs does not
TRAIN = "import sys; from toklip_jax.demo import shapes; shapes.train_shapes(sys.argv[1])"
every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells_of(path, kind="code"):
    notebook = nbformat.read(path, as_version=4)
    return [cell for cell in notebook.cells if cell.cell_type == kind]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with the run that the notebooks would train themselves, and the environment."""
    folder = tmp_path_factory.mktemp("notebooks")
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    environment.pop("XLA_FLAGS", None)  # the suite's: fast to compile, slow to train
    trained = subprocess.run(
        [sys.executable, "-c", TRAIN, "runs/shapes"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert trained.returncode == 0, trained.stderr
    return folder, environment


@pytest.mark.slow
@every_notebook
def test_it_runs(path, workplace):
    folder, environment = workplace
    notebook = nbformat.read(path, as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=LIMIT, resources={"metadata": {"path": str(folder)}}
    )
    client.execute(env=environment)
    printed = "".join(
        output.text
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if output.output_type == "stream"
    )
    assert "Traceback" not in printed  # of a command, which ends no cell
    for share in re.findall(r"^ *(?:right|what|colour|yes|no|the colour alone): (\d+)%", printed):
        assert int(share) > 15  # where chance is 3 or 17 %: it has learnt


@every_notebook
def test_it_is_kept_without_outputs_and_starts_in_colab(path):
    title, install = nbformat.read(path, as_version=4).cells[:2]
    assert title.source.startswith("# ")
    assert f"blob/main/notebooks/{path.name})" in title.source
    assert 'find_spec("toklip_jax") is None' in install.source
    assert "%pip install" in install.source
    for cell in cells_of(path):
        assert not cell.outputs
        assert cell.execution_count is None


@every_notebook
def test_other_notebooks_and_configs_that_it_names_are_there(path):
    text = "\n".join(cell.source for cell in cells_of(path, "markdown"))
    names = re.findall(r"`(\w+\.ipynb)`", text)
    assert {name for name in names if not (ROOT / "notebooks" / name).exists()} == set()
    configs = re.findall(r"`(configs/\w+\.py)`", text)
    assert {name for name in configs if not (ROOT / name).exists()} == set()

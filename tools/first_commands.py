"""Runs the README's first commands as they are written, with the Python that runs this:

    python tools/first_commands.py "Five lines" "From a shell"

takes the first block under each of these headings, and runs it where this is called. What blocks
name is made beside them: a folder of pictures, and a stand-in of the Hugging Face hub, which serves
small weights under the names of the released ones. Ends with the block that fails.
"""

import contextlib
import importlib.util
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import textwrap

import PIL.Image

ROOT = pathlib.Path(__file__).resolve().parents[1]
README = "README.md"
PYTHON, SHELL = "^```python\n(.*?)^```$", "(?:^ {4}[^\n]+\n)+"
BLOCK = re.compile(f"{PYTHON}|{SHELL}", re.M | re.S)
LIMIT = 600  # seconds that a block may take
PICTURES = {"dog.jpg": "sienna", "apple.jpg": "red"}
FILES = {
    "TencentARC/TokLIP": {"TokLIP_S_256.pt": "tests/golden/toklip_tiny/checkpoint.pt"},
    "timm/ViT-SO400M-16-SigLIP2-256": {
        "tokenizer.json": "tests/weights/format_1/toklip/tokenizer.json"
    },
}
# Python runs this at its start: the stand-in's files are smaller than those of the catalogue.
ANY_SIZE = """
from toklip_jax.models.releases import File

File.has_size = lambda self, num_bytes: True
"""


def main(headings):
    with tempfile.TemporaryDirectory() as folder, stand_in() as address:
        folder = pathlib.Path(folder)
        (folder / "sitecustomize.py").write_text(ANY_SIZE)
        environment = os.environ | {
            "HF_ENDPOINT": address,
            "HF_HOME": str(folder / "hub"),
            "PATH": f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(folder),
        }
        make_pictures(pathlib.Path("photos"))
        for heading in headings:
            run(heading, first_block(heading, (ROOT / README).read_text()), environment)


@contextlib.contextmanager
def stand_in():
    """Serves `FILES`, and gives the address."""
    path = ROOT / "tests" / "weights" / "hub_stand_in.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    hub_stand_in = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hub_stand_in)
    hub = hub_stand_in.Hub()
    for repository, files in FILES.items():
        hub.files[repository] = {name: (ROOT / path).read_bytes() for name, path in files.items()}
    with hub_stand_in.serving(hub) as address:
        yield address


def make_pictures(folder):
    folder.mkdir(exist_ok=True)
    for name, colour in PICTURES.items():
        PIL.Image.new("RGB", (320, 240), colour).save(folder / name)


def first_block(heading, text):
    """Returns the command that runs the first block under a heading, as words."""
    section = re.search(rf"^## {re.escape(heading)}$(.*?)(?=^## |\Z)", text, re.M | re.S)
    block = section and BLOCK.search(section[1])
    if not block:
        sys.exit(f"error: expected a block of code under '## {heading}' of {README}, found none")
    if block[1]:
        return [sys.executable, "-c", block[1]]
    return ["bash", "-euxo", "pipefail", "-c", textwrap.dedent(block[0])]


def run(heading, command, environment):
    print(f"{README}, {heading}:\n{textwrap.indent(command[-1], '    ')}", flush=True)
    status = subprocess.run(command, env=environment, timeout=LIMIT, check=False).returncode
    if status:
        sys.exit(f"error: status {status} of what {README} has first under '## {heading}'")


if __name__ == "__main__":
    main(sys.argv[1:])

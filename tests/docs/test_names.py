"""Files, folders, modules and floors that the documents name are there."""

import importlib.util
import pathlib
import re
import runpy

import pytest

ROOT = pathlib.Path(__file__).parents[2]
PACKAGE = ROOT / "toklip_jax"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TOP = {path.name for path in ROOT.iterdir()} - {"runs"}  # where `make demo` may have been
ROOMS = {path.name for path in PACKAGE.iterdir()}
# Where docs/adding.md says that its examples would be within the package.
EXAMPLES = {"toklip_jax/models/patches/", "toklip_jax/tasks/denoise/"}
PATH = re.compile(r"`([\w.-]+(?:/[\w.-]+)*(?:/|\.(?:py|md|sh|sbatch|yaml)))`")


@pytest.fixture(params=PAGES, ids=lambda path: path.name)
def page(request):
    return request.param


def test_every_path_exists(page):
    missing = []
    for name in PATH.findall(page.read_text()):
        if "NAME" in name or name in EXAMPLES:
            continue
        first = name.split("/")[0]
        bases = [base for base, names in ((ROOT, TOP), (PACKAGE, ROOMS)) if first in names]
        if bases and not any((base / name).exists() for base in bases):
            missing.append(name)
    assert not missing


def test_every_link_leads_to_a_file(page):
    links = re.findall(r"\]\(([^)#]+?)\)", page.read_text())
    missing = [x for x in links if "://" not in x and not (page.parent / x).exists()]
    assert not missing


def test_every_module_that_is_run_exists(page):
    for name in re.findall(r"python -m ((?:toklip_jax|benchmarks)\.\w+)", page.read_text()):
        assert importlib.util.find_spec(name), name


def test_the_table_of_floors_is_the_one_that_is_checked():
    floors = runpy.run_path(str(ROOT / "tests" / "test_floors.py"))["FLOORS"]
    table = {}
    for floor, names in re.findall(
        r"^\| (\d+) \| (.*?) \|", (ROOT / "docs" / "design.md").read_text(), re.M
    ):
        rooms = {name.strip("/").removesuffix(".py") for name in re.findall(r"`([^`]+)`", names)}
        table.setdefault(int(floor), set()).update(rooms)
    assert table == dict(enumerate(floors))

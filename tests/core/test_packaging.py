"""What the wheel holds is what is there."""

import pathlib
import tomllib

ROOT = pathlib.Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SETUPTOOLS = PROJECT["tool"]["setuptools"]


def test_every_package_is_listed():
    """Folders of data too; and configs/, which is one where the package is installed."""
    files = [path for path in (ROOT / "toklip_jax").rglob("*") if path.is_file()]
    folders = {path.parent.relative_to(ROOT) for path in files}
    found = {".".join(folder.parts) for folder in folders if "__pycache__" not in folder.parts}
    assert sorted(found | {"toklip_jax.configs"}) == SETUPTOOLS["packages"]
    assert (ROOT / SETUPTOOLS["package-dir"]["toklip_jax.configs"] / "demo.py").is_file()


def test_every_data_file_is_in_the_wheel():
    patterns = [
        ROOT.joinpath(*package.split(".")) / pattern
        for package, globs in SETUPTOOLS["package-data"].items()
        for pattern in globs
    ]
    listed = {path for pattern in patterns for path in pattern.parent.glob(pattern.name)}
    files = {path for path in (ROOT / "toklip_jax").rglob("*") if path.is_file()}
    kept = {path for path in files if path.suffix != ".py" and "__pycache__" not in path.parts}
    assert kept == listed


def test_notices_of_data_are_among_the_licences():
    notices = {str(path.relative_to(ROOT)) for path in (ROOT / "toklip_jax").rglob("LICENSE*")}
    assert set(PROJECT["project"]["license-files"]) == notices | {"LICENSE"}

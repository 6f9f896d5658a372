"""The commit that results name."""

import subprocess

from toklip_jax.core.revision import source_commit


def git(root, *arguments):
    identity = ("-c", "user.name=a", "-c", "user.email=a@b")
    subprocess.run(["git", "-C", root, *identity, *arguments], check=True, capture_output=True)


def test_the_commit_is_that_of_the_checkout_of_the_package(tmp_path):
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    assert source_commit(package) == ""  # no checkout
    git(tmp_path, "init")
    assert source_commit(package) == ""  # a checkout of something else
    git(tmp_path, "add", "package")
    git(tmp_path, "commit", "-m", "one")
    clean = source_commit(package)
    assert len(clean) == 12
    assert int(clean, 16) >= 0
    (package / "__init__.py").write_text("changed = True")
    assert source_commit(package) == f"{clean}-dirty"

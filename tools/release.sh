#!/usr/bin/env bash
# Builds a release in dist/, checks it, and says what a person does to publish it:
#
#     tools/release.sh            # or: make release
#
# Nothing is uploaded. Needs the packages build and twine, which `make release` installs.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' toklip_jax/__init__.py)

fail() {
    echo "error: $1" >&2
    exit 2
}
[ -z "$(git status --porcelain)" ] || fail "expected a clean working tree, got changes: commit them"
grep -q "^version: $version$" CITATION.cff || fail "expected version $version in CITATION.cff"
grep -q "^## $version " CHANGELOG.md || fail "expected a section on $version in CHANGELOG.md"
if git rev-parse --quiet --verify "refs/tags/v$version" >/dev/null; then
    fail "expected a new version, got $version, whose tag is there: raise __version__"
fi

rm -rf dist build
"$python" -m build
"$python" -m twine check --strict dist/*
PYTHON=$python tools/check_pythons.sh "dist/toklip_jax-$version-py3-none-any.whl"

cat <<TEXT

Version $version is built and checked: $(echo dist/*)
Nothing is uploaded. To publish it:

  1. In CHANGELOG.md, put the date in the place of "unreleased"; commit, and run this again.
  2. git tag -a v$version -m "toklip_jax $version" && git push origin v$version
  3. Once: an account on https://pypi.org with two-factor authentication, and an API token.
  4. $python -m twine upload --repository testpypi dist/*    # a rehearsal, on test.pypi.org
     pip install --index-url https://test.pypi.org/simple --extra-index-url https://pypi.org/simple \\
         toklip_jax==$version
  5. $python -m twine upload dist/*                          # can't be undone or overwritten
  6. A release of the tag on the project's page, with this version's section of CHANGELOG.md.
TEXT

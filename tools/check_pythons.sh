#!/usr/bin/env bash
# Checks a wheel with every Python that the package is made for and that is found here:
#
#     tools/check_pythons.sh dist/toklip_jax-0.1.0-py3-none-any.whl
#
# PYTHON goes before those of PATH and of pyenv. A version that isn't found here is skipped, and
# named; it is an error if none is found. The first that is found trains the demo too, for a few
# steps; further ones are checked with the core alone, which keeps the CI short.
set -euo pipefail

# A Python of a version that can make environments; a shim of pyenv may be there and not run.
find_python() {
    local python pyenv=${PYENV_ROOT:-$HOME/.pyenv}/versions
    for python in "${PYTHON:-python3}" "python$1" "$pyenv/$1".*/bin/python; do
        if "$python" -c "import ensurepip, sys; assert sys.version.startswith('$1.')" 2>/dev/null; then
            echo "$python"
            return
        fi
    done
}

parts=()
for version in 3.11 3.12; do
    python=$(find_python "$version")
    if [ -z "$python" ]; then
        echo "NOT CHECKED: the wheel with Python $version, which isn't found here"
        continue
    fi
    echo "Python $version, $python:"
    PYTHON=$python "$(dirname "$0")/check_wheel.sh" "$1" "${parts[@]}"
    parts=(core)
done
[ "${#parts[@]}" -gt 0 ] || { echo "error: expected Python 3.11 or 3.12, found neither" >&2; exit 2; }

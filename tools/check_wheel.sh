#!/usr/bin/env bash
# Installs a wheel in a fresh environment, and uses it where no checkout is on the path:
#
#     tools/check_wheel.sh dist/toklip_jax-0.1.0-py3-none-any.whl [core]
#
# The core alone loads small weights, tokenizes, embeds and decodes, runs the README's five lines and
# commands, and a command whose extra is missing names it; then, with the extra `demo`, the demo's
# config trains a few steps, and so does the first stage of `make demo` in a copy of the checkout;
# `core` leaves the demo out.
set -euo pipefail
wheel=$(readlink -f "$1")
root=$(readlink -f "$(dirname "$0")/..")
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
unset PYTHONPATH
export JAX_PLATFORMS=cpu JAX_COMPILATION_CACHE_DIR="$folder/compiled"
"${PYTHON:-python3}" -m venv venv
venv/bin/python -m pip install --quiet "$wheel"

venv/bin/python - "$root/tests/weights/format_1/toklip" <<'PYTHON'
import importlib.metadata
import importlib.resources
import sys

import numpy as np

import toklip_jax

assert "site-packages" in toklip_jax.__file__, toklip_jax.__file__
files = importlib.resources.files("toklip_jax")
for name in ("py.typed", "evaluation/prompt_data/imagenet.tsv", "report/assets/page.html"):
    assert (files / name).is_file(), name
configs = {path.name for path in importlib.resources.files("toklip_jax.configs").iterdir()}
assert {"demo.py", "toklip_s_256.py"} <= configs, configs
notices = {path.name for path in importlib.metadata.files("toklip_jax") if "LICENSE" in path.name}
assert notices == {"LICENSE", "LICENSE.txt"}, notices

toklip = toklip_jax.load(sys.argv[1])
ids = toklip.tokenize(np.zeros((2, *toklip.config.vision.size, 3), np.uint8))
toklip.semantic_tokens(ids), toklip.detokenize(ids)
assert toklip.image_features(ids=ids).shape[0] == 2
print(f"{toklip} from {toklip_jax.__file__}")
PYTHON

venv/bin/python "$root/tools/first_commands.py" "Five lines" "From a shell"

status=0
venv/bin/python -m toklip_jax.main --workdir=run 2>message || status=$?
[ "$status" = 2 ] && grep -q "pip install 'toklip_jax\[train\]'" message && [ "$(wc -l <message)" = 1 ]
echo "the core needs no extra, and names the one that training needs"
[ "${2:-}" != core ] || exit 0

venv/bin/python -m pip install --quiet "${wheel}[demo]"
config=$(venv/bin/python -c "
import importlib.resources
print(importlib.resources.files('toklip_jax.configs') / 'demo.py')")
steps=(--config.{vq,teacher,toklip}.loop.steps=2)
no_page=("--config.evaluate=()" "--config.report={}")
venv/bin/python -m toklip_jax.main --config="$config" --workdir=run "${steps[@]}" "${no_page[@]}" \
    >log 2>&1 || { tail -20 log; exit 1; }
[ -f run/toklip/weights/toklip.json ]
echo "the demo runs from the wheel alone"

mkdir clone
git -C "$root" ls-files -z | tar -C "$root" -c --null -T - | tar -C clone -x
cd clone
touch ../venv/.installed # after pyproject.toml: what `make demo` installs is there
first_stage=('--config.stages=("vq",)' "${steps[0]}" "${no_page[@]}")
export VENV="$folder/venv" ARGS="${first_stage[*]@Q}"
"$VENV/bin/python" "$root/tools/first_commands.py" "Install" "The demo" >../log 2>&1 ||
    { tail -20 ../log; exit 1; }
[ -f runs/demo/vq/weights/toklip.json ]
echo "the README's \`pip install .\` and \`make demo\` do what they say"

"""docs/training.md names fields, flags and files that are there."""

import ast
import pathlib
import re
import runpy

import pytest

ROOT = pathlib.Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "training.md").read_text()


def fields_of(path, name):
    for node in ast.parse((ROOT / "toklip_jax" / path).read_text()).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return {n.target.id for n in node.body if isinstance(n, ast.AnnAssign)}
    raise AssertionError(f"no class {name} in {path}")


LOOP = fields_of("training/loop_config.py", "LoopConfig")
OPTIMIZER = fields_of("training/optimizer.py", "OptimizerConfig")
COMPUTE = fields_of("nn/config.py", "Compute")


def test_every_field_set_on_a_command_line_is_in_the_config():
    config = runpy.run_path(str(ROOT / "configs" / "toklip_s_256.py"))["get_config"]()
    names = re.findall(r"--config\.([\w.]+)=", TEXT)
    assert len(names) > 5
    for name in names:
        section, _, last = name.rpartition(".")
        node = config
        for part in filter(None, section.split(".")):
            node = node[part]
        fields = LOOP if section.endswith("loop") else COMPUTE if section == "compute" else node
        # A section of another kind has that kind's fields.
        assert last in fields or f"--config.{section}.kind=" in TEXT, name


def test_every_field_of_the_loop_and_the_optimizer_exists():
    named = set(re.findall(r"`(?:toklip\.)?loop\.(\w+)", TEXT))
    assert {"max_skipped_in_a_row", "max_bad_share", "keep_every", "best"} <= named
    assert named <= LOOP
    assert {"clip_norm", "ema_decay", "layer_decay", "warmup_steps"} <= OPTIMIZER


def test_every_flag_of_a_program_of_ours_exists():
    sources = {"main": "cli/train.py", "plan": "cli/plan.py", "encode": "cli/encode.py"}
    for program, path in sources.items():
        source = (ROOT / "toklip_jax" / path).read_text()
        flags = set(re.findall(rf"toklip_jax\.{program} .*", TEXT))
        named = set(re.findall(r"--([\w-]+)(?:=|\b)(?!\.)", "\n".join(flags))) - {"config"}
        assert named
        for flag in named - {"workdir"}:
            assert f'"{flag}"' in source, flag
    paths = ("cli/train.py", "cli/running.py")
    main = "".join((ROOT / "toklip_jax" / path).read_text() for path in paths)
    for flag in ("restart", "traceback", "allow-config-change", "profile"):
        assert f"--{flag}" in TEXT
        assert f'"{flag}"' in main


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\b(?:launch|configs)/\w+\.\w+", TEXT))))
def test_every_file_it_names_exists(path):
    assert (ROOT / path).exists()


def test_every_launch_file_is_explained():
    for path in (ROOT / "launch").iterdir():
        assert f"launch/{path.name}" in TEXT
        # What a line of it sets, as `NAME=${NAME:-default}`, is what the document's commands set.
    settable = set()
    for name in ("local.sh", "slurm.sbatch", "tpu_pod.sh"):
        settable |= set(re.findall(r"^(\w+)=\$\{\1:-", (ROOT / "launch" / name).read_text(), re.M))
    commands = re.findall(r"^    (.*launch/.*|.*\\\n.*launch/.*)$", TEXT, re.M)
    named = {n for c in commands for n in re.findall(r"\b([A-Z]{3,})=", c)}
    assert {"CONFIG", "WORKDIR", "PROCESSES"} <= named
    assert named <= settable

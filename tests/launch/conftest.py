"""Stub programs that record what they were called with, for scripts that call the real ones."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import textwrap

import pytest

LAUNCH = pathlib.Path(__file__).parents[2] / "launch"


class Bench:
    """A folder of stubs that goes before the rest of PATH, and what they were called with."""

    def __init__(self, root: pathlib.Path):
        self.root, self.bin, self.log = root, root / "bin", root / "calls.jsonl"
        self.bin.mkdir()
        self.environ = {
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            "HOME": str(root),
            "PYTHON": str(self.bin / "trainer"),
        }

    def stub(self, name: str, body: str = "") -> None:
        """Writes program `name`: it records its arguments, then runs `body`, which sees `args`,
        `calls` (those of this name before, this one included) and `root`."""
        code = f"""\
            #!{sys.executable} -IS
            import fcntl, json, os, pathlib, signal, subprocess, sys, time
            root, args = pathlib.Path({str(self.root)!r}), sys.argv[1:]
            kept = {{k: v for k, v in os.environ.items() if k.startswith(("TOKLIP", "XLA", "JAX"))}}
            entry = {{"name": {name!r}, "args": args, "environ": kept}}
            with open(root / "calls.jsonl", "a+") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                file.write(json.dumps(entry) + "\\n")
                file.flush()
                file.seek(0)
                calls = [c for line in file if (c := json.loads(line))["name"] == {name!r}]
            """
        path = self.bin / name
        path.write_text(textwrap.dedent(code) + textwrap.dedent(body))
        path.chmod(0o755)

    def trainer(self, *statuses: int) -> None:
        """Stands for `python`; its calls end with these statuses, one after another."""
        self.stub("trainer", f"sys.exit({list(statuses)!r}[len(calls) - 1])")

    def calls(self, *names: str) -> list[dict]:
        lines = self.log.read_text().splitlines() if self.log.exists() else ()
        entries = [json.loads(line) for line in lines]
        return [e for e in entries if not names or e["name"] in names]

    def start(self, script: str, *args: str, **environ: str) -> subprocess.Popen:
        return subprocess.Popen(
            ["bash", str(LAUNCH / script), *args],
            env=self.environ | environ,
            cwd=LAUNCH.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A shell's background job, as a suite may be, has SIGINT ignored, and so its children.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def run(self, script: str, *args: str, **environ: str) -> subprocess.CompletedProcess:
        process = self.start(script, *args, **environ)
        try:
            out, err = process.communicate(timeout=30)
        finally:
            process.kill()
        return subprocess.CompletedProcess(script, process.returncode, out, err)


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)

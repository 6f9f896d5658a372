"""Fixtures every test may use: the recorded data of the PyTorch implementation.

The small recordings are in `tests/golden`. The large ones (VQ checkpoints, gradients) stay outside
the repository: name their folder in `TOKLIP_GOLDEN`, or those tests are skipped, with a message.
Those of other VQ tokenizers and of TokLIP-XL are in `golden_vq` beside that folder.
"""

import gc
import os
import pathlib
import shutil
import socket
import subprocess
import sys

import jax
import pytest

GOLDEN = pathlib.Path(__file__).parent / "golden"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
NUMBERS = ("api", "evaluation", "models", "nn", "ops", "training")  # whose recordings are numbers
MAX_MAPPINGS = 25_000  # then programs compiled before are given up
# They start first, so that no process is left with one of them at the end.
LONGEST = """
    test_main test_processes test_suite test_cached_run test_real_data test_toy_tokenizer
    test_accumulation test_sharded test_chunks_of_every_task test_checkpoint test_paths
    test_contrastive test_cli test_nearest test_generated
""".split()


@pytest.fixture(scope="session")
def golden():
    """`golden("vq_tiny/outputs.npz")` is the path of a recorded file."""

    def path(name: str) -> pathlib.Path:
        if (GOLDEN / name).exists():
            return GOLDEN / name
        outside = os.environ.get("TOKLIP_GOLDEN")
        if outside is None:
            pytest.skip(f"NOT CHECKED: {name} is not in the clone and TOKLIP_GOLDEN is not set")
        folders = pathlib.Path(outside), pathlib.Path(outside).parent / "golden_vq"
        found = [folder / name for folder in folders if (folder / name).exists()]
        assert found, f"{name} is missing in {' and '.join(map(str, folders))}"
        return found[0]

    return path


@pytest.fixture(scope="session")
def browser():
    """The path of a real browser, for tests of pages; without one they are skipped and say so."""
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip("NOT CHECKED: the page in a browser: install chromium or google-chrome")
    return path


@pytest.fixture
def highest_precision():
    """Float32 products as such, on every backend."""
    with jax.default_matmul_precision("highest"):
        yield


@pytest.fixture
def run_on_two_hosts():
    """`run_on_two_hosts(code, *arguments)` runs code in two processes at once.

    Each is told its number, the port of localhost where they meet, and the arguments. Returns the
    status and the output of each.
    """

    def run(code, *arguments, devices=1):
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        flags = (
            f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
        )
        hosts = [
            subprocess.Popen(
                [sys.executable, "-c", code, *map(str, (number, port, *arguments))],
                env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for number in range(2)
        ]
        try:
            outputs = [host.communicate(timeout=200)[0] for host in hosts]
        finally:
            for host in hosts:
                host.kill()
        return [(host.returncode, out) for host, out in zip(hosts, outputs, strict=True)]

    return run


@pytest.fixture(scope="session", autouse=True)
def _compile_once(tmp_path_factory):
    """Programs that several tests need are compiled once a session, for all of its processes."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
    directory = str(base / "compiled")
    jax.config.update("jax_compilation_cache_dir", directory)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
    # For the processes that tests start.
    os.environ["JAX_COMPILATION_CACHE_DIR"] = directory
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"


@pytest.fixture(scope="module", autouse=True)
def _few_objects_to_collect():
    """What earlier files left is no longer searched: Orbax collects garbage at every save."""
    if number_of_mappings() > MAX_MAPPINGS:
        # XLA maps every program that it compiles, and crashes where Linux grants no more (65,530).
        gc.unfreeze()
        jax.clear_caches()
    gc.collect()
    gc.freeze()


def number_of_mappings() -> int:
    """Returns how many parts this process's memory has (0 where that isn't told: not on Linux)."""
    maps = pathlib.Path("/proc/self/maps")
    return maps.read_bytes().count(b"\n") if maps.exists() else 0


def pytest_collection_modifyitems(items):
    """Marks what compares numbers with recordings: it is compiled as users compile."""
    for item in items:
        is_number = item.path.parent.name in NUMBERS and not item.get_closest_marker("plain")
        if is_number and "golden" in getattr(item, "fixturenames", ()):
            item.add_marker("recorded")
    items.sort(key=lambda item: item.path.stem not in LONGEST)


def pytest_terminal_summary(terminalreporter):
    """Prints the largest difference from the PyTorch recordings that each parity test met."""
    lines = []
    for report in terminalreporter.getreports("passed"):
        largest = {}
        for name, value in report.user_properties:
            if name.startswith("largest error"):
                largest[name] = max(value, largest.get(name, 0.0))
        lines += [f"{v:.1e}  {n}  {report.nodeid}" for n, v in largest.items()]
    if lines:
        terminalreporter.section("differences from the PyTorch recordings")
        terminalreporter.write_line("\n".join(lines))

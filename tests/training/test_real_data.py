"""The command on tars as img2dataset writes them, some samples broken."""

import io
import runpy
import tarfile

import numpy as np
import PIL.Image
import pytest

from toklip_jax.data.text import TextTokenizer, train_tokenizer
from toklip_jax.main import main
from toklip_jax.training.logging import read_metrics

CONFIG = """
import runpy
def get_config():
    config = runpy.run_path({tiny!r})["get_config"]()
    with config.unlocked():
        config.source = {{"kind": "webdataset", "shards": {shards!r}}}
        config.image_size = 16
        config.stages = ("teacher",)
        config.evaluate = ()
        config.text.tokenizer = {tokenizer!r}
        config.teacher.validation = dict(config.source)
        config.teacher.loop.evaluate_every = 10
        config.teacher.loop.max_bad_share = 0.5
        config.teacher.augment = {{"scale": (0.9, 1.0)}}
    return config
"""


def jpeg(level):
    image = PIL.Image.fromarray(np.full((24, 20, 3), 9 * level, np.uint8))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture
def config(tmp_path):
    """Two shards of 12 pairs; one picture is cut off, one caption is missing."""
    for shard in range(2):
        with tarfile.open(tmp_path / f"{shard:05}.tar", "w") as archive:
            for i in range(12):
                data = {"jpg": jpeg(i), "txt": f"a grey square number {i}".encode()}
                if (shard, i) == (0, 3):
                    data["jpg"] = data["jpg"][: len(data["jpg"]) // 2]
                if (shard, i) == (1, 5):
                    del data["txt"]
                for kind, content in data.items():
                    info = tarfile.TarInfo(f"{shard:05}{i:04}.{kind}")
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))
    text = TextTokenizer(train_tokenizer(["a grey square number 0 1 2 3 4 5 6 7 8 9"], 32), 6)
    text.save(tmp_path / "tokenizer.json")
    tiny = runpy.run_path(__file__.replace("test_real_data", "tiny_run"))["__file__"]
    path = tmp_path / "config.py"
    shards = str(tmp_path / "{00000..00001}.tar")
    path.write_text(
        CONFIG.format(tiny=tiny, shards=shards, tokenizer=str(tmp_path / "tokenizer.json"))
    )
    return path


def run(config, workdir, *flags):
    return main(["main", f"--config={config}", f"--workdir={workdir}", *flags])


def test_a_run_on_tars_skips_what_is_broken_and_validates(config, tmp_path, caplog):
    assert run(config, tmp_path / "run") == 0
    records = read_metrics(tmp_path / "run" / "teacher" / "metrics.jsonl")
    assert [record["step"] for record in records] == list(range(1, 11))
    assert records[-1]["bad_samples"] > 0
    assert 0 <= records[-1]["validation/image_to_text_r1"] <= 1
    assert "00000.tar:000000003" in caplog.text  # named
    assert "00001.tar:000010005" in caplog.text


def test_workers_change_no_loss(config, tmp_path):
    losses = []
    for workers in (0, 2):
        workdir = tmp_path / f"workers_{workers}"
        assert run(config, workdir, f"--config.num_workers={workers}") == 0
        records = read_metrics(workdir / "teacher" / "metrics.jsonl")
        losses.append([record["loss"] for record in records])
    assert losses[0] == losses[1]

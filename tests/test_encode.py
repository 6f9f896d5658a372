"""The command that encodes, from outside and by its parts: what it writes, and how it resumes."""

import dataclasses
import importlib.util
import io
import pathlib
import tarfile
import types

import jax
import numpy as np
import PIL.Image
import pyarrow.parquet
import pytest

from toklip_jax.cli.encode import main
from toklip_jax.data.cache import load_header
from toklip_jax.data.images import Decode
from toklip_jax.data.record_files import read_records
from toklip_jax.data.sources import SourceConfig
from toklip_jax.data.text import TextTokenizer, train_tokenizer
from toklip_jax.experiment import read_experiment
from toklip_jax.nn.config import Compute
from toklip_jax.parallel.sharding import make_mesh
from toklip_jax.run import encode as encoding
from toklip_jax.run.context import RunContext
from toklip_jax.tasks.registry import task_of

CONFIG = pathlib.Path(__file__).parent / "training" / "tiny_run.py"
spec = importlib.util.spec_from_file_location("tiny_run", CONFIG)
tiny_run = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tiny_run)

CROPS, SAMPLES, BATCH, SHARD = 2, 11, 2, 4
BROKEN = 5
COMPUTE = Compute(is_scanned=False)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """Random weights where a run's stages leave theirs."""
    workdir = tmp_path_factory.mktemp("run")
    tiny_run.leave_random_weights(workdir)
    return workdir


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """The tiny run on tars of pictures with captions, of which one is cut off."""
    directory = tmp_path_factory.mktemp("data")
    with tarfile.open(directory / "0.tar", "w") as archive:
        for i in range(SAMPLES):
            data = {"jpg": jpeg(i), "txt": f"square {i}".encode(), "cls": b"%d" % (i % 3)}
            data["jpg"] = data["jpg"][:200] if i == BROKEN else data["jpg"]
            for kind, content in data.items():
                info = tarfile.TarInfo(f"{i:05}.{kind}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    text = TextTokenizer(train_tokenizer(["a grey square 0 1 2 3 4 5 6 7 8 9"], 32), 6)
    text.save(directory / "tokenizer.json")
    config = tiny_run.get_config()
    with config.unlocked():
        config.source = {"kind": "webdataset", "shards": str(directory / "0.tar")}
        config.image_size = tiny_run.SIZE
        config.text.tokenizer = str(directory / "tokenizer.json")
        config.toklip.augment = {"scale": (0.5, 1.0)}
        config.encode = {
            "stage": "toklip",
            "crops": CROPS,
            "features": ("teacher_feature", "text_feature"),
            "feature_dtype": "bfloat16",
            "batch_size": BATCH,
            "records_per_shard": SHARD,
        }
    return config


@pytest.fixture(scope="module")
def cache(config, workdir, tmp_path_factory):
    directory = tmp_path_factory.mktemp("caches") / "whole"
    encode(config, directory, workdir)
    return directory


def encode(config, output, workdir="", **shares):
    return encoding.encode(read_experiment(config), output, workdir, **shares)


def jpeg(seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).resize((32, 24)).save(buffer, "JPEG")
    return buffer.getvalue()


def shards_of(directory):
    return {path.name: path.read_bytes() for path in directory.glob("*.array_record")}


def test_ids_and_features_are_those_of_the_same_crops(cache, config, workdir):
    mesh = make_mesh({"data": 1}, jax.devices()[:1])
    experiment = read_experiment(config)
    stage = experiment.sections["toklip"]
    context = RunContext(experiment, workdir, mesh)
    objective, params = task_of(stage.task).start(stage, context.start)
    prepare, text_feature = jax.jit(objective.prepare), jax.jit(objective.text_feature)
    text = TextTokenizer.load(config.text.tokenizer, 6)
    decode = Decode(tiny_run.SIZE, True, text, scale=(0.5, 1.0))
    images = SourceConfig.from_plain(config.source.to_dict()).open(text)
    source = SourceConfig.from_plain({"kind": "cache", "directory": str(cache)}).open()
    rows = [i for i in range(SAMPLES) if i != BROKEN]
    assert len(source) == len(rows)
    seen = set()
    for row, i in enumerate(rows):
        record = source._records[row]
        assert record[source.header.record_bytes :].decode() == f"square {i}"
        for crop in range(CROPS):
            sample = decode(images[i], np.random.default_rng([config.seed, i, crop]))
            batch = {name: sample[name][None] for name in ("images", "token_ids")}
            want = prepare(params, batch)
            got = source.header.read(record, crop)
            np.testing.assert_array_equal(got["ids"], want["ids"][0])
            np.testing.assert_array_equal(got["token_ids"], sample["token_ids"])
            assert got["labels"] == i % 3
            want["text_feature"] = text_feature(params, batch["token_ids"])
            for name in ("teacher_feature", "text_feature"):
                feature = got[name].astype(np.float32)
                np.testing.assert_allclose(feature, want[name][0], rtol=2**-8, atol=1e-5)
            seen.add(tuple(got["ids"]))
    assert len(seen) > len(rows)  # crops differ


def test_the_header_says_what_was_encoded_by_what(cache, config, workdir):
    header = load_header(cache)
    assert set(header.hashes) == {"vq", "teacher", "text_tower", "tokenizer", "data"}
    assert all(len(value) == 64 for value in header.hashes.values())
    assert header.transform == {"augment": {"scale": [0.5, 1.0]}, "resize": "", "seed": 0}
    assert (header.num_samples, header.num_shards, header.crops) == (SAMPLES, 3, CROPS)
    assert header.source["shards"] == config.source.shards
    sizes = {f.name: (f.dtype, f.count, f.shape) for f in header.fields}
    assert sizes["ids"] == ("uint16", CROPS, (4,))
    assert sizes["text_feature"] == ("bfloat16", 1, (32,))  # one text for all crops
    assert (cache / "tokenizer.json").exists()


def test_a_cache_of_data_that_changed_since_is_not_gone_on_with(cache):
    header = load_header(cache)
    other = dataclasses.replace(header, hashes=header.hashes | {"data": "0" * 64})
    with pytest.raises(ValueError, match=r"another config, data or weights \(hashes\.data: "):
        encoding._claim(cache, types.SimpleNamespace(header=other), "choose another")
    encoding._claim(cache, types.SimpleNamespace(header=header), "choose another")


def test_a_stop_between_shards_is_gone_on_from_to_equal_bytes(
    cache, config, workdir, tmp_path, monkeypatch
):
    """As after a kill in the second shard: the draft is left, the shards after it are missing."""
    written = []

    def die_in_the_second(path, records):
        if written:
            pathlib.Path(f"{path}.part").write_bytes(b"half a shard")
            raise KeyboardInterrupt
        written.append(path)
        write(path, records)

    write = encoding.write_records
    monkeypatch.setattr(encoding, "write_records", die_in_the_second)
    with pytest.raises(KeyboardInterrupt):
        encode(config, tmp_path / "cut", workdir)
    assert len(shards_of(tmp_path / "cut")) == 1
    kept = written[0].stat().st_mtime_ns
    monkeypatch.setattr(encoding, "write_records", write)
    encode(config, tmp_path / "cut", workdir)
    assert shards_of(tmp_path / "cut") == shards_of(cache)
    assert written[0].stat().st_mtime_ns == kept  # not encoded again


def test_hosts_and_workers_write_the_shards_of_one_process(cache, config, workdir, tmp_path):
    encode(config, tmp_path / "two", workdir, host=1, hosts=2)
    assert list(shards_of(tmp_path / "two")) == ["part-00001-of-00003.array_record"]
    config = config.copy_and_resolve_references()
    config.num_workers = 1
    encode(config, tmp_path / "two", workdir, host=0, hosts=2)
    assert shards_of(tmp_path / "two") == shards_of(cache)
    header = load_header(tmp_path / "two")
    index = next(field for field in header.fields if field.name == "index")
    paths = sorted((tmp_path / "two").glob("*.array_record"))
    places = [int(index.read(r, 0)) for path in paths for r in read_records(path)]
    assert places == [i for i in range(SAMPLES) if i != BROKEN]


def test_too_many_bad_samples_stop_it(config, workdir, tmp_path, monkeypatch):
    monkeypatch.setattr(encoding, "BadSamples", lambda share: BadSamples(share, minimum=5))
    BadSamples = importlib.import_module("toklip_jax.data.health").BadSamples
    with pytest.raises(ValueError, match=r"at most 1.00% bad samples.*\n.*image: 1"):
        encode(config, tmp_path / "bad", workdir)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"crops": 3}, "crops: 2 there, 3 now"),
        ({"features": ("teacher_feature",)}, "hashes.text_tower"),
        ({"records_per_shard": 5}, "multiple of encode.batch_size 2, got 5"),
        ({"features": ("teacher",)}, "did you mean 'teacher_feature'"),
        (
            {"stage": "teacher"},
            "to name the section of a stage of toklip or generator, got 'teacher'",
        ),
        ({"resize": "squash"}, "expected encode.crops 1 with resize"),
    ],
)
def test_what_does_not_fit_is_refused(cache, config, workdir, change, message):
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.encode.update(change)
    before = sorted(path.name for path in cache.iterdir())
    with pytest.raises(ValueError, match=message):
        encode(config, cache, workdir)
    assert sorted(path.name for path in cache.iterdir()) == before


def test_a_trained_text_tower_has_no_cached_features(config, workdir, tmp_path):
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.toklip.loss.trainable = ("token_encoder/.*", "text_tower/.*")
    with pytest.raises(ValueError, match="where the text tower is trained"):
        encode(config, tmp_path / "cache", workdir)
    config.encode.features = ("teacher_feature",)
    header = encode(config, tmp_path / "cache", workdir)
    assert set(header.hashes) == {"vq", "teacher", "tokenizer", "data"}


def test_drawn_captions_belong_to_their_crop(workdir, tmp_path):
    """A source of arrays, several captions a picture, no tokenizer."""
    config = tiny_run.get_config()
    with config.unlocked():
        config.encode = {"crops": 3, "batch_size": 4, "records_per_shard": 8}
    header = encode(config, tmp_path / "cache", workdir)
    assert next(f.count for f in header.fields if f.name == "text_feature") == 3
    source = SourceConfig.from_plain({"kind": "cache", "directory": str(tmp_path / "cache")}).open()
    captions = SourceConfig.from_plain(config.source.to_dict()).open().arrays["captions"]
    drawn = [header.read(source._records[4], crop)["token_ids"] for crop in range(3)]
    assert all(any(np.array_equal(one, caption) for caption in captions[4]) for one in drawn)


def test_the_command_encodes_exports_and_goes_on(workdir, tmp_path, capsys):
    output, parquet = tmp_path / "cache", tmp_path / "parquet"
    flags = [f"--config={CONFIG}", f"--output={output}", f"--workdir={workdir}"]
    assert main([*flags, f"--parquet={parquet}", "--id_offset=7"]) == 0
    printed = capsys.readouterr().out
    assert "20 samples in 1 shards" in printed
    assert f"{parquet}: wrote 1 Parquet files" in printed
    (file,) = parquet.iterdir()
    rows = pyarrow.parquet.read_table(file).to_pylist()
    source = SourceConfig.from_plain({"kind": "cache", "directory": str(output)}).open()
    assert rows[3] == {"image_tokens": (source[3]["ids"] + 7).tolist(), "caption": None}
    assert main([*flags]) == 0
    assert main([f"--output={output}", f"--parquet={tmp_path / 'again'}"]) == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "expected --output=..., got none"),
        (["--output=CACHE"], "expected --config to encode by or --parquet"),
        (["--output=CACHE", "--parquet=CACHE/parquet"], "found no header.json"),
        (["--output=CACHE", "--config=CONFIG"], "expected the weights of 'stage:"),
        (["--output=CACHE", "--config=CONFIG", "--config.source.kind=sinthetic"], "'synthetic'"),
        (["--output=CACHE", "--config=CONFIG", "--config.sed=1"], "seed"),
        (["--output=CACHE", "--config=none.py"], "none.py"),
        (["--output=CACHE", "--mode=train"], "mode"),
    ],
)
def test_bad_flags_give_one_clear_error(flags, message, tmp_path, capsys):
    flags = [
        flag.replace("CACHE", str(tmp_path / "cache")).replace("CONFIG", str(CONFIG))
        for flag in flags
    ]
    assert main([*flags]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_a_directory_of_other_files_is_left_alone(config, workdir, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="which holds thesis"):
        encode(config, tmp_path, workdir)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]

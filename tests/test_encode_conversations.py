"""Conversations in Parquet, as the command writes them: from caches, and from LLaVA's JSON."""

import json

import jax
import numpy as np
import PIL.Image
import pyarrow.parquet
import pytest

import toklip_jax
from tests.data import small_cache
from toklip_jax.cli.encode import main
from toklip_jax.data.conversations import IMAGE
from toklip_jax.data.conversations.images import Pixels
from toklip_jax.data.conversations.llava import LlavaSource
from toklip_jax.data.conversations.messages import MessagesSource
from toklip_jax.data.record_files import write_records
from toklip_jax.models.llamagen.config import LlamaGenConfig
from toklip_jax.models.registry import init_params
from toklip_jax.nn.config import Compute
from toklip_jax.run.encode_conversations import encode_conversations
from toklip_jax.weights import Weights, save_weights

SIZE, NAMES = 16, [f"photos/{i}.png" for i in range(5)]
VQ = LlamaGenConfig(
    32, channels=32, multipliers=(1,), num_res_blocks=1, z_channels=32, stem_patch=8
)


def cache_of(tmp_path):
    (tmp_path / "cache").mkdir()
    small_cache.write_cache(tmp_path / "cache")
    return tmp_path / "cache"


@pytest.mark.parametrize("order", ["image_first", "text_first", "both"])
def test_a_cache_of_captions_becomes_conversations_in_either_order(order, tmp_path, capsys):
    flags = [f"--output={cache_of(tmp_path)}", f"--parquet={tmp_path / 'out'}"]
    flags += ["--parquet_layout=messages", f"--parquet_order={order}"]
    assert main([*flags]) == 0
    assert "wrote 3 Parquet files" in capsys.readouterr().out
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == [f"train-0000{i}-of-00003.parquet" for i in range(3)]
    found = [
        ([(turn.role, turn.text) for turn in c.turns], c.images)
        for c in MessagesSource(str(tmp_path / "out"), strict=True)
    ]
    expected = []
    for i in (i for i in range(10) if i != 5):
        for ids in small_cache.arrays_of(i)["ids"]:
            image, text = IMAGE, f"caption ü {i}"
            if order != "text_first":
                expected.append(([("user", image), ("assistant", text)], (tuple(ids),)))
            if order != "image_first":
                expected.append(([("user", text), ("assistant", image)], (tuple(ids),)))
    assert found == expected


def test_an_evaluations_files_have_its_task_type(tmp_path):
    flags = [f"--output={cache_of(tmp_path)}", f"--parquet={tmp_path / 'out'}"]
    flags += ["--parquet_layout=messages", "--parquet_split=eval-captions"]
    assert main([*flags, "--task_type=understanding"]) == 0
    path = tmp_path / "out" / "eval-captions-00000-of-00003.parquet"
    rows = pyarrow.parquet.read_table(path).to_pylist()
    assert {row["task_type"] for row in rows} == {"understanding"}
    assert {len(row["image_tokens"]) for row in rows} == {1}


def test_captions_that_cannot_be_trained_on_are_left_out_and_counted(tmp_path, capsys):
    cache = cache_of(tmp_path)
    header = small_cache.make_header()
    captions = ["good", " ", f"a {IMAGE} b", ""]
    records = [header.pack(small_cache.arrays_of(i), text) for i, text in enumerate(captions)]
    write_records(cache / header.shard(0), records)
    flags = [f"--output={cache}", f"--parquet={tmp_path / 'out'}", "--parquet_layout=messages"]
    assert main([*flags]) == 0
    assert "left out 3 images with empty or unfit captions" in capsys.readouterr().out
    first = tmp_path / "out" / "train-00000-of-00003.parquet"
    assert pyarrow.parquet.read_table(first).num_rows == small_cache.CROPS


@pytest.fixture
def photos(tmp_path):
    """Five pictures, and a file of conversations on them, of which two can't be used."""
    for i, name in enumerate(NAMES):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 256, (20, 24, 3), np.uint8)
        PIL.Image.fromarray(pixels).save(path)
    (tmp_path / "images" / "photos" / "broken.png").write_bytes(b"no picture")
    images = [NAMES[0], NAMES[1:3], None, "photos/broken.png", "photos/none.png", NAMES[3:]]
    rows = []
    for i, names in enumerate(images):
        count = len(names) if isinstance(names, list) else int(names is not None)
        turns = [("human", f"{IMAGE} " * count + "What?"), ("gpt", f"It is {i}.")]
        row = {"id": i, "conversations": [{"from": a, "value": b} for a, b in turns]}
        rows.append(row if names is None else row | {"image": names})
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    return tmp_path


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    directory = tmp_path_factory.mktemp("weights") / "vq"
    compute = Compute(is_scanned=False)
    params = init_params(VQ, compute, jax.random.key(0))
    save_weights(directory, Weights(VQ, params, is_scanned=False))
    return directory


def test_the_command_tokenizes_the_images_of_conversations(photos, weights, capsys):
    flags = [f"--conversations={photos / 'rows.json'}", f"--images={photos / 'images'}"]
    flags += [f"--tokenizer={weights}", f"--parquet={photos / 'out'}", f"--image_size={SIZE}"]
    assert main([*flags]) == 0
    printed = capsys.readouterr().out
    assert "not an image: 1: 3" in printed
    assert "missing image: 1: 4" in printed
    model, load = toklip_jax.load(weights, image_size=SIZE), Pixels(SIZE)
    found = MessagesSource(str(photos / "out"), strict=True)
    source = LlavaSource(str(photos / "rows.json"), str(photos / "images"))
    kept = [c for c in source if c.name != "3"]
    assert [c.turns for c in found] == [c.turns for c in kept]
    assert [len(c.images) for c in found] == [1, 2, 0, 2]
    for ours, theirs in zip(found, kept, strict=True):
        for ids, image in zip(ours.images, theirs.images, strict=True):
            np.testing.assert_array_equal(ids, model.tokenize(load(image)[None])[0])


def test_files_hosts_and_batches_change_no_row(photos):
    source = LlavaSource(str(photos / "rows.json"), str(photos / "images"))
    sizes = []

    def tokenize(images):
        sizes.append(len(images))
        return images[:, 0, :3, 0]

    def write(name, **options):
        written = [
            encode_conversations(
                source,
                Pixels(SIZE),
                tokenize,
                photos / name,
                split="train",
                max_bad_share=1.0,
                host=host,
                hosts=options["hosts"],
                batch_size=options["batch_size"],
                rows_per_file=options["rows_per_file"],
            )[0]
            for host in range(options["hosts"])
        ]
        rows = [(c.turns, c.images) for c in MessagesSource(str(photos / name))]
        return rows, [path.name for paths in written for path in paths]

    whole, files = write("whole", hosts=1, batch_size=64, rows_per_file=100)
    assert files == ["train-00000-of-00001.parquet"]
    parts, files = write("parts", hosts=2, batch_size=2, rows_per_file=2)
    assert parts == whole
    assert files == [f"train-0000{i}-of-00003.parquet" for i in (0, 2, 1)]
    assert set(sizes) == {64, 2}  # one shape a run
    with pytest.raises(ValueError, match=r"found train-00000-of-00003\.parquet"):
        write("parts", hosts=1, batch_size=2, rows_per_file=100)


def test_no_image_that_can_be_read_is_an_error_and_leaves_no_file(photos, tmp_path):
    rows = json.loads((photos / "rows.json").read_text())
    bad = [{**row, "image": "cut.jpg"} for row in rows if isinstance(row.get("image"), str)]
    assert bad
    (tmp_path / "rows.json").write_text(json.dumps(bad))
    (tmp_path / "cut.jpg").write_bytes(b"half a picture")
    source = LlavaSource(str(tmp_path / "rows.json"), str(tmp_path))
    output = tmp_path / "out"
    with pytest.raises(ValueError, match="expected conversations whose images can be read, got"):
        encode_conversations(source, Pixels(SIZE), lambda images: images, output, split="train")
    assert not list(output.glob("*.parquet"))


def test_one_host_of_several_may_have_bad_rows_alone(photos):
    source = LlavaSource(str(photos / "rows.json"), str(photos / "images"))
    (path,), bad = encode_conversations(
        source,
        Pixels(SIZE),
        lambda images: images,
        photos / "out",
        split="train",
        rows_per_file=1,
        host=3,
        hosts=len(source),
    )
    assert bad.share == 1
    assert pyarrow.parquet.read_table(path).num_rows == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--conversations=A.json", "--parquet=B"], "expected --tokenizer=..."),
        (["--conversations=A.json", "--tokenizer=B"], "expected --parquet=..."),
        (["--conversations=A.json", "--tokenizer=B", "--parquet=C", "--output=D"], "no --output"),
        (["--output=A", "--parquet=B", "--images=C"], "expected no --images"),
        (["--output=A", "--parquet=B", "--task_type=c"], "expected no --task-type"),
        (
            ["--output=A", "--parquet=B", "--parquet_layout=messages", "--id_offset=7"],
            "expected no --id-offset",
        ),
        (
            ["--output=A", "--parquet=B", "--parquet_layout=messages", "--parquet_split=eval-x"],
            "expected a task_type for evaluations",
        ),
        (
            ["--output=A", "--parquet=B", "--parquet_layout=messages", "--parquet_split=val"],
            "expected a split 'train' or 'eval-NAME', got 'val'",
        ),
        (["--output=A", "--parquet=B", "--parquet_layout=message"], "did you mean messages?"),
        (["--parquet=B"], "expected --output=..., got none"),
    ],
)
def test_bad_flags_give_one_clear_error(flags, message, capsys):
    assert main([*flags]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_caches_that_this_layout_has_no_form_for_are_refused(tmp_path, capsys):
    header = small_cache.several_ids_header()
    header.save(tmp_path)
    write_records(tmp_path / header.shard(0), [])
    flags = [f"--output={tmp_path}", f"--parquet={tmp_path / 'out'}", "--parquet_layout=messages"]
    assert main([*flags]) == 2
    assert "captions and one id a place, got 2 ids" in capsys.readouterr().err

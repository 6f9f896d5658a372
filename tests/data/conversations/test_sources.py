"""Conversations from LLaVA's JSON and from Parquet files: what is read, left out, and refused."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from tests.data import small_cache
from toklip_jax.data.conversations import IMAGE, BadConversation, Conversation
from toklip_jax.data.conversations.images import (
    CachedIds,
    GivenIds,
    Pixels,
    cached_names,
)
from toklip_jax.data.conversations.llava import LlavaSource
from toklip_jax.data.conversations.messages import MessagesSource, write_messages
from toklip_jax.data.health import BadSample, BadSamples
from toklip_jax.data.sources import CacheSource, ImageFolderSource


def row(name, turns, **others):
    return {
        "id": name,
        "conversations": [{"from": side, "value": value} for side, value in turns],
        **others,
    }


GOOD = [
    row("one", [("human", f"What is it?\n{IMAGE}"), ("gpt", "A cat.")], image="a/0.jpg"),
    row("none", [("human", "Hello?"), ("gpt", "Hello.")]),
    row("two", [("human", f"{IMAGE} or {IMAGE}?"), ("gpt", "Both.")], image=["a/1.jpg", "b/2.jpg"]),
]
BAD = {
    "missing image": row("x", [("human", IMAGE), ("gpt", "A cat.")], image="a/9.jpg"),
    "another number of <image> than of images": row("y", [("human", IMAGE), ("gpt", "A cat.")]),
    "no assistant turn": row("z", [("human", "Hello?")]),
    "an unknown role": row("u", [("human", "Hello?"), ("bot", "Hello.")]),
    "a row of another form": {"id": "v", "text": "Hello."},
}


@pytest.fixture
def folder(tmp_path, raw):
    for number, name in enumerate(("a/0.jpg", "a/1.jpg", "b/2.jpg")):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(raw.jpeg(40 * number))
    return tmp_path / "images"


def write(tmp_path, rows):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows))
    return str(path)


def test_llavas_rows_are_read_with_the_image_first_as_it_trains_on_them(tmp_path, folder):
    source = LlavaSource(write(tmp_path, GOOD), str(folder))
    assert len(source) == 3
    assert source.problems == []
    assert [(turn.role, turn.text) for turn in source[0].turns] == [
        ("user", f"{IMAGE}\nWhat is it?"),
        ("assistant", "A cat."),
    ]
    assert source[0].images == (f"{folder}/a/0.jpg",)
    assert (source[1].images, source[1].turns[0].text) == ((), "Hello?")
    assert source[2].turns[0].text == f"{IMAGE} or {IMAGE}?"  # several stay where they are
    assert source.key(2) == "two"
    as_written = LlavaSource(write(tmp_path, GOOD), str(folder), is_image_first=False)
    assert as_written[0].turns[0].text == f"What is it?\n{IMAGE}"
    assert as_written.identity() != source.identity()


@pytest.mark.parametrize("cause", BAD)
def test_a_bad_row_is_counted_by_cause_or_an_error_where_that_is_asked_for(cause, tmp_path, folder):
    path = write(tmp_path, [BAD[cause], *GOOD])
    source = LlavaSource(path, str(folder))
    assert len(source) == 3
    assert source.problems == [(BAD[cause]["id"], cause)]
    counts = BadSamples(max_share=0.5)
    counts.leave_out(source.problems, len(source))
    assert counts.counts == {cause: 1}
    with pytest.raises(BadConversation, match=r"^expected ") as error:
        LlavaSource(path, str(folder), strict=True)
    assert error.value.cause == cause


def test_images_are_found_by_name_in_a_source(tmp_path, folder):
    images = ImageFolderSource(str(folder))
    source = LlavaSource(write(tmp_path, GOOD), images)
    assert [images.key(i) for i in source[2].images] == ["a/1.jpg", "b/2.jpg"]
    load = Pixels((12, 16), images)
    paths = LlavaSource(write(tmp_path, GOOD), str(folder))
    for ours, theirs in zip(source[2].images, paths[2].images, strict=True):
        pixels = load(ours)
        assert (pixels.shape, pixels.dtype) == (load.shape, np.uint8)
        np.testing.assert_array_equal(pixels, Pixels((12, 16))(theirs))
    assert not np.array_equal(load(0), load(1))
    with pytest.raises(ValueError, match=r"without key\(index\)"):
        LlavaSource(write(tmp_path, GOOD), object())
    with pytest.raises(ValueError, match="rows of a source that Pixels was given"):
        Pixels(16)(0)
    with pytest.raises(BadSample, match="missing image"):
        Pixels(16)(f"{folder}/none.jpg")


def test_images_are_found_by_name_in_a_cache(tmp_path):
    """Sample 5 of the cache could not be read, so later ones stand one row before."""

    small_cache.write_cache(tmp_path)
    cache = CacheSource(str(tmp_path))
    rows = [row(f"{i}", [("human", IMAGE), ("gpt", "It.")], image=f"{i}.jpg") for i in (4, 5, 7)]
    source = LlavaSource(write(tmp_path, rows), cached_names(cache, Named(10)))
    assert source.problems == [("5", "missing image")]
    load = CachedIds(cache)
    for conversation in source:
        ids = small_cache.arrays_of(int(conversation.name))["ids"][0]
        np.testing.assert_array_equal(load(conversation.images[0]), ids)
    with pytest.raises(ValueError, match="rows of the cache"):
        load("4.jpg")
    with pytest.raises(ValueError, match="of 10 images, got one of 3"):
        cached_names(cache, Named(3))


class Named:
    def __init__(self, number):
        self.number = number

    def __len__(self):
        return self.number

    def __getitem__(self, index):
        return {}

    def key(self, index):
        return f"{index}.jpg"


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "expected JSON of"), ('{"a": 1}', "got a dict"), ("[]", "got none: empty")],
)
def test_a_file_of_another_form_is_refused(content, message, tmp_path):
    (tmp_path / "rows.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        LlavaSource(str(tmp_path / "rows.json"))
    with pytest.raises(FileNotFoundError, match="expected conversations"):
        LlavaSource(str(tmp_path / "none.json"))


def test_a_folder_that_is_not_there_is_refused_and_not_counted_row_by_row(tmp_path):
    rows = [*GOOD, row("text", [("human", "Hello"), ("gpt", "Hi.")])]
    with pytest.raises(FileNotFoundError, match="expected a folder of images, found none at"):
        LlavaSource(write(tmp_path, rows), str(tmp_path / "none"))


def conversations(task_type=""):
    turns = [
        ("system", "Be brief."),
        ("user", f"{IMAGE}\nOr\n{IMAGE}?"),
        ("assistant", f"ü {IMAGE}."),
    ]
    ids = [tuple(range(k, k + 4)) for k in (0, 60_000, 7)]
    yield Conversation.of(turns, ids, name="first", task_type=task_type)
    yield Conversation.of([("user", "Hello?"), ("assistant", "")], task_type=task_type)


@pytest.mark.parametrize(("split", "task"), [("train", ""), ("eval-pope", "understanding")])
def test_parquet_gives_the_conversations_that_were_written(split, task, tmp_path):
    path = write_messages(conversations(task), tmp_path, split)
    assert path.name == f"{split}-00000-of-00001.parquet"
    source = MessagesSource(str(tmp_path), split, strict=True)
    assert [(c.turns, c.images, c.task_type) for c in source] == [
        (c.turns, c.images, task) for c in conversations(task)
    ]
    assert source.key(1) == f"{path.name}:1"
    other = "eval-pope" if split == "train" else "train"
    with pytest.raises(ValueError, match="expected files that match"):
        MessagesSource(str(tmp_path), other)


def test_what_is_written_is_the_form_that_trainers_read(tmp_path):
    """As the layout's one known trainer has it: raw ids, one list an image, content in parts."""
    path = write_messages(conversations("generation"), tmp_path, "eval-x")
    first = pyarrow.parquet.read_table(path).to_pylist()[0]
    assert first == {
        "messages": [
            {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
            {
                "role": "user",
                "content": [
                    {"type": "image", "text": None},
                    {"type": "text", "text": "\nOr\n"},
                    {"type": "image", "text": None},
                    {"type": "text", "text": "?"},
                ],
            },
            {
                "role": "assistant",
                "content": [
                    {"type": "text", "text": "ü "},
                    {"type": "image", "text": None},
                    {"type": "text", "text": "."},
                ],
            },
        ],
        "image_tokens": [[0, 1, 2, 3], [60_000, 60_001, 60_002, 60_003], [7, 8, 9, 10]],
        "task_type": "generation",
    }


def test_a_file_of_another_writer_is_read(tmp_path):
    """Its items of type "image" have an empty text, its ids are of 64 bits, and a row is bad."""
    image, text = {"type": "image", "text": ""}, {"type": "text", "text": "A cat."}
    good = [{"role": "user", "content": [image]}, {"role": "assistant", "content": [text]}]
    rows = [
        {"messages": good, "image_tokens": [[5, 6]], "other": 1},
        {"messages": good, "image_tokens": [], "other": 1},
        {"messages": [{"role": "user", "content": [{"type": "video"}]}], "image_tokens": None},
    ]
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "train-0.parquet")
    source = MessagesSource(str(tmp_path))
    assert len(source) == 1
    assert source[0].images == ((5, 6),)
    assert [turn.text for turn in source[0].turns] == [IMAGE, "A cat."]
    assert dict(source.problems) == {
        "train-0.parquet:1": "another number of <image> than of images",
        "train-0.parquet:2": "a row of another form",
    }
    with pytest.raises(BadConversation, match="expected one <image> for each image"):
        MessagesSource(str(tmp_path), strict=True)


def test_files_of_another_layout_are_refused(tmp_path):
    table = pa.table({"image_tokens": [[1, 2]], "caption": ["a"]})
    pyarrow.parquet.write_table(table, tmp_path / "train-0.parquet")
    with pytest.raises(ValueError, match="without 'messages': it has another layout"):
        MessagesSource(str(tmp_path))
    with pytest.raises(ValueError, match="'train' or 'eval-NAME', got 'test'"):
        MessagesSource(str(tmp_path), "test")
    with pytest.raises(ValueError, match="expected a task_type"):
        write_messages(conversations(), tmp_path, "eval-x")
    with pytest.raises(ValueError, match="expected images as lists of ids"):
        write_messages([Conversation.of([("user", IMAGE)], ["a.jpg"])], tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train-0.parquet"]


def test_given_ids_are_checked():
    load = GivenIds(3, 10)
    assert load((1, 2, 9)).dtype == np.int32
    for ids in ((1, 2), (1, 2, 10), (-1, 2, 3), (1.0, 2.0, 3.0)):
        with pytest.raises(BadSample, match="ids"):
            load(ids)

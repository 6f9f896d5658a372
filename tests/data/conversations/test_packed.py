"""Packed lines as training batches: complete, equal on any host and from any step, and skipped."""

import dataclasses
import itertools
import json

import numpy as np
import pytest

from tests.data import small_cache
from toklip_jax.core.whole_files import MAX_BYTES
from toklip_jax.data.conversations import (
    IMAGE,
    BadConversation,
    Conversation,
    Row,
    batch_rows,
    bucket_length,
    encode_conversation,
    first_fit,
    pack_rows,
    template_of,
)
from toklip_jax.data.conversations.images import CachedIds, GivenIds
from toklip_jax.data.conversations.lengths import Lengths, load_lengths
from toklip_jax.data.conversations.llava import LlavaSource
from toklip_jax.data.conversations.packed import Encoder, PackedSource, conversation_batches
from toklip_jax.data.fingerprints import data_fingerprint
from toklip_jax.data.health import BadSample
from toklip_jax.data.sources import CacheSource, Mixture

TOKENS, LENGTH, IMAGES = 4, 256, 5
TEMPLATE = template_of("qwen3")


class Listed:
    """Conversations of 0 to 2 images, each with ids of its own."""

    def __init__(self, number=40):
        self.problems = [("before", "missing image")]
        self.rows = []
        for i in range(number):
            count = i % 3
            starts = [100 * i + 10 * k for k in range(count)]
            images = [tuple(range(start, start + TOKENS)) for start in starts]
            turns = [("user", IMAGE * count + f"What is {i}?"), ("assistant", "It. " * (i % 5 + 1))]
            self.rows.append(Conversation.of(turns, images, name=f"row {i}"))

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]

    def key(self, index):
        return self.rows[index].name

    def identity(self):
        return [row.name for row in self.rows]


@pytest.fixture
def encoder(chat):
    return Encoder(chat, TEMPLATE, TOKENS, LENGTH)


def packed(encoder, conversations=None, **options):
    options = {"max_images": IMAGES} | options
    conversations = Listed() if conversations is None else conversations
    return PackedSource(conversations, encoder, GivenIds(TOKENS, 10_000), **options)


def documents(batch):
    """The segments of a batch: the ids of their text and images, and their labels."""
    flat = batch["image_ids"].reshape(-1)
    for line in range(len(batch["ids"])):
        for segment in range(1, batch["segment_ids"][line].max() + 1):
            inside = batch["segment_ids"][line] == segment
            places = batch["image_places"][line][inside]
            ids = np.where(places < 0, batch["ids"][line][inside], flat[places] + 1_000_000)
            assert batch["positions"][line][inside].tolist() == list(range(inside.sum()))
            yield tuple(ids), tuple(batch["labels"][line][inside])


def expected(conversation, chat):
    row = encode_conversation(conversation, chat, TEMPLATE, TOKENS)
    images = np.array(conversation.images, np.int32).reshape(-1)
    ids = np.where(row.image_places < 0, row.ids, 0)
    ids[row.image_places >= 0] = images + 1_000_000
    return tuple(ids), tuple(row.labels)


def test_an_epoch_has_every_conversation_once_as_it_is_encoded_alone(encoder, chat):
    source = packed(encoder)
    known = [expected(c, chat) for c in Listed().rows]
    assert len(source) < len(known) / 2  # so that there is something to pack
    assert source.fill == sum(len(ids) for ids, _ in known) / (len(source) * LENGTH)
    seen = []
    for batch in itertools.islice(conversation_batches(source, 1, seed=3), len(source)):
        assert batch["ids"].shape == (1, LENGTH)
        assert batch["image_ids"].shape == (IMAGES, TOKENS)
        used = np.unique(batch["image_places"][batch["image_places"] >= 0] // TOKENS)
        np.testing.assert_array_equal(np.flatnonzero(batch["image_mask"]), used)
        seen += documents(batch)
    assert sorted(seen) == sorted(known)


def test_images_of_a_batch_are_its_lines_own(encoder, chat):
    known = {expected(c, chat) for c in Listed().rows}
    batch = next(conversation_batches(packed(encoder), 4, seed=0))
    assert batch["image_ids"].shape == (4 * IMAGES, TOKENS)
    assert batch["image_mask"].shape == (4 * IMAGES,)
    found = list(documents(batch))
    assert len(found) > 4
    assert set(found) <= known


def test_a_cache_gives_ids_in_place_of_pixels(encoder, tmp_path):
    small_cache.write_cache(tmp_path)
    cache = CacheSource(str(tmp_path))
    turns = [{"from": "human", "value": IMAGE}, {"from": "gpt", "value": "It."}]
    rows = [{"id": f"{i}", "image": cache.key(i), "conversations": turns} for i in range(9)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    conversations = LlavaSource(str(tmp_path / "rows.json"), cache)
    source = PackedSource(conversations, encoder, CachedIds(cache), max_images=IMAGES)
    batch = next(conversation_batches(source, len(source), seed=0))
    found = {tuple(ids) for ids in batch["image_ids"][batch["image_mask"]].tolist()}
    assert found == {tuple(cache[i]["ids"].tolist()) for i in range(9)}


def test_the_step_alone_decides_and_hosts_share_a_batch(encoder):
    source = packed(encoder)
    whole = list(itertools.islice(conversation_batches(source, 4, seed=1), 6))
    later = next(conversation_batches(source, 4, seed=1, start_step=5))
    np.testing.assert_array_equal(later["ids"], whole[5]["ids"])
    assert later["keys"] == whole[5]["keys"]
    parts = [
        next(conversation_batches(source, 4, seed=1, start_step=5, host=host, hosts=2))
        for host in range(2)
    ]
    for name in ("ids", "labels", "segment_ids", "image_places", "image_ids", "image_mask"):
        joined = np.concatenate([part[name] for part in parts])
        np.testing.assert_array_equal(joined, whole[5][name])
    other = next(conversation_batches(source, 4, seed=2, start_step=5))
    assert other["keys"] != whole[5]["keys"]


def test_worker_processes_give_the_same_batches(encoder):
    source = packed(encoder)
    alone = next(conversation_batches(source, 4, seed=1))
    helped = next(conversation_batches(source, 4, seed=1, num_workers=1))
    for name in alone:
        np.testing.assert_array_equal(alone[name], helped[name])


def test_conversations_that_do_not_fit_are_named_by_cause(encoder):
    conversations = Listed(6)
    long = Conversation.of([("user", "why " * 200 + IMAGE), ("assistant", "a")], [(0,) * TOKENS])
    many = Conversation.of([("user", IMAGE * 6), ("assistant", "a")], [(0,) * TOKENS] * 6, name="m")
    conversations.rows += [long, many]
    source = packed(encoder, conversations)
    assert source.problems == [
        ("before", "missing image"),
        ("", "an image beyond the maximal length"),
        ("m", "more images than a line has"),
    ]
    with pytest.raises(BadConversation, match="which end with an image"):
        packed(encoder, conversations, strict=True)
    conversations.rows = [many]
    with pytest.raises(ValueError, match=r"got none of 1: .'more images than a line has'"):
        packed(encoder, conversations)
    with pytest.raises(BadConversation, match="at most 5 images in a line, got 6 in m"):
        packed(encoder, conversations, strict=True)


def test_a_line_with_a_bad_image_is_replaced_and_reported(encoder):
    conversations = Listed(9)
    conversations.rows[4] = Conversation.of(
        [("user", IMAGE), ("assistant", "a")], [(0,) * (TOKENS - 1)], name="broken"
    )
    source = packed(encoder, conversations)
    batches = conversation_batches(source, 1, seed=0)
    skipped = [p for b in itertools.islice(batches, len(source)) for p in b["skipped"]]
    assert len(skipped) == 1
    assert "broken" in skipped[0][0]
    assert skipped[0][1] == "an image of another number of ids"


def test_kept_lengths_are_used_for_the_same_data_only(encoder, tmp_path, monkeypatch):
    path = tmp_path / "kept" / "lengths.npz"
    first = packed(encoder, lengths=path)
    kept = path.read_bytes()
    with monkeypatch.context() as patched:
        patched.delattr(Encoder, "__call__")  # nothing is tokenized
        again = packed(encoder, lengths=path)
    assert data_fingerprint(again) == data_fingerprint(first)
    assert again.problems == first.problems
    assert len(packed(encoder, Listed(10), lengths=path)) < len(first)
    assert path.read_bytes() != kept
    packed(encoder, lengths=path)
    other = dataclasses.replace(encoder, template=template_of("qwen2"))
    assert data_fingerprint(packed(other, lengths=path)) != data_fingerprint(first)


def test_processes_may_keep_the_lengths_in_one_file_at_once(encoder, tmp_path, monkeypatch):
    path, save = tmp_path / "lengths.npz", np.savez
    others = [lambda: packed(encoder, lengths=path)]

    def save_late(file, **arrays):
        if others:
            others.pop()()  # another process begins and ends while this one writes
        save(file, **arrays)

    monkeypatch.setattr(np, "savez", save_late)
    first = packed(encoder, lengths=path)
    assert not others
    assert [file.name for file in tmp_path.iterdir()] == ["lengths.npz"]
    monkeypatch.delattr(Encoder, "__call__")
    assert data_fingerprint(packed(encoder, lengths=path)) == data_fingerprint(first)


def test_lengths_of_millions_of_conversations_are_read_again(tmp_path):
    path, number = tmp_path / "lengths.npz", 2_500_000
    problems = [("row 7", "missing image")]
    Lengths(np.arange(number), np.ones(number, np.int64), 3, problems).save(path, "ours")
    assert path.stat().st_size > MAX_BYTES
    found = load_lengths(path, "ours")
    np.testing.assert_array_equal(found.tokens, np.arange(number))
    np.testing.assert_array_equal(found.images, 1)
    assert (found.num_cut, found.problems) == (3, problems)
    assert load_lengths(path, "other") is None
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"lengths\.npz is damaged .*: delete it"):
        load_lengths(path, "ours")


def test_conversations_that_are_cut_are_counted_in_one_line(encoder, tmp_path, caplog):
    conversations = Listed(6)
    turns = [("user", IMAGE), ("assistant", "It. " * 200)]
    conversations.rows += [Conversation.of(turns, [(0,) * TOKENS], name=f"l{i}") for i in range(2)]
    path = tmp_path / "lengths.npz"
    for _ in range(2):  # measured, then read from the file
        caplog.clear()
        source = packed(encoder, conversations, lengths=path)
        assert source.num_cut == 2
        assert [record.getMessage() for record in caplog.records] == [
            f"2 of 8 conversations are longer than {LENGTH} tokens; the end of their text is cut"
        ]
    caplog.clear()
    exact = encode_conversation(conversations[0], encoder.tokenizer, TEMPLATE, TOKENS)
    fitting = dataclasses.replace(encoder, max_length=len(exact))
    assert not fitting(conversations[0]).is_cut
    assert packed(encoder, Listed(6)).num_cut == 0
    assert not caplog.records


def test_a_mixture_of_packed_sources_is_drawn_by_weight(encoder):
    parts = [packed(encoder, Listed(20)), packed(encoder, Listed(40))]
    batch = next(conversation_batches(Mixture(parts, [1.0, 1.0]), 4, seed=0))
    assert batch["ids"].shape == (4, LENGTH)
    assert len(list(documents(batch))) >= 4
    parts[1] = packed(encoder, max_images=3)
    with pytest.raises(ValueError, match="lines have the same images"):
        conversation_batches(Mixture(parts, [1.0, 1.0]), 4, seed=0)


def test_first_fit_puts_each_row_into_the_first_line_with_room():
    assert first_fit([5, 6, 5, 4, 2, 1], 10) == [[0, 2], [1, 3], [4, 5]]
    assert first_fit([5, 6, 5, 4], 10, [1, 0, 1, 1], 1) == [[0], [1, 3], [2]]
    # With one open line, the one before a new one is closed, though 5 more would fit it.
    assert first_fit([5, 6, 5, 4], 10, max_open=1) == [[0], [1], [2, 3]]
    assert first_fit([], 10) == []
    with pytest.raises(ValueError, match="got row 1 with 11 and 0"):
        first_fit([1, 11], 10)
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 100, 500).tolist()
    for most in (None, 8):
        lines = first_fit(lengths, 100, max_open=most)
        assert sorted(i for line in lines for i in line) == list(range(500))
        assert max(sum(lengths[i] for i in line) for line in lines) <= 100
    assert len(first_fit(lengths, 100)) <= len(first_fit(lengths, 100, max_open=8))


@pytest.mark.parametrize(
    ("length", "bucket"),
    [(1, 128), (128, 128), (129, 256), (1000, 1024), (1025, 1280), (2048, 2048), (2049, 2560)],
)
def test_lengths_are_rounded_up_to_buckets(length, bucket):
    assert bucket_length(length) == bucket


def test_there_are_few_buckets_and_little_padding():
    buckets = [bucket_length(length) for length in range(1, 2**15)]
    assert len(set(buckets)) < 40
    assert max(b / n for n, b in enumerate(buckets, 1) if n > 512) <= 1.25
    with pytest.raises(ValueError, match="length of at least 1"):
        bucket_length(0)


def rows(*lengths, tokens=2):
    """Rows of text and one image each."""
    for length in lengths:
        places = np.full(length, -1, np.int32)
        places[:tokens] = np.arange(tokens)
        ids = np.arange(length, dtype=np.int32)
        yield Row(ids, ids, places, (f"image {length}",), tokens)


def test_what_a_batch_has_no_room_for_is_refused():
    with pytest.raises(ValueError, match="at most 4 tokens, got 5"):
        batch_rows(list(rows(5)), 4, 0)
    with pytest.raises(ValueError, match="at most 1 images in the batch, got 2"):
        batch_rows(list(rows(3, 4)), 4, 0, max_images=1)
    with pytest.raises(ValueError, match=r"one tokens_per_image, got \[2, 3\]"):
        batch_rows([*rows(4), *rows(4, tokens=3)], 4, 0)
    with pytest.raises(ValueError, match="fit 1 lines of 4 tokens, got 2 that need 2"):
        pack_rows(list(rows(3, 4)), 4, 0, num_lines=1)
    with pytest.raises(ValueError, match="'right', 'left'"):
        batch_rows(list(rows(3)), 4, 0, side="centre")


def test_an_image_that_cannot_be_read_raises_as_sources_do(encoder):
    conversations = Listed(2)
    conversations.rows[1] = Conversation.of(
        [("user", IMAGE), ("assistant", "a")], [(10_000,) * TOKENS], name="outside"
    )
    source = packed(encoder, conversations)
    with pytest.raises(BadSample, match="ids outside the codebook"):
        [source[i] for i in range(len(source))]

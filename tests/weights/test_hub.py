"""Weights by name, from a local stand-in of the Hugging Face hub."""

import dataclasses
import hashlib
import json
import pathlib
import socket

import numpy as np
import pytest
from huggingface_hub import constants

import toklip_jax.api  # before `names` puts another function in place of the one it hands on
from tests.weights.hub_stand_in import COMMIT, Hub, point_to, serving
from toklip_jax.cli.generate import main as generate
from toklip_jax.models.base import family_of, registered
from toklip_jax.models.releases import File, Release, Snapshot, readable_size
from toklip_jax.weights import catalogue, load_weights, read_weights
from toklip_jax.weights.catalogue import find_release, list_models, locate

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
FORMAT_1 = pathlib.Path(__file__).parent / "format_1"
TOKLIP = GOLDEN / "toklip_tiny" / "checkpoint.pt"
QWEN = GOLDEN / "qwen2_tiny" / "checkpoint_tied.safetensors"
TOKENIZER = FORMAT_1 / "toklip" / "tokenizer.json"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub that huggingface_hub takes for the real one, with an empty cache."""
    hub = Hub()
    with serving(hub) as address:
        point_to(address, tmp_path / "cache", monkeypatch)
        yield hub


@pytest.fixture
def names(monkeypatch):
    """`names(release, ...)` makes releases the catalogue's in place of the published ones."""

    def set_names(*releases):
        monkeypatch.setattr(catalogue, "list_models", lambda: list(releases))

    return set_names


def release(file, *, tokenizer=True, revision=None, name="tiny", repository="me/tiny"):
    beside = Snapshot("me/text", (File("tokenizer.json"),))
    snapshot = Snapshot(repository, (file,), revision)
    return Release(name, "A tiny TokLIP", "MIT", snapshot, tokenizer=beside if tokenizer else None)


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def tiny(hub, names):
    """A tiny TokLIP by name, with its text tokenizer in another repository."""
    hub.add("me/tiny", tiny__pt=TOKLIP)
    hub.add("me/text", tokenizer__json=TOKENIZER)
    file = File("tiny.pt", TOKLIP.stat().st_size, sha256(TOKLIP))
    names(release(file), release(File("other.pt"), name="other"))
    return hub


def test_a_name_gives_the_model_with_its_text_tokenizer(tiny):
    toklip = toklip_jax.load("tiny")
    (text,) = toklip._token_ids(["a dog"])
    assert text.shape == (toklip.config.text.context_length,)
    np.testing.assert_array_equal(
        toklip.params["logit_scale"], toklip_jax.load(TOKLIP).params["logit_scale"]
    )
    assert sorted(tiny.downloads) == ["tiny.pt", "tokenizer.json"]


def test_what_is_fetched_once_is_not_fetched_again(tiny, monkeypatch):
    first = locate("tiny")
    first.tokenizer()
    count = len(tiny.downloads)
    assert locate("tiny").path == first.path
    assert len(tiny.downloads) == count
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert locate("tiny").path == first.path
    assert sha256(locate("tiny").path) == sha256(TOKLIP)


def test_a_tokenizer_that_is_given_is_not_fetched(tiny):
    toklip_jax.load("tiny", tokenizer=TOKENIZER)
    assert tiny.downloads == ["tiny.pt"]


def test_an_address_of_a_file_of_the_catalogue_brings_its_tokenizer_too(tiny):
    assert locate("hf://me/tiny/tiny.pt").tokenizer().name == "tokenizer.json"
    named, at_commit = locate("tiny").path, locate(f"hf://me/tiny@{COMMIT}/tiny.pt").path
    assert named.samefile(at_commit)


def test_a_repository_with_several_files_lists_them(tiny):
    with pytest.raises(
        ValueError,
        match=r"got 2: name one of hf://me/tiny/tiny\.pt, hf://me/tiny/other\.pt$",
    ):
        toklip_jax.load("me/tiny")
    assert not tiny.requests


def test_a_repository_with_one_file_of_the_catalogue_is_that_file(hub, names):
    hub.add("me/tiny", tiny__pt=TOKLIP, README__md=TOKENIZER)
    names(release(File("tiny.pt"), tokenizer=False))
    assert sha256(locate("me/tiny").path) == sha256(TOKLIP)
    assert hub.downloads == ["tiny.pt"]


def test_a_repository_that_is_not_in_the_catalogue_is_asked_for_its_files(hub):
    hub.add("you/qwen", model__safetensors=QWEN, config__json=GOLDEN / "qwen2_tiny/config.json")
    hub.add("you/two", a__safetensors=QWEN, b__safetensors=QWEN)
    hub.add("you/none", README__md=TOKENIZER)
    path = locate("you/qwen").path
    assert sorted(each.name for each in path.parent.iterdir()) == [
        "config.json",
        "model.safetensors",
    ]
    assert path.parent.name == COMMIT  # pinned to the commit that was listed
    with pytest.raises(ValueError, match=r"hf://you/two/a\.safetensors, hf://you/two/b\.saf"):
        locate("you/two")
    with pytest.raises(ValueError, match=r"in https://huggingface\.co/you/none, got none that"):
        locate("you/none")


def test_a_converted_directory_loads_from_the_hub(hub):
    files = {path.name.replace(".", "__"): path for path in (FORMAT_1 / "vq").iterdir()}
    hub.add("you/vq", **files)
    model = toklip_jax.load("you/vq")
    assert model.config == load_weights(FORMAT_1 / "vq").config


def test_shards_are_fetched_as_their_index_names_them(hub, tmp_path, monkeypatch):
    from toklip_jax.files import write_sharded

    tensors = {f"x{i}": np.full((8, 8), i, np.float32) for i in range(4)}
    write_sharded(tmp_path, "model", tensors, max_shard_bytes=512)
    shards = {path.name.replace(".", "__"): path for path in tmp_path.glob("*.safetensors*")}
    assert len(shards) == 3
    hub.add("me/sharded", **shards)
    index = locate("me/sharded").path
    assert index.name == "model.safetensors.index.json"
    assert len(hub.downloads) == 3
    assert len(list(index.parent.glob("*.safetensors"))) == 2


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (File("tiny.pt", 5), r"expected 5 B of tiny\.pt from .*/resolve/main/tiny\.pt, got"),
        (File("tiny.pt", "1.23 GB"), r"expected 1\.23 GB of tiny\.pt .*@COMMIT/tiny\.pt'"),
        (
            File("tiny.pt", None, "0" * 64),
            r"expected the SHA-256 0{64} of tiny\.pt .*, got \w{64};",
        ),
    ],
)
def test_a_file_of_another_size_or_hash_is_refused_and_deleted(hub, names, file, message):
    hub.add("me/tiny", tiny__pt=TOKLIP)
    names(release(file))
    for _ in range(2):  # it isn't taken from the cache then
        with pytest.raises(ValueError, match=message):
            locate("tiny")
    assert len(hub.downloads) == 2


def test_a_file_that_the_hub_announces_by_another_hash_is_refused(hub, names):
    hub.add("me/tiny", tiny__pt=TOKLIP)
    hub.announced["tiny.pt"] = "ab" * 32
    names(release(File("tiny.pt")))
    with pytest.raises(ValueError, match=rf"expected the SHA-256 {'ab' * 32} of tiny\.pt"):
        locate("tiny")


def test_a_size_is_compared_as_its_page_rounds_it(hub, names):
    hub.add("me/tiny", tiny__pt=TOKLIP)
    names(release(File("tiny.pt", readable_size(TOKLIP.stat().st_size))))
    assert locate("tiny").path.is_file()


def test_a_download_that_breaks_off_is_resumed(tiny, monkeypatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 50_000)  # a part of one is lost
    tiny.cut = 100_000
    assert sha256(locate("tiny").path) == sha256(TOKLIP)
    assert [each[2] for each in tiny.requests if each[2]] == ["bytes=100000-"]


def test_a_missing_file_or_commit_or_repository_says_which(hub, names):
    hub.add("me/tiny", tiny__pt=TOKLIP)
    names(release(File("gone.pt")))
    with pytest.raises(FileNotFoundError, match=r"expected gone\.pt in .*/me/tiny, found none"):
        locate("tiny")
    with pytest.raises(FileNotFoundError, match=r"the commit or branch 'old' of .*/me/tiny"):
        locate("hf://me/tiny@old/tiny.pt")
    with pytest.raises(
        FileNotFoundError, match=r"public model at .*/nobody/nothing, found neither"
    ):
        locate("hf://nobody/nothing/x.pt")
    with pytest.raises(ValueError, match="expected hf://owner/name, hf://owner/name/file or"):
        locate("hf://nothing")


def test_a_gated_repository_says_to_accept_the_licence_and_to_log_in(tiny):
    tiny.gated.add("me/tiny")
    with pytest.raises(ValueError, match=r"accept the licence on that page, log in with `hf auth"):
        toklip_jax.load("tiny")
    tiny.status = 401
    with pytest.raises(ValueError, match=r"log in with `hf auth"):
        toklip_jax.load("tiny")


def test_offline_all_files_to_fetch_by_hand_are_listed(tiny, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError) as caught:
        toklip_jax.load("tiny")
    head, first, second, last = str(caught.value).split("\n")
    assert head.endswith("the hub does not answer): fetch these files by hand,")
    size = readable_size(TOKLIP.stat().st_size)
    assert first == f"  https://huggingface.co/me/tiny/resolve/main/tiny.pt ({size})"
    assert second == "  https://huggingface.co/me/text/resolve/main/tokenizer.json"
    assert last.endswith('load("DIRECTORY/tiny.pt", tokenizer="DIRECTORY/tokenizer.json")')
    with pytest.raises(FileNotFoundError, match=r"name a file, as hf://you/qwen/FILE, or pass a"):
        locate("you/qwen")
    assert not tiny.requests


def test_without_a_network_it_is_the_same_error(tiny, tmp_path, monkeypatch):
    with socket.socket() as closed:
        closed.bind(("localhost", 0))
        address = f"http://localhost:{closed.getsockname()[1]}"
    point_to(address, tmp_path / "empty", monkeypatch)
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between huggingface_hub's tries
    with pytest.raises(FileNotFoundError, match=r"got neither .*: fetch these files by hand"):
        locate("tiny")


def test_a_local_path_wins_over_a_name(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").write_bytes(QWEN.read_bytes())
    (tmp_path / "runs").mkdir()
    assert locate("tiny").path == pathlib.Path("tiny")
    assert locate(pathlib.Path("other")).path == pathlib.Path("other")
    with pytest.raises(FileNotFoundError, match="expected a checkpoint at runs/missing, found"):
        toklip_jax.load("runs/missing")
    with pytest.raises(FileNotFoundError, match=r"found nothing: check the path, or pass `load`"):
        toklip_jax.load("missing/tiny.pt")
    assert not tiny.requests


@pytest.mark.parametrize("name", ["toklip_s_256", "TokLIP-S-256", "toklip-s-265"])
def test_a_misspelt_name_suggests_the_nearest(name):
    with pytest.raises(FileNotFoundError, match=r"did you mean 'toklip-s-256'\?"):
        toklip_jax.load(name)
    with pytest.raises(ValueError, match=r"did you mean 'toklip-s-256'\?"):
        find_release("toklip-s-25")


def test_what_load_has_no_use_for_is_not_fetched(hub):
    with pytest.raises(ValueError, match=r"of kind teacher: TokLIP's training starts from it"):
        toklip_jax.load("siglip2-so400m-16-256")
    with pytest.raises(ValueError, match=r"got toklip-s-256, of kind toklip"):
        locate("toklip-s-256", ("text_encoder",))
    with pytest.raises(ValueError, match=r"fetch them by hand from https://heibox"):
        toklip_jax.load("taming-f16-16384")
    assert not hub.requests


def test_a_generator_takes_names_for_its_parts(hub, names):
    hub.add("me/gpt", gpt__safetensors=GOLDEN / "gpt_c2i_tiny/checkpoint.safetensors")
    hub.add("me/tiny", tiny__pt=TOKLIP)
    gpt = release(File("gpt.safetensors"), tokenizer=False, name="gpt", repository="me/gpt")
    gpt = dataclasses.replace(gpt, options={"grid": 4})
    names(gpt, release(File("tiny.pt"), tokenizer=False))
    generator = toklip_jax.load("gpt", vq="tiny")
    assert (
        generator.config
        == toklip_jax.load(GOLDEN / "gpt_c2i_tiny/checkpoint.safetensors", vq=TOKLIP).config
    )


def test_the_command_that_draws_takes_names(hub, names, tmp_path):
    hub.add("me/gpt", gpt__safetensors=GOLDEN / "gpt_c2i_tiny/checkpoint.safetensors")
    names(release(File("gpt.safetensors"), tokenizer=False, name="gpt", repository="me/gpt"))
    flags = ["--num=1", "--temperature=0", "--cfg-scale=1", f"--output={tmp_path / 'out'}"]
    assert generate(["--weights=gpt", *flags]) == 0
    settings = json.loads((tmp_path / "out" / "samples.json").read_text())
    assert settings["weights"] == sha256(GOLDEN / "gpt_c2i_tiny/checkpoint.safetensors")


def test_the_catalogue_is_sound():
    releases = list_models()
    names = [each.name for each in releases]
    assert len(set(names)) == len(names) > 40
    files = [(each.files.repository, each.files.files[0].name) for each in releases if each.files]
    assert len(set(files)) == len(files)
    for each in releases:
        assert each.name == each.name.lower()
        assert "/" not in each.name
        assert each.licence
        assert each.link.startswith("https://")
        for part in each.snapshots:
            assert part.revision is None or len(part.revision) == 40
            for file in part.files:
                assert file.sha256 is None or len(file.sha256) == 64
                assert not isinstance(file.size, str) or readable_size(_bytes(file)) == file.size


def _bytes(file):
    number, unit = file.size.split()
    return float(number) * {"MB": 1e6, "GB": 1e9}[unit]


def test_every_family_with_published_weights_is_in_the_catalogue():
    ours = [f for f in registered() if f.config.__module__.startswith("toklip_jax.")]
    without = {family.name for family in ours if not family.releases}
    assert without == {"conv_vq", "inception", "multimodal"}
    assert family_of(read_weights(TOKLIP).config).releases

"""What the multimodal task compares of its data with its model, and what its source refuses."""

import dataclasses
import json

import numpy as np
import PIL.Image
import pytest

from tests.models.tiny_multimodal import CODES, COMPUTE, CONFIG, VISION, VQ, params_of
from toklip_jax.data.cache import Field, Header, lay_out
from toklip_jax.data.sources import SourceConfig
from toklip_jax.data.text import train_tokenizer
from toklip_jax.demo.questions import QUESTIONS
from toklip_jax.models.multimodal.config import MultimodalConfig
from toklip_jax.models.serialization import config_to_dict
from toklip_jax.tasks.base import StageConfig
from toklip_jax.tasks.multimodal.fitting import check_data
from toklip_jax.tasks.multimodal.objective import MultimodalObjective
from toklip_jax.tasks.multimodal.task import MULTIMODAL
from toklip_jax.training.loop_config import LoopConfig
from toklip_jax.training.optimizer import OptimizerConfig
from toklip_jax.weights.fingerprints import fingerprint_params

COUNT = 4  # places of an image of the tiny model
EMOJI = {"kind": "emoji"}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "own.json"
    tokenizer = train_tokenizer(["a b"], 300)
    tokenizer.save(str(path))
    return path, tokenizer.get_vocab_size()


@pytest.fixture(scope="module")
def objective(tokenizer):
    language_model = dataclasses.replace(CONFIG.language_model, vocab_size=tokenizer[1])
    config = dataclasses.replace(CONFIG, language_model=language_model)
    return MultimodalObjective(config, COMPUTE)


def stage_of(source):
    section = {"model": {}, "init": {"model": "whole"}}
    return StageConfig(
        "answer",
        "multimodal",
        MULTIMODAL.read(section, "answer"),
        {},
        OptimizerConfig(),
        LoopConfig(steps=1),
        2,
        SourceConfig.from_plain(source, "answer.source"),
    )


def conversations(tokenizer, **changes):
    common = {"text_tokenizer": str(tokenizer[0]), "template": "plain", "tokens_per_image": COUNT}
    return {"kind": "conversations", "length": 64} | common | changes


def check(source, objective):
    check_data(stage_of(source), objective, params_of())


@pytest.fixture
def cached(tokenizer, tmp_path):
    """(A source that reads a cache, the cache's header)."""
    header = Header(
        num_samples=1,
        records_per_shard=1,
        crops=1,
        image_size=16,
        grid=(2, 2),
        codes_per_place=1,
        codebook_sizes=(CODES,),
        context_length=0,
        fields=lay_out([Field("ids", "uint16", (COUNT,))]),
        has_captions=False,
        hashes={"vq": fingerprint_params(params_of()["tokenizer"]["vq"])},
        transform={"augment": {}, "resize": "squash", "seed": 0},
        compute={"vq_dtype": COMPUTE.vq_dtype},
        source={},
        vq=json.loads(json.dumps(config_to_dict(VQ))),
    )
    header.save(tmp_path)
    folder = {"kind": "image_folder", "root": "none"}
    return conversations(tokenizer, path="x.json", cache=str(tmp_path), source=folder), header


def test_a_cache_of_the_models_own_whole_images_fits(cached, objective):
    source, header = cached
    check(source, objective)
    # Arrays that nothing augments are whole.
    dataclasses.replace(header, transform={"augment": {}, "resize": ""}).save(source["cache"])
    check(source | {"source": EMOJI}, objective)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hashes": {"vq": "0" * 64}}, r"this run's vq .* name in answer\.init\.model"),
        (
            {"vq": {**config_to_dict(VQ), "is_l2_normalised": False}},
            "the model's VQ tokenizer, got those of",
        ),
        ({"grid": (4, 1)}, r"grid \(2, 2\), the model's, got \(4, 1\)"),
        ({"codebook_sizes": (64,)}, rf"codebook_sizes \({CODES},\), the model's, got \(64,\)"),
        ({"compute": {"vq_dtype": "bfloat16"}}, "vq_dtype float32, got bfloat16"),
        ({"transform": {"resize": ""}}, r"cropped \(at random\) .* encode\.resize='squash'"),
        ({"transform": {"resize": "crop"}}, r"cropped \(crop\) .* encode\.resize='squash'"),
    ],
)
@pytest.mark.parametrize("is_mixed", [False, True])
def test_a_cache_that_does_not_fit_is_refused(cached, objective, changes, message, is_mixed):
    source, header = cached
    dataclasses.replace(header, **changes).save(source["cache"])
    if is_mixed:
        source = {"kind": "mixture", "parts": (source | {"weight": 1.0},)}
    with pytest.raises(ValueError, match=message):
        check(source, objective)


def test_augmented_arrays_are_not_whole(cached, objective):
    source, header = cached
    transform = {"augment": {"max_shift": 2}, "resize": ""}
    dataclasses.replace(header, transform=transform).save(source["cache"])
    with pytest.raises(ValueError, match="cropped"):
        check(source | {"source": EMOJI}, objective)


def test_ids_are_refused_by_a_model_that_reads_pixels(cached, objective):
    config = MultimodalConfig(
        objective.model_config.language_model, image_tower=VISION, reads=("pixels",)
    )
    with pytest.raises(ValueError, match=r"answer\.source\.images for a model that reads 'pixels'"):
        check(cached[0], MultimodalObjective(config, COMPUTE))


def test_ids_of_parquet_are_below_the_models_codebook_size(tokenizer, objective):
    source = conversations(tokenizer, messages="x", codebook_size=CODES)
    check(source, objective)
    with pytest.raises(ValueError, match=rf"of \({CODES},\), got answer\.source\.codebook_size 64"):
        check(source | {"codebook_size": 64}, objective)


def test_places_of_images_are_compared_for_sources_of_every_kind(tokenizer, objective):
    own = {"kind": QUESTIONS.name, "text_tokenizer": str(tokenizer[0])}
    check(own | {"tokens_per_image": COUNT}, objective)
    with pytest.raises(ValueError, match=r"answer\.source\.tokens_per_image 4, .*, got 64"):
        check(own, objective)  # its default
    parts = (own | {"weight": 1.0, "tokens_per_image": COUNT}, own | {"weight": 1.0})
    with pytest.raises(ValueError, match=r"answer\.source\.parts\[1\]\.tokens_per_image 4"):
        check({"kind": "mixture", "parts": parts}, objective)


@pytest.fixture
def photo(tmp_path):
    """A source of one photo, which its EXIF data turn by a quarter, and its pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    exif = PIL.Image.Exif()
    exif[PIL.ExifTags.Base.Orientation] = 6
    (tmp_path / "images").mkdir()
    PIL.Image.fromarray(pixels).save(tmp_path / "images" / "a.png", exif=exif)
    turns = [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "a"}]
    rows = [{"id": "a", "image": "a.png", "conversations": turns}]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    paths = {"path": str(tmp_path / "rows.json"), "images": str(tmp_path / "images")}
    return paths | {"image_size": 16}, pixels


def test_images_are_turned_as_their_exif_data_say_where_that_is_asked_for(photo, tokenizer):
    source, pixels = photo
    plain = conversations(tokenizer, **source)
    (line,) = SourceConfig.from_plain(plain).open()
    np.testing.assert_array_equal(line["images"][0], pixels)
    (line,) = SourceConfig.from_plain(plain | {"exif_orientation": True}).open()
    np.testing.assert_array_equal(line["images"][0], np.rot90(pixels, -1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "either images"),
        ({"images": "x", "path": "y", "messages": "z"}, "either images"),
        ({"images": "x"}, "expected path"),
        ({"messages": "x", "path": "y"}, "expected path"),
        ({"messages": "x"}, "expected codebook_size"),
        ({"messages": "x", "exif_orientation": True}, "no exif_orientation with messages"),
    ],
)
def test_a_source_is_of_one_form(tokenizer, changes, message):
    with pytest.raises(ValueError, match=message):
        SourceConfig.from_plain(conversations(tokenizer, **changes)).open()

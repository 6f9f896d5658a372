"""Grids that are no squares, several ids a place, and codebooks that are counted apart."""

import dataclasses
import html
import json
import re
import types

import numpy as np
import pytest

from toklip_jax.api import Tokenizer, load
from toklip_jax.report.files import Run
from toklip_jax.report.gallery import Gallery, make_gallery
from toklip_jax.report.ids import ids_section
from toklip_jax.report.maps import map_section
from toklip_jax.report.markup import tag
from toklip_jax.report.output import Output
from toklip_jax.report.phrases import Phrases, text_maps
from toklip_jax.report.pool import Pool
from toklip_jax.report.reconstructions import reconstruction_section
from toklip_jax.report.usage import CountedIds, usage_section
from toklip_jax.report.wording import codebook_text, ids_text, size_text

GRID = (3, 2)
IDS = np.arange(24).reshape(2, 6, 2)  # two images of six places of two ids


@pytest.fixture
def gallery():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 24, 16, 3), np.uint8)
    vectors = rng.normal(size=(2, 6, 5)).astype(np.float32)
    return Gallery(
        pool=Pool(images, ["cup", "key"], IDS, np.eye(2, dtype=np.float32), np.arange(2)),
        picks=np.arange(2),
        grid=GRID,
        images=images,
        restored=np.zeros((2, 24, 16, 3), np.float32),
        token_features=vectors,
        code_vectors=vectors,
        vocabulary=(),
        source_size=2,
    )


@pytest.mark.parametrize(("side", "is_one_a_row"), [(6, False), (8, True)])
def test_images_stand_in_one_column_where_two_grids_would_be_cut(
    gallery, tmp_path, side, is_one_a_row
):
    n = side * side
    vectors = np.zeros((2, n, 5), np.float32)
    pool = dataclasses.replace(gallery.pool, ids=np.full((2, n, 1), 1023))
    sizes = {"grid": (side, side), "code_vectors": vectors, "token_features": vectors}
    larger = dataclasses.replace(gallery, pool=pool, **sizes)
    section = ids_section(larger, Output(tmp_path))
    assert ('class="cards fine"' in str(tag("div", section.body))) == is_one_a_row


def test_ids_stand_at_their_places_of_the_grid(gallery, tmp_path):
    section = ids_section(gallery, Output(tmp_path))
    first, second = re.findall(r"<svg.*?</svg>", tag("div", section.body), flags=re.S)
    assert 'viewBox="0 0 52 78"' in first  # two places across, three down, of 26 units
    assert re.findall(r"<text.*?>(.*?)</text>", first) == [
        *("0·1", "2·3", "4·5"),
        *("6·7", "8·9", "10·11"),
    ]
    places = re.findall(r'<text x="([\d.]+)" y="([\d.]+)">', second)
    assert [tuple(float(v) // 26 for v in place) for place in places] == [
        (x, y) for y in range(3) for x in range(2)
    ]
    assert "The ids of the 6 places of cup: 0·1, 2·3" in first
    assert "2 ids for each patch, one from each codebook" in "".join(section.lead)


def test_ids_that_are_too_long_to_write_appear_on_pointing(gallery, tmp_path):
    pool = dataclasses.replace(gallery.pool, ids=IDS + 100_000)
    section = ids_section(dataclasses.replace(gallery, pool=pool), Output(tmp_path))
    body = tag("div", section.body)
    assert "<text" not in body
    assert "<title>100000·100001</title>" in body
    assert "point at a patch to read them" in "".join(section.lead)


def test_maps_have_the_shape_of_the_grid(gallery, tmp_path):
    phrases = Phrases(["one", "two"], np.eye(5, dtype=np.float32)[:2])
    maps = text_maps(phrases, gallery.token_features)
    body = tag("div", map_section(gallery, maps, Output(tmp_path)).body)
    assert re.findall(r'<canvas width="(\d+)" height="(\d+)"', body) == [("2", "3")] * 2
    assert len(list(tmp_path.glob("map-*.png"))) == 4


def test_reconstructions_say_how_many_ids_they_are_from(gallery, tmp_path):
    section = reconstruction_section(gallery, Output(tmp_path))
    assert "24 by 16 pixels, drawn again from their 12 ids alone" in section.lead


def test_videos_are_left_out_with_the_reason():
    vision = types.SimpleNamespace(grid=(2, 3, 2), size=(4, 24, 16))
    model = object.__new__(Tokenizer)
    model.config = types.SimpleNamespace(vision=vision)
    with pytest.raises(ValueError, match=r"takes videos \(4 by 24 by 16\), and this page shows im"):
        make_gallery(model, {"kind": "synthetic"})


def test_each_codebook_has_its_chart_and_row(tmp_path):
    details = {"code_counts": [[3, 1, 0, 0], [2, 2]]}
    results = {"evaluations": {"pictures": {"details": details}}}
    section = usage_section(Run(tmp_path, {}, results, {}), None)
    assert "4 of 6 codes (66.7%) of 2 codebooks are used in the images of pictures" in section.lead
    body = tag("div", section.body)
    assert "<td>2 of 4</td>" in body
    assert "<td>2 of 2</td><td>2.0</td>" in body
    assert re.findall("<b>(.*?)</b>", body) == ["Codebook 1", "Codebook 2"]


def test_the_page_s_own_ids_are_counted_where_no_evaluation_did(tmp_path):
    own = CountedIds(np.array([[[0, 1], [1, 1]]]), (2, 3))
    section = usage_section(Run(tmp_path, {}, {}, {}), own)
    assert "3 of 5 codes" in section.lead
    assert "in the 1 images that this page looks at" in section.lead


def test_sizes_and_codebooks_are_said_in_words():
    assert size_text((24, 16)) == "24 by 16 pixels"
    assert size_text((8, 24, 16)) == "8 frames of 24 by 16 pixels"
    assert codebook_text((1024,)) == "1,024 codes"
    assert codebook_text((8, 8)) == "2 codebooks of 8 codes"
    assert codebook_text((4, 8, 16)) == "codebooks of 4, 8 and 16 codes"
    assert ids_text(16, (64,)) == "16 of 64 codes"
    assert ids_text(6, (4, 8)) == "6 times 2, from codebooks of 4 and 8 codes"


def test_a_model_of_one_id_a_place_has_its_grid_from_its_config(report):
    toklip = load(report.workdir / "toklip" / "weights")
    source = json.loads((report.workdir / "config.json").read_text())["report"]["source"]
    found = make_gallery(toklip, source, num_images=2)
    assert found.grid == toklip.config.vision.grid == (4, 4)
    assert found.ids.shape == (2, 16)
    assert "64 by 64 pixels, ids: 16 of 64 codes" in html.unescape(report.text)

"""Names for the images, and images for a name."""

import html
import json
import re

import numpy as np
import PIL.Image
import pytest

from toklip_jax.api import load
from toklip_jax.report import write_report
from toklip_jax.report.gallery import Gallery, make_gallery
from toklip_jax.report.markup import tag
from toklip_jax.report.naming import are_right, naming_section
from toklip_jax.report.output import Output
from toklip_jax.report.phrases import Phrases
from toklip_jax.report.pool import Pool

RIGHT = '<span class="right" role="img" aria-label="right">✓</span>'
TITLES = ("Half-moon", "", "sun!", "HALFMOON")
TEXTS = ["rain", "snow", "fog", "hail", "wind", "sun", "halfmoon"]
# Cosines with the texts, of which each is a direction.
COSINES = np.array([
    [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.05],
    [0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0],
    [0.0, 0.1, 0.2, 0.3, 0.4, 0.7, 0.0],
    [0.0, 0.0, 0.0, 0.0, 0.0, 0.2, 0.9],
], np.float32)  # fmt: skip


@pytest.fixture
def gallery():
    """Four images, of which the first three are shown."""
    images = np.zeros((4, 8, 8, 3), np.uint8)
    pool = Pool(images, list(TITLES), np.zeros((4, 4), np.int64), COSINES, np.arange(4))
    shown = np.zeros((3, 8, 8, 3), np.float32)
    tokens = np.zeros((3, 4, 7), np.float32)
    return Gallery(
        pool=pool,
        picks=np.arange(3),
        grid=(2, 2),
        images=images[:3],
        restored=shown,
        token_features=tokens,
        code_vectors=tokens,
        vocabulary=tuple(TEXTS),
        source_size=4,
    )


@pytest.fixture
def section(gallery, tmp_path):
    phrases = Phrases(TEXTS, np.eye(7, dtype=np.float32))
    return tag("div", naming_section(gallery, phrases, Output(tmp_path)).body)


def answers(text):
    """Place, phrase, cosine and mark of every answer, image by image."""
    pattern = r"<small>(\d+)</small><span>(.*?)</span><span>(.*?)</span><small>(.*?)</small></li>"
    lists = re.findall("</figcaption><ol>(.*?)</ol>", text, flags=re.S)
    found = [re.findall(pattern, one, flags=re.S) for one in lists]
    return [[(int(n), p, float(c), mark == RIGHT) for n, p, mark, c in one] for one in found]


def test_an_image_has_its_five_nearest_phrases_best_first_and_the_right_one_marked(section):
    _, unnamed, sun = answers(section)
    assert sun == [(1, "sun", 0.7, True), (2, "wind", 0.4, False), (3, "hail", 0.3, False),
                   (4, "fog", 0.2, False), (5, "snow", 0.1, False)]  # fmt: skip
    assert [phrase for _, phrase, *_ in unnamed] == ["rain", "snow", "fog", "hail", "wind"]
    assert not any(is_right for *_, is_right in unnamed)


def test_a_right_phrase_beyond_the_fifth_stands_below_with_its_place(section):
    moon = answers(section)[0]
    assert [place for place, *_ in moon] == [1, 2, 3, 4, 5, 7]
    assert moon[-1] == (7, "halfmoon", 0.05, True)
    assert not any(is_right for *_, is_right in moon[:-1])


def test_titles_find_images_of_the_whole_pool_with_the_right_ones_marked(section):
    rows = re.findall(r"<li><p>(.*?)</p><div>(.*?)</div></li>", section, flags=re.S)
    assert [re.sub("<.*?>", "", heading) for heading, _ in rows] == [
        "“sun” right: 1 of 4",
        "“halfmoon” right: 2 of 4",
    ]
    notes = [re.findall(r"<figcaption><small>(\S+) (.*?)</small>", found) for _, found in rows]
    assert [[(float(score), mark == RIGHT) for score, mark in row] for row in notes] == [
        [(0.7, True), (0.6, False), (0.2, False), (0.1, False)],
        [(0.9, True), (0.05, True), (0.0, False), (0.0, False)],
    ]


def test_texts_find_nothing_where_no_title_is_a_phrase(gallery, tmp_path):
    phrases = Phrases(["tea", "milk"], np.eye(7, dtype=np.float32)[:2])
    section = tag("div", naming_section(gallery, phrases, Output(tmp_path)).body)
    assert "The images nearest to a text" not in section
    assert [len(row) for row in answers(section)] == [2, 2, 2]
    assert RIGHT not in section


def test_titles_equal_phrases_but_for_case_and_punctuation():
    assert are_right(["A  Red, cup.", "cups"], ["a red cup", "cup"]).tolist() == [
        [True, False],
        [False, False],
    ]
    assert not are_right(["", "?!"], ["!", "cup"]).any()


def test_the_page_names_its_images_among_its_phrases(report):
    """Every image's class is among the five phrases that the page has."""
    found = answers(report.text)
    assert [len(row) for row in found] == [5, 5, 5]
    data = json.loads(re.search(r'id="data">(.*?)</script>', report.text, flags=re.S)[1])
    titles = [
        html.unescape(t) for t in re.findall("<figcaption>([^<]*)</figcaption><ol>", report.text)
    ]
    for title, row in zip(titles, found, strict=True):
        cosines = [cosine for *_, cosine, _ in row]
        assert cosines == sorted(cosines, reverse=True)
        assert {html.unescape(phrase) for _, phrase, *_ in row} == set(data["phrases"])
        assert [html.unescape(phrase) for _, phrase, _, is_right in row if is_right] == [title]
    assert report.text.count("right: 3 of 9") == 3


def test_without_a_phrase_the_sections_of_texts_say_so(tmp_path, write_run):
    write_run(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    source = {"kind": "synthetic", "image_size": 64, "num_samples": 3}
    config["report"] = {"source": source, "phrases": []}
    (tmp_path / "config.json").write_text(json.dumps(config))
    text = write_report(tmp_path).read_text()
    assert text.count("Left out: there is no phrase: the source has no names") == 2


def test_images_are_resized_as_in_the_run_s_evaluations(report, tmp_path):
    toklip = load(report.workdir / "toklip" / "weights")
    (tmp_path / "wide").mkdir()
    pixels = np.zeros((64, 128, 3), np.uint8)
    pixels[:, 32:96] = 255
    PIL.Image.fromarray(pixels).save(tmp_path / "wide" / "a.png")
    source = {"kind": "image_folder", "root": str(tmp_path)}
    squashed, cropped = (make_gallery(toklip, source, name).images for name in ("squash", "crop"))
    assert (cropped == 255).all()
    assert (squashed[:, :, :12] == 0).all()
    with pytest.raises(ValueError, match="crop"):
        make_gallery(toklip, source, "crp")


def test_the_page_resizes_as_the_config_says(tmp_path, write_run):
    write_run(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"evaluation_resize": "crp"}))
    text = html.unescape(write_report(tmp_path).read_text())
    assert "the images can't be read: expected resize" in text

"""What is on a run's page, and what it says where something is missing."""

import base64
import dataclasses
import html
import html.parser
import io
import itertools
import json
import re

import numpy as np
import PIL.Image
import pytest

from toklip_jax.demo import EmojiSource
from toklip_jax.demo.artwork import Concept
from toklip_jax.demo.emoji import EmojiSet
from toklip_jax.evaluation.published import published_like
from toklip_jax.models.toklip.sizes import SIZES as TOKLIP_SIZES
from toklip_jax.report import write_report
from toklip_jax.report.charts import confused_labels
from toklip_jax.report.command import main
from toklip_jax.report.files import read_run
from toklip_jax.report.markup import tag
from toklip_jax.report.phrases import leading_directions
from toklip_jax.report.rasters import absolute_errors, code_colors, data_uri
from toklip_jax.report.results import results_section

SECTIONS = ["results", "training", "reconstructions", "ids", "where", "naming",
            "neighbours", "codes", "confusion", "method"]  # fmt: skip
VOID = {"meta", "link", "img", "input", "br", "use", "path"}


class Reader(html.parser.HTMLParser):
    """Elements in order, and whether all are closed in turn."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.text = [], [], ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, name, attributes):
        self.elements.append((name, dict(attributes)))
        if name not in VOID:
            self.open.append(name)

    def handle_startendtag(self, name, attributes):
        self.elements.append((name, dict(attributes)))

    def handle_endtag(self, name):
        if name not in VOID:
            assert self.open.pop() == name

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("script", "style"):
            self.text += data

    def all(self, name):
        return [attributes for found, attributes in self.elements if found == name]


@pytest.fixture(scope="module")
def page(report):
    return Reader(report.text)


def test_the_page_has_all_sections_in_order_with_headings(report, page):
    assert report.path == report.workdir / "report" / "index.html"
    assert [a["id"] for a in page.all("section")] == SECTIONS
    levels = [int(name[1]) for name, _ in page.elements if re.fullmatch("h[1-6]", name)]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert "Left out" not in page.text
    assert page.all("html")[0]["lang"] == "en"
    assert "<title>TokLIP: run &lt;1&gt;" in report.text


def test_the_page_asks_for_nothing_outside_it(report, page):
    sources = [a[key] for name, a in page.elements for key in ("src", "href") if key in a
               and name != "a"]  # fmt: skip
    sources += re.findall(r"url\(([^)]*)\)", report.text)
    assert sources
    assert all(source.startswith("data:") for source in sources)
    policy = next(a["content"] for a in page.all("meta") if "http-equiv" in a)
    assert policy.startswith("default-src 'none'; img-src data:")


def test_links_lead_to_the_page_and_to_the_run_s_files(report, page):
    links = [a["href"] for a in page.all("a") if not a["href"].startswith("data:")]
    ids = {a["id"] for _, a in page.elements if "id" in a}
    files = [link for link in links if not link.startswith("#")]
    assert {link[1:] for link in links if link not in files} <= ids
    assert files == ["../results.json", "../config.json"]
    assert all((report.path.parent / file).exists() for file in files)


def test_links_start_where_the_page_is(tmp_path):
    workdir = tmp_path / "run <1>"
    workdir.mkdir()
    (workdir / "config.json").write_text("{}")
    text = write_report(workdir, output=tmp_path / "pages" / "page.html").read_text()
    link = re.search('<a href="([^"]*)">config.json', text)[1]
    assert link == "../run%20%3C1%3E/config.json"


def test_what_a_run_is_named_can_not_break_the_page(report, page):
    assert "run <1>" in page.text
    assert "run <1>" not in report.text
    assert "red & <b>round</b>" in page.text
    assert "<b>round" not in report.text
    assert "</script>" not in tag("p", "</script>", title='"</script>')


def test_every_picture_says_what_it_shows_and_ids_are_unique(page):
    assert all(a["alt"] for a in page.all("img"))
    assert all(a["aria-label"] for _, a in page.elements if a.get("role") in ("img", "region"))
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    assert page.all("label")[0]["for"] in ids


def test_tables_show_errors_baselines_and_the_best_of_the_trained(report):
    text = html.unescape(report.text)
    assert "<td><strong>0.625</strong><small> ± 0.010</small></td>" in text
    assert "<td>0.900</td>" in text  # chance is better, but no model of ours
    assert "0.457<small> ± 0.012</small>" in text  # the only one: not the best of several
    assert "image→text R@1" in text
    assert "Images: 9 of test. Not evaluated: 2 broken." in text


def test_the_head_says_weights_devices_and_date(page):
    for fact in ("2026-01-02 03:04", "jax 1.2.3", "2 abacus", "abababababababab", "16 of 64 codes"):
        assert fact in page.text


def test_the_head_says_what_this_is_and_how_long_it_took(page):
    head = page.text.partition("Results are")[0]
    assert "TokLIP, a visual tokenizer: an image of 64 by 64 pixels becomes 16 ids" in head
    assert "Trained in 6 min on 2 abacus (VQ 3 min, TokLIP 3 min)" in head
    assert "commit 0123456789ab" in head


def test_the_numbers_that_matter_stand_beside_those_of_the_others(report):
    cards = re.search(r'<ul class="numbers">.*?</ul></li></ul>', report.text, flags=re.S)[0]
    found = re.findall(r"<small>([^<±]*)</small><p><strong>(.*?)</strong>", cards)
    assert [(html.unescape(name), value) for name, value in found] == [
        ("classes: image→text R@1", "0.457"),  # the teacher's: TokLIP has none
        ("classes: top-1", "0.625"),
        ("codes: PSNR, dB", "20.00"),
    ]
    bars = re.findall(r'<span>(\w+)</span><span class="bar"><i style="width:(.*?)%">', cards)
    assert [bar for bar in bars if bar[0] == "chance"] == [("chance", "0.2"), ("chance", "100.0")]
    assert ("TokLIP", "69.4") in bars  # 0.625 of 0.9


def test_charts_take_the_colours_of_the_page(report):
    charts = re.findall(r'<div class="chart".*?</svg>', report.text, flags=re.S)
    assert len(charts) == 11  # 3 of VQ, 4 and 3 of TokLIP, and the codes'
    for chart in charts:
        assert 'class="line look-0' in chart
        assert not re.search(r"#[0-9a-f]{3}|rgb|fill=|stroke=", chart)


def test_use_of_codes_is_of_the_evaluation(page):
    assert "3 of 64 codes (4.7%) are used in the images of codes; 61 are dead" in page.text


def test_confusion_is_in_per_cent_of_rows(report, page):
    assert "right answers, 67% of all images" in page.text
    assert re.search(
        r'<th scope="row">green</th><td></td><td style="[^"]*45%[^"]*">100<', report.text
    )
    assert "Most frequent errors" in page.text
    assert "TokLIP in classes: each row is a true class" in page.text


def test_ids_neighbours_and_maps_are_of_the_model(report, page):
    data = json.loads(re.search(r'id="data">(.*?)</script>', report.text, flags=re.S)[1])
    assert data["phrases"][:2] == ["an extra phrase", "a round red thing"]
    assert {"green", "blue", "red & <b>round<b>"} <= set(data["phrases"])
    tokens = np.frombuffer(base64.b64decode(data["token_features"]), "<f2")
    tokens = tokens.reshape(3, data["tokens"], data["directions"]).astype(np.float32)
    np.testing.assert_allclose(np.linalg.norm(tokens, axis=-1), 1, atol=1e-2)
    assert len(data["colors"]) == 4 * 256
    assert len(page.all("canvas")) == 3
    assert page.text.count("among the 9 images of the source") == 2


def test_pictures_lie_beside_the_page(report):
    files = {path.name for path in report.path.parent.iterdir()}
    assert {"index.html", "config.py", "reconstructions.png", "map-0-0.png", "map-1-2.png"} <= files
    assert not [name for name in files if name.startswith(".")]


def test_a_run_with_a_config_alone_has_a_page_that_says_so(tmp_path):
    (tmp_path / "config.json").write_text('{"stages": ["vq"]}')
    text = Reader(write_report(tmp_path).read_text()).text
    assert "Left out: the run has not been evaluated yet." in text
    assert text.count("Left out: the run has no weights of TokLIP") == 5
    assert "Left out: this run has no log of its training." in text


def test_without_a_text_tokenizer_or_images_only_their_sections_are_missing(tmp_path, write_run):
    write_run(tmp_path, has_tokenizer=False)
    config = json.loads((tmp_path / "config.json").read_text())
    files = sorted((tmp_path / "images").rglob("*.png"))
    rows = [f"{file.relative_to(tmp_path)},caption  no. {i}" for i, file in enumerate(files)]
    (tmp_path / "table.csv").write_text("\n".join(["image,text", *rows]))
    config["report"]["source"] = {"kind": "table", "path": str(tmp_path / "table.csv")}
    (tmp_path / "config.json").write_text(json.dumps(config))
    text = Reader(write_report(tmp_path).read_text()).text
    assert text.count("Left out") == 2
    assert text.count("these weights hold no text tokenizer") == 2
    assert "caption no. 4" in text
    config["report"]["source"] = {"kind": "image_folder", "root": str(tmp_path / "nowhere")}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "results.json").unlink()
    text = Reader(write_report(tmp_path, output=tmp_path / "other" / "page.html").read_text()).text
    assert text.count("Left out: the images can't be read: expected a directory of classes") == 5
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["page.html"]


def test_the_command_says_where_the_page_is_and_what_is_wrong(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert "expected a run with a config.json" in capsys.readouterr().err
    (tmp_path / "config.json").write_text("{}")
    assert main([str(tmp_path), f"--output={tmp_path / 'page.html'}", "--phrase=a cat"]) == 0
    assert f"the report is {tmp_path / 'page.html'}" in capsys.readouterr().out
    (tmp_path / "results.json").write_text("[]")
    assert main([str(tmp_path)]) == 2
    assert "results.json is damaged (expected an object, got a list)" in capsys.readouterr().err


def test_models_of_public_sizes_stand_beside_what_was_published(report):
    rows = published_like(TOKLIP_SIZES["toklip_l_384"])
    assert [(row.model, row.imagenet_top1) for row in rows] == [
        ("TokLIP L", 80.0),
        ("SigLIP 2 So400m/16", 84.1),
    ]
    assert [row.model for row in published_like(TOKLIP_SIZES["toklip_xl_512"])] == [
        "TokLIP XL",
        "SigLIP 2 So400m/16",
    ]
    for size, image_size in (("toklip_s_256", 512), ("toklip_xl_512", 256)):
        config = TOKLIP_SIZES[size]
        vision = dataclasses.replace(config.vision, image_size=image_size)
        resized = dataclasses.replace(config, vision=vision)  # on another VQ than the published one
        assert [row.model for row in published_like(resized)] == ["SigLIP 2 So400m/16"]
    assert published_like(TOKLIP_SIZES["tiny"]) == []
    section = results_section(read_run(report.workdir), TOKLIP_SIZES["toklip_s_256"])
    assert "64.06" in tag("div", section.body)


def test_fewer_directions_keep_the_similarities_they_can():
    rng = np.random.default_rng(0)
    low_rank = rng.normal(size=(50, 3)) @ rng.normal(size=(3, 40))
    basis, kept = leading_directions(low_rank.astype(np.float32), 3)
    text = rng.normal(size=(5, 40)).astype(np.float32)
    np.testing.assert_allclose((low_rank @ basis) @ (text @ basis).T, low_rank @ text.T, atol=1e-3)
    assert kept == pytest.approx(1)
    assert leading_directions(low_rank.astype(np.float32), 2)[1] < 1


def test_pictures_are_exact_where_small_and_light_where_large():
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    found = np.asarray(
        PIL.Image.open(io.BytesIO(base64.b64decode(data_uri(image, 32).split(",")[1])))
    )
    np.testing.assert_array_equal(found, image)
    assert data_uri(np.zeros((512, 512, 3), np.uint8), 256).startswith("data:image/webp")
    error = absolute_errors(image[None], image[None] / np.float32(127.5) - 1 + np.float32(2 / 255))
    np.testing.assert_allclose(error, 1, atol=1e-3)


def test_dark_text_is_legible_on_every_code():
    vectors = np.random.default_rng(0).normal(size=(4, 9, 8)).astype(np.float32)
    colors = code_colors(vectors)
    assert colors.shape == (4, 9, 3)
    assert min(contrast(color, (28, 29, 32)) for color in colors.reshape(-1, 3)) > 4.5


def test_text_is_legible_on_the_page_light_and_dark(report):
    themes = [
        {name: bytes.fromhex(value) for name, value in re.findall(r"--(\w+): #(\w{6})", block)}
        for block in re.findall(r":root \{.*?\}", report.text, flags=re.S)
    ]
    assert len(themes) == 2
    for theme in themes:
        for name in ("ink", "muted", "accent"):
            assert contrast(theme[name], theme["paper"]) > 4.5
            assert contrast(theme[name], theme["panel"]) > 4.5


def test_of_many_classes_those_confused_most_are_shown_together():
    counts = np.array([[5, 0, 0, 0], [0, 1, 0, 3], [2, 0, 4, 0], [0, 0, 0, 9]])
    np.testing.assert_array_equal(confused_labels(counts, 2), [1, 3])
    np.testing.assert_array_equal(confused_labels(counts, 3), [1, 2, 3])
    np.testing.assert_array_equal(confused_labels(counts, 4), [0, 1, 2, 3])


def test_emoji_say_what_they_show_and_whom_they_are_owed_to():
    concepts = tuple(
        Concept((f"{i}",), name, "things", "small", (), i) for i, name in enumerate(("cup", "key"))
    )
    images, ids = np.zeros((2, 8, 8, 3), np.uint8), np.array([1, 0], np.int32)
    for style, attribution in (("Twtr", "Twemoji"), ("Appl", "")):
        emoji = EmojiSet(images, ids, np.zeros(2, np.int32), concepts, (style,))
        source = EmojiSource(emoji, names=("cup", "key"))
        assert [source.title(i) for i in range(2)] == ["key", "cup"]
        assert source.attribution.partition(",")[0] == attribution


def contrast(one, other):
    """WCAG 2's ratio of two sRGB colours."""

    def luminance(color):
        share = np.asarray(list(color)) / 255
        linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


def test_a_file_that_is_no_page_is_not_replaced(tmp_path, capsys):
    (tmp_path / "config.json").write_text("{}")
    page = tmp_path / "page.html"
    for _ in range(2):
        assert main([str(tmp_path), f"--output={page}"]) == 0
    assert main([str(tmp_path), f"--output={tmp_path / 'config.json'}"]) == 2
    assert "which is there and is no report: choose another" in capsys.readouterr().err
    assert (tmp_path / "config.json").read_text() == "{}"

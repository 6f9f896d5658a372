import types

import numpy as np
import pytest

from toklip_jax.data.sources import SourceConfig
from toklip_jax.evaluation.base import Encodings
from toklip_jax.evaluation.label_maps import NO_ROW, label_map, label_rows, labels_by_name
from toklip_jax.evaluation.meaning import Meaning
from toklip_jax.evaluation.models import Models
from toklip_jax.evaluation.prompt_sets import TEMPLATE_SETS, ClassList, class_names, templates
from toklip_jax.evaluation.zeroshot import class_rows
from toklip_jax.nn.config import Compute

IMAGENET = class_names("imagenet")


def test_imagenets_names_stand_in_the_order_of_its_labels():
    assert len(IMAGENET) == len(set(IMAGENET.wnids)) == 1000
    assert list(IMAGENET.wnids) == sorted(IMAGENET.wnids)  # labels are places in this order
    assert IMAGENET.indices == tuple(range(1000))
    known = {0: "tench", 134: "crane bird", 517: "construction crane", 999: "toilet paper"}
    assert {place: IMAGENET.names[place] for place in known} == known
    assert dict(zip(IMAGENET.wnids, IMAGENET.names, strict=True))["n03888257"] == "parachute"
    assert len(set(IMAGENET.names)) == 998  # CLIP's "missile" and "sunglasses" stand twice


@pytest.mark.parametrize(
    ("name", "first"), [("imagenet_a", "stingray"), ("imagenet_r", "goldfish")]
)
def test_a_subset_has_the_names_of_its_places(name, first):
    classes = class_names(name)
    assert len(classes) == len(set(classes.wnids)) == 200
    assert list(classes.indices) == sorted(set(classes.indices))
    for row, place in enumerate(classes.indices):
        assert classes.names[row] == IMAGENET.names[place]
        assert classes.wnids[row] == IMAGENET.wnids[place]
    assert classes.names[0] == {"imagenet_a": "stingray", "imagenet_r": "goldfish"}[name]


def test_prompts_have_one_place_for_the_name():
    sizes = {name: len(templates(name)) for name in TEMPLATE_SETS}
    assert sizes == {"imagenet_80": 80, "imagenet_7": 7, "plain": 1, "name": 1}
    for name in TEMPLATE_SETS:
        assert all(template.format("x").count("x") >= 1 for template in templates(name))
    assert set(templates("imagenet_7")) <= set(templates("imagenet_80"))
    assert templates("imagenet_7")[:2] == ("itap of a {}.", "a bad photo of the {}.")


def test_text_files_give_a_class_and_a_template_a_line(tmp_path):
    path = tmp_path / "names.txt"
    path.write_bytes("\ufeffcafé\n\n  dog \r\ndog\n\n".encode())
    assert class_names(str(path)) == ClassList(str(path), ("café", "dog", "dog"))
    path.write_text("{}\n\nart of {}, {}\n")
    assert templates(str(path)) == ("{}", "art of {}, {}")


@pytest.mark.parametrize(
    ("read", "name", "content", "error", "message"),
    [
        (class_names, "imagenett", None, ValueError, "got 'imagenett': did you mean 'imagenet'"),
        (class_names, "cub", None, ValueError, r"\['imagenet', 'imagenet_a', 'imagenet_r'\]"),
        (class_names, "{}/none.txt", None, FileNotFoundError, "found no file .*none.txt"),
        (class_names, "{}", None, FileNotFoundError, "found no file"),
        (class_names, "{}/f.txt", b"\n \n", ValueError, "f.txt, one a line, got an empty file"),
        (class_names, "{}/f.txt", b"\xff", ValueError, "in UTF-8, got .*f.txt"),
        (templates, "imagenet_8", None, ValueError, "did you mean 'imagenet_80'"),
        (templates, "{}/none", None, FileNotFoundError, "'imagenet_7'.*found no file"),
        (templates, "{}/f.txt", b"{}\na photo\n", ValueError, "got 'a photo' in .*f.txt"),
        (templates, "{}/f.txt", b"{} of {name}", ValueError, "no other braces"),
        (templates, "{}/f.txt", b"", ValueError, "empty file"),
    ],
)
def test_what_is_not_there_or_not_right_is_one_clear_error(
    tmp_path, read, name, content, error, message
):
    if content is not None:
        (tmp_path / "f.txt").write_bytes(content)
    with pytest.raises(error, match=message):
        read(name.format(tmp_path))


def test_labels_are_rows_where_nothing_else_is_known():
    classes = class_names("imagenet_a")
    rows = label_map(classes, None)
    np.testing.assert_array_equal(label_rows(np.array([3, 199]), rows), [3, 199])
    with pytest.raises(ValueError, match=r"labels of x in \[0, 200\), got 612"):
        label_rows(np.array([0, 612]), rows, "x")
    with pytest.raises(ValueError, match="got -1"):  # TFDS's label of a test set without labels
        label_rows(np.array([-1]), rows)


def test_labels_among_the_1000_lead_to_the_200_by_wordnet_id():
    classes = class_names("imagenet_r")
    rows = label_map(classes, IMAGENET.wnids)
    np.testing.assert_array_equal(rows[list(classes.indices)], np.arange(200))
    assert np.count_nonzero(rows == NO_ROW) == 800
    np.testing.assert_array_equal(label_rows(np.array(classes.indices[5:7]), rows), [5, 6])
    with pytest.raises(ValueError, match="among the 200 classes that are asked for, got 0"):
        label_rows(np.array([1, 0]), rows)


def test_another_order_of_the_ids_is_undone():
    shuffled = list(reversed(IMAGENET.wnids))
    np.testing.assert_array_equal(label_map(IMAGENET, shuffled), np.arange(1000)[::-1])


def image_folder(root, names):
    for name in names:
        (root / name).mkdir()
        (root / name / "0.jpg").write_bytes(b"x")
    return SourceConfig.from_plain({"kind": "image_folder", "root": str(root)}).open()


def test_a_folder_of_wordnet_ids_is_read_by_id(tmp_path):
    classes = class_names("imagenet_a")
    source = image_folder(tmp_path, classes.wnids)
    np.testing.assert_array_equal(label_map(classes, source.classes), np.arange(200))
    with pytest.raises(ValueError, match=r"200 classes of x, got 1000 .* classes='imagenet_a'$"):
        label_map(IMAGENET, source.classes, "x")
    with pytest.raises(ValueError, match=r"found no n01443537 .*pass classes='imagenet_a'"):
        label_map(class_names("imagenet_r"), source.classes)


def test_a_folder_of_numbers_is_read_by_number(tmp_path):
    """As ImageNet-v2's, which sorts 0, 1, 10, 11, 2."""
    source = image_folder(tmp_path, map(str, range(12)))
    classes = ClassList("file", tuple("abcdefghijkl"))
    rows = label_map(classes, source.classes)
    assert rows.tolist() == [0, 1, 10, 11, 2, 3, 4, 5, 6, 7, 8, 9]
    assert label_map(IMAGENET, sorted(map(str, range(1000))))[2] == 10


def test_names_in_another_order_are_matched():
    classes = ClassList("file", ("T-shirt", "great grey owl", "dog"))
    assert label_map(classes, ("Dog", "Great_Grey_Owl", "T-shirt")).tolist() == [2, 1, 0]
    assert label_map(classes, ("A1", "A2", "A3")).tolist() == [0, 1, 2]  # by place
    assert label_map(classes, ("shirt", "great_grey_owl", "dog")).tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="some that agree, of which 'dog' stands elsewhere"):
        label_map(classes, ("dog", "owl", "shirt"))
    twice = ClassList("file", ("dog", "dog"))
    assert label_map(twice, ("a", "b")).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("source_classes", "message"),
    [
        (IMAGENET.wnids, "1000 class names .* got 3 of f: pass classes='imagenet' or 'imagenet_a'"),
        (("a", "b"), "2 class names for the 2 classes of x, got 3 of f.* in the order of a, b"),
        (("0", "1", "2", "3"), "expected 4 class names"),
    ],
)
def test_another_number_of_classes_says_what_to_pass(source_classes, message):
    with pytest.raises(ValueError, match=message):
        label_map(ClassList("f", ("a", "b", "c")), source_classes, "x")


def test_labels_of_two_data_sets_are_compared_by_the_names_of_their_classes():
    labels, train = np.array([1, 0, 1]), ("ant", "cat", "dog")
    assert labels_by_name(labels, ("cat", "dog"), train).tolist() == [2, 1, 2]
    assert labels_by_name(labels, ("dog", "cat", "cow"), train).tolist() == [1, 2, 1]
    assert labels_by_name(labels, train, train).tolist() == [1, 0, 1]
    for own, others in ((None, train), (train, None), (None, None)):
        with pytest.warns(UserWarning, match="compared by their numbers"):
            assert labels_by_name(labels, own, others).tolist() == [1, 0, 1]
    with pytest.raises(ValueError, match=r"1 others, such as 'cow' beside 'ant': name them alike"):
        labels_by_name(labels, ("cat", "cow"), train)


def test_a_test_set_that_lacks_a_class_is_compared_with_the_right_ones():
    """Each image's feature is its class: any learner tells them apart."""
    rows = {
        "train": {"image": np.eye(3).repeat(9, 0), "labels": np.arange(3).repeat(9)},
        "test": {"image": np.eye(3)[1:].repeat(9, 0), "labels": np.arange(2).repeat(9)},
    }
    classes = {"train": ("ant", "cat", "dog"), "test": ("cat", "dog")}
    sources = {part: types.SimpleNamespace(classes=names) for part, names in classes.items()}
    models = Models.from_configs(Compute(), {})
    data = Encodings(models, sources, images=rows, texts={}, has_baselines=False)
    (row,) = Meaning(train={}, test={}).score(data).rows
    assert (row["linear_probe"].value, row["knn"].value) == (1, 1)


def test_classes_that_are_no_names_say_what_to_pass():
    ids = types.SimpleNamespace(classes=IMAGENET.wnids[:3])
    with pytest.raises(ValueError, match=r"got the WordNet ids of .* n01440764: pass classes='ima"):
        class_rows("", ids)
    numbers = types.SimpleNamespace(classes=("0", "1"))
    with pytest.warns(UserWarning, match="called by numbers, such as 0"):
        assert class_rows("", numbers)[0] == ("0", "1")
    assert class_rows("", types.SimpleNamespace(classes=("cat", "n01440764")))[0][0] == "cat"


@pytest.mark.parametrize("classes", [("cat", "dog"), None])
def test_a_label_of_an_image_without_one_is_no_last_class(classes):
    """Many data sets number what has no label -1, which Python takes for the last place."""
    with pytest.raises(ValueError, match="got -1: leave images without a label out"):
        labels_by_name(np.array([0, -1]), classes, ("dog", "cat"))
    with pytest.raises(ValueError, match=r"in \[0, 2\), got 2"):
        labels_by_name(np.array([2]), ("cat", "dog"), ("cat", "dog"))

import numpy as np
import pytest

from toklip_jax.data.text import TextTokenizer, train_tokenizer
from toklip_jax.demo.shapes import (
    CAPTIONS,
    COLOURS,
    NAMES,
    draw_shape,
    open_shapes,
    shape_texts,
    shapes_config,
)
from toklip_jax.experiment import read_experiment


@pytest.mark.parametrize("name", NAMES)
def test_a_shape_has_its_colour_on_white(name):
    image = draw_shape(name, np.random.default_rng(0), 48).reshape(-1, 3)
    colours, counts = np.unique(image, axis=0, return_counts=True)
    most = {tuple(colours[i].tolist()) for i in counts.argsort()[-2:]}
    assert most == {(255, 255, 255), COLOURS[name.split()[0]]}


def test_shapes_of_one_colour_differ_and_a_ring_has_a_hole():
    pictures = {
        name: draw_shape(name, np.random.default_rng(0), 48) for name in NAMES if "red" in name
    }
    drawn = {name: (picture.min(-1) < 128).sum() for name, picture in pictures.items()}
    assert len(set(drawn.values())) == len(drawn)
    assert drawn["red ring"] < 0.8 * drawn["red circle"]


def test_a_seed_gives_the_same_pictures_and_each_name_in_turn():
    first, again, other = (open_shapes(31, size=16, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.images, again.images)
    assert not np.array_equal(first.images, other.images)
    assert [first.title(i) for i in range(31)] == [*NAMES, NAMES[0]]
    assert first[30]["labels"] == 0
    assert "captions" not in first[0]


def test_captions_are_those_of_what_is_drawn():
    tokenizer = TextTokenizer(train_tokenizer(shape_texts(), 128), 12)
    source = open_shapes(40, size=16, tokenizer=tokenizer)
    expected = tokenizer([caption.format(NAMES[7]) for caption in CAPTIONS])
    np.testing.assert_array_equal(source[37]["captions"], expected)


def test_wrong_names_and_numbers_are_refused():
    with pytest.raises(ValueError, match="did you mean 'red ring'"):
        draw_shape("red rin", np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"expected num_images .*, got 0"):
        open_shapes(0)


def test_its_config_is_read():
    stages = read_experiment(shapes_config()).stages
    assert [stage.name for stage in stages] == ["vq", "teacher", "toklip"]

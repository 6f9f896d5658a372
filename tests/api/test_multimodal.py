"""Answers of a multimodal model: batches, several images, streams, images of texts, bad input."""

import dataclasses
import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest

import toklip_jax
from tests.models.tiny_multimodal import COMPUTE, CONFIG, VISION, params_of
from toklip_jax.api.multimodal import MultimodalModel
from toklip_jax.cli import chat
from toklip_jax.cli.benchmark import Asked
from toklip_jax.data.conversations.images import Pixels
from toklip_jax.data.text import train_tokenizer
from toklip_jax.evaluation.comprehension import ask, build_benchmark
from toklip_jax.weights import Weights, save_weights

TEXTS = ["what is it", "a red cat", "a blue dog", "is it red", "yes no"]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A weights directory of a model whose text tokenizer is small enough for it."""
    return saved(CONFIG, tmp_path_factory.mktemp("multimodal"))


def saved(config, folder):
    tokenizer = train_tokenizer(TEXTS, 300)
    tokenizer.save(str(folder / "tokenizer.json"))
    size = 1 + max(tokenizer.get_vocab().values())
    language_model = dataclasses.replace(config.language_model, vocab_size=size, max_positions=96)
    config = dataclasses.replace(config, language_model=language_model, template="plain")
    weights = Weights(
        config, params_of(config), is_scanned=False, tokenizer_path=folder / "tokenizer.json"
    )
    save_weights(folder / "weights", weights)
    return folder / "weights"


@pytest.fixture(scope="module")
def model(directory):
    return toklip_jax.load(directory)


def template():
    from toklip_jax.data.conversations import TurnTemplate

    return TurnTemplate(
        system="",
        around_system=("", ""),
        around_user=("Q: ", "\n"),
        before_answer="A:",
        space=" ",
        end="\n",
    )


def ids(count, seed=0):
    return np.random.default_rng(seed).integers(0, 32, (count, 4), np.int32)


def answer(model, ids, questions, **options):
    return model.answer(None, questions, ids=ids, template=template(), max_new_tokens=6, **options)


def test_a_loaded_directory_answers_and_the_batch_changes_nothing(model):
    assert isinstance(model, MultimodalModel)
    images, questions = [ids(1)[0], list(ids(2, 1)), None], ["is it red", "a cat", "yes no"]
    together = answer(model, images, questions)
    assert all(isinstance(text, str) for text in together)
    alone = [answer(model, [i], [q])[0] for i, q in zip(images, questions, strict=True)]
    assert together == alone
    model.batch_size = 2
    assert answer(model, images, questions) == together
    model.batch_size = None


def test_a_stream_gives_the_answer_in_pieces(model):
    options = {"template": template(), "max_new_tokens": 6}
    pieces = list(model.stream(None, "is it red", ids=ids(1)[0], **options))
    want = answer(model, [ids(1)[0]], ["is it red"])[0]
    assert "".join(pieces).rstrip("\ufffd") == want.rstrip("\ufffd")


def test_a_stream_takes_the_room_that_its_model_has(model):
    """A model of few positions has none for 256 tokens."""
    image, options = ids(1)[0], {"template": template()}
    positions = model.config.language_model.max_positions
    length = len(model._prompting(template()).row("is it red", 1))
    pieces = "".join(model.stream(None, "is it red", ids=image, **options))
    most = {"max_new_tokens": positions - length}
    assert pieces == "".join(model.stream(None, "is it red", ids=image, **most, **options))
    with pytest.raises(ValueError, match=f"of at most {positions} tokens together"):
        model.stream(None, "is it red", ids=image, max_new_tokens=positions, **options)
    with pytest.raises(ValueError, match="shorten the question"):
        model.stream(None, "is it red " * positions, ids=image, **options)


def test_images_are_squashed_as_in_training(model):
    """All of an image is seen, as `data.conversations.images.Pixels` gives it in training."""
    rng = np.random.default_rng(0)
    wide = PIL.Image.fromarray(rng.integers(0, 256, (20, 48, 3), np.uint8))
    buffer = io.BytesIO()
    wide.save(buffer, "PNG")
    trained_on = Pixels(16, [{"image": buffer.getvalue()}])(0)
    options = {"template": template(), "max_new_tokens": 6}
    for question in ("what is it", "is it red", "a cat"):
        got = model.answer([wide], [question], **options)
        assert got == model.answer([trained_on], [question], **options)
    inputs = [np.asarray(model._call("read_images", one)) for one in ([wide], trained_on[None])]
    np.testing.assert_array_equal(*inputs)


def test_pixels_of_an_image_answer_as_its_ids(model):
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    tokenize = jax.jit(lambda x: model.model.apply({"params": model.params}, x, method="tokenize"))
    found = tokenize(image[None].astype(np.float32) / 127.5 - 1)
    options = {"template": template(), "max_new_tokens": 4}
    by_pixels = model.answer([image], ["what is it"], **options)
    assert by_pixels == model.answer(None, ["what is it"], ids=[found[0]], **options)


def test_arrays_of_any_size_answer_as_pillow_images(model):
    rng = np.random.default_rng(0)
    small, wide = (rng.integers(0, 256, (*size, 3), np.uint8) for size in ((9, 7), (20, 31)))
    questions, options = ["is it red", "a cat", "yes no"], {"template": template()}
    pictures = [PIL.Image.fromarray(small), None, [PIL.Image.fromarray(wide)] * 2]
    want = model.answer(pictures, questions, max_new_tokens=6, **options)
    for given in ([small, None, [wide, wide]], [pictures[0], None, [wide, pictures[2][0]]]):
        assert model.answer(given, questions, max_new_tokens=6, **options) == want
    blank = [np.zeros_like(small), None, [np.zeros_like(wide)] * 2]
    assert model.answer(blank, questions, max_new_tokens=6, **options) != want


def test_several_images_of_a_question_may_differ_in_size_and_mode(model):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    wide = np.repeat(pixels, 2, axis=1)
    picture, grey = PIL.Image.fromarray(pixels), PIL.Image.fromarray(wide).convert("L")
    options = {"template": template(), "max_new_tokens": 6}

    def one(*images):
        return model.answer([list(images)], ["is it"], **options)

    assert one(pixels, wide) == one(picture, PIL.Image.fromarray(wide))
    assert one(jnp.asarray(pixels), jnp.asarray(wide)) == one(pixels, wide)
    assert one(picture, grey) == one(picture, grey.convert("RGB"))
    assert one(grey) == model.answer([grey], ["is it"], **options)


def test_an_empty_list_of_ids_is_no_image(model):
    questions = ["is it", "a cat"]
    assert answer(model, [ids(1)[0], []], questions) == answer(model, [ids(1)[0], None], questions)


def test_tokens_of_pixels_answer_greedily(tmp_path):
    config = dataclasses.replace(CONFIG, tokenizer=None, image_tower=VISION, reads=("pixels",))
    model = toklip_jax.load(saved(config, tmp_path))
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    prompting = model._prompting(template())
    ids, places, positions = prompting.batch([prompting.row("is it red", 1)], 1)
    start = int(np.argmax(positions[0] == 0))
    ids, places, drawn = ids[:, start:], places[:, start:], []

    @jax.jit
    def logits(ids, places):
        def apply(*inputs, method):
            return model.model.apply({"params": model.params}, *inputs, method=method)

        inputs = apply(jnp.asarray(image[None] / 127.5 - 1, jnp.float32), method="read_images")
        return apply(ids, places, inputs, method="logits")[0, -1]

    for _ in range(4):
        drawn.append(int(jnp.argmax(logits(ids, places))))
        ids, places = np.append(ids, [[drawn[-1]]], 1), np.append(places, [[-1]], 1)
        ids, places = ids.astype(np.int32), places.astype(np.int32)
    (got,) = model.answer([image], ["is it red"], template=template(), max_new_tokens=4)
    assert got == prompting.text_of(drawn)
    with pytest.raises(ValueError, match="expected images with a model that reads 'pixels'"):
        answer(model, np.zeros((1, 4), np.int32), ["is it red"])


def test_bfloat16_is_near(directory, model):
    """Logits of a prompt, whose cosine rounding to 8 bits leaves near 1."""
    low = toklip_jax.load(directory, dtype="bfloat16")
    prompts = np.arange(12, dtype=np.int32)[None]
    want, got = (
        np.float32(
            one.model.apply({"params": one.params}, jnp.asarray(prompts), method="logits")[0]
        )
        for one in (model, low)
    )
    assert np.any(want != got)
    cosine = np.sum(want * got, -1) / np.linalg.norm(want, axis=-1) / np.linalg.norm(got, axis=-1)
    assert cosine.min() > 0.999


def test_a_benchmark_of_questions_is_asked_of_it(model, tmp_path):
    """As POPE's files come: images of another size than the model's."""
    for number in range(2):
        image = PIL.Image.new("RGB", (20, 30 + number), ("red", "blue")[number])
        image.save(tmp_path / f"{number}.png")
    rows = [
        {"question_id": i, "image": f"{i % 2}.png", "text": "is it red", "label": "yes"}
        for i in range(3)
    ]
    lines = "".join(f"{json.dumps(row)}\n" for row in rows)
    (tmp_path / "coco_pope_random.json").write_text(lines)
    folder = str(tmp_path)
    benchmark = build_benchmark({"kind": "pope", "questions": folder, "images": folder})
    asked = Asked(model, template())
    answers = ask(
        benchmark, benchmark.read(), asked, tmp_path / "answers", identity={"model": "tiny"},
        batch_size=2, max_new_tokens=4,
    )  # fmt: skip
    questions = {question.key: question for question in benchmark.read().questions}
    assert answers.keys() == questions.keys()
    for key, text in answers.items():
        image, prompt = questions[key].image.read(), questions[key].prompt
        options = {"template": template(), "max_new_tokens": 4}
        assert model.answer([image], [prompt], **options) == [text]


def test_images_of_texts_are_ids_and_depend_on_the_key(model):
    options = {"template": template(), "cfg_scale": 1.5}
    first, again, other = (
        np.asarray(model.generate_images(["a red cat", "a blue dog"], key=key, **options))
        for key in (0, 0, 1)
    )
    assert first.shape == (2, 4)
    assert first.min() >= 0
    assert first.max() < 32
    np.testing.assert_array_equal(first, again)
    assert np.any(first != other)
    texts = ["a red cat", "a blue dog", "is it red"]
    whole = np.asarray(model.generate_images(texts, key=1, **options))
    np.testing.assert_array_equal(whole[:2], other)
    model.batch_size = 2
    np.testing.assert_array_equal(model.generate_images(texts, key=1, **options), whole)
    model.batch_size = None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: answer(m, [ids(1)[0]], ["<image> or <image>"]), "one <image> for each image"),
        (lambda m: answer(m, [None], ["<image> what"]), "one <image> for each image"),
        (lambda m: answer(m, ids(2), ["what is it"]), "for each of 1 questions"),
        (lambda m: answer(m, ids(1), ["is it red"] , top_q=1), "top_q"),
        (lambda m: answer(m, ids(1) + 40, ["is it red"]), "another codebook"),
        (lambda m: answer(m, ids(1), "is it red"), "a list of questions"),
        (lambda m: answer(m, ids(1), ["is it red " * 40]), "answer of at most 96 tokens"),
        (lambda m: m.answer(None, ["a"], template="nonsense"), "a template"),
        (lambda m: m.answer(None, ["what is it"], ids=ids(1)), "expected <image> alone"),
        (lambda m: m.answer(ids(1), ["a"], ids=ids(1)), "either images or ids"),
        (lambda m: m.generate_images("a cat"), "a list of texts"),
        (lambda m: m.generate_images([None]), "a list of texts"),
        (lambda m: answer(m, [ids(1)[0], None], ["is it", None]), "a list of questions"),
        (lambda m: answer(m, ids(1), (text for text in ["is it"])), "a list of questions"),
        (lambda m: m.stream(None, ["is it"], template=template()), "one question as a text"),
        (lambda m: answer(m, [3], ["is it"]), "an image, a list of images or None"),
        (lambda m: answer(m, 3, ["is it"]), "for each of 1 questions"),
        (lambda m: answer(m, [[[1, 2, 3, 4], [1, 2]]], ["is it"]), "rows of several lengths"),
        (lambda m: m.answer([np.zeros((0, 5, 3), np.uint8)], ["a"], template="short"), "a batch"),
        (lambda m: m.answer([[PIL.Image.new("RGB", (16, 16)), np.zeros((16, 16, 3))]], ["a"],
                            template="short"), "uint8 and floats in one list"),
    ],
)  # fmt: skip
def test_bad_input_gets_one_clear_error(model, call, message):
    with pytest.raises(ValueError, match=message):
        call(model)


def test_a_vocabulary_that_does_not_fit_is_refused(directory):
    config = dataclasses.replace(
        CONFIG, language_model=dataclasses.replace(CONFIG.language_model, vocab_size=20)
    )
    small = MultimodalModel(config, params_of(config), COMPUTE, directory=directory)
    with pytest.raises(ValueError, match="at most 20 ids"):
        answer(small, ids(1), ["is it red"])


class NoGenerationPrompt:
    """A tokenizer whose chat template ignores where an answer begins."""

    chat_template = "x"

    def apply_chat_template(self, turns, tokenize, add_generation_prompt):
        return "".join(f"[{turn['role']}] {turn['content']}\n" for turn in turns)


def test_a_template_without_a_generation_prompt_is_refused(model):
    from toklip_jax.data.conversations import ChatTemplate

    with pytest.raises(ValueError, match="generation prompt"):
        model.answer(None, ["a"], template=ChatTemplate(NoGenerationPrompt()))


class SaysImage:
    """A model all of whose answers hold the placeholder of an image."""

    def __init__(self):
        self.histories = []

    answer = None  # the command asks whether there is one

    def stream(self, images, question, history, **options):
        self.histories.append(list(history))
        yield from ("an <im", "age>", " of a <im<image>age>")


def test_an_answer_that_holds_the_placeholder_stands_for_no_image(capsys, monkeypatch):
    model = SaysImage()
    monkeypatch.setattr(chat, "load", lambda *args, **options: model)
    assert chat.main(["--weights=w", "--question=a", "--question=b", "--question=c"]) == 0
    said = "an   of a <im age>"
    assert model.histories == [[], [("a", said)], [("a", said), ("b", said)]]
    assert capsys.readouterr().out == 3 * "an <image> of a <im<image>age>\n"


def test_the_chat_command_prints_answers(directory, model, capsys, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 40, 3), np.uint8)
    picture = PIL.Image.fromarray(pixels).convert("P")  # which is resized as it is
    picture.save(tmp_path / "cat.png")
    common = [f"--weights={directory}", "--max_new_tokens=4"]
    missing = f"--image={tmp_path / 'missing.png'}"
    assert chat.main(["--weights=unread", missing, "--question=a"]) == 2  # before any weights
    assert "expected an image file" in capsys.readouterr().err
    image = f"--image={tmp_path / 'cat.png'}"
    assert chat.main([*common, image, "--question=a"]) == 2  # its own template asks nothing
    assert "expected <image> alone" in capsys.readouterr().err
    questions = ["is it red", "what is it"]
    flags = [*common, image, "--template=short", *(f"--question={q}" for q in questions)]
    assert chat.main(flags) == 0
    options = {"template": "short", "max_new_tokens": 4}
    first = "".join(model.stream(picture, questions[0], **options))
    history = [(questions[0], first)]
    second = "".join(model.stream(picture, questions[1], history=history, **options))
    assert first or second
    assert capsys.readouterr().out == f"{first}\n{second}\n"


def test_an_answer_ends_where_its_marker_does(model):
    """Decoding leaves special markers out, and the text after them must not be read on."""
    prompting = model._prompting("short")
    assert prompting.end == "<eos>"
    encode = model.tokenizer.encode
    parts = [encode(text, add_special_tokens=False).ids for text in ("a red cat", "<eos>", "is it")]
    ids = [i for part in parts for i in part]
    assert model.tokenizer.decode(ids) != "a red cat"
    assert prompting.text_of(ids) == prompting.text_of(parts[0]) == "a red cat"
    assert prompting.stop_ids() == tuple(parts[1])

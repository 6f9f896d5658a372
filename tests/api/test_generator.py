"""The image generator as a user loads it."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import toklip_jax
from toklip_jax.api import drawing
from toklip_jax.api.program import bucket, platform_of, run_method
from toklip_jax.core.errors import UserError


@pytest.fixture(scope="module")
def generator(golden):
    return toklip_jax.load(golden("gpt_c2i_tiny/checkpoint.safetensors"))


@pytest.fixture(scope="module")
def with_images(golden, path):
    return toklip_jax.load(golden("gpt_c2i_tiny/checkpoint.safetensors"), vq=path)


@pytest.fixture(scope="module")
def recorded(golden):
    names = ("inputs", "outputs", "generation")
    return {name: np.load(golden(f"gpt_c2i_tiny/{name}.npz")) for name in names}


def test_logits_are_those_of_every_position(generator, recorded):
    ids, classes = recorded["inputs"]["ids"], recorded["inputs"]["class_ids"]
    logits = generator.logits(ids, classes=classes)
    np.testing.assert_allclose(logits, recorded["outputs"]["logits"], atol=5e-5)
    part = generator.logits(ids[:, :5], classes=classes)
    np.testing.assert_allclose(part, logits[:, :6], atol=5e-5)


@pytest.mark.parametrize("name", ["logits", "nats_per_id"])
def test_chunks_of_one_program_give_what_is_recorded(generator, recorded, monkeypatch, name):
    ids, classes = recorded["inputs"]["ids"], recorded["inputs"]["class_ids"]
    want, atol = recorded["outputs"]["logits"], 5e-5
    if name == "nats_per_id":
        logp, chosen = jax.nn.log_softmax(want[:, :-1]), ids[..., None]
        want, atol = -np.mean(np.take_along_axis(np.asarray(logp), chosen, -1), (1, 2)), 2e-5
    program = {"logits": drawing.parallel_logits, "nats_per_id": drawing.mean_nats}[name]
    monkeypatch.setattr(generator, "batch_size", 2)
    program.clear_cache()
    for rows in range(1, len(ids) + 1):
        got = getattr(generator, name)(ids[:rows], classes=classes[:rows])
        np.testing.assert_allclose(got, want[:rows], atol=atol)
    assert len(ids) > 2
    assert program._cache_size() == 1


def test_likelihood_never_holds_the_logits_of_all_places(generator, monkeypatch):
    monkeypatch.setattr(drawing, "PLACES_AT_ONCE", 4)
    ids, classes = jnp.zeros((3, 16), int), jnp.arange(3)
    drawing.mean_nats.clear_cache()
    nats = functools.partial(drawing.mean_nats, generator.model)
    found = str(jax.make_jaxpr(nats)(generator.params, ids, classes, None))
    drawing.mean_nats.clear_cache()
    shapes = {tuple(map(int, x.split(","))) for x in re.findall(r"f32\[([\d,]+)\]", found)}
    logits = {shape for shape in shapes if len(shape) == 3 and shape[-1] == 512}
    assert logits == {(4, 3, 512)}


def test_logits_and_likelihood_can_be_traced(generator, recorded):
    ids, classes = recorded["inputs"]["ids"], recorded["inputs"]["class_ids"]
    want = generator.nats_per_id(ids, classes=classes)
    got = jax.jit(lambda ids: generator.nats_per_id(ids, classes=classes))(ids)
    np.testing.assert_allclose(got, want, atol=1e-5)
    found = jax.eval_shape(lambda ids: generator.logits(ids, classes=classes), ids)
    assert found.shape == recorded["outputs"]["logits"].shape

    def scaled(scale):
        params = jax.tree.map(lambda x: x * scale, generator.params)
        return jnp.sum(generator.with_params(params).nats_per_id(ids, classes=classes))

    value, slope = jax.jvp(scaled, (1.0,), (1.0,))
    np.testing.assert_allclose(value, np.sum(want), rtol=1e-5)
    assert abs(float(slope)) > 0


def test_features_of_prefixes_are_taken_in_chunks_and_traced(with_images, monkeypatch):
    ids, sizes = np.arange(24).reshape(3, 8), []
    want = with_images.prefix_features(ids)

    def recording(model, params, inputs, method):
        sizes.append(len(inputs))
        return run_method(model, params, inputs, method)

    monkeypatch.setattr("toklip_jax.api.tokenized.run_method", recording)
    monkeypatch.setattr(with_images, "batch_size", 2)
    np.testing.assert_allclose(with_images.prefix_features(ids), want, atol=1e-5)
    assert sizes == [2, 2]
    assert jax.eval_shape(with_images.prefix_features, ids).shape == want.shape


def test_greedy_samples_equal_the_recorded_ones(generator, recorded):
    classes = recorded["inputs"]["gen_class_ids"]
    for scale in (1.0, 4.0, 7.5):
        ids = generator.sample(classes=classes, temperature=0, cfg_scale=scale)
        np.testing.assert_array_equal(ids, recorded["generation"][f"greedy_ids_cfg{scale}"])


@pytest.mark.plain
def test_samples_depend_neither_on_the_batch_nor_on_its_size(generator):
    classes = np.arange(6) % 10
    whole = generator.sample(classes=classes, key=3, cfg_scale=1.5)
    assert whole.shape == (6, 16)
    assert whole.dtype == np.int32
    rest = generator.sample(classes=classes[4:], key=3, first_index=4, cfg_scale=1.5)
    np.testing.assert_array_equal(rest, whole[4:])
    other = generator.sample(classes=classes, key=4, cfg_scale=1.5)
    assert (np.asarray(other) != np.asarray(whole)).any()


@pytest.mark.plain
def test_completing_keeps_what_it_is_given(generator):
    ids = np.asarray(generator.sample(classes=[1, 2], key=0))
    done = np.asarray(generator.complete(ids, keep=8, classes=[1, 2], key=5, temperature=2.0))
    np.testing.assert_array_equal(done[:, :8], ids[:, :8])
    assert (done[:, 8:] != ids[:, 8:]).any()
    greedy = generator.sample(classes=[1, 2], temperature=0)
    again = generator.complete(greedy, keep=5, classes=[1, 2], temperature=0)
    np.testing.assert_array_equal(again, greedy)


def test_a_negative_class_takes_the_place_of_the_null_class(generator):
    null = generator.config.gpt.null_class
    options = {"classes": [3], "temperature": 0, "cfg_scale": 4.0}
    by_default = generator.sample(**options)
    np.testing.assert_array_equal(generator.sample(**options, negative_class=null), by_default)
    assert (np.asarray(generator.sample(**options, negative_class=5)) != by_default).any()


@pytest.mark.plain
def test_a_tokenizer_makes_images_of_ids(with_images, toklip):
    ids = np.asarray(with_images.sample(classes=[1, 2, 3], key=0))
    images = with_images.detokenize(ids)
    assert images.shape == (3, 64, 64, 3)
    np.testing.assert_allclose(images, toklip.detokenize(ids), atol=1e-6)
    np.testing.assert_array_equal(with_images.tokenize(images), toklip.tokenize(images))


def test_text_conditions_are_captions_features(golden):
    generator = toklip_jax.load(golden("gpt_t2i_tiny/checkpoint.safetensors"))
    inputs = np.load(golden("gpt_t2i_tiny/inputs.npz"))
    recorded = np.load(golden("gpt_t2i_tiny/generation.npz"))
    for side in ("left", "right"):
        ids = generator.sample(
            captions=inputs[f"caption_{side}"],
            valid=inputs[f"emb_masks_{side}"].astype(bool),
            temperature=0,
            cfg_scale=4.0,
        )
        np.testing.assert_array_equal(ids, recorded["greedy_ids_cfg4.0"])
    with pytest.raises(UserError, match="expected captions="):
        generator.sample(classes=[1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda g: g.sample(classes=[11]), "from 0 to 9, or 10 for none, got 11"),
        (lambda g: g.sample(classes=[-1]), "from 0 to 9"),
        (lambda g: g.sample(classes=[0.5]), "integer classes"),
        (lambda g: g.sample(), "classes="),
        (lambda g: g.sample(captions=["a dog"]), "which was trained on classes, and no captions"),
        (lambda g: g.sample(prompt="a dog"), r"'prompt' here: say .* classes=\[...\] or captions"),
        (lambda g: g.sample(class_labels=[1]), r"with classes=\[...\]"),
        (lambda g: g.sample(classes=[1], seed=0), "'seed' here: pass key=SEED"),
        (lambda g: g.sample(classes=[1], guidance_scale=2.0), "cfg_scale=..."),
        (lambda g: g.sample(classes=[1], num_samples=2), "repeat one"),
        (lambda g: g.sample(classes=[1], key=jax.random.PRNGKey(0)), "wrap_key_data"),
        (lambda g: g.sample(classes=1), r"a list of numbers, such as classes=\[3\]"),
        (lambda g: g.sample(classes=[]), "at least one|integer classes"),
        (lambda g: g.sample(classes=[1], negative_class=12, cfg_scale=2), "from 0 to 9"),
        (lambda g: g.sample(classes=[1], negative_class=2), "cfg_scale above 1"),
        (lambda g: g.sample(classes=[1], top_p=2.0), "top_p in"),
        (lambda g: g.sample(classes=[1], key="a"), "a seed or a key"),
        (lambda g: g.sample(classes=[1], key=2**32), "a seed in"),
        (lambda g: g.sample(classes=[1], first_index=-1), "first_index in"),
        (lambda g: g.sample(classes=[1], first_index=1.5), "an integer first_index"),
        (lambda g: g.sample(classes=[1], temperature=None), "a number for temperature"),
        (lambda g: g.sample(classes=[1], top_k=2.5), "an integer top_k"),
        (lambda g: g.sample(classes=[1], cfg_interval=2**40), "cfg_interval from"),
        (lambda g: g.sample(classes=[1], cfg_interval=5), "cfg_scale above 1 with cfg_interval"),
        (lambda g: g.sample(classes=[1], temprature=1), "did you mean 'temperature'"),
        (lambda g: g.sample(classes=[[1], [1, 2]]), "integer classes"),
        (lambda g: g.logits(jnp.full((1, 4), 512), classes=[1]), "codebook"),
        (lambda g: g.complete(np.zeros((1, 16), int), keep=16), "keep in"),
        (lambda g: g.complete(np.full((1, 16), 512), keep=4), "codebook"),
        (lambda g: g.complete([[1], [1, 2]], keep=4), "rows of several lengths"),
        (lambda g: g.stream(classes=[1], keep=4), "expected ids with keep=4"),
        (lambda g: g.complete(np.zeros((2, 16), int), keep=4, classes=[1]), "for each of 2"),
        (lambda g: g.logits(np.zeros((1, 17), int), classes=[1]), "from 1 to 16"),
        (lambda g: g.detokenize(np.zeros((1, 16), int)), "vq=PATH"),
    ],
)
def test_bad_input_is_one_clear_error(generator, call, message):
    with pytest.raises(UserError, match=message):
        call(generator)


def test_weights_of_another_vocabulary_are_refused(golden, faster):
    with pytest.raises(UserError, match="codebooks of"):
        toklip_jax.load(golden("gpt_c2i_tiny/checkpoint.safetensors"), vq=faster / "toklip")
    with pytest.raises(UserError, match="a generator's weights only"):
        toklip_jax.load(faster / "toklip", vq=faster / "toklip")


def test_converted_weights_give_the_same(generator, golden, tmp_path):
    from toklip_jax.cli.convert import main

    file = str(golden("gpt_c2i_tiny/checkpoint.safetensors"))
    assert main(["to-jax", file, str(tmp_path / "gpt"), "--layout=scanned"]) == 0
    assert main(["verify", file, str(tmp_path / "gpt")]) == 0
    scanned = toklip_jax.load(tmp_path / "gpt")
    options = {"classes": [1, 2], "key": 0, "cfg_scale": 2.0}
    np.testing.assert_array_equal(scanned.sample(**options), generator.sample(**options))


@pytest.mark.plain
def test_the_best_of_several_candidates_scores_highest(with_images):
    texts = np.asarray(with_images.text_features(np.ones((2, 16), int)))
    options = {"classes": [1, 2], "key": 0, "temperature": 1.5}
    chosen = with_images.best_of(texts, num=6, **options)
    assert chosen.ids.shape == (2, 16)
    assert chosen.scores.shape == (2, 6)
    every = with_images.sample(classes=np.repeat([1, 2], 6), key=0, temperature=1.5)
    scores = np.sum(
        np.asarray(with_images.image_features(every)) * np.repeat(texts, 6, axis=0), axis=1
    ).reshape(2, 6)
    np.testing.assert_allclose(chosen.scores, -np.sort(-scores, axis=1), atol=1e-5)
    best = np.asarray(every).reshape(2, 6, 16)[[0, 1], scores.argmax(1)]
    np.testing.assert_array_equal(chosen.ids, best)


@pytest.mark.plain
def test_half_of_the_candidates_may_be_dropped_at_a_prefix(with_images):
    texts = np.asarray(with_images.text_features(np.ones((1, 16), int)))
    chosen = with_images.best_of(texts, num=4, drop_at=8, classes=[1], key=0, temperature=1.5)
    assert chosen.scores.shape == (1, 2)
    every = np.asarray(with_images.sample(classes=[1] * 4, key=0, temperature=1.5))
    scores = np.asarray(with_images.prefix_features(every[:, :8])) @ texts[0]
    better = every[np.argsort(-scores)[:2], :8]
    assert any((chosen.ids[0, :8] == prefix).all() for prefix in better)


@pytest.mark.plain
def test_candidates_that_stay_are_drawn_as_alone_and_as_without_dropping(with_images):
    texts = np.asarray(with_images.text_features(np.ones((2, 16), int)))
    options = {"key": 0, "temperature": 1.5}
    halved = options | {"num": 4, "drop_at": 8}
    together = np.asarray(with_images.best_of(texts, classes=[1, 2], **halved).ids)
    every = np.asarray(with_images.sample(classes=np.repeat([1, 2], 4), **options))
    for i, ids in enumerate(together):
        alone = with_images.best_of(texts[i : i + 1], classes=[i + 1], first_index=i, **halved)
        np.testing.assert_array_equal(alone.ids[0], ids)
        assert any((candidate == ids).all() for candidate in every[4 * i : 4 * i + 4])


def test_what_candidates_are_compared_with_is_checked(with_images):
    texts = np.asarray(with_images.text_features(np.ones((2, 16), int)))
    for wrong in (texts[:, None], texts[:, :1], texts[:1], texts * np.nan):
        with pytest.raises(UserError, match="expected"):
            with_images.best_of(wrong, classes=[1, 2], num=2)
    for options in ({"num": 2.5}, {"num": 0}, {"num": 3, "drop_at": 4}, {"drop_at": "4"}):
        with pytest.raises(UserError, match="expected"):
            with_images.best_of(texts, classes=[1, 2], **options)
    with pytest.raises(UserError, match="first_index below 1,073,741,824 with num=2, got 1,073,74"):
        with_images.best_of(texts, classes=[1, 2], num=2, first_index=2**30)


def test_captions_without_meaning_are_refused(golden):
    generator = toklip_jax.load(golden("gpt_t2i_tiny/checkpoint.safetensors"))
    captions = np.load(golden("gpt_t2i_tiny/inputs.npz"))["caption_left"]
    for wrong in (captions * np.nan, captions[:0]):
        with pytest.raises(UserError, match="features of"):
            generator.sample(captions=wrong)
    with pytest.raises(UserError, match="rows of several lengths"):
        generator.sample(captions=[[1.0], [1.0, 2.0]])
    with pytest.raises(UserError, match="got text: load it with text_encoder"):
        generator.sample(captions="a dog")
    with pytest.raises(UserError, match="a row that counts"):
        generator.sample(captions=captions, valid=np.zeros((3, 8), bool))


def test_toklips_grid_must_be_the_generators(golden, path):
    with pytest.raises(UserError, match="TokLIP with a grid of"):
        toklip_jax.load(golden("gpt_c2i_tiny/checkpoint.safetensors"), vq=path, grid=8)


def test_batches_are_padded_to_powers_of_two_and_on_a_gpu_to_at_least_16_rows():
    sizes = [bucket(rows, None, "cpu") for rows in (1, 2, 3, 16, 17)]
    assert sizes == [1, 2, 4, 16, 32]
    assert [bucket(rows, None, "gpu") for rows in (1, 16, 17)] == [16, 16, 32]
    assert platform_of({"a": np.ones(2)}) == platform_of({"a": jnp.ones(2)}) == "cpu"


@pytest.mark.plain
@pytest.mark.parametrize("classes", [[3, 7, 1], [3, 7]])  # padded, and a power of two
def test_a_stream_draws_what_a_sample_and_a_completion_do(generator, classes):
    options = {"classes": classes, "key": 5, "cfg_scale": 2.0}
    whole = generator.sample(**options)
    streamed = np.stack(list(generator.stream(**options)), axis=1)
    np.testing.assert_array_equal(streamed, whole)
    given = np.asarray(whole)[:, ::-1]
    completed = generator.complete(given, keep=8, **options)
    rest = np.stack(list(generator.stream(ids=given, keep=8, **options)), axis=1)
    np.testing.assert_array_equal(rest, completed[:, 8:])
    with pytest.raises(UserError, match="from 0 to 9"):
        generator.stream(classes=[11])  # at once, not when it is read


@pytest.mark.parametrize("implementation", ["rbg", "unsafe_rbg"])
def test_other_kinds_of_keys_draw_alike_whatever_the_batch(generator, implementation):
    """JAX would draw one stream for the rows of a batch with these."""
    of_seed = generator.sample(classes=[1, 2, 3], key=7)
    key = jax.random.key(7, impl=implementation)
    together = generator.sample(classes=[1, 2, 3], key=key)
    alone = generator.sample(classes=[3], key=key, first_index=2)
    np.testing.assert_array_equal(alone, together[2:])
    assert (together != of_seed).any()
    with jax.default_prng_impl(implementation):
        np.testing.assert_array_equal(generator.sample(classes=[1, 2, 3], key=7), of_seed)

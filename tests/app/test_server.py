"""What the page asks for, and what it may not: the application without a browser."""

import asyncio
import base64
import io
import json
import os
import re
import struct
import threading
import zlib

import jax
import numpy as np
import PIL.Image
import pytest

from benchmarks.weights import random_params
from tests.app.conftest import ADDRESS, client_of
from tests.models.tiny_multimodal import CONFIG, TOKLIP, params_of
from toklip_jax.api import MultimodalModel, Tokenizer, VQTokenizer
from toklip_jax.api.program import _run
from toklip_jax.app import Models, build
from toklip_jax.app.meaning import MAX_PHRASES, Meaning
from toklip_jax.app.server import _assets
from toklip_jax.app.worker import Busy, Worker
from toklip_jax.data.images import shortest_side_crop
from toklip_jax.models.conv_vq.config import ConvVQConfig
from toklip_jax.models.registry import init_params
from toklip_jax.nn.config import Compute
from toklip_jax.nn.quantisers import QuantiserConfig
from toklip_jax.weights import Weights


def encoded(picture, kind="PNG"):
    file = io.BytesIO()
    PIL.Image.fromarray(picture).save(file, kind)
    return file.getvalue()


def pixels_of(uri):
    data = base64.b64decode(uri.removeprefix("data:image/png;base64,"))
    return np.asarray(PIL.Image.open(io.BytesIO(data)))


def floats(packed):
    return np.frombuffer(base64.b64decode(packed), "<f4")


def uploads(*files):
    return [("picture", (f"{i}.png", data)) for i, data in enumerate(files)]


def lines(answer):
    assert answer.status_code == 200, answer.text
    return [json.loads(line) for line in answer.text.splitlines()]


@pytest.fixture(scope="module")
def ids(toklip, picture):
    return np.asarray(toklip.tokenize([PIL.Image.fromarray(picture)]))


@pytest.fixture(scope="module")
def nested(ids):
    return ids[0][:, None].tolist()


def test_pictures_become_the_ids_and_features_of_the_api(client, toklip, picture, ids):
    answer = client.post("/api/pictures", files=uploads(encoded(picture), encoded(picture, "BMP")))
    first, second = answer.json()["pictures"]
    assert first == second
    assert np.ravel(first["ids"]).tolist() == ids[0].tolist()
    cropped = shortest_side_crop(PIL.Image.fromarray(picture), 64)
    np.testing.assert_array_equal(pixels_of(first["image"]), cropped)
    np.testing.assert_allclose(
        floats(first["feature"]), toklip.image_features(ids=ids)[0], atol=1e-5
    )


def test_what_cannot_be_read_says_so_and_the_others_are_encoded(client, picture):
    good = encoded(picture)
    files = uploads(b"no picture", good, good[: len(good) // 2], b"")
    found = client.post("/api/pictures", files=files).json()["pictures"]
    assert [sorted(one) == ["error"] for one in found] == [True, False, True, True]
    assert "not an image" in found[0]["error"]
    assert "\n" not in found[2]["error"]


def test_a_file_of_the_folder_that_cannot_be_read_spoils_no_other(toklip, picture, tmp_path):
    for name in ("good.png", "gone.png", os.fsdecode(b"\xff.png")):
        (tmp_path / name).write_bytes(encoded(picture))
    (tmp_path / "a_link_to_nothing.png").symlink_to("nothing.png")
    (tmp_path / "link.png").symlink_to("good.png")
    os.mkfifo(tmp_path / "pipe.png")
    client = client_of(build(Models(toklip), folder=str(tmp_path)))
    (tmp_path / "gone.png").unlink()
    found = client.post("/api/folder", json={"start": 0}).json()["pictures"]
    names = ["gone.png", "good.png", "link.png", "\\udcff.png"]
    assert [one["name"] for one in found] == names
    assert ["error" in one for one in found] == [True, False, False, False]
    assert "missing image" in found[0]["error"]


def test_a_picture_of_too_many_pixels_is_refused_by_its_header(client):
    def chunk(kind, data):
        length, check = (struct.pack(">I", n) for n in (len(data), zlib.crc32(kind + data)))
        return length + kind + data + check

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99))
    (found,) = client.post("/api/pictures", files=uploads(bomb)).json()["pictures"]
    assert "too many pixels" in found["error"]


def test_what_is_transparent_is_white(client):
    clear = PIL.Image.new("RGBA", (40, 40), (0, 0, 0, 0))
    file = io.BytesIO()
    clear.save(file, "PNG")
    (found,) = client.post("/api/pictures", files=uploads(file.getvalue())).json()["pictures"]
    assert pixels_of(found["image"]).min() == 255


def test_a_look_is_what_the_api_says_of_changed_ids(client, toklip, ids, nested):
    changed = ids.copy()
    changed[0, 5] = 7
    phrases = ["a face", "food", "a flag"]
    body = {"ids": changed[0][:, None].tolist(), "phrases": phrases}
    seen = client.post("/api/look", json=body).json()
    image = np.asarray(toklip.detokenize(changed)[0])
    np.testing.assert_allclose(pixels_of(seen["image"]), (image + 1) * 127.5, atol=0.6)
    texts = np.asarray(toklip.text_features(phrases))
    features = floats(seen["features"]).reshape(16, -1)
    np.testing.assert_allclose(features[-1], toklip.image_features(ids=changed)[0], atol=1e-5)
    np.testing.assert_allclose(
        features[:9], toklip.prefix_features(changed, range(1, 17))[0, :9], atol=1e-5
    )
    logits = np.exp(np.asarray(toklip.similarity(features, texts), np.float64))
    np.testing.assert_allclose(seen["shares"], logits / logits.sum(1, keepdims=True), atol=1e-5)
    maps = texts @ np.asarray(toklip.token_features(changed)[0]).T
    np.testing.assert_allclose(seen["maps"], maps, atol=1e-5)
    before = client.post("/api/look", json={"ids": nested, "phrases": phrases}).json()
    assert before["image"] != seen["image"]
    assert floats(before["features"]).reshape(16, -1)[4].tolist() == features[4].tolist()  # causal


def test_a_code_has_the_nearest_ones_by_distance(client, toklip):
    found = client.post("/api/code", json={"place": [3]}).json()
    every = np.asarray(toklip.code_vectors(np.arange(512).reshape(32, 16))).reshape(512, -1)
    distances = np.linalg.norm(every - every[3], axis=1)
    distances[3] = np.inf
    assert [one["id"] for one in found["near"]] == np.argsort(distances)[:8].tolist()
    np.testing.assert_allclose(
        [one["distance"] for one in found["near"]], np.sort(distances)[:8], atol=1e-5
    )
    flat = np.asarray(toklip.detokenize(np.full((1, 16), 3)))[0, 32:48, 32:48]
    np.testing.assert_allclose(pixels_of(found["tile"]), (flat + 1) * 127.5, atol=0.6)


def test_drawing_and_completing_stream_what_the_generator_draws(client, generator, nested, ids):
    drawn = lines(client.post("/api/draw", json={"condition": 4, "seed": 3}))
    want = np.asarray(generator.sample(classes=[4], key=3, cfg_scale=2.0))
    assert [item["ids"] for item in drawn] == want[0][:, None].tolist()
    np.testing.assert_allclose(
        pixels_of(drawn[-1]["image"]), (np.asarray(generator.detokenize(want))[0] + 1) * 127.5,
        atol=0.6,
    )  # fmt: skip
    rest = lines(client.post("/api/complete", json={"ids": nested, "seed": 1}))
    want = np.asarray(generator.complete(ids, keep=8, key=1))
    assert [item["ids"] for item in rest] == want[0, 8:, None].tolist()


def test_a_question_is_asked_with_the_picture_where_ids_are_another_tokenizer_s(
    client, answering, nested, picture
):
    small = PIL.Image.fromarray(picture).resize((16, 16))
    uri = "data:image/png;base64," + base64.b64encode(encoded(np.asarray(small))).decode()
    body = {"question": "what is it", "ids": nested, "picture": uri}
    answer = "".join(item["piece"] for item in lines(client.post("/api/ask", json=body)))
    want = "".join(answering.stream([small], "what is it", max_new_tokens=64))
    assert answer == want
    refused = client.post("/api/ask", json={**body, "picture": "data:,"})
    assert refused.status_code == 422
    assert "expected a picture" in refused.json()["error"]


def test_a_model_of_the_same_ids_is_asked_by_them():
    params = jax.tree.map(np.asarray, params_of(CONFIG))
    tokenizer = Tokenizer.from_weights(Weights(TOKLIP, params["tokenizer"], is_scanned=False))
    answering = MultimodalModel.from_weights(Weights(CONFIG, params, is_scanned=False))
    assert Models(tokenizer, answering=answering).is_asked_by_ids
    shifted = params | {"tokenizer": jax.tree.map(lambda x: np.asarray(-x), params["tokenizer"])}
    other = MultimodalModel.from_weights(Weights(CONFIG, shifted, is_scanned=False))
    assert not Models(tokenizer, answering=other).is_asked_by_ids


def test_requests_of_any_content_compile_nothing(client, nested, picture):
    before = _run._cache_size()
    for count in (1, 3, 8):
        client.post("/api/pictures", files=uploads(*[encoded(picture)] * count))
    for count in (0, 1, MAX_PHRASES):
        phrases = [f"a phrase {i}" for i in range(count)]
        assert client.post("/api/look", json={"ids": nested, "phrases": phrases}).is_success
    client.post("/api/code", json={"place": [511]})
    lines(client.post("/api/draw", json={"condition": 1}))
    lines(client.post("/api/complete", json={"ids": nested}))
    assert _run._cache_size() == before


@pytest.mark.parametrize(
    ("path", "body", "status", "line"),
    [
        ("look", {"ids": [[1]] * 15}, 422, "expected 16 places of 1 ids each, got 15"),
        ("look", {"ids": [[1, 2]] * 16}, 422, "places of 1 ids each"),
        ("look", {"ids": [[512]] * 16}, 422, r"in \[0, 512\)"),
        ("look", {"ids": [[-1]] * 16}, 422, "whole numbers"),
        ("look", {"ids": [[2**70]] * 16}, 422, "whole numbers"),
        ("look", {"ids": [["a"]] * 16}, 422, "ids.0.0: Input should be a valid integer"),
        ("look", {"ids": "../../etc/passwd"}, 422, "ids: Input should be a valid list"),
        ("look", {}, 422, "ids: Field required"),
        ("look", {"ids": [[1]] * 16, "phrases": ["a"] * 13}, 422, "at most 12"),
        ("look", {"ids": [[1]] * 16, "phrases": [" "]}, 422, "phrases of 1 to 200"),
        ("code", {"place": [512]}, 422, r"an id in \[0, 512\)"),
        ("code", {"place": [1], "which": 1}, 422, "1 ids of a place"),
        ("draw", {"condition": 11}, 422, "from 0 to 9, or 10 for none, got 11"),
        ("draw", {"condition": "a cat"}, 422, "the number of a class"),
        ("draw", {"condition": 1, "seed": -1}, 422, "seed"),
        ("ask", {"ids": [[1]] * 16, "question": " "}, 422, "expected a question"),
        ("nothing", {}, 404, "Not Found"),
    ],
)
def test_bad_requests_are_one_clear_line(client, path, body, status, line):
    answer = client.post(f"/api/{path}", json=body)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert re.search(line, error)
    assert "\n" not in error


def test_other_pages_other_names_and_large_requests_are_refused(client, nested):
    body = {"ids": nested}
    others = "http://example.com", "null", "", "http://127.0.0.1:9", f"{ADDRESS}.example.com"
    for origin in others:
        answer = client.post("/api/look", json=body, headers={"origin": origin})
        assert (answer.status_code, "elsewhere" in answer.text) == (403, True), origin
    for host in ("example.com", "127.0.0.1.example.com", "[", ""):
        headers = {"host": host, "origin": f"http://{host}"}
        assert client.get("/", headers=headers).status_code == 421, host
    for host in ("localhost:8017", "[::1]:8017", "192.168.0.7:1"):
        headers = {"host": host, "origin": f"http://{host}"}
        assert client.post("/api/look", json=body, headers=headers).status_code == 200, host
    large = b"x" * (2 * 2**20 + 1)
    assert client.post("/api/look", content=large).status_code == 413
    endless = {"content-length": "9" * 5000}
    assert client.post("/api/look", content=b"{}", headers=endless).status_code == 413
    in_pieces = (large[i : i + 65536] for i in range(0, len(large), 65536))
    answer = client.post("/api/look", content=in_pieces)
    assert answer.status_code == 413
    assert "at most 2 MB" in answer.json()["error"]
    assert client.post("/api/pictures", files=uploads(*[b"x"] * 9)).status_code == 400
    assert client.post("/api/pictures", data={"picture": "/etc/passwd"}).status_code == 400


@pytest.mark.parametrize(
    "path",
    ["/../pyproject.toml", "/%2e%2e/app/server.py", "/assets/page.js", "/server.py", "/docs"],
)
def test_no_path_is_looked_for(client, path):
    assert client.get(path).status_code == 404


def test_a_file_s_name_is_never_used(client, picture):
    files = [("picture", ("../../../etc/passwd", b"no picture")), ("/etc/passwd", ("a", b""))]
    found = client.post("/api/pictures", files=files).json()["pictures"]
    assert all("expected a picture" in one["error"] for one in found)


def test_the_page_needs_nothing_from_elsewhere(client):
    for name, (content, _) in _assets().items():
        answer = client.get(f"/{name}")
        assert answer.text == content
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "access-control-allow-origin" not in answer.headers
        unsafe = r"https?:|//[a-z]+\.|innerHTML|insertAdjacentHTML|eval\("
        assert not re.search(unsafe, content), name


def test_what_is_missing_says_which_flag_gives_it(toklip, nested):
    client = client_of(build(Models(toklip)))
    about = client.get("/api/about").json()
    assert (about["hasMeaning"], about["hasGenerator"], about["answers"]) == (True, False, False)
    for path, body, flag in (
        ("draw", {"condition": 1}, "--generator="),
        ("complete", {"ids": nested}, "--generator="),
        ("ask", {"ids": nested, "question": "what"}, "--model="),
    ):
        answer = client.post(f"/api/{path}", json=body)
        assert (answer.status_code, flag in answer.json()["error"]) == (422, True)


def test_a_vq_tokenizer_alone_has_pictures_and_codes_of_several_ids():
    quantiser = QuantiserConfig("several", 16, 4, 2)
    config = ConvVQConfig(
        channels=32, multipliers=(1,), num_res_blocks=1, stem_patch=8, quantiser=quantiser
    )
    params = random_params(lambda key: init_params(config, Compute(is_scanned=False), key))
    weights = Weights(config, params, is_scanned=False)
    tokenizer = VQTokenizer.from_weights(weights, image_size=(32, 24))
    models = Models(tokenizer)
    meaning, (ids,) = Meaning(models), models.some_ids(1)
    assert sorted(meaning.look(ids, [])) == ["image"]
    found = meaning.code(ids[0].tolist(), 1)
    others = np.repeat(ids[:1], len(found["near"]) + 1, axis=0)
    others[1:, 1] = [one["id"] for one in found["near"]]
    padded = np.resize(others, ids.shape)
    vectors = np.asarray(tokenizer.code_vectors(padded[None]))[0, : len(others)]
    np.testing.assert_allclose(
        [one["distance"] for one in found["near"]],
        np.linalg.norm(vectors[1:] - vectors[0], axis=1),
        atol=1e-5,
    )


def test_requests_beyond_the_queue_are_turned_away():
    async def fill():
        worker, free = Worker(max_waiting=2), threading.Event()
        waiting = [asyncio.ensure_future(worker.run(free.wait)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(Busy):
            await worker.run(print)
        free.set()
        assert await asyncio.gather(*waiting) == [True, True]
        return [item async for item in worker.each(iter([1, 2, 3]))]

    assert asyncio.run(fill()) == [1, 2, 3]

"""The page in a real browser: every panel clicked through, at two widths, light and dark."""

import threading

import numpy as np
import PIL.Image
import pytest

from toklip_jax.app import build, listening, serve
from toklip_jax.app.models import Models

sync_api = pytest.importorskip("playwright.sync_api", reason="NOT CHECKED: no playwright")

PAPER = {"light": "rgb(251, 250, 248)", "dark": "rgb(21, 23, 26)"}
SIZES = {"phone": (390, 844), "desk": (1280, 900)}


@pytest.fixture(scope="module")
def chromium(browser):
    with sync_api.sync_playwright() as playwright:
        nowhere_else = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
        flags = ["--no-sandbox", "--disable-gpu", nowhere_else]
        started = playwright.chromium.launch(executable_path=browser, args=flags)
        yield started
        started.close()


@pytest.fixture
def served():
    """`served(application)` is the address where it is served, as long as the tests run."""

    def start(application):
        listener = listening("127.0.0.1", 0)
        threading.Thread(target=serve, args=(application, listener), daemon=True).start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    return start


@pytest.fixture
def visit(chromium):
    """`visit(address, size, scheme)` opens a page; nothing may go wrong in it unseen."""
    contexts, wrong = [], []

    def open_page(address, size="desk", scheme="light"):
        width, height = SIZES[size]
        context = chromium.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda line: line.type == "error" and wrong.append(line.text))
        page.on("request", lambda one: _is_local(one.url, address) or wrong.append(one.url))
        page.goto(address)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []


def _is_local(url, address):
    return url.startswith((address + "/", "data:", "blob:"))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory, picture):
    """A folder of pictures, one with a name that would be markup, and a file that is none."""
    folder = tmp_path_factory.mktemp("pictures")
    for i, name in enumerate(["a <b>bold one", "second", "third"]):
        PIL.Image.fromarray(np.roll(picture, i, axis=2)).save(folder / f"{name}.png")
    (folder / "broken.png").write_bytes(b"no picture")
    (folder / "notes.txt").write_text("no picture either")
    return folder


def values(page, selector, prop="textContent"):
    return page.eval_on_selector_all(selector, f"all => all.map((one) => one.{prop})")


def settled(page):
    """Waits until the page has all that it has asked for."""
    page.wait_for_selector('main[aria-busy="false"]')


@pytest.mark.parametrize("scheme", PAPER)
@pytest.mark.parametrize("size", SIZES)
def test_every_panel_works(application, served, visit, pictures, size, scheme):
    page = visit(served(application), size, scheme)
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == PAPER[scheme]
    page.set_input_files("#folder", str(pictures))
    page.wait_for_selector("#shelf li:nth-child(3)")
    settled(page)
    assert "broken.png: expected a picture" in page.text_content("#error")
    titles = values(page, "#shelf button", "title")
    assert "a <b>bold one.png" in titles
    assert page.query_selector("#shelf b") is None
    _change_an_id(page)
    _read_the_meaning(page)
    _draw_complete_and_ask(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= SIZES[size][0]
    assert page.is_hidden("#error")


def _change_an_id(page):
    """By a click on one that is near, by keys, and back."""
    texts = values(page, '[role="gridcell"]')
    assert len(texts) == 16
    page.click('[role="gridcell"] >> nth=5')
    settled(page)
    assert page.text_content("#cell-title") == f"Id {texts[5]}"
    pictures, shares = [page.get_attribute("#picture", "src")], [values(page, ".bars output")]
    near = page.text_content("#near li span")
    page.click("#near button >> nth=0")
    settled(page)
    pictures.append(page.get_attribute("#picture", "src"))
    shares.append(values(page, ".bars .bar i", "style.width"))
    assert values(page, '[role="gridcell"]')[5] == near
    assert values(page, ".changed span") == [near]
    assert page.text_content("#cost").startswith("changed in ")
    page.focus('[aria-selected="true"]')
    for key in ("ArrowRight", "ArrowDown", "Enter"):
        page.keyboard.press(key)
    assert page.evaluate("document.activeElement.id") == "id"
    page.keyboard.press("Control+a")
    page.keyboard.type("7")
    page.keyboard.press("Enter")
    settled(page)
    pictures.append(page.get_attribute("#picture", "src"))
    shares.append(values(page, ".bars .bar i", "style.width"))
    assert values(page, '[role="gridcell"]')[10] == "7"
    focused = page.evaluate("document.activeElement.getAttribute('aria-label')")
    assert focused == "row 3, column 3: id 7, changed"
    assert len(set(pictures)) == 3
    assert shares[1] != shares[2]
    page.click("#undo")
    page.click("#reset")
    settled(page)
    assert values(page, '[role="gridcell"]') == texts
    assert page.get_attribute("#picture", "src") == pictures[0]
    assert "of 255" in page.text_content("#difference-note")


def _read_the_meaning(page):
    assert len(values(page, ".bars li")) == 4
    page.fill("#phrase", "a red <i>cat</i>")
    page.keyboard.press("Enter")
    page.wait_for_selector(".bars li:nth-child(5)")
    settled(page)
    assert values(page, ".bars [aria-pressed=true]") == ["a red <i>cat</i>"]
    assert "Where “a red <i>cat</i>” is" in page.text_content("#map-note")
    before = values(page, ".bars .bar i", "style.width"), values(page, "#nearest small")
    assert len(before[1]) == 3
    assert float(before[1][0]) > 0.999  # the picture itself
    page.focus("#count")
    page.keyboard.press("Home")
    after = values(page, ".bars .bar i", "style.width"), values(page, "#nearest small")
    assert before[0] != after[0]
    assert before[1] != after[1]
    assert page.text_content("#count-note") == "1 of 16"
    assert len(values(page, ".unseen")) == 15
    page.keyboard.press("End")
    assert (values(page, ".bars .bar i", "style.width"), values(page, "#nearest small")) == before
    page.click(".bars .remove >> nth=4")
    settled(page)
    assert len(values(page, ".bars li")) == 4
    page.click("#nearest button >> nth=1")
    settled(page)
    assert float(page.text_content("#nearest small")) > 0.999


def _draw_complete_and_ask(page):
    page.select_option("#draw select", "4")
    page.click("#draw [type=submit]")
    page.wait_for_selector("#draw .canvas button")
    assert len(values(page, "#draw .drawn")) == 16
    assert page.input_value("#draw [name=seed]") == "1"
    upper = values(page, '[role="gridcell"]')[:8]
    page.click("#complete [type=submit]")
    page.wait_for_selector("#complete .canvas button")
    page.click("#complete .canvas button")
    settled(page)
    assert values(page, '[role="gridcell"]')[:8] == upper
    assert page.is_hidden("#original")
    page.fill("#ask [name=question]", "what is it")
    page.click("#ask [type=submit]")
    page.wait_for_selector("#ask [type=submit]:not(:disabled)")
    assert page.text_content("#ask .answer") not in ("", "…")


def test_panels_without_weights_name_the_flag(toklip, served, visit):
    page = visit(served(build(Models(toklip))))
    page.wait_for_selector("#draw .missing:not([hidden])")
    flags = values(page, ".missing:not([hidden]) code")
    assert flags == ["--generator=…", "--generator=…", "--model=…"]
    page.click("#random-ids")
    settled(page)
    assert page.is_visible("#grid")
    assert page.is_hidden("#original")

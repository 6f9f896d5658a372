"""The page in a real browser: headless Chromium, by its command line."""

import base64
import hashlib
import html
import json
import re
import subprocess

import pytest

PHONE = (390, 844)
DARK = "--blink-settings=preferredColorScheme=0"
# What a visitor would see and do; its findings end up in the page's text.
VISIT = """
<script>
addEventListener("load", () => {
  const canvas = document.querySelector("canvas"), input = document.getElementById("phrase");
  const look = () => canvas && [canvas.toDataURL(), canvas.getAttribute("aria-label")];
  const type = (text) => {
    input.value = text;
    input.dispatchEvent(new Event("input", { bubbles: true }));
    return look();
  };
  const root = document.documentElement;
  // The height of each piece of text as it is seen; that in a drawing is scaled with it.
  const height = (element) => {
    const scale = element.ownerSVGElement ? element.getScreenCTM().a : 1;
    return scale * parseFloat(getComputedStyle(element).fontSize);
  };
  const texts = [...document.body.querySelectorAll("*")].filter((element) =>
    !["SCRIPT", "STYLE", "title"].includes(element.tagName) &&
    [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim()));
  const charts = [...document.querySelectorAll(".charts figure")].slice(0, 4);
  const findings = {
    images: document.images.length,
    broken: [...document.images].filter((image) => !image.naturalWidth).map((image) => image.alt),
    width: innerWidth,
    overflow: root.scrollWidth - root.clientWidth,
    fetched: performance.getEntriesByType("resource").map((entry) => entry.name),
    paper: getComputedStyle(document.body).backgroundColor,
    line: getComputedStyle(document.querySelector(".chart .line")).stroke,
    isScripted: getComputedStyle(document.querySelector(".without-script")).display === "none",
    smallest: Math.min(...texts.map(height)),
    texts: texts.length,
    rows: new Set(charts.map((chart) => Math.round(chart.getBoundingClientRect().top))).size,
    phrases: document.getElementById("phrases").options.length,
    first: look(),
    again: type("  GREEN "),
    beginning: type("a roun"),
    unknown: type("no such phrase") && document.getElementById("found").textContent,
  };
  const note = document.createElement("pre");
  note.id = "findings";
  note.textContent = JSON.stringify(findings);
  parent.document.body.append(note);  // of the page around, if it is in one
});
</script>
"""


@pytest.fixture
def visit(browser, tmp_path):
    """`visit(text, hash, *flags, size=None)` returns (findings, console messages) of a page."""

    def run(text, address="", *flags, size=None):
        page = tmp_path / "page.html"
        text = _allowing(VISIT, text.replace("</body>", VISIT + "</body>"))
        page.write_text(text if size is None else _in_frame(text, *size), encoding="utf-8")
        command = [
            browser,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--dump-dom",
            "--enable-logging=stderr",
            "--virtual-time-budget=10000",
            "--hide-scrollbars",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-extensions",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--user-data-dir={tmp_path / 'profile'}",
            *flags,
            page.as_uri() + address,
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
        found = re.search(r'<pre id="findings">(.*?)</pre>', done.stdout, flags=re.S)
        assert found, f"the visit ended early: {console}"
        return json.loads(html.unescape(found[1])), console

    return run


def _allowing(added, text):
    """The page with a policy that also allows a script added to it."""
    script = re.search("<script>(.*?)</script>", added, flags=re.S)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return text.replace("script-src ", f"script-src 'sha256-{digest}' ")


def _in_frame(text, width, height):
    # Chromium's own windows are at least 500 pixels wide.
    style = f"width:{width}px;height:{height}px;border:0"
    frame = f'<iframe style="{style}" srcdoc="{html.escape(text)}"></iframe>'
    return f'<!doctype html><meta charset="utf-8"><body>{frame}'


def test_the_page_works_on_a_phone_and_redraws_what_is_asked_for(report, visit):
    found, console = visit(report.text, size=PHONE)
    assert console == []
    assert found["images"] > 20
    assert found["broken"] == found["fetched"] == []
    assert (found["width"], found["overflow"]) == (PHONE[0], 0)
    assert (found["paper"], found["line"]) == ("rgb(252, 252, 250)", "rgb(11, 98, 168)")
    assert found["isScripted"]
    assert found["texts"] > 200
    assert found["smallest"] >= 12  # pixels
    assert found["rows"] == 2  # of the first four charts
    assert found["phrases"] == 5
    assert "“an extra phrase”" in found["first"][1]
    assert "“green”" in found["again"][1]
    assert "“a round red thing”" in found["beginning"][1]
    drawn = {found[name][0] for name in ("first", "again", "beginning")}
    assert len(drawn) == 3
    assert found["unknown"] == "The page doesn't know such a phrase."


def test_dark_is_dark_and_the_address_names_a_phrase(report, visit):
    found, console = visit(report.text, "#phrase=green", DARK)
    assert console == []
    assert (found["paper"], found["line"]) == ("rgb(21, 23, 26)", "rgb(121, 180, 240)")
    assert found["smallest"] >= 12  # pixels
    assert "“green”" in found["first"][1]
    assert found["first"] == found["again"]


def test_the_visit_sees_what_a_page_does_wrong(report, visit):
    wrong = '<p style="width:500px">wide<img src="http://example.com/a.png" alt="outside"></p>'
    warning = "<script>console.warn('a warning')</script>"
    forbidden = "<script>console.warn('a forbidden one')</script>"
    text = report.text.replace("<main>", f"<main>{wrong}{warning}{forbidden}")
    found, console = visit(_allowing(warning, text), size=PHONE)
    assert found["broken"] == ["outside"]
    assert found["overflow"] > 0
    assert any("Content Security Policy" in line for line in console)
    assert any("a warning" in line for line in console)
    assert not any("a forbidden one" in line for line in console)

"""The page of `report`: what it says, that no text of a model becomes markup, and how a browser shows it."""

from __future__ import annotations

import http.server
import re
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from helpers import browser
from matplotlib.image import imread
from tfm.cli.report_page import Facts, LayerError, page
from tfm.runtime.verification.checks.text import AGREEMENT, KL, PERPLEXITY, REFERENCE_PERPLEXITY
from tfm.runtime.verification.report import NOT_YET, Basis, CheckResult, Report, Row, judged

LAYERS = [LayerError(str(i), 0.1 + i / 20, f"layer {i}, output") for i in range(12)]
SIZES = [("the bundle, all files", 130_000_000), ("its parameters as 32-bit floats", 520_000_000)]
FACTS = Facts(LAYERS, SIZES, [("writing 64 tokens", "30.1 tokens/s")], ["Linux x86_64"])


def report(text: str = "m.gguf") -> Report:
    """A report in which every text that a model or its files can state is this one."""
    whole = judged("whole: largest error", 0.117, 0.52, "logits", text)
    rows = (
        Row(KL, 0.0031, unit="nats a token"),
        Row(AGREEMENT, 0.97, unit="of positions"),
        Row(PERPLEXITY, 22.5, note="300 of 300 tokens"),
        Row(REFERENCE_PERPLEXITY, 21.0),
    )
    texts = Row(
        "greedy text 1", 5, unit="tokens shared", of=24, texts=("Once", f" upon {text} a", " upon all")
    )
    checks = (
        CheckResult("numbers", (whole, Row(text, note=text), Row(f"later {text}", missing=NOT_YET))),
        CheckResult("text", rows, basis=Basis("source")),
        CheckResult("texts", (texts,)),
    )
    return Report(checks, 1.0, "cpu", 1, text, text, text, (text,))


class Reader(HTMLParser):
    """The tags of a page with their attributes, and its texts."""

    def __init__(self, html: bytes) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(html.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def hostile(url: str) -> str:
    """Text that would fetch, run or close something if it were markup, and that reorders what follows."""
    fetches = (
        f"<img src='{url}/image'><script>fetch('{url}/script')</script><link rel=stylesheet href={url}/css>"
    )
    runs = "<img src=x onerror=\"document.title='taken'\"><svg onload=\"document.title='taken'\">"
    closes = f"</style></title></td>{fetches}<link rel=stylesheet href={url}/css>{runs}]]>-->"
    return f"{closes} &lt;{{{{ 7*7 }}}} \u202edrow\x1b[2J\x00 \ud800"


def test_a_page_says_what_was_found_and_what_was_not():
    shown = " ".join(Reader(page(report(), FACTS)).texts)
    for text in (
        "PASSED the quick checks",
        "0.117 logits of the 0.52 logits that are allowed (22%)",
        "perplexity 22.5 (the specification's is 21)",
        "On a text that no calibration saw: 300 of 300 tokens",
        "the specification over the checkpoint's weights",
        "5 of 24 tokens shared",
        "layer 11, output: 65.0% of its budget",
        "130.0 MB",
        "30.1 tokens/s",
        "later m.gguf (not checked yet).",
    ):
        assert text in shown, text
    missing = Facts("torch is missing", SIZES, "left out", ["Linux"])
    shown = " ".join(Reader(page(Report((), 0.1, "cpu", 1), missing)).texts)
    for text in ("Not checked: torch is missing.", "Speed: left out."):
        assert text in shown, text
    later = tuple(CheckResult(name, (Row(name, missing=NOT_YET),)) for name in ("text", "texts"))
    shown = " ".join(Reader(page(Report(later, 0.1, "cpu", 1), FACTS)).texts)
    assert not {"Outputs", "Texts"} & set(shown.split()), "nothing stands under a heading"
    assert f": text, texts ({NOT_YET})" in shown


def test_a_page_of_an_encoder_has_its_outputs_and_no_texts():
    rows = (Row("mean cosine over a text", 0.9991), Row("RMS error over a text", 0.01, unit="in vectors"))
    shown = " ".join(Reader(page(Report((CheckResult("text", rows),), 0.1, "cpu", 1), FACTS)).texts)
    assert re.search("Outputs .*0.9991 .*0.01 ", shown)
    assert "Texts" not in shown
    assert "Not checked" not in shown


def test_no_text_of_a_model_becomes_markup():
    """The tags are those of a page of plain texts, and what stood in the text is read as text."""
    plain, odd = Reader(page(report(), FACTS)), Reader(page(report(hostile("http://127.0.0.1:9")), FACTS))
    assert odd.tags == plain.tags
    assert not {"script", "img", "link", "iframe", "object", "a"} & {tag for tag, _ in odd.tags}
    attributes = {name for _, values in odd.tags for name in values}
    assert not [name for name in attributes if name.startswith("on") or name in ("src", "href", "srcset")]
    shown = "".join(odd.texts)
    assert "<script>fetch('http://127.0.0.1:9/script')</script>" in shown
    assert not {"\u202e", "\x1b", "\x00"} & set(shown)
    style = next(text for text in odd.texts if ":root" in text)
    assert "url(" not in style
    assert "@import" not in style
    assert "default-src 'none'" in next(v["content"] for t, v in odd.tags if "http-equiv" in v)


def test_a_failed_report_says_so():
    failed = Report(
        (CheckResult("x", (judged("x", 2.0, 1.0, "logits"),)),), 0.1, "cpu", 1, "m", "int8", "ort-cpu"
    )
    read = Reader(page(failed, FACTS))
    assert ("section", {"class": "verdict failed"}) in read.tags
    assert any(re.match(r"Failed: x: 2 .* 1 .*\(200%\)", text) for text in read.texts)
    assert "ONNX Runtime's operators: 1 figures, 1 FAILED" in read.texts
    assert ("details", {"open": ""}) in read.tags
    assert any(text.startswith("No part ") for text in read.texts)
    over = replace(FACTS, layers=[*FACTS.layers, LayerError("12", 3.0, "layer 12, mlp")])
    told = "First divergence: layer 12, mlp, 300% of its budget; the layers are below."
    assert told in Reader(page(failed, over)).texts


def test_figures_are_folded_by_path():
    names = ("kernels (avx2): whole: largest error", "whole: largest error", "kernels (avx2): in chunks")
    checks = [CheckResult("x", (Row(name, 1.0),)) for name in names] + [CheckResult("files", (Row("h", 3),))]
    read = Reader(page(Report(tuple(checks), 0.1, "cpu", 1), FACTS))
    paths = {"kernels (avx2)": 2, "ONNX Runtime's operators": 1, "Files, weights, graphs": 1}
    assert [text for text in read.texts if " figures, " in text] == [
        f"{path}: {count} figures, none over its limit" for path, count in paths.items()
    ]
    assert [values for tag, values in read.tags if tag == "details"] == [{}] * 3


def test_the_command_writes_a_page_and_replaces_none(tfm, bundle, tmp_path):
    copied, out = tmp_path / "bundle", tmp_path / "out.html"
    shutil.copytree(bundle, copied)
    ran = tfm("report", copied, out, "--no-speed")
    assert (ran.code, ran.out) == (0, f"{out}\n"), ran.err
    shown = " ".join(Reader(out.read_bytes()).texts)
    assert re.search("tiny .*int8 .*ort-cpu", shown)
    assert "layer 1, " in shown
    assert "--no-speed" in shown
    before = out.read_bytes()
    tfm("report", copied, out).failed(2, "--overwrite")
    tfm("report", copied, tmp_path / "no" / "out.html").failed(2, "directory")
    (copied / "golden/tokens.npy").write_bytes(b"x" + (copied / "golden/tokens.npy").read_bytes()[1:])
    ran = tfm("report", copied, out, "--no-speed", "--overwrite")
    assert ran.code == 10
    assert "FAILED" in " ".join(Reader(out.read_bytes()).texts)
    assert out.read_bytes() != before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "out.html"]


@pytest.fixture
def canary() -> Iterator[tuple[str, list[str]]]:
    """A server on this machine, and the paths that were asked of it."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()
        thread.join()


@pytest.mark.browser
def test_a_browser_runs_and_fetches_nothing(canary, tmp_path):
    url, asked = canary
    file = tmp_path / "page.html"
    file.write_bytes(page(report(hostile(url)), FACTS))
    seen = Reader(browser.run(file, tmp_path / "profile", "--dump-dom").encode())
    assert asked == []
    title = seen.texts[next(i for i, text in enumerate(seen.texts) if text.startswith("PASSED"))]
    assert f"fetch('{url}/script')" in title, "the title is the page's own"
    assert not {"script", "img", "link"} & {tag for tag, _ in seen.tags}
    # The same texts as markup would be noticed: the browser does fetch what isn't forbidden.
    file.write_text(f"<img src='{url}/image'><script>fetch('{url}/script')</script>")
    browser.run(file, tmp_path / "profile", "--dump-dom")
    assert "/image" in asked


@pytest.mark.browser
def test_a_browser_shows_it_light_and_dark(tmp_path):
    file, brightness = tmp_path / "page.html", {}
    file.write_bytes(page(report(), FACTS))
    for name, setting in (("dark", 0), ("light", 1)):
        picture = tmp_path / f"{name}.png"
        options = (f"--screenshot={picture}", "--window-size=900,1600")
        browser.run(file, tmp_path / "profile", *options, f"--blink-settings=preferredColorScheme={setting}")
        pixels = imread(picture)[..., :3]
        brightness[name] = float(pixels.mean())
        assert pixels.std() > 0.02, "something is drawn"
    assert brightness["dark"] < 0.3
    assert brightness["light"] > 0.8

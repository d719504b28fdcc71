"""The page in Chromium: a bundle answers over WebAssembly, is stopped, and compared with its certificate."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from helpers import browser, peers, tiny_models
from helpers.layout_models import LENGTH, MESSAGES, answer, chats, greedy, real_bundle
from tfm.export.bundle_writer import export
from tfm.refimpl.checkpoint.open import open_checkpoint, save_checkpoint
from tfm.refimpl.checkpoint.tokenizers import tokenizer as specified
from tfm.refimpl.checkpoint.tokenizers.training import count_words, train
from tfm.runtime.bundle.bundle import Bundle, open_bundle
from tfm.runtime.tasks import load
from tfm.runtime.verification.certificate import recorded

pytestmark = [pytest.mark.peers, pytest.mark.browser]
PAGE = Path(__file__).with_name("edge") / "chat.html"
PACKAGES = ("onnxruntime-web", "@huggingface/tokenizers", "@huggingface/jinja")
LINES = ["the quick brown fox jumps over the lazy dog"] * 3
TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
NOTE = "document.getElementById('note').textContent"
IDLE = "document.getElementById('send').textContent === 'Send'"
ANSWER = "[...document.querySelectorAll('.assistant')].at(-1).textContent"
# WebGPU that Chromium computes on the processor.
GPU = ("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader")
QUESTION = "the <b>fox</b>"


class Isolated(SimpleHTTPRequestHandler):
    """Files, with the headers that give a page threads."""

    def end_headers(self) -> None:
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None: ...


@contextmanager
def served(folder: Path) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Isolated, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/{PAGE.name}"
        finally:
            server.shutdown()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = peers.node_modules(tmp_path_factory.mktemp("site"), *PACKAGES)
    (folder / PAGE.name).write_bytes(PAGE.read_bytes())
    return folder


def bundle(folder: Path, quant: str, context: int, target: str = "ort-cpu") -> Bundle:
    config = tiny_models.llama(vocabulary=300, context=context)
    tokenizer = specified.dumps(train(count_words(LINES, "bpe"), "bpe", 300, special_tokens=["<s>", "</s>"]))
    model = folder.with_name(f"{folder.name}-model")
    save_checkpoint(model, config, tiny_models.weights(config, seed=5), tokenizer, TEMPLATE)
    export(open_checkpoint(model), folder, quant=quant, target=target)
    return open_bundle(folder)


@contextmanager
def opened(site: Path, bundle: Bundle, profile: Path, device: str = "wasm") -> Iterator[browser.Tab]:
    query = f"bundle={bundle.path.name}&device={device}"
    with served(site) as url, browser.Tab(f"{url}?{query}", profile, *GPU) as tab:
        tab.wait_for(f"/^ready|^failed/.test({NOTE})")
        assert tab.run(NOTE) == f"ready: {bundle.path.name}"
        yield tab


def ask(tab: browser.Tab, question: str = QUESTION) -> None:
    tab.run(
        "document.getElementById('note').textContent = '';"
        f"document.getElementById('text').value = {json.dumps(question)};"
        "document.getElementById('form').requestSubmit()"
    )


def checked(tab: browser.Tab) -> str:
    tab.run("document.getElementById('check').click()")
    tab.wait_for(f"/^Right|^WRONG|^failed/.test({NOTE})")
    return tab.run(NOTE)


@pytest.mark.parametrize(
    ("device", "target", "quant", "row", "factors"),
    [
        ("wasm", "ort-cpu", "fp32", "whole", (1.01,)),
        ("wasm", "ort-cpu", "int8", "products in float", (1.01, -1 / 1.01)),
        ("wasm", "ort-web", "int8-dynamic", "whole", (-1.0,)),  # rounded products have room for less
        # The page judges alike whatever computes; a GPU in software takes long.
        ("webgpu", "ort-cpu", "fp32", "whole", ()),
        ("webgpu", "ort-cpu", "int8", "products in float", ()),
    ],
)
def test_it_answers_and_checks_itself(
    site: Path, tmp_path: Path, device: str, target: str, quant: str, row: str, factors: tuple[float, ...]
):
    made = bundle(site / f"{device}-{quant}", quant, context=64, target=target)
    model = load(made.path)
    prompt = model.chat_template.encode([{"role": "user", "content": QUESTION}])
    with opened(site, made, tmp_path / "profile", device) as tab:
        assert tab.run("crossOriginIsolated")
        said = checked(tab)
        (figure,) = [r.figure for r in recorded(made.path).rows if r.name == f"{row}: largest error"]
        assert said.startswith(f"Right. {row}: largest error ")
        assert float(said.split("in the certificate ")[1].split(",")[0]) == pytest.approx(figure, rel=0.01)
        ask(tab)
        tab.wait_for(f"{IDLE} && {ANSWER}")
        if quant == "fp32":  # others are rounded otherwise where products are of floats
            (tokens,) = greedy(made, [prompt], 64 - len(prompt))
            assert tab.run(ANSWER) == model.text.decode(tokens)
        assert tab.run("document.querySelectorAll('#talk b').length") == 0
        assert tab.run("document.getElementById('text').value") == ""
        tab.run("document.getElementById('form').requestSubmit()")  # nothing was written
        assert tab.run(f"{IDLE} && document.querySelectorAll('#talk p').length") == 2

    norm = next(t for name, t in made.manifest.tensors.items() if name.startswith("decoder.norm"))
    data = np.memmap(made.path / "model.onnx.data", np.uint8, "r+")
    values = data[norm.offset : norm.offset + norm.length].view(norm.dtype)
    for factor in factors:
        values *= factor
        data.flush()
        with opened(site, made, tmp_path / f"wrong{factor}", device) as tab:
            said = checked(tab)
        assert said.startswith("WRONG. ")
        rows = re.findall(r"([a-z ]+): largest error (\S+), .*?, budget ([^ ;]+)", said)
        within = {name.strip(): float(found) <= float(budget) for name, found, budget in rows}
        sharp = {"products in float": False} if quant == "int8" else {}
        assert within == {**sharp, "whole": factor > 0 and quant == "int8"}


def test_it_stops(site: Path, tmp_path: Path):
    made = bundle(site / "long", "fp32", context=2**16)
    with opened(site, made, tmp_path / "profile") as tab:
        ask(tab)
        tab.wait_for(f"parseInt({NOTE}) >= 2")
        tab.run("document.getElementById('form').requestSubmit()")
        tab.wait_for(IDLE)
        assert 2 <= int(tab.run(f"parseInt({NOTE})")) <= 200


@pytest.mark.parametrize("packages", [True, False])
def test_what_is_missing_is_said(site: Path, tmp_path: Path, packages: bool):
    folder = site if packages else tmp_path
    (folder / PAGE.name).write_bytes(PAGE.read_bytes())
    with served(folder) as url, browser.Tab(f"{url}?bundle=nowhere", tmp_path / "profile") as tab:
        tab.wait_for(f"{NOTE} !== 'loading'")
        said = tab.run(NOTE)
    assert said.startswith("failed: ")
    assert ("nowhere/tfm.json: File not found" if packages else "node_modules") in said


@pytest.mark.real
def test_smollm2_answers_with_the_same_tokens(site: Path, tmp_path: Path, smollm2_gguf: Path):
    """The first 64 tokens of five answers over WebAssembly, with weights of 500 MB."""
    made = real_bundle(smollm2_gguf, "fp32", site / "real")
    expected = greedy(made, chats(made))
    with opened(site, made, tmp_path / "profile") as tab:
        for message, tokens in zip(MESSAGES, expected, strict=True):
            ask(tab, message)
            tab.wait_for(f"parseInt({NOTE}) >= {LENGTH} || {IDLE} && {ANSWER}")
            if not tab.run(IDLE):
                tab.run("document.getElementById('form').requestSubmit()")
                tab.wait_for(IDLE)
            # A character of several tokens may end behind the last one.
            assert tab.run(ANSWER).startswith(answer(made, tokens).rstrip("\ufffd"))


def test_it_is_short_and_linked():
    assert len(PAGE.read_text().splitlines()) < 135
    assert (
        f"(../tests/examples/edge/{PAGE.name})"
        in (Path(__file__).parents[2] / "docs" / "COMMANDS.md").read_text()
    )

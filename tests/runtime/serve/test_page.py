"""The chat page in Chromium: a conversation is typed, streamed and stopped, and no text becomes markup."""

from __future__ import annotations

import io
import json
from pathlib import Path

import httpx
import pytest
from helpers import browser, serving, tiny_models
from matplotlib.image import imread
from tfm.refimpl.engine.numpy_engine import NumpyEngine
from tfm.runtime.serve.page import PAGE, policy

LAST = "[...document.querySelectorAll('.assistant')].at(-1).textContent"
IDLE = "document.getElementById('send').textContent === 'Send'"


def say(tab: browser.Tab, text: str) -> None:
    """Type a message and send it."""
    tab.run(
        f"document.getElementById('text').value = {json.dumps(text)};"
        "document.getElementById('form').requestSubmit()"
    )


def test_the_page_may_run_its_own_script_and_nothing_else() -> None:
    with serving.running({"tiny": serving.model()}, keys=("secret",)) as (url, _):
        answer = httpx.get(url, trust_env=False)
    assert (answer.status_code, answer.text) == (200, PAGE)
    assert answer.headers["content-security-policy"] == policy(PAGE)
    assert "default-src 'none'" in policy(PAGE)
    assert "unsafe" not in policy(PAGE)
    assert "innerHTML" not in PAGE
    assert "http" not in PAGE


@pytest.mark.browser
def test_a_conversation(tmp_path: Path) -> None:
    model = serving.model(serving.Scripted(), defaults={"temperature": None}, max_new_tokens=20)
    with (
        serving.running({"tiny": model}) as (url, _),
        browser.Tab(url, tmp_path / "profile") as tab,
    ):
        tab.wait_for("document.getElementById('model').value === 'tiny'")
        messages = []
        for turn, text in enumerate(("<b>the cat</b>", "a dog")):
            messages.append({"role": "user", "content": text})
            expected = str(model.chat(messages))
            say(tab, text)
            tab.wait_for(f"document.querySelectorAll('.assistant').length === {turn + 1} && {IDLE}")
            assert tab.run(LAST) == expected
            messages.append({"role": "assistant", "content": expected})
        assert tab.run("document.querySelectorAll('main b').length") == 0
        assert imread(io.BytesIO(tab.screenshot()))[..., :3].std() > 0.02, "something is drawn"


@pytest.mark.browser
def test_an_answer_is_stopped_and_its_slot_free(tmp_path: Path) -> None:
    config = tiny_models.llama(vocabulary=serving.CONFIG.embedding.vocabulary, context=2**16, layers=1)
    endless = serving.model(NumpyEngine(config, tiny_models.weights(config, seed=3)))
    with (
        serving.running({"tiny": endless}, keys=("secret",)) as (url, server),
        browser.Tab(url, tmp_path / "profile") as tab,
    ):
        tab.wait_for("!document.getElementById('key').hidden")
        tab.run(
            "document.getElementById('key').value = 'secret';"
            "document.getElementById('key').dispatchEvent(new Event('change'))"
        )
        tab.wait_for("document.getElementById('model').value === 'tiny'")
        say(tab, "the cat")
        tab.wait_for(f"document.querySelector('.assistant') && {LAST}.length > 20")
        tab.run("document.getElementById('form').requestSubmit()")
        tab.wait_for(IDLE)
        assert tab.run("[...document.querySelectorAll('.note')].at(-1).textContent") == "stopped"
        serving.idle(server)

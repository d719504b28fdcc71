"""The chat page in Chromium: texts are typed, streamed, changed, kept and spoken, and none of them runs."""

from __future__ import annotations

import hashlib
import io
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile
from helpers import agents, browser, hearing_models, serving, tiny_models
from helpers.served import MODELS
from matplotlib.image import imread
from tfm.refimpl.engine.numpy_engine import NumpyEngine
from tfm.runtime.serve.page import FILES, POLICY

OURS = ("page.html", "page.css", "page.js")
STATIC = Path(__file__).parents[3] / "runtime/serve/static"
TONE = 440  # Hz, what the browser's microphone hears
TINY = serving.model(serving.Scripted(), defaults={"temperature": None}, max_new_tokens=20)
ENDLESS = tiny_models.llama(vocabulary=serving.CONFIG.embedding.vocabulary, context=2**16, layers=1)
CHATTING = {
    "tiny": TINY,
    "agent": agents.agent(),
    "endless": serving.model(NumpyEngine(ENDLESS, tiny_models.weights(ENDLESS, seed=3))),
}
OTHERS = {
    "pool": MODELS["pool"],
    "base": serving.model(template=None),
    "ears": hearing_models.model(multilingual=False),
}
IDLE = "$('send').textContent === 'Send'"
LATEST = ".message:last-of-type"
# What the page asks of the server, and what it says to a screen reader.
WATCH = """
window.asked = [];
window.said = [];
const fetched = fetch;
window.fetch = (path, options) => (asked.push(options.body), fetched(path, options));
new MutationObserver(() => said.push($('status').textContent)).observe($('status'), {childList: true});
0
"""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving.running({**OTHERS, **CHATTING}) as (url, _):
        yield url


@pytest.fixture(scope="module")
def chromium(url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[browser.Tab]:
    folder = tmp_path_factory.mktemp("browser")
    soundfile.write(folder / "tone.wav", np.sin(2 * np.pi * TONE * np.arange(48000) / 48000) / 2, 48000)
    hears = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
    heard = f"--use-file-for-fake-audio-capture={folder}/tone.wav"
    with browser.Tab(url, folder / "profile", "--window-size=1200,800", *hears, heard) as tab:
        yield tab


@pytest.fixture
def tab(chromium: browser.Tab, url: str) -> browser.Tab:
    """The page as it is at first."""
    visit(chromium, url, "localStorage.clear()")
    return chromium


def visit(tab: browser.Tab, url: str, before: str = "") -> None:
    tab.visit(url, before)
    tab.wait_for("$('model').value")
    tab.run(WATCH)


def keep(messages: list[dict[str, Any]], title: str) -> str:
    """A script that puts a conversation into what the page keeps."""
    kept = {"id": "a", "title": title, "changed": 1, "model": title, "settings": {}, "messages": messages}
    return f"localStorage['tfm.chat.a'] = {json.dumps(json.dumps(kept))}"


def every(tab: browser.Tab, selector: str, what: str = "one.textContent") -> list[Any]:
    """Of all elements."""
    return tab.run(f"[...document.querySelectorAll({selector!r})].flatMap(one => {what})")


def seen(tab: browser.Tab, selector: str) -> list[str]:
    """The texts of those that are seen."""
    return every(tab, selector, "one.checkVisibility() ? one.textContent.trim() : []")


def messages(tab: browser.Tab) -> list[str]:
    return every(tab, ".message", "one.message.content")


def latest(tab: browser.Tab, part: str) -> str:
    (text,) = every(tab, f"{LATEST} {part}")
    return text


def click(tab: browser.Tab, selector: str) -> None:
    tab.run(f"document.querySelector({selector!r}).click()")


def set_options(tab: browser.Tab, **options: object) -> None:
    for name, value in options.items():
        tab.run(f"$('options').elements.{name}.value = {json.dumps(str(value))}")
    tab.run("$('options').dispatchEvent(new Event('input'))")


def typed(tab: browser.Tab, text: str) -> None:
    """Type a message and press Enter."""
    tab.run("$('text').focus()")
    tab.tell("Input.insertText", text=text)
    tab.press("Enter", "\r")


def say(tab: browser.Tab, text: str) -> None:
    """Type a message, and wait for the answer."""
    typed(tab, text)
    tab.wait_for(f"$('text').value === '' && {IDLE}")


def request(tab: browser.Tab) -> dict[str, Any]:
    """What the server was asked last."""
    return json.loads(tab.run("asked.at(-1)"))


def test_the_pages_files_and_their_policy() -> None:
    with (
        serving.running({"tiny": TINY}, keys=("secret",)) as (url, _),
        httpx.Client(base_url=url, trust_env=False) as http,
    ):
        kinds = {"html": "text/html", "css": "text/css", "js": "text/javascript"}
        for path in ("/", *(f"/static/{name}" for name in FILES)):
            name = path.removeprefix("/static").strip("/") or "page.html"
            answer = http.get(path)
            assert (answer.status_code, answer.content) == (200, (STATIC / name).read_bytes())
            kind = kinds[name.rpartition(".")[2]]
            assert answer.headers["content-type"] == f"{kind}; charset=utf-8"
            assert answer.headers["content-security-policy"] == POLICY
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["cache-control"] == "no-cache"
            again = http.get(path, headers={"if-none-match": f'W/{answer.headers["etag"]}, "x"'})
            assert (again.status_code, again.content) == (304, b"")
            assert http.get(path, headers={"if-none-match": '"other"'}).status_code == 200
        for name in ("page.py", "README.md", "..%2fpage.py"):
            assert http.get(f"/static/{name}", headers={"x-api-key": "secret"}).status_code == 404
    assert "default-src 'none'" in POLICY
    assert "unsafe" not in POLICY
    for name in OURS:
        text = (STATIC / name).read_text()
        assert not re.search(r"innerHTML|insertAdjacent|\beval\b|//[a-z]+\.", text), name
    assert not re.search(r"<script>|<style|style=|\bon[a-z]+=", (STATIC / "page.html").read_text())


def test_the_libraries_are_those_of_the_table() -> None:
    row = re.compile(r"^\| `(\S+)` \| `\S+` of \w+ ([\d.]+) \| .*`(LICENSE\.\w+)` \| `(\w{64})` \|$", re.M)
    rows = row.findall((STATIC / "README.md").read_text())
    assert {name for name, *_ in rows} == {*FILES} - {*OURS}
    for name, version, licence, digest in rows:
        assert hashlib.sha256((STATIC / name).read_bytes()).hexdigest() == digest
        assert f"{version} " in (STATIC / name).read_text()[:200]
        assert "Copyright" in (STATIC / licence).read_text()


@pytest.mark.browser
def test_a_conversation(tab: browser.Tab) -> None:
    assert every(tab, "#model option", "one.value") == [*CHATTING], "and nothing that can't chat"
    assert "Ask the model" in seen(tab, ".greeting")[0]
    told = []
    for lines in (["<b>the cat</b>"], ["a dog", "sat"]):
        text = "\n".join(lines)
        told.append({"role": "user", "content": text})
        expected = str(TINY.chat(told))
        tab.run("$('text').focus(); said.length = 0")
        for line in lines[:-1]:
            tab.tell("Input.insertText", text=line)
            tab.press("Enter", "\r", shift=True)
        say(tab, lines[-1])
        assert request(tab) == {
            "model": "tiny",
            "messages": told,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        told.append({"role": "assistant", "content": expected})
        assert messages(tab) == [one["content"] for one in told]
        assert every(tab, ".user .content")[-1] == text
        assert "20 tokens" in latest(tab, ".note")
        # A screen reader hears the answer once, when it is complete, and the focus stays.
        begun, answer = tab.run("said")
        assert begun == "The answer is being written."
        assert answer.strip().startswith(latest(tab, ".content").strip())
        assert tab.run("document.activeElement.id") == "text"
    assert every(tab, ".user b") == []
    assert imread(io.BytesIO(tab.screenshot()))[..., :3].std() > 0.02, "something is drawn"


# Each of these has run in some page.
HOSTILE = """
<script>ran('script')</script><img src=x onerror="ran('onerror')"><svg onload=ran('svg')></svg>
<iframe srcdoc="<script>parent.ran('frame')</script>"></iframe><style>body { display: none }</style>

<div style="position: fixed; inset: 0" onclick="ran('click')" class="message user" data-do="edit">covers</div>

[javascript](javascript:ran('link')) [tab](java&#9;script:ran('tab')) [case](JaVaScRiPt:ran('case'))
[data](data:text/html,<script>ran()</script>) [vb](vbscript:ran()) [here](/v1/models) [file](file:///etc)
<javascript:ran('auto')> [title](https://ok.example/a "x\\" onmouseover=ran('title')") https://ok.example/b

![image](https://evil.example/seen.png) ![onerror](x"onerror="ran('image')) ![](data:image/png;base64,AA)

```html"onmouseover="ran('language')
<script>ran('code')</script>
```

| <img src=x onerror=ran('cell')> | b |
|---|:-:|
| `<script>ran('cell')</script>` | **bold** |

3. [ ] three
4. [x] four

<math><mtext><table><mglyph><style><!--</style><img title="--&gt;&lt;img src=1 onerror=ran('mutation')&gt;">
<form action=/v1/models><input name=attributes><button formaction="javascript:ran('form')">a</button></form>
<a href="https://ok.example/c" onclick="ran('a')">a</a> <base href=//evil.example/>
<meta http-equiv=refresh content=0>
"""
MADE = "a br button code div li ol p pre span strong table tbody td th thead tr"


@pytest.mark.browser
def test_no_text_of_a_model_runs(tab: browser.Tab, url: str) -> None:
    call = {"id": "1", "type": "function", "function": {"name": HOSTILE, "arguments": HOSTILE}}
    answer = {"role": "assistant", "content": HOSTILE, "reasoning_content": HOSTILE, "tool_calls": [call]}
    told = [{"role": "user", "content": HOSTILE}, {**answer, "model": HOSTILE, "note": HOSTILE}]
    told.append({"role": "tool", "content": HOSTILE, "name": HOSTILE, "tool_call_id": "1"})
    visit(tab, url, keep(told, HOSTILE))
    # Drawn again, where what runs would be noticed.
    tab.run("window.happened = []; window.ran = what => happened.push(what); 0")
    click(tab, "#list button")
    every(tab, ".content :not(button)", "one.click()")
    content = ".assistant .content"
    assert {*every(tab, f"{content} *", "one.localName")} == {*MADE.split()}
    names = every(tab, f"{content} *", "one.getAttributeNames()")
    assert {*names} == {"href", "class", "start", "align", "target", "rel", "type", "data-do", "tabindex"}
    assert {*every(tab, f"{content} [class]", "one.className")} == {
        "code", "table", "language-html\"onmouseover=\"ran('language')",
    }  # fmt: skip
    assert {*every(tab, f"{content} a", "one.getAttribute('href')")} == {
        None, "https://ok.example/a", "https://ok.example/b", "https://ok.example/c",
    }  # fmt: skip
    # What isn't dangerous is there, and what isn't Markdown as it was written.
    assert seen(tab, f"{content} strong") == ["bold"]
    assert tab.run(f"document.querySelector('{content} ol').start") == 3
    assert seen(tab, f"{content} pre") == ["<script>ran('code')</script>"]
    (shown,) = every(tab, content)
    for part in ("<iframe srcdoc=", "![image](https://evil.example/seen.png)", "covers</div>", "☑ four"):
        assert part in shown
    plain = (".user .content", ".tool .content", ".thoughts p", ".call b", ".call pre", ".assistant .note")
    for part in plain:
        assert [HOSTILE, 0] in every(tab, part, "[[one.textContent, one.childElementCount]]"), part
    assert tab.run("happened") == []
    # Behind it is a policy, which would stop the page itself.
    tab.run("addEventListener('securitypolicyviolation', event => ran(event.effectiveDirective))")
    assert tab.run("try { document.body.innerHTML = '<b></b>' } catch (error) { error.name }") == "TypeError"
    tab.run("document.body.setAttribute('style', 'position: fixed')")
    for tag in ("img", "iframe"):
        tab.run(f"document.body.appendChild(document.createElement('{tag}')).src = '/health'")
    elsewhere = url.replace("127.0.0.1", "localhost")
    assert tab.run(f"fetched('{elsewhere}/health').then(() => 'sent', () => 'refused')") == "refused"
    tab.wait_for("happened.length >= 5")
    assert {*tab.run("happened")} == {
        "require-trusted-types-for", "style-src-attr", "img-src", "frame-src", "connect-src",
    }  # fmt: skip


@pytest.mark.browser
def test_thoughts_are_folded_and_calls_are_answered(tab: browser.Tab) -> None:
    tab.run("$('model').value = 'agent'; $('model').dispatchEvent(new Event('change'))")
    parameters = {"weather": agents.WEATHER, "clock": agents.CLOCK}
    tools = [
        {"type": "function", "function": {"name": name, "parameters": stated}}
        for name, stated in parameters.items()
    ]
    set_options(tab, tools="no list")
    typed(tab, agents.QUESTION)
    assert "must be JSON" in tab.run("document.activeElement.validationMessage")
    assert messages(tab) == []
    set_options(tab, tools=json.dumps(tools))
    say(tab, "")
    assert seen(tab, ".thoughts summary") == ["Thoughts"]
    assert seen(tab, ".thoughts p") == [], "folded"
    click(tab, ".assistant .thoughts summary")
    assert seen(tab, ".thoughts p") == [agents.THOUGHTS]
    assert seen(tab, ".assistant .content") == [agents.BEFORE]
    assert seen(tab, ".call b") == ["weather"]
    assert json.loads(latest(tab, ".call pre")) == agents.CITY
    assert tab.run("$('text').ariaLabel") == "Result of weather"
    say(tab, agents.RESULTS["weather"])
    assert seen(tab, ".call b") == ["weather", "clock"]
    say(tab, agents.RESULTS["clock"])
    assert seen(tab, ".message h2") == [
        "You", "agent", "Result of weather", "agent", "Result of clock", "agent",
    ]  # fmt: skip
    assert latest(tab, ".content").strip() == agents.AFTER
    body = request(tab)
    assert body["tools"] == tools
    _, called, result, *_ = body["messages"]
    assert called["reasoning_content"].strip() == agents.THOUGHTS
    assert result["tool_call_id"] == called["tool_calls"][0]["id"]


@pytest.mark.browser
def test_a_conversation_is_changed_and_kept(tab: browser.Tab, url: str) -> None:
    options = {"temperature": 1.5, "top_p": 0.9, "max_tokens": 9, "seed": 7}

    def expected(*said: str) -> str:
        roles = ("system", "user", "assistant", "user")
        told = [{"role": role, "content": text} for role, text in zip(roles, said, strict=False)]
        drawn = {**options, "max_new_tokens": options["max_tokens"]}
        del drawn["max_tokens"]
        return str(TINY.chat(told, **drawn))

    set_options(tab, system="be a cat", **options)
    say(tab, "the cat")
    first = expected("be a cat", "the cat")
    assert messages(tab) == ["the cat", first]
    set_options(tab, top_p=2)
    typed(tab, "a dog")
    assert messages(tab) == ["the cat", first], "a wrong number isn't left out"
    assert tab.run("document.activeElement.name") == "top_p"
    set_options(tab, **options)
    say(tab, "")
    assert messages(tab) == ["the cat", first, "a dog", expected("be a cat", "the cat", first, "a dog")]

    # An earlier message is changed: what came after it is gone, also from what is asked.
    click(tab, ".user [data-do=edit]")
    assert tab.run("document.activeElement.value") == "the cat"
    tab.run("document.activeElement.value = 'the mat'; document.activeElement.form.requestSubmit()")
    tab.wait_for(f"{IDLE} && asked.length === 3")
    assert [one["content"] for one in request(tab)["messages"]] == ["be a cat", "the mat"]
    assert messages(tab) == ["the mat", expected("be a cat", "the mat")]
    click(tab, ".user [data-do=edit]")
    tab.run("document.activeElement.value = 'lost'")
    tab.press("Escape")
    assert seen(tab, ".user .content") == ["the mat"]

    # The answer again, and then what the model is made to say, and goes on with.
    options["seed"] = 8
    set_options(tab, **options)
    click(tab, f"{LATEST} [data-do=again]")
    tab.wait_for(f"{IDLE} && asked.length === 4")
    assert messages(tab) == ["the mat", expected("be a cat", "the mat")]
    click(tab, f"{LATEST} [data-do=edit]")
    tab.run("document.activeElement.value = 'the dog'; document.activeElement.form.requestSubmit()")
    click(tab, f"{LATEST} [data-do=goOn]")
    tab.wait_for(f"{IDLE} && asked.length === 5")
    body = {**request(tab), "stream": False, "stream_options": None}
    assert body["messages"][-1] == {"role": "assistant", "content": "the dog"}
    answer = httpx.post(f"{url}/v1/chat/completions", json=body, trust_env=False).json()
    changed = ["the mat", "the dog" + answer["choices"][0]["message"]["content"]]
    assert messages(tab) == changed

    # Conversations outlive the tab.
    tab.run("window.prompt = () => 'a name'")
    click(tab, "#rename")
    click(tab, "#new")
    say(tab, "another")
    assert seen(tab, "#list button") == ["another", "a name"]
    visit(tab, url)
    assert every(tab, "#list [aria-current]") == ["another"]
    click(tab, "#list li:last-child button")
    assert messages(tab) == changed
    assert tab.run("document.title") == "a name – tfm"
    tab.run("URL.createObjectURL = blob => { window.exported = blob.text(); return 'data:,' }")
    click(tab, "#export")
    roles = ("system", "user", "assistant")
    told = [{"role": role, "content": text} for role, text in zip(roles, ["be a cat", *changed], strict=True)]
    assert json.loads(tab.run("exported")) == {"model": "tiny", "messages": told, **options}
    for answer, left in (("false", ["another", "a name"]), ("true", ["another"])):
        tab.run(f"window.confirm = () => {answer}")
        click(tab, "#delete")
        assert seen(tab, "#list button") == left
    assert len(tab.run("Object.keys(localStorage)")) == 1


@pytest.mark.browser
def test_an_answer_is_stopped_and_its_slot_free(chromium: browser.Tab) -> None:
    tab = chromium
    with serving.running({"endless": CHATTING["endless"]}, keys=("secret",)) as (url, server):
        tab.visit(url, "localStorage.clear()")
        tab.wait_for("$('trouble').textContent.includes('API key')")
        assert tab.run("$('key').checkVisibility()")
        tab.run("$('key').value = 'secret'; $('key').dispatchEvent(new Event('change'))")
        tab.wait_for("$('model').value === 'endless' && $('trouble').textContent === ''")
        for by_key in (False, True):
            typed(tab, "the cat")
            tab.wait_for(f"document.querySelector('.assistant{LATEST}')?.message.content.length > 20")
            tab.press("Escape") if by_key else click(tab, "#send")
            tab.wait_for(IDLE)
            assert latest(tab, ".note") == "Stopped."
            assert seen(tab, f"{LATEST} [data-do]") == ["Copy", "Edit", "Continue", "Regenerate"]
            serving.idle(server)
        kept = "Array.from(localStorage, (_, i) => localStorage.getItem(localStorage.key(i)))"
        assert len(tab.run(kept)) == 1
        assert "secret" not in tab.run(kept)[0]
    say(tab, "nobody answers")
    assert latest(tab, ".note").startswith("Failed: ")


@pytest.mark.browser
def test_what_is_said_is_written_down(tab: browser.Tab) -> None:
    tab.run("$('text').value = 'before after'; $('text').setSelectionRange(7, 7)")
    click(tab, "#speak")
    tab.wait_for("$('speak').ariaPressed === 'true'")
    time.sleep(0.2)  # of sound
    click(tab, "#speak")
    tab.wait_for("$('text').value !== 'before after' && !$('speak').disabled")
    sent = tab.run("asked.at(-1).get('file').arrayBuffer().then(sent => [...new Uint8Array(sent)])")
    samples, rate = soundfile.read(io.BytesIO(bytes(sent)), dtype="float32")
    assert (rate, samples.ndim, soundfile.info(io.BytesIO(bytes(sent))).subtype) == (16000, 1, "PCM_16")
    assert 0.1 < len(samples) / rate < 5
    pitch = np.argmax(np.abs(np.fft.rfft(samples))) * rate / len(samples)
    assert abs(pitch - TONE) < 5
    text = "".join(one.text for one in OTHERS["ears"].transcribe(samples)).strip()
    assert tab.run("$('text').value") == f"before {text}after"
    assert seen(tab, "#speak") == ["Speak"]


def size(tab: browser.Tab, width: int) -> None:
    shown = {"width": width, "height": 700, "deviceScaleFactor": 1, "mobile": width < 400}
    tab.tell("Emulation.setDeviceMetricsOverride", **shown)


@pytest.mark.browser
def test_a_phone_and_a_desk_light_and_dark(tab: browser.Tab, url: str) -> None:
    word = "x" * 200
    wide = f"{word}\n\n```\n{word}\n```\n\n|{'word |' * 20}\n|{'---|' * 20}"
    told = [{"role": "user", "content": word}, {"role": "assistant", "content": wide, "model": "tiny"}]
    visit(tab, url, keep(told, word))
    tab.run("$('settings').open = true")
    for width in (320, 1200):
        size(tab, width)
        for part in ("document.documentElement", "$('messages')"):
            assert tab.run(f"{part}.scrollWidth") <= width
        for scheme in ("light", "dark"):
            tab.tell(
                "Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}]
            )
            pixels = imread(io.BytesIO(tab.screenshot()))[..., :3]
            assert pixels.std() > 0.02, "something is drawn"
            assert pixels.mean() > 0.7 if scheme == "light" else pixels.mean() < 0.3
        assert tab.run("$('side').checkVisibility()") == (width > 400)
    # What can be operated has a name.
    nodes = [one for one in tab.tell("Accessibility.getFullAXTree")["nodes"] if not one["ignored"]]
    operated = ("button", "textbox", "combobox", "spinbutton", "link", "DisclosureTriangle")
    names = {one["name"]["value"] for one in nodes if one["role"]["value"] in operated}
    assert {"Send", "Speak", "New conversation", "Message", "Model", "Temperature", "Copy", "Edit"} <= names
    assert "" not in names
    assert {"banner", "navigation", "main", "contentinfo", "status"} <= {
        one["role"]["value"] for one in nodes
    }
    # Tab leads to each, and it is seen where it is.
    reached = []
    tab.run("$('messages').focus()")
    while "send" not in reached:
        tab.press("Tab")
        focused = "document.activeElement"
        reached.append(tab.run(f"{focused}.id || {focused}.dataset.do || {focused}.localName"))
        assert tab.run(f"getComputedStyle({focused}).outlineStyle") == "solid", reached
    assert reached == [
        "copy",
        "edit",
        "copyCode",
        "pre",
        "div",
        "copy",
        "edit",
        "again",
        "text",
        "speak",
        "send",
    ]
    size(tab, 320)
    click(tab, "#menu")
    assert seen(tab, "#list button") == [word]
    assert tab.run("$('menu').ariaExpanded") == "true"
    tab.press("Escape")
    assert (seen(tab, "#list button"), tab.run("document.activeElement.id")) == ([], "menu")
    for method in ("clearDeviceMetricsOverride", "setEmulatedMedia"):
        tab.tell(f"Emulation.{method}")

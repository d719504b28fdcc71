"""Sounds over HTTP, by OpenAI's client: texts, subtitles and times are the model's, and errors are clear."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import httpx
import openai
import pytest
from helpers import hearing_models, serving
from helpers.served import MODELS
from hypothesis import given
from hypothesis import strategies as st
from tfm.refimpl.engine.sound import HOP, RATE
from tfm.runtime.serve.errors import RequestError
from tfm.runtime.serve.form import boundary_of, parse_form
from tfm.runtime.serve.limits import Limits
from tfm.runtime.text.subtitles import FORMATS

SAMPLES = hearing_models.sound(1, 90)
HEARS = {"ears": hearing_models.model(multilingual=False), "many": hearing_models.model(multilingual=True)}

PARTS = hearing_models.moonshine()


def wav() -> tuple[str, bytes]:
    return "talk.wav", hearing_models.wav(SAMPLES)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    limits = Limits(sound=2**20)
    with serving.running({**HEARS, "parts": PARTS, "tiny": MODELS["tiny"]}, limits=limits) as (url, _):
        yield url


@pytest.fixture(scope="module")
def http(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"{url}/v1/audio", trust_env=False, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def audio(url: str) -> Iterator[Any]:
    with httpx.Client(trust_env=False, timeout=60) as client:
        yield openai.OpenAI(base_url=f"{url}/v1", api_key="none", http_client=client, max_retries=0).audio


def said(name: str, **options: Any) -> list[Any]:
    return [*HEARS[name].transcribe(SAMPLES, temperatures=[0.3], **options)]


def test_a_transcription_is_the_models(audio: Any):
    expected = said("ears", words=True)
    text = "".join(one.text for one in expected).strip()
    asked = {"model": "ears", "file": wav(), "temperature": 0.3}
    create = audio.transcriptions.create
    assert create(**asked).text == text
    assert create(**asked, response_format="text") == f"{text}\n"
    for form in ("srt", "vtt"):
        cues = "".join(FORMATS[form].each(i, one) for i, one in enumerate(expected, 1))
        assert create(**asked, response_format=form) == FORMATS[form].begin + cues
    told = create(**asked, response_format="verbose_json", timestamp_granularities=["segment", "word"])
    assert (told.text, told.duration) == (text, 0.9)
    assert [one.tokens for one in told.segments] == [one.tokens for one in expected]
    assert [one.start for one in told.segments] == [round(one.start, 3) for one in expected]
    assert {one.temperature for one in told.segments} == {0.3}
    assert sorted({one.seek for one in told.segments})[0] == 0
    words = [word for one in expected for word in one.words]
    assert [(one.word, one.start, one.end) for one in told.words] == [
        (word.text, round(word.start, 3), round(word.end, 3)) for word in words
    ]
    only = create(**asked, response_format="verbose_json", timestamp_granularities=["word"])
    assert (only.segments, len(only.words)) == (None, len(words))
    parts = [*create(**asked, stream=True)]
    assert [one.delta for one in parts[:-1]] == [one.text for one in expected]
    assert (parts[-1].type, parts[-1].text) == ("transcript.text.done", text)


def test_a_language_and_a_translation_are_the_models(audio: Any):
    asked = {"model": "many", "file": wav(), "temperature": 0.3}
    for language in ("de", "english"):
        expected = said("many", language=language)
        told = audio.transcriptions.create(**asked, language=language, response_format="verbose_json")
        assert [one.tokens for one in told.segments] == [one.tokens for one in expected]
        assert told.language == expected[0].language
    expected = said("many", task="translate")
    with pytest.warns(DeprecationWarning, match="deprecated"):  # so openai marks its method
        told = audio.translations.create(**asked)
    assert told.text == "".join(one.text for one in expected).strip()


FILE = {"file": wav()}


@pytest.mark.parametrize(
    ("data", "files", "status", "param", "parts"),
    [
        ({}, {}, 415, None, ("multipart/form-data",)),
        ({"model": "ears"}, {"other": wav()}, 400, "file", ("file",)),
        ({"model": "ears", "stream": "maybe"}, FILE, 400, "stream", ()),
        ({"model": "ears", "temperature": "hot"}, FILE, 400, "temperature", ()),
        ({"model": "ears", "temperature": "2"}, FILE, 400, "temperature", ()),
        ({"model": "ears", "loud": "1"}, FILE, 400, "loud", ("unknown",)),
        ({"model": "ears", "language": "german"}, FILE, 400, None, ("language", "german")),
        ({"model": "ears", "timestamp_granularities[]": "word"}, FILE, 400, "timestamp_granularities", ()),
        ({"model": "none"}, FILE, 404, "model", ("ears",)),
        ({"model": "tiny"}, FILE, 400, "model", ("transcribe", "/v1/chat/completions")),
        ({"model": "ears"}, {"file": ("a.wav", b"RIFF of nothing")}, 400, "file", ("file: must be a wav",)),
        ({"model": "ears", "stream": "true"}, {"file": ("a.wav", b"no")}, 400, "file", ("file: must be",)),
        ({"model": "ears"}, {"file": ("a.wav", bytes(2**20))}, 413, None, (str(2**20),)),
    ],
)  # fmt: skip
def test_what_cant_be_answered_is_told(
    http: httpx.Client, data: Any, files: Any, status: int, param: str | None, parts: tuple[str, ...]
):
    answer = http.post("/transcriptions", data=data, files=files)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (status, param)
    assert all(part in error["message"] for part in parts)
    assert tempfile.gettempdir() not in error["message"]


def test_a_model_that_hears_answers_no_texts(url: str):
    for path, body in (
        ("chat/completions", {"messages": serving.messages(1)}),
        ("embeddings", {"input": "a"}),
    ):
        answer = httpx.post(f"{url}/v1/{path}", json={"model": "ears", **body}, trust_env=False)
        assert answer.status_code == 400
        assert "/v1/audio/transcriptions" in answer.json()["error"]["message"]


def test_a_model_that_writes_no_times_answers_transcriptions(http: httpx.Client):
    expected = [*PARTS.transcribe(SAMPLES)]
    form = {"model": "parts", "response_format": "verbose_json"}
    told = http.post("/transcriptions", data=form, files={"file": wav()}).json()
    assert [one["text"] for one in told["segments"]] == [one.text for one in expected] != []
    assert told["duration"] == len(SAMPLES) // HOP * HOP / RATE
    for path, more, word in (
        ("/translations", {}, "task"),
        ("/transcriptions", {"language": "en"}, "language"),
        ("/transcriptions", {"timestamp_granularities[]": "word"}, "words"),
    ):
        answer = http.post(path, data={**form, **more}, files={"file": wav()})
        assert answer.status_code == 400
        assert word in answer.json()["error"]["message"]


def test_pages_of_other_places_send_nothing(http: httpx.Client):
    for headers, status in (
        ({"origin": "http://evil"}, 403), ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-origin", "origin": "http://here"}, 200), ({"sec-fetch-mode": "cors"}, 200),
    ):  # fmt: skip
        data = {"model": "ears", "temperature": "0.3"}
        answer = http.post("/transcriptions", data=data, files=FILE, headers=headers)
        assert answer.status_code == status


names = st.text(st.sampled_from("abcé ;=,'"), min_size=1, max_size=5)


@given(st.dictionaries(names, st.binary(max_size=40) | st.text(max_size=9), min_size=1, max_size=4))
def test_a_form_is_what_httpx_sends(fields: dict[str, bytes | str]):
    files = {name: ("f" if isinstance(value, bytes) else None, value) for name, value in fields.items()}
    request = httpx.Request("POST", "http://a", files=files)
    found = parse_form(request.read(), boundary_of(request.headers["content-type"]))
    assert found == fields


@given(st.binary(max_size=60), st.integers(0, 200), st.integers(0, 9))
def test_a_damaged_form_is_refused_or_read(noise: bytes, at: int, gone: int):
    body = httpx.Request("POST", "http://a", files={"file": (*wav()[:1], b"x")}, data={"a": "b"},
                         headers={"content-type": "multipart/form-data; boundary=xyz"}).read()  # fmt: skip
    damaged = body[:at] + noise + body[at + gone :]
    with suppress(RequestError):
        assert all(isinstance(value, bytes | str | list) for value in parse_form(damaged, b"xyz").values())


@pytest.mark.parametrize(
    "kind", ["", "text/plain", "multipart/form-data", "multipart/form-data; boundary=" + "a" * 71]
)
def test_a_form_says_its_boundary(kind: str):
    with pytest.raises(RequestError, match="boundary"):
        boundary_of(kind)


def part(headers: str, content: str = "b") -> str:
    return f"--x\r\n{headers}\r\n\r\n{content}\r\n"


FIELD = part('Content-Disposition: form-data; name="a"')


@pytest.mark.parametrize(
    "body",
    [
        "", "--x--\r\n", f"before{FIELD}--x--\r\n", f"\r\n{FIELD}--x--\r\n", FIELD, f"{FIELD}--x\r\n",
        f"{FIELD}{FIELD}--x--\r\n", f"{part('Content-Disposition: form-data')}--x--\r\n",
        f"{part('Content-Disposition: attachment; name=a')}--x--\r\n", f"--xy{FIELD[3:]}--x--\r\n",
        part("X: " + "a" * 4096 + "\r\nContent-Disposition: form-data; name=a") + "--x--\r\n",
        "".join(FIELD.replace('"a"', f'"a{i}"') for i in range(65)) + "--x--\r\n",
        "--x\r\nContent-Disposition: form-data; name=a\r\n--x--\r\n",
    ],
)  # fmt: skip
def test_what_isnt_a_form_is_refused(body: str):
    with pytest.raises(RequestError, match=r"form|once"):
        parse_form(body.encode(), b"x")
    assert parse_form(f"{FIELD}--x--\r\n".encode(), b"x") == {"a": "b"}

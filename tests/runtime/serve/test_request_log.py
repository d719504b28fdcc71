"""Lines about requests: each has what is known of it, and no text."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import httpx
import pytest
from helpers import serving
from helpers.served import CHAT, MODELS


def test_a_line_a_request() -> None:
    lines: list[str] = []
    with (
        serving.running(MODELS, keys=("first", "secret"), log=lines.append) as (url, _),
        httpx.Client(base_url=url, trust_env=False, timeout=60) as http,
    ):

        def asked(path: str, key: str = "secret", **body: Any) -> tuple[httpx.Response, dict[str, Any]]:
            """The answer, and the line about it, which comes after it."""
            count = len(lines)
            answer = http.post(path, json=body, headers={"authorization": f"Bearer {key}"})
            serving.wait_until(lambda: len(lines) > count)
            record = json.loads(lines[-1])
            assert datetime.fromisoformat(record.pop("time")).tzinfo is not None
            assert 0 <= record.pop("total_s") < 60
            assert (record.pop("path"), record.pop("status")) == (path, answer.status_code)
            return answer, record

        answer, record = asked("/v1/chat/completions", **CHAT)
        usage = answer.json()["usage"]
        assert 0 <= record.pop("first_token_s") < 60
        assert record == {
            "id": answer.json()["id"], "key": 2, "model": "tiny", "prompt_tokens": usage["prompt_tokens"],
            "new_tokens": 9, "finish_reasons": ["length"],
        }  # fmt: skip
        answer, record = asked("/v1/chat/completions", "first", **CHAT, stream=True, n=2)
        assert f'"id": "{record["id"]}"' in answer.text
        assert (record["key"], record["new_tokens"], record["finish_reasons"]) == (1, 18, ["length"] * 2)
        answer, record = asked("/v1/embeddings", model="pool", input="the cat")
        assert record.pop("id").startswith("req-")
        tokens = answer.json()["usage"]["prompt_tokens"]
        assert record == {"key": 2, "model": "pool", "prompt_tokens": tokens}
        for path, key, status in (("/v1/completions", "secret", 400), ("/v1/rerank", "wrong", 401)):
            answer, record = asked(path, key, model="tiny", text="a secret")
            assert (answer.status_code, record.keys() - {"key"}) == (status, {"id"})
        count = len(lines)
        http.get("/v1/models/a%20secret", headers={"authorization": "Bearer secret"})
        serving.wait_until(lambda: len(lines) > count)
    assert json.loads(lines[-1])["path"] == "other"
    for hidden in ("secret", "the cat", "<|im_start|>"):
        assert hidden not in "".join(lines)


def test_an_error_that_nobody_expected_is_counted_and_said(capsys: pytest.CaptureFixture[str]) -> None:
    lines: list[str] = []
    gate = serving.Gate()
    gate.error = RuntimeError("a secret")
    gate.open()
    with (
        serving.running({"tiny": serving.model(gate)}, log=lines.append) as (url, _),
        httpx.Client(base_url=url, trust_env=False, timeout=60) as http,
    ):
        answer = http.post("/v1/chat/completions", json=CHAT)
        assert (answer.status_code, answer.json()["error"]["message"]) == (500, "internal error")
        serving.wait_until(lambda: bool(lines))
        assert json.loads(lines[0])["status"] == 500
        assert 'tfm_requests_total{code="500",path="/v1/chat/completions"} 1.0' in http.get("/metrics").text
    assert "secret" not in lines[0]
    assert "RuntimeError: a secret" in capsys.readouterr().err

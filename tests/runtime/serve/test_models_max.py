"""More models than may be loaded: the one that was used least recently gives up its place."""

from __future__ import annotations

import re
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from helpers import serving
from helpers.refused import pattern
from helpers.served import CHAT, golden


@pytest.mark.long
def test_models_take_turns() -> None:
    loads: list[str] = []
    engines: dict[str, Any] = {}

    def loader(name: str) -> Any:
        def load() -> Any:
            loads.append(name)
            model = serving.model()
            engines[name] = weakref.ref(model.engine)
            return model

        return load

    with (
        serving.running({}, loads={name: loader(name) for name in "abc"}, models_max=2) as (url, server),
        httpx.Client(base_url=url, trust_env=False, timeout=60) as http,
    ):

        def loaded() -> list[str]:
            return [name for name, served in server.models.items() if served.loaded]

        assert (loads, loaded()) == (["a", "b", "c"], ["b", "c"])
        for name, now in (("b", "bc"), ("a", "ab"), ("b", "ab"), ("c", "bc"), ("a", "ac"), ("a", "ac")):
            answer = http.post("/v1/chat/completions", json={**CHAT, "model": name})
            assert answer.json()["choices"][0]["message"]["content"] == golden()
            assert loaded() == list(now)
            assert [engines[other]() is not None for other in "abc"] == [other in now for other in "abc"]
            serving.wait_until(lambda: not any(served.users for served in server.models.values()))
        assert loads == [*"abc", *"aca"]
        assert [one["id"] for one in http.get("/v1/models").json()["data"]] == ["a", "b", "c"]
        figures = http.get("/metrics").text
        assert 'tfm_loaded{model="a"} 1.0' in figures
        assert 'tfm_loaded{model="b"} 0.0' in figures


def test_two_names_of_one_model_load_it_once() -> None:
    loads: list[str] = []

    def load() -> Any:
        loads.append("loaded")
        return serving.model()

    with (
        serving.running({}, loads={"first": load, "second": load}, idle_s=0.01) as (url, server),
        httpx.Client(base_url=url, trust_env=False, timeout=60) as http,
    ):
        assert loads == ["loaded"]
        assert [one["id"] for one in http.get("/v1/models").json()["data"]] == ["first", "second"]
        assert [one["name"] for one in http.get("/api/tags").json()["models"]] == ["first", "second"]
        for name in ("second", "first"):
            serving.wait_until(lambda: not server.models["first"].loaded)
            answer = http.post("/v1/chat/completions", json={**CHAT, "model": name}).json()
            assert (answer["model"], answer["choices"][0]["message"]["content"]) == ("first", golden())
        assert loads == ["loaded"] * 3


def test_models_are_loaded_on_demand_and_unloaded_when_nobody_asks() -> None:
    loads: list[str] = []
    gate = serving.Gate()

    def slow() -> Any:
        loads.append("slow")
        return serving.model(gate)

    with (
        serving.running({}, loads={"slow": slow, "other": serving.model}, on_demand=True, idle_s=0.2) as (
            url,
            server,
        ),
        httpx.Client(base_url=url, trust_env=False, timeout=60) as http,
        ThreadPoolExecutor(1) as pool,
    ):
        served = server.models["slow"]
        assert (loads, served.loaded) == ([], False)
        assert [one["max_model_len"] for one in http.get("/v1/models").json()["data"]] == [None, None]
        assert http.get("/api/ps").json() == {"models": []}
        answering = pool.submit(http.post, "/v1/chat/completions", json={**CHAT, "model": "slow"})
        serving.wait_until(lambda: served.loaded and served.model.worker.running)
        time.sleep(0.5)
        assert served.loaded, "a model that answers isn't idle"
        gate.open()
        answer = answering.result().json()
        assert answer["choices"][0]["message"]["content"] == golden()
        serving.wait_until(lambda: not served.loaded)
        assert http.get("/v1/models/slow").json()["max_model_len"] == serving.CONFIG.context
        http.post("/v1/chat/completions", json={**CHAT, "model": "slow"})
        assert loads == ["slow", "slow"]
        assert not server.models["other"].loaded


def test_a_model_in_use_keeps_its_place() -> None:
    gate = serving.Gate()
    loads = {"slow": lambda: serving.model(gate), "other": serving.model}
    with (
        serving.running({}, loads=loads, models_max=1) as (url, server),
        httpx.Client(base_url=url, trust_env=False, timeout=60) as http,
        ThreadPoolExecutor(1) as pool,
    ):
        slow = pool.submit(http.post, "/v1/chat/completions", json={**CHAT, "model": "slow"})
        serving.wait_until(
            lambda: server.models["slow"].loaded and server.models["slow"].model.worker.running
        )
        answer = http.post("/v1/chat/completions", json={**CHAT, "model": "other"})
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
        assert re.search(pattern(1, "models", "in use"), answer.text)
        gate.open()
        assert slow.result().json()["choices"][0]["message"]["content"] == golden()
        serving.wait_until(lambda: not server.models["slow"].users)
        answer = http.post("/v1/chat/completions", json={**CHAT, "model": "other"})
        assert answer.json()["choices"][0]["message"]["content"] == golden()
        assert not server.models["slow"].loaded
        broken = http.post("/v1/chat/completions", json={**CHAT, "model": "nobody"})
        assert broken.status_code == 404
        unnamed = http.post("/v1/chat/completions", json={**CHAT, "model": ""})
        assert (unnamed.status_code, unnamed.json()["error"]["param"]) == (400, "model")
        assert "'slow', 'other'" in unnamed.text

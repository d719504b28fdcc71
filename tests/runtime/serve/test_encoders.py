"""Embeddings, labels and relevance over HTTP are the model's."""

from __future__ import annotations

import base64

import httpx
import numpy as np
import openai
import pytest
from helpers import serving
from helpers.served import MODELS
from helpers.task_models import tiny_reader
from tfm.refimpl.config import Pool
from tfm.runtime.tasks.encoder_batches import encodings


def test_embeddings(client: openai.OpenAI) -> None:
    texts = ["the cat", "a dog sat on the mat", "the cat"]
    for form in ("float", "base64"):
        made = client.embeddings.create(model="pool", input=texts, encoding_format=form)
        vectors = [one.embedding for one in made.data]
        if form == "base64":
            vectors = [np.frombuffer(base64.b64decode(vector), "<f4") for vector in vectors]
        assert np.array_equal(np.array(vectors, np.float32), MODELS["pool"].embed(texts))
    assert made.usage.prompt_tokens > len(texts)


def test_token_ids_are_the_texts(http: httpx.Client) -> None:
    texts = ["the cat", "a dog sat on the mat"]
    ids = [row.ids for row in encodings(MODELS["pool"], texts)]
    expected = MODELS["pool"].embed(texts).tolist()
    alone = MODELS["pool"].embed(texts[1]).tolist()
    for given, vectors in ((texts, expected), (ids, expected), (ids[1], alone)):
        told = http.post("/v1/embeddings", json={"model": "pool", "input": given}).json()
        assert [one["embedding"] for one in told["data"]] == vectors
        assert told["usage"]["prompt_tokens"] == sum(map(len, ids[2 - len(vectors) :]))
    for wrong in ([10**6], [-1], [[1], []], [[1], "a"], []):
        refused = http.post("/v1/embeddings", json={"model": "pool", "input": wrong})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "input")
    labels = http.post("/v1/classify", json={"model": "labels", "input": ids}).json()["data"]
    assert [one["label"] for one in labels] == [one[0].label for one in MODELS["labels"].classify(texts)]


@pytest.mark.parametrize("unit", [False, True])
@pytest.mark.parametrize("cuts", [(), (8, 5), None])
def test_vectors_are_cut_where_the_models_files_say_that_they_may_be(
    cuts: tuple[int, ...] | None, unit: bool
) -> None:
    pool = tiny_reader(Pool(unit=unit, cuts=cuts))
    whole = pool.embed("the cat")[0]
    with (
        serving.running({"pool": pool}) as (url, _),
        httpx.Client(base_url=url, trust_env=False, timeout=60) as http,
    ):
        for width in (5, 7, 8, len(whole), len(whole) + 1):
            asked = {"model": "pool", "input": "the cat", "dimensions": width}
            answers = [http.post(path, json=asked) for path in ("/v1/embeddings", "/api/embed")]
            allowed = width == len(whole) or (width < len(whole) and (cuts is None or width in cuts))
            assert [one.status_code for one in answers] == [200 if allowed else 400] * 2
            if not allowed:
                assert "dimensions" in answers[1].json()["error"]
                continue
            first, second = (one.json() for one in answers)
            assert first["data"][0]["embedding"] == second["embeddings"][0]
            expected = whole[:width] / (np.linalg.norm(whole[:width]) if unit else 1)
            np.testing.assert_allclose(second["embeddings"][0], expected, rtol=1e-6)


def test_a_text_that_is_too_long_is_cut_by_choice(http: httpx.Client) -> None:
    """The first tokens stay, and those that the tokenizer puts around a text."""
    pool = MODELS["pool"]
    (row,) = encodings(pool, "the cat sat on a dog " * 40)
    special = [i for i, source in enumerate(row.sequence_ids) if source is None]
    assert len(row.ids) > pool.config.context
    assert special == [0, len(row.ids) - 1]
    for most, path in ((7, "/v1/embeddings"), (-1, "/v1/embeddings"), (None, "/api/embed")):
        room = 7 if most == 7 else pool.config.context
        kept = [*row.ids[: room - 1], row.ids[-1]]
        body = {"model": "pool", "input": "the cat sat on a dog " * 40, "truncate_prompt_tokens": most}
        told = http.post(path, json=body).json()
        vector = told["embeddings"] if most is None else [told["data"][0]["embedding"]]
        same = http.post("/v1/embeddings", json={"model": "pool", "input": kept}).json()
        assert vector == [same["data"][0]["embedding"]]
    for path, change in (("/v1/embeddings", {}), ("/api/embed", {"truncate": False})):
        refused = http.post(path, json={**body, "truncate_prompt_tokens": None, **change})
        assert refused.status_code == 400


def test_1000_chunks_fit_into_a_body() -> None:
    """By default, and by much: each has 1,096 characters."""
    asked = {"model": "pool", "input": ["the cat " * 137] * 1000, "truncate_prompt_tokens": 3}
    with (
        serving.running({"pool": MODELS["pool"]}) as (url, _),
        httpx.Client(base_url=url, trust_env=False, timeout=60) as http,
    ):
        told = http.post("/v1/embeddings", json=asked).json()
        assert (len(told["data"]), told["usage"]["prompt_tokens"]) == (1000, 3000)


def test_labels_and_relevance(http: httpx.Client) -> None:
    texts = ["the cat", "a dog sat"]
    made = http.post("/v1/classify", json={"model": "labels", "input": texts}).json()
    expected = MODELS["labels"].classify(texts)
    assert [[tuple(one.values()) for one in row["labels"]] for row in made["data"]] == expected
    body = {"model": "relevance", "query": "cat", "documents": texts, "return_documents": True}
    ranked = http.post("/v1/rerank", json=body).json()["results"]
    scores = [one[0].score for one in MODELS["relevance"].classify([("cat", text) for text in texts])]
    assert [one["relevance_score"] for one in ranked] == sorted(scores, reverse=True)
    assert [texts[one["index"]] for one in ranked] == [one["document"]["text"] for one in ranked]
    assert len(http.post("/v1/rerank", json={**body, "top_n": 1}).json()["results"]) == 1

"""Embeddings, labels and relevance over HTTP are the model's."""

from __future__ import annotations

import base64

import httpx
import numpy as np
import openai
from helpers.served import MODELS


def test_embeddings(client: openai.OpenAI) -> None:
    texts = ["the cat", "a dog sat on the mat", "the cat"]
    for form in ("float", "base64"):
        made = client.embeddings.create(model="pool", input=texts, encoding_format=form)
        vectors = [one.embedding for one in made.data]
        if form == "base64":
            vectors = [np.frombuffer(base64.b64decode(vector), "<f4") for vector in vectors]
        assert np.array_equal(np.array(vectors, np.float32), MODELS["pool"].embed(texts))
    assert made.usage.prompt_tokens > len(texts)


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

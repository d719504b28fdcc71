"""The routes of encoders: `/v1/embeddings`, `/v1/rerank` and `/v1/classify`."""

from __future__ import annotations

import asyncio
import base64
from typing import Annotated, Literal

import numpy as np
from pydantic import Field
from starlette.requests import Request
from starlette.responses import JSONResponse

from ...refimpl.config import Classify, Pool
from ..tasks.encoder_batches import Pair, encoded
from ..tasks.encoder_batches import Texts as TextsOrPairs
from ..tasks.rerank import relevances
from .errors import RequestError
from .models import Served, server_of
from .request_log import record_of
from .requests import MOST_TEXTS, Body, Text, read
from .responses import usage
from .texts import while_connected

Texts = Annotated[list[Text], Field(min_length=1, max_length=MOST_TEXTS)]


class InputBody(Body):
    input: Text | Texts

    @property
    def texts(self) -> list[str]:
        return [self.input] if isinstance(self.input, str) else self.input


class EmbeddedBody(InputBody):
    dimensions: Annotated[int, Field(ge=1)] | None = None


class EmbeddingBody(EmbeddedBody):
    encoding_format: Literal["float", "base64"] | None = None


class RerankBody(Body):
    query: Text
    documents: Texts
    top_n: Annotated[int, Field(ge=1)] | None = None
    return_documents: bool | None = None


async def embeddings(request: Request) -> JSONResponse:
    """`POST /v1/embeddings`: a vector for each text."""
    server = server_of(request)
    body = await read(request, EmbeddingBody, server.limits)
    served = await server.use(request, body.model)
    tokens, vectors = await embedded(request, served, body)
    data = [
        {
            "object": "embedding",
            "index": i,
            "embedding": _base64(vector) if body.encoding_format == "base64" else vector.tolist(),
        }
        for i, vector in enumerate(vectors)
    ]
    counts = {"prompt_tokens": tokens, "total_tokens": tokens}
    return JSONResponse({"object": "list", "data": data, "model": served.name, "usage": counts})


async def embedded(request: Request, served: Served, body: EmbeddedBody) -> tuple[int, np.ndarray]:
    """How many tokens the texts have, and their vectors."""
    served.expect(Pool, "embed texts")
    tokens = await _count(request, served, body.texts)
    vectors = await while_connected(request, served.model.embed(body.texts))
    if body.dimensions not in (None, vectors.shape[1]):
        raise RequestError(
            f"dimensions must be the model's {vectors.shape[1]}, got {body.dimensions}", param="dimensions"
        )
    return tokens, vectors


async def classify(request: Request) -> JSONResponse:
    """`POST /v1/classify`: the labels of each text, the likeliest first."""
    server = server_of(request)
    body = await read(request, InputBody, server.limits)
    served = await server.use(request, body.model)
    served.expect(Classify, "classify texts")
    tokens = await _count(request, served, body.texts)
    labels = await while_connected(request, served.model.classify(body.texts))
    data = [
        {"index": i, "label": one[0].label, "labels": [label._asdict() for label in one]}
        for i, one in enumerate(labels)
    ]
    return JSONResponse({"object": "list", "data": data, "model": served.name, "usage": usage(tokens, 0)})


async def rerank(request: Request) -> JSONResponse:
    """`POST /v1/rerank`: documents by their relevance to a query, from a model with one label for a pair."""
    server = server_of(request)
    body = await read(request, RerankBody, server.limits)
    served = await server.use(request, body.model)
    head = served.expect(Classify, "rerank, which takes a classifier with one label")
    if len(served.model.model.labels) != 1:
        raise RequestError(
            f"{served.name} can't rerank: that takes a model with one label, it has "
            f"{len(served.model.model.labels)}: use /v1/classify"
        )
    pairs: list[Pair] = [(body.query, document) for document in body.documents]
    tokens = await _count(request, served, pairs)
    labels = await while_connected(request, served.model.classify(pairs))
    scores = relevances(head, labels)
    order = np.argsort(-scores, kind="stable")[: body.top_n]
    results = [
        {
            "index": int(i),
            "relevance_score": float(scores[i]),
            **({"document": {"text": body.documents[i]}} if body.return_documents else {}),
        }
        for i in order
    ]
    return JSONResponse({"model": served.name, "results": results, "usage": {"total_tokens": tokens}})


async def _count(request: Request, served: Served, texts: TextsOrPairs) -> int:
    """The tokens of texts; LimitError for one that is too long, before it waits."""
    rows = await asyncio.to_thread(encoded, served.model.model, texts)
    tokens = sum(len(row.ids) for row in rows)
    server_of(request).metrics.prompt_tokens.labels(served.name).inc(tokens)
    record_of(request).update(model=served.name, prompt_tokens=tokens)
    return tokens


def _base64(vector: np.ndarray) -> str:
    """The numbers as 32-bit floats in little endian order."""
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()

"""Answer the routes of encoders: `/v1/embeddings`, `/v1/rerank` and `/v1/classify`."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field
from starlette.requests import Request
from starlette.responses import JSONResponse

from ...refimpl.config import Classify, Pool
from ...refimpl.ops.head import unit
from ..tasks.base import TaskModel
from ..tasks.encoder_batches import Pair, cut, encoded, encodings
from ..tasks.rerank import relevances
from ..text.control_tokens import Encoding
from .errors import RequestError
from .models import Served, server_of
from .openapi import taking
from .request_log import record_of
from .requests import MOST_TEXTS, Body, Text, TokenIds
from .responses import usage
from .texts import check_ids, while_connected

Texts = Annotated[list[Text], Field(min_length=1, max_length=MOST_TEXTS)]


class InputBody(Body):
    """The body of a request with texts, or with token ids that include the special tokens.

    `truncate_prompt_tokens`, which has the same name in vLLM's API, is the number of tokens to which a longer
    text is cut. With -1, a longer text is cut to the length of the model's context.
    """

    input: Text | Texts | TokenIds | Annotated[list[TokenIds], Field(min_length=1, max_length=MOST_TEXTS)]
    truncate_prompt_tokens: Annotated[int, Field(ge=-1)] | None = None

    @property
    def most(self) -> int | None:
        """The number of tokens to which each text is cut. -1 means the model's context, and None means that
        texts aren't cut.
        """
        return self.truncate_prompt_tokens

    def rows(self, model: TaskModel) -> list[Encoding]:
        """Return the tokens of each text. Raises RequestError for a token id outside the model's
        vocabulary.
        """
        stated: Any = self.input if isinstance(self.input, list) else [self.input]
        stated = [stated] if isinstance(stated[0], int) else stated
        if isinstance(stated[0], str):
            rows = encodings(model, stated)
        else:
            for ids in stated:
                check_ids(ids, model.config.embedding.vocabulary, "input")
            rows = [Encoding.of_text(ids, [(0, 0)] * len(ids), [None] * len(ids), 0, 0) for ids in stated]
        if (most := self.most) is not None:
            rows = [cut(row, model.config.context if most < 0 else most) for row in rows]
        return encoded(model, rows)


class EmbeddedBody(InputBody):
    dimensions: Annotated[int, Field(ge=1)] | None = None


class EmbeddingBody(EmbeddedBody):
    encoding_format: Literal["float", "base64"] | None = None


class RerankBody(Body):
    query: Text
    documents: Texts
    top_n: Annotated[int, Field(ge=1)] | None = None
    return_documents: bool | None = None


@taking(EmbeddingBody)
async def embeddings(request: Request, body: EmbeddingBody) -> JSONResponse:
    """`POST /v1/embeddings`: return a vector for each text."""
    served = await server_of(request).use(request, body.model)
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
    """Compute the vectors of a request's texts. Returns the number of tokens of all texts, and the vectors
    [texts, D].
    """
    head, sizes = served.expect(Pool, "embed texts"), served.model.model.config.embedding
    whole = head.outputs(sizes.width, sizes.vocabulary)
    width = body.dimensions or whole
    if width != whole and (width > whole or (head.cuts is not None and width not in head.cuts)):
        others = "any smaller number" if head.cuts is None else ", ".join(map(str, head.cuts))
        raise RequestError(
            f"dimensions must be the model's width, {whole}{others and f', or {others}'}, got {width}",
            param="dimensions",
        )
    rows, tokens = await _read(request, served, body.rows)
    vectors = await while_connected(request, served.model.embed(rows))
    if width != whole:
        vectors = unit(vectors[:, :width]) if head.unit else vectors[:, :width]
    return tokens, vectors


@taking(InputBody)
async def classify(request: Request, body: InputBody) -> JSONResponse:
    """`POST /v1/classify`: return the labels of each text, the likeliest first."""
    served = await server_of(request).use(request, body.model)
    served.expect(Classify, "classify texts")
    rows, tokens = await _read(request, served, body.rows)
    labels = await while_connected(request, served.model.classify(rows))
    data = [
        {"index": i, "label": one[0].label, "labels": [label._asdict() for label in one]}
        for i, one in enumerate(labels)
    ]
    return JSONResponse({"object": "list", "data": data, "model": served.name, "usage": usage(tokens, 0)})


@taking(RerankBody)
async def rerank(request: Request, body: RerankBody) -> JSONResponse:
    """`POST /v1/rerank`: sort documents by relevance to a query. The model must give a pair of texts a single
    label.
    """
    served = await server_of(request).use(request, body.model)
    head = served.expect(Classify, "rerank, for which a classifier with one label is needed")
    if len(served.model.model.labels) != 1:
        raise RequestError(
            f"{served.name} can't rerank: reranking needs a model with one label, but this model has "
            f"{len(served.model.model.labels)}: use /v1/classify"
        )
    pairs: list[Pair] = [(body.query, document) for document in body.documents]
    rows, tokens = await _read(request, served, lambda model: encoded(model, pairs))
    labels = await while_connected(request, served.model.classify(rows))
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


async def _read(
    request: Request, served: Served, rows_of: Callable[[TaskModel], list[Encoding]]
) -> tuple[list[Encoding], int]:
    """Return the texts' tokens and how many they are. Raises LimitError for a text that is too long, before
    the request waits.
    """
    rows = await asyncio.to_thread(rows_of, served.model.model)
    tokens = sum(len(row.ids) for row in rows)
    server_of(request).metrics.prompt_tokens.labels(served.name).inc(tokens)
    record_of(request).update(model=served.name, prompt_tokens=tokens)
    return rows, tokens


def _base64(vector: np.ndarray) -> str:
    """Return the numbers as base64 of 32-bit floats in little-endian order."""
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()

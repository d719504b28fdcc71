"""Convert the options of a request to options of `runtime.tasks`."""

from __future__ import annotations

import secrets
from typing import Any

from ..tasks.base import TaskModel
from ..tasks.options import GenerateOptions
from .errors import RequestError
from .requests import ChatBody, CompletionBody, Sampling, sampling_of

# A text that is continued ends after so many tokens, as the OpenAI API has it; an answer of a chat ends where
# the context does.
COMPLETION_TOKENS = 16


def options_of(body: Sampling, model: TaskModel) -> GenerateOptions:
    """Return the generation options that a request states. An option that the request leaves to the model's
    default is None or missing.

    A request without a seed gets a random seed, so that the same request can get a different answer each
    time.
    """
    options: Any = {
        **sampling_of(body),
        "seed": secrets.randbelow(2**63) if body.seed is None else body.seed % 2**64,
        "logit_bias": _biases(body.logit_bias, model.config.embedding.vocabulary),
        "max_new_tokens": _most_tokens(body, model),
        "logprobs": _logprobs(body),
        **body.constraint(),
    }
    if isinstance(body, ChatBody):
        options["thinking_token_budget"] = body.thinking_token_budget
    if body.stop is not None:
        options["stop"] = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop)
    return options


def _most_tokens(body: Sampling, model: TaskModel) -> int:
    """Return the largest number of new tokens: the request's limit, else the model's own limit, else the
    API's default.
    """
    chats = isinstance(body, ChatBody)
    ours = model.config.context if chats else COMPLETION_TOKENS
    stated = (body.max_completion_tokens if chats else None, body.max_tokens, model.generation.max_new_tokens)
    return next((limit for limit in stated if limit is not None), ours)


def _logprobs(body: Sampling) -> int | None:
    if isinstance(body, ChatBody):
        return (body.top_logprobs or 0) if body.logprobs else None
    return body.logprobs if isinstance(body, CompletionBody) else None


def _biases(stated: dict[str, float] | None, vocabulary: int) -> list[tuple[int, float]] | None:
    if not stated:
        return None
    for key in stated:
        # The model's own width: a tokenizer may have fewer tokens.
        if not (key.isascii() and key.isdigit() and len(key) <= 10 and int(key) < vocabulary):
            raise RequestError(
                f"logit_bias: token ids must be 0 to {vocabulary - 1}, got {key!r:.40}", param="logit_bias"
            )
    return [(int(key), amount) for key, amount in stated.items()]

"""Decoders that differ in one part of their architecture, trained and read on the same text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from compare import models
from positions import TRAINED, perplexities
from task import HEADS, NORM, WIDTH, attention
from tfm.refimpl.config import (
    LM,
    AdaptiveSoftmax,
    BlockSparse,
    Config,
    Decoder,
    Embedding,
    Layer,
    Plain,
    Sinusoidal,
    Stack,
    TokenMixer,
)
from tfm.refimpl.ops.linear_attention import LinearAttention
from tfm.refimpl.ops.lstm import LSTM
from tfm.runtime.tasks import Model

MIXERS: dict[str, TokenMixer] = {
    "transformer": attention(),
    "block-sparse": attention(mask=BlockSparse(8)),
    "linear": LinearAttention(HEADS, HEADS, WIDTH // HEADS, pre=NORM),
    "lstm": LSTM(WIDTH, pre=NORM),
}
ADAPTIVE = "adaptive-softmax"
KINDS = (*MIXERS, ADAPTIVE)
SHOWN = 24  # tokens that each continues a text by


def config(kind: str, vocabulary: int) -> Config:
    """The decoder of this kind."""
    layer = Layer(MIXERS.get(kind, attention()), Plain(2 * WIDTH, "gelu", pre=NORM))
    head = LM(tied=True)
    if kind == ADAPTIVE:
        head = LM(tied=False, adaptive=AdaptiveSoftmax((vocabulary // 2, vocabulary * 3 // 4)))
    stack = Stack((layer,) * 2, NORM, Sinusoidal())
    return Decoder(Embedding(vocabulary, WIDTH, WIDTH**0.5), stack, head, TRAINED)


def compared(path: Path, rows: np.ndarray, prompt: str) -> dict[str, dict[str, Any]]:
    """Engine -> its perplexity, and how it continues the prompt."""
    return {
        name: {"perplexity": perplexities(model, rows)[0], "text": continued(model, prompt)}
        for name, model in models(path, ("int8",))
    }


def continued(model: Model, prompt: str) -> str:
    """The likeliest tokens after the prompt."""
    return "".join(model.generate(prompt, greedy=True, max_new_tokens=SHOWN))

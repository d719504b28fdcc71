"""Decoders that differ in one part of their architecture, trained and read on the same text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from compare import models
from loop import train
from positions import STEPS, TRAINED, Text, batches, perplexities
from task import HEADS, NORM, WIDTH, attention
from tfm.refimpl.checkpoint.open import save_checkpoint
from tfm.refimpl.config import (
    LM,
    LSTM,
    AdaptiveSoftmax,
    BlockSparse,
    Config,
    Decoder,
    Embedding,
    Layer,
    LinearAttention,
    Plain,
    Sinusoidal,
    Stack,
    TokenMixer,
)
from tfm.runtime.progress import Progress, silent
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


def learn(
    kind: str, folder: Path, text: Text, steps: int = STEPS, *, seed: int, progress: Progress = silent
) -> Path:
    """The directory in `folder` of the decoder of this kind, trained on windows of 128 tokens."""
    decoder = config(kind, text.vocabulary)
    params = train(decoder, batches(text.learned, seed), steps, seed=seed, progress=progress)
    save_checkpoint(folder / kind, decoder, params, text.tokenizer)
    return folder / kind


def compared(path: Path, rows: np.ndarray, prompt: str) -> dict[str, dict[str, Any]]:
    """Engine -> its perplexity, and how it continues the prompt."""
    return {
        name: {"perplexity": perplexities(model, rows)[0], "text": continued(model, prompt)}
        for name, model in models(path, ("int8",))
    }


def continued(model: Model, prompt: str) -> str:
    """The likeliest tokens after the prompt."""
    return "".join(model.generate(prompt, greedy=True, max_new_tokens=SHOWN))

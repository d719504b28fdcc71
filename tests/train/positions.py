"""Six decoders that differ in their positions alone, trained on short texts and read on longer ones."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import task
from compare import models
from loop import Row, train
from task import HEADS, NORM, WIDTH
from tfm.refimpl.checkpoint.open import open_checkpoint, save_checkpoint
from tfm.refimpl.config import (
    LM,
    Alibi,
    Config,
    Decoder,
    Embedding,
    Learned,
    Position,
    RelativeBias,
    Rope,
    Sinusoidal,
    Stack,
)
from tfm.refimpl.errors import ConfigError
from tfm.runtime.progress import Progress, silent
from tfm.runtime.tasks import Model
from tfm.runtime.verification.metrics import log_softmax

TRAINED = 128
EDGES = (0, TRAINED, 256, 512, 1024)
# Of an attention, and of the stack.
KINDS: dict[str, tuple[Position | None, Learned | Sinusoidal | None]] = {
    "none": (None, None),
    "sinusoidal": (None, Sinusoidal()),
    "learned": (None, Learned(TRAINED)),
    "rotary": (Rope(1e4, WIDTH // HEADS), None),
    "alibi": (Alibi(), None),
    "t5": (RelativeBias(32, 128), None),
}
BATCH = 8
STEPS = 500
WINDOWS = 16  # texts of the longest length that are read


class Text:
    """A tokenizer made for a text, the text's tokens to learn from, and others to read [windows, 1,025]."""

    def __init__(self, learned: str, read: str) -> None:
        self.tokenizer = task.trained([learned[:50_000]], "bpe", 512)
        text, length = task.opened(self.tokenizer), EDGES[-1] + 1
        self.vocabulary = text.vocabulary
        self.learned, ids = np.array(text.encode(learned)), np.array(text.encode(read))
        self.read = ids[: min(WINDOWS, len(ids) // length) * length].reshape(-1, length)


def config(kind: str, vocabulary: int) -> Config:
    """The decoder with these positions."""
    position, added = KINDS[kind]
    stack = Stack((task.layer(position=position),) * 2, NORM, added)
    return Decoder(Embedding(vocabulary, WIDTH, WIDTH**0.5), stack, LM(tied=True), TRAINED)


def batches(ids: np.ndarray, seed: int, length: int = TRAINED) -> Iterator[list[Row]]:
    """Windows of a length from anywhere in the text, without end."""
    rng = np.random.default_rng(seed)
    while True:
        starts = rng.integers(0, len(ids) - length, BATCH)
        windows = [ids[a : a + length + 1].tolist() for a in starts]
        yield [Row(window[:-1], window[1:]) for window in windows]


def learn(
    decoder: Config, path: Path, text: Text, steps: int = STEPS, *, seed: int, progress: Progress = silent
) -> Path:
    """The directory `path`, of the decoder trained on windows of 128 tokens."""
    params = train(decoder, batches(text.learned, seed), steps, seed=seed, progress=progress)
    save_checkpoint(path, decoder, params, text.tokenizer)
    return path


def perplexities(model: Model, rows: np.ndarray) -> list[float]:
    """Perplexity between each two edges up to the model's context, of tokens that have all before them in
    their text to be read by."""
    lost = losses(model, rows)
    spans = [lost[:, a:b] for a, b in pairwise(EDGES) if b <= lost.shape[1]]
    return [float(np.exp(span.mean())) for span in spans]


def losses(model: Model, rows: np.ndarray) -> np.ndarray:
    """What the model loses at each token of the rows after its first, up to the model's context, in nats."""
    length, lost = model.config.context, []
    for row in rows:
        outputs = log_softmax(model.logits(row[:length]))
        lost.append(-outputs[np.arange(length), row[1 : length + 1]])
    return np.stack(lost)


def compared(path: Path, rows: np.ndarray) -> tuple[dict[str, list[float]], str | None]:
    """Engine -> perplexity between the edges, as far as the positions reach; why they reach no farther."""
    longest, why = EDGES[-1], None
    try:
        open_checkpoint(path).for_context(longest)
    except ConfigError as error:
        longest, why = TRAINED, str(error)
    read: dict[str, Any] = dict(models(path, ("int8",), longest))
    return {name: perplexities(model, rows) for name, model in read.items()}, why

"""Trains a decoder of Llama's form on public text: unquantized weights to measure against what bits cost.

    python tests/train/original.py OUT LEARNED READ

LEARNED and READ are files of plain text, such as the Linux kernel's documentation without each twentieth
file, and those files. OUT becomes a directory of model_type tfm with 11 million float32 weights, all widths
multiples of 256 as K-quants want them. 500 steps take 22 minutes of one core. The perplexity of READ, which
nothing was learned from, is shown at the end.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import task
import typer
from loop import train
from positions import BATCH, batches, losses
from tfm.cli.console import out, progress
from tfm.export.torch_engine import TorchEngine
from tfm.refimpl.checkpoint.open import materialize, open_checkpoint, save_checkpoint
from tfm.refimpl.config import LM, Attention, Config, Decoder, Embedding, Gated, Layer, Rope, Stack
from tfm.runtime.tasks import Model

WIDTH, HIDDEN, HEADS, GROUPS, LAYERS = 512, 1024, 8, 4, 3
VOCABULARY, CONTEXT = 8192, 256
RATE = 2e-3
READ = 64  # windows
TOKENIZED, PIECE = 2_000_000, 1_000_000  # characters that the vocabulary is made of, and encoded at once


def main(
    folder: Annotated[Path, typer.Argument(metavar="OUT")],
    learned: Annotated[Path, typer.Argument(exists=True, dir_okay=False)],
    read: Annotated[Path, typer.Argument(exists=True, dir_okay=False)],
    steps: Annotated[int, typer.Option(min=1)] = 1000,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Train, save, and read what wasn't learned from."""
    text = learned.read_text(encoding="utf-8")
    tokenizer = task.trained([text[:TOKENIZED]], "bpe", VOCABULARY)
    opened = task.opened(tokenizer)
    decoder = config(opened.vocabulary)
    ids = np.concatenate([opened.encode(text[i : i + PIECE]) for i in range(0, len(text), PIECE)])
    params = train(decoder, batches(ids, seed, CONTEXT), steps, seed=seed, rate=RATE, progress=progress())
    save_checkpoint(folder, decoder, params, tokenizer)
    checkpoint = open_checkpoint(folder)
    model = Model(TorchEngine(decoder, materialize(checkpoint.params)), checkpoint)
    unseen = np.array(opened.encode(read.read_text(encoding="utf-8")))
    lost = losses(model, unseen[: READ * (CONTEXT + 1)].reshape(READ, -1))
    seen, perplexity = steps * BATCH * CONTEXT, np.exp(lost.mean())
    out(f"{len(ids):,} tokens to learn from, {seen:,} seen; perplexity {perplexity:.1f}")


def config(vocabulary: int) -> Config:
    """Llama's form: norms before, rotary, shared keys and values, SwiGLU, the table as head."""
    attention = Attention(HEADS, GROUPS, WIDTH // HEADS, pre=task.NORM, position=Rope(1e4, WIDTH // HEADS))
    layer = Layer(attention, Gated(HIDDEN, "silu", pre=task.NORM))
    return Decoder(Embedding(vocabulary, WIDTH), Stack((layer,) * LAYERS, task.NORM), LM(tied=True), CONTEXT)


if __name__ == "__main__":
    typer.run(main)

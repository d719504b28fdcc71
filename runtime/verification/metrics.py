"""How close a model stays to the specification over a text: predictions, token by token, and vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ...refimpl.config import Decoder, MaskedLM
from ...refimpl.engine.protocol import Engine

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

# Positions whose logits are held at once: at 150k tokens of vocabulary two engines take 300 MB.
CHUNK = 128


@dataclass(frozen=True)
class Fidelity:
    """Means over the `positions` of a text that were read; perplexities over the tokens that follow one.

    kl: KL(reference‖model) in nats. agreement: share of positions with the same best token.
    """

    kl: float
    agreement: float
    perplexity: float
    reference_perplexity: float
    positions: int


def log_softmax(logits: Float[Array, "M N"]) -> Float[Array, "M N"]:
    """Logits − log Σ exp(logits) in float64, the maximum subtracted first."""
    logits = logits.astype(np.float64)
    logits -= logits.max(axis=-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def fidelity(
    engine: Engine,
    reference: Engine,
    ids: Sequence[int],
    window: int = 512,
    *,
    enough: Callable[[], bool] = lambda: False,
) -> Fidelity:
    """Run both engines over `ids`, in windows that don't see each other, and compare predictions.

    Both are fed the text itself (teacher forcing), so one early difference doesn't drag the rest
    along; where they have an encoder, it reads the window first. `enough` is asked after each piece of
    a window; True ends the comparison early.
    """
    text = np.asarray(ids, np.int64)
    kl, nll, nll_reference = 0.0, 0.0, 0.0
    same = positions = predicted = 0
    for begin in range(0, len(text), window):
        row = text[begin : begin + window]
        read = () if isinstance(engine.config, Decoder) else (row[None],)
        caches = [runner.start(1, *read) for runner in (engine, reference)]
        for at in range(0, len(row), CHUNK):
            piece = row[at : at + CHUNK]
            wanted = np.arange(len(piece))[None]
            made = []
            for i, runner in enumerate((engine, reference)):
                logits, caches[i] = runner.step(piece[None], caches[i], at=wanted)
                made.append(log_softmax(logits[0]))
            model, truth = made
            same += int((model.argmax(-1) == truth.argmax(-1)).sum())
            following = row[at + 1 : at + 1 + len(piece)]
            index = np.arange(len(following)), following
            nll -= float(model[index].sum())
            nll_reference -= float(truth[index].sum())
            kl += float(np.einsum("mn,mn->", np.exp(truth), truth - model))
            positions += len(piece)
            predicted += len(following)
            if enough():
                break
        if enough():
            break
    return Fidelity(
        kl=kl / max(positions, 1),
        agreement=same / max(positions, 1),
        perplexity=float(np.exp(nll / max(predicted, 1))),
        reference_perplexity=float(np.exp(nll_reference / max(predicted, 1))),
        positions=positions,
    )


@dataclass(frozen=True)
class Likeness:
    """How alike two encoders' outputs are over `texts`: cosines of their rows, and the RMS error.

    kl, agreement: of a head that predicts tokens, as in `Fidelity`, over all positions.
    """

    cosine: float
    lowest: float
    rms: float
    texts: int
    kl: float | None = None
    agreement: float | None = None


def likeness(
    engine: Engine,
    reference: Engine,
    texts: Sequence[Sequence[int]],
    *,
    enough: Callable[[], bool] = lambda: False,
) -> Likeness:
    """Run both encoders over texts, one at a time, and compare what their heads say, row by row."""
    tokens = isinstance(engine.config.head, MaskedLM)
    cosines: list[np.ndarray] = []
    square = numbers = kl = same = 0.0
    for ids in texts:
        made = [runner.predict(np.array([ids], np.int64)) for runner in (engine, reference)]
        said, truth = (a.astype(np.float64).reshape(-1, a.shape[-1]) for a in made)
        norms = np.sqrt((said * said).sum(-1) * (truth * truth).sum(-1))
        cosines.append((said * truth).sum(-1) / norms)
        square, numbers = square + float(np.square(said - truth).sum()), numbers + said.size
        if tokens:
            p, q = log_softmax(truth), log_softmax(said)
            kl += float(np.einsum("mn,mn->", np.exp(p), p - q))
            same += float((said.argmax(-1) == truth.argmax(-1)).sum())
        if enough():
            break
    every = np.concatenate(cosines)
    return Likeness(
        cosine=float(every.mean()),
        lowest=float(every.min()),
        rms=float(np.sqrt(square / numbers)),
        texts=len(cosines),
        kl=kl / len(every) if tokens else None,
        agreement=same / len(every) if tokens else None,
    )

"""Measure how close a model is to the specification over a text, by predicted tokens or encoder outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from ...refimpl.config import Decoder
from ...refimpl.engine.protocol import Cache, Engine
from ...refimpl.errors import LimitError
from ..parallel import in_threads

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

# Positions whose logits are held at once of two engines: with a vocabulary of 150k they take 300 MB.
CHUNK = 128

Pair = tuple[str, str]


@dataclass(frozen=True)
class Fidelity:
    """How close a model's predictions are to a reference's, as means over the `positions` of a text.

    - kl: KL(reference‖model) in nats.
    - agreement: the share of positions with the same best token.
    - perplexity, reference_perplexity: measured over the tokens that follow another token.
    """

    kl: float
    agreement: float
    perplexity: float
    reference_perplexity: float
    positions: int


def log_softmax(logits: Float[Array, "M N"]) -> Float[Array, "M N"]:
    """Return logits − log Σ exp(logits) in float64. The maximum is subtracted first to avoid overflow."""
    logits = logits.astype(np.float64)
    logits -= logits.max(axis=-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def kl_divergence(truth: Float[Array, "M N"], model: Float[Array, "M N"]) -> float:
    """Return KL(truth‖model) = Σ p (log p − log q) in nats, summed over all rows. The arguments are
    log-probabilities.

    q − p, which sums to 0, is added to each term. With d = log q − log p, a term is then p (exp d − 1 − d),
    which is never negative. So even if d is small, the sum isn't lost in float64's rounding errors.
    """
    total = 0.0
    for log_p, log_q in zip(truth, model, strict=True):  # row by row: a vocabulary's temporaries are large
        p, change = np.exp(log_p), log_q - log_p
        gain = np.where(change < 1, p * np.expm1(np.minimum(change, 1)), np.exp(log_q) - p)
        total += float((gain - p * change).sum())
    return total


def fidelity(
    engine: Engine,
    reference: Engine,
    ids: Sequence[int],
    window: int = 512,
    *,
    before: Sequence[int] = (),
    enough: Callable[[int], bool] = lambda done: False,
) -> Fidelity:
    """Return how close the predictions of one engine are to a reference's over the text `ids`; see
    `fidelities`.
    """
    engines, pair = {"model": engine, "reference": reference}, ("reference", "model")
    return fidelities(engines, [pair], ids, window, before=before, enough=enough)[pair]


def fidelities(
    engines: Mapping[str, Engine],
    pairs: Sequence[Pair],
    ids: Sequence[int],
    window: int = 512,
    *,
    before: Sequence[int] = (),
    enough: Callable[[int], bool] = lambda done: False,
) -> dict[Pair, Fidelity]:
    """Run all engines over `ids`, in independent windows, and compare the predictions of pairs of engines.

    A pair names the reference first. Each window begins with `before`, the tokens that the tokenizer puts
    before a text; predictions for these tokens don't count. Without these tokens, a model that was trained
    with them behaves differently than users ever see it. Such a model may even be so unstable that rounding
    decides how far apart two engines are. An example is Gemma 3 270M in int8, with two sets of weights that
    differ in the last digit of their scales. Without the tokens, the two sets had KL divergences of 0.0085
    and 0.025 over 512 tokens. With the tokens, they had 0.0038 and 0.0040.

    All engines get the text's own tokens (teacher forcing), so that one early difference doesn't change all
    that follows. An encoder, if there is one, reads the window first. `enough` is called with the number of
    compared positions after each chunk of a window. The comparison ends when `enough` returns True. Raises
    LimitError for a window that has no room for a text.
    """
    text = np.asarray(ids, np.int64)
    kl, same, nll = dict.fromkeys(pairs, 0.0), dict.fromkeys(pairs, 0), dict.fromkeys(engines, 0.0)
    positions = predicted = 0
    room, chunk_length = window - len(before), 2 * CHUNK // max(2, len(engines))
    if room < 1:
        raise LimitError(
            f"a window of {window} tokens is too short for a text after {len(before)} special tokens"
        )
    for begin in range(0, len(text), room):
        tokens = text[begin : begin + room]
        caches = {
            name: engine.start(1, None if isinstance(engine.config, Decoder) else tokens[None])
            for name, engine in engines.items()
        }
        for first in range(0, len(tokens), chunk_length):
            chunk = tokens[first : first + chunk_length]
            read = chunk if first else np.concatenate([np.array(before, np.int64), chunk])
            at = np.arange(len(read) - len(chunk), len(read))[None]
            following = tokens[first + 1 : first + 1 + len(chunk)]
            logs: dict[str, Array] = {}
            steps = in_threads(partial(_step, engines, caches, read, at), [*engines])
            for name, (log, cache) in zip(engines, steps, strict=True):
                logs[name], caches[name] = log, cache
                nll[name] -= float(logs[name][np.arange(len(following)), following].sum())
            for truth, model in pairs:
                same[truth, model] += int((logs[model].argmax(-1) == logs[truth].argmax(-1)).sum())
                kl[truth, model] += kl_divergence(logs[truth], logs[model])
            positions += len(chunk)
            predicted += len(following)
            if enough(positions):
                break
        if enough(positions):
            break
    perplexity = {name: float(np.exp(total / max(predicted, 1))) for name, total in nll.items()}
    return {
        (truth, model): Fidelity(
            kl=kl[truth, model] / max(positions, 1),
            agreement=same[truth, model] / max(positions, 1),
            perplexity=perplexity[model],
            reference_perplexity=perplexity[truth],
            positions=positions,
        )
        for truth, model in pairs
    }


def _step(
    engines: Mapping[str, Engine], caches: Mapping[str, Cache], tokens: Array, at: Array, name: str
) -> tuple[Array, Cache]:
    """Return the log-probabilities that one engine predicts at these tokens, and the engine's new cache."""
    logits, cache = engines[name].step(tokens[None], caches[name], at=at)
    return log_softmax(logits[0]), cache


@dataclass(frozen=True)
class Likeness:
    """How similar the outputs of two encoders are over `texts`.

    `cosine` is the mean and `lowest` the lowest cosine similarity of their rows. `rms` is the root mean
    square of their differences. If the head predicts tokens, `kl` and `agreement` are as in `Fidelity`, over
    all positions.
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
    enough: Callable[[int], bool] = lambda done: False,
) -> Likeness:
    """Run both encoders over texts, one at a time, and compare the outputs of their heads row by row.

    `enough` is called after each text with the number of compared texts. The comparison ends when `enough`
    returns True.
    """
    predicts_tokens = engine.config.head.predicts_tokens
    cosines: list[np.ndarray] = []
    squares = kl = 0.0
    numbers = same = 0
    for ids in texts:
        tokens = np.array([ids], np.int64)
        output = _rows(engine.predict(tokens))
        truth = _rows(reference.predict(tokens))
        cosines.append(row_cosines(output, truth))
        squares += float(np.square(output - truth).sum())
        numbers += output.size
        if predicts_tokens:
            kl += kl_divergence(log_softmax(truth), log_softmax(output))
            same += int((output.argmax(-1) == truth.argmax(-1)).sum())
        if enough(len(cosines)):
            break
    all_cosines = np.concatenate(cosines)
    return Likeness(
        cosine=float(all_cosines.mean()),
        lowest=float(all_cosines.min()),
        rms=float(np.sqrt(squares / numbers)),
        texts=len(cosines),
        kl=kl / len(all_cosines) if predicts_tokens else None,
        agreement=same / len(all_cosines) if predicts_tokens else None,
    )


def row_cosines(output: Float[Array, "M N"], truth: Float[Array, "M N"]) -> Float[Array, " M"]:
    """Return the cosine similarity of each row of `output` with the same row of `truth`."""
    norms = np.sqrt((output * output).sum(-1) * (truth * truth).sum(-1))
    return (output * truth).sum(-1) / norms


def _rows(output: Array) -> Array:
    """Return an output [..., N] as rows [M, N] in float64."""
    return output.astype(np.float64).reshape(-1, output.shape[-1])

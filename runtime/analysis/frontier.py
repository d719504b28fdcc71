"""Compare the quantizations of a model: the loss, perplexity, bytes and speed of their bundles."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnxruntime

from ...refimpl.checkpoint.formats.sha256 import sha256_of
from ...refimpl.checkpoint.formats.whole_file import write_whole
from ...refimpl.config import LM, Config, Decoder
from ...refimpl.engine.numpy_engine import NumpyEngine
from ...refimpl.engine.protocol import Engine
from ...refimpl.errors import CheckpointError, LimitError
from ..bundle.bundle import manifest_hash, open_bundle
from ..bundle.manifest import DATA
from ..hub.cache_dir import cache_dir
from ..kernels import library
from ..progress import Progress
from ..tasks import load
from ..verification.metrics import fidelity, likeness
from . import speed

WINDOW = 512  # tokens that see each other
READINGS = 5  # of the texts, whose speed is measured
PROMPT_TOKENS = 128


@dataclass(frozen=True)
class Text:
    """The tokens of a text for a comparison. `before` are the special tokens that precede each window of the
    text.
    """

    ids: list[int]
    before: list[int]


@dataclass(frozen=True)
class Point:
    """The figures of one bundle.

    - `bytes`: the size of the bundle's file of weights.
    - `read_bytes`: the bytes of weights that one token reads. On tfm's kernels this is the size of
      kernels.data, else the size of the bundle's file.
    - `loss`: the KL divergence from the unquantized model in nats per token, or 1 − cosine if the model
      predicts no tokens.
    - `perplexity`, `reference_perplexity`: the perplexity of the text by this bundle and by the unquantized
      model.
    - `tokens_per_s`: tokens generated per second, or tokens read per second if the model isn't a plain
      decoder.
    - `path`: the code that computed the bundle.
    """

    name: str
    bytes: int
    read_bytes: int
    loss: float
    perplexity: float | None
    reference_perplexity: float | None
    tokens_per_s: float
    path: str


def check(config: Config, text: Text, new_tokens: int) -> None:
    """Raise CheckpointError if the model takes sound, or LimitError if the model's context is too small for
    the comparison.
    """
    if config.stem is not None:
        raise CheckpointError("quantizations are compared on a text, but this model reads sounds")
    if isinstance(config, Decoder) and new_tokens >= config.context:
        raise LimitError(f"new_tokens must be below the context of {config.context} tokens, got {new_tokens}")
    if not isinstance(config, Decoder) and _room(config, text) < 1:
        raise LimitError(
            f"the model's context of {config.context} tokens is too short for a text after "
            f"{len(text.before)} special tokens"
        )


def measure(
    name: str,
    bundle: Path,
    reference: NumpyEngine,
    text: Text,
    threads: int,
    new_tokens: int,
    repeats: int,
    progress: Progress,
) -> Point:
    """Measure a bundle, and return its figures.

    If the bundle was measured before with the same text, threads, kernels and ONNX Runtime, the earlier
    figures are returned. The user's cache keeps each measurement, completely or not at all.
    """
    computing = [str(library.find()), onnxruntime.__version__]
    settings = [manifest_hash(bundle), text.ids, text.before, threads, new_tokens, repeats, computing]
    key = sha256_of(json.dumps(settings).encode()).hexdigest()[:24]
    kept = cache_dir() / "compared" / f"{key}.json"
    try:
        return Point(**json.loads(kept.read_text()) | {"name": name})
    except (OSError, ValueError, TypeError):
        pass
    found = _measured(name, bundle, reference, text, threads, new_tokens, repeats, progress)
    kept.parent.mkdir(parents=True, exist_ok=True)
    write_whole(kept, json.dumps(asdict(found)).encode())
    return found


def _measured(
    name: str,
    bundle: Path,
    reference: NumpyEngine,
    text: Text,
    threads: int,
    new_tokens: int,
    repeats: int,
    progress: Progress,
) -> Point:
    progress(f"{name}: reading {len(text.ids)} tokens", 0, 0)
    model = load(bundle, "cpu", threads)
    engine, opened = model.engine, open_bundle(bundle)
    path, size = getattr(engine, "backend", type(engine).__name__), opened.manifest.files[DATA].size
    read_size = opened.read_size if path.startswith("kernels") else size
    if not isinstance(engine.config.head, LM):
        texts = _texts(engine.config, text)
        like = likeness(engine, reference, texts)
        loss = max(0.0, 1 - like.cosine) if like.kl is None else like.kl
        return Point(name, size, read_size, loss, None, None, _reading_rate(engine, texts), path)
    window = min(WINDOW, engine.config.context)
    close = fidelity(engine, reference, text.ids, window, before=text.before[: window - 1])
    if isinstance(engine.config, Decoder):
        prompt = min(PROMPT_TOKENS, engine.config.context - new_tokens)
        progress(f"{name}: measuring its speed", 0, 0)
        [setting] = speed.compare(bundle, "cpu", [threads], [prompt], new_tokens, repeats, progress)
        rate = setting.decode_tokens_per_s.median
    else:
        rate = _reading_rate(engine, _texts(engine.config, text))
    return Point(name, size, read_size, close.kl, close.perplexity, close.reference_perplexity, rate, path)


def _texts(config: Config, text: Text) -> list[list[int]]:
    """Cut the text into texts of at most a window, and put the special tokens before each."""
    room = _room(config, text)
    return [text.before + text.ids[at : at + room] for at in range(0, len(text.ids), room)]


def _room(config: Config, text: Text) -> int:
    return min(WINDOW // 4, config.context) - len(text.before)


def _reading_rate(engine: Engine, texts: Sequence[Sequence[int]]) -> float:
    """Return how many tokens per second an encoder reads, one text at a time: the median of some readings."""
    rates = []
    for _ in range(READINGS):
        start = time.perf_counter()
        for ids in texts:
            if isinstance(engine.config.head, LM):
                engine.start(1, np.array([ids]))
            else:
                engine.predict(np.array([ids]))
        rates.append(sum(map(len, texts)) / (time.perf_counter() - start))
    return statistics.median(rates)


def frontier(points: Sequence[Point]) -> list[Point]:
    """Return the points that no other point beats, the smallest first.

    Point A beats point B if A reads fewer bytes and loses no more, or if A loses less and reads no more.
    """

    def beats(a: Point, b: Point) -> bool:
        no_worse = a.read_bytes <= b.read_bytes and a.loss <= b.loss
        return no_worse and (a.read_bytes, a.loss) != (b.read_bytes, b.loss)

    best = [one for one in points if not any(beats(other, one) for other in points)]
    return sorted(best, key=lambda one: one.read_bytes)

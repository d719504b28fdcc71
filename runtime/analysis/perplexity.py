"""Measure a decoder's perplexity beyond its trained length, for each method of stretching its positions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from ...refimpl.checkpoint.tokenizers.tokenizer import Tokenizer
from ...refimpl.config import (
    Config,
    Decoder,
    DynamicNTK,
    LinearScaling,
    Llama3Scaling,
    ProportionalScaling,
    Rope,
    Scaling,
    Yarn,
)
from ...refimpl.engine.numpy_engine import NumpyEngine
from ...refimpl.ops.position_tables import position_tables
from ...refimpl.params.tree import Tree
from ..progress import Progress
from ..verification.metrics import log_softmax

CHUNK = 256  # tokens a step: the logits of all of them are held
SAME = 1e-9  # between cosines or sines: float32, which the model computes in, rounds to 6e-8
PARTS = 8  # of the positions up to the trained length, and as many past it
# Scalings that a further factor multiplies.
DIVIDED = (LinearScaling, Yarn, Llama3Scaling, ProportionalScaling)


@dataclass(frozen=True)
class Perplexity:
    """The perplexity with one method of stretching positions.

    - `parts`: the perplexity in each part of the windows.
    - `within`: the perplexity within the trained length.
    - `past`: the perplexity beyond the trained length.

    A figure is None if its part has no tokens.
    """

    parts: list[float | None]
    within: float | None
    past: float | None


@dataclass(frozen=True)
class Comparison:
    """The perplexities with several methods of stretching positions, over the same windows of a text.

    - `trained`: the trained length in tokens.
    - `edges`: the positions at which the parts of a window begin and end.
    - `same`: a dict from each method to the first method with the same rotations. Methods with the same
      rotations are computed once.
    - `by_way`: a dict from each computed method to its perplexities.
    """

    trained: int
    edges: list[int]  # of the parts of the positions
    same: Mapping[str, str]
    by_way: dict[str, Perplexity]


def before_text(tokenizer: Tokenizer) -> list[int]:
    """Return the special tokens that the tokenizer puts before a text. Each window begins with these
    tokens.
    """
    bare, full = (tokenizer.encode("a", add_special_tokens=special).ids for special in (False, True))
    at = next((i for i in range(len(full)) if full[i : i + len(bare)] == bare), 0)
    return full[:at]


def ways(config: Decoder, length: int, factor: float) -> dict[str, Decoder]:
    """Return a dict from each method of stretching positions to the model, with its rotary positions
    stretched to `length` tokens by this method.

    If a model's rotary positions are already scaled, only the same method can scale the positions further.
    The Config refuses to stretch learned positions. All other positions need no stretching.
    """
    trained = config.context
    longer = replace(config, context=max(length, trained))
    by_name = {"none": longer}
    scalings = [rope.scaling for rope in config.ropes]
    if None in scalings:
        new: dict[str, Scaling] = {
            "linear": LinearScaling(factor),
            "dynamic-ntk": DynamicNTK(factor, trained),
            "yarn": Yarn(factor, trained),
            "llama3": Llama3Scaling(factor, 1.0, 4.0, trained),
        }
        for name, scaling in new.items():
            by_name[name] = stretched(
                longer, lambda rope, s=scaling: replace(rope, scaling=rope.scaling or s)
            )
    elif any(isinstance(scaling, DIVIDED) for scaling in scalings):

        def further(rope: Rope) -> Rope:
            scaling = rope.scaling
            if isinstance(scaling, DIVIDED):
                return replace(rope, scaling=replace(scaling, factor=scaling.factor * factor))
            return rope

        by_name["further"] = stretched(longer, further)
    return by_name


def stretched(config: Decoder, change: Callable[[Rope], Rope]) -> Decoder:
    """Return the decoder with `change` applied to the rotary positions of each layer."""
    layers = []
    for layer in config.layers:
        attention = layer.attention
        position = getattr(attention, "position", None)
        if isinstance(position, Rope):
            attention = replace(attention, position=change(position))
        layers.append(replace(layer, attention=attention))
    return replace(config, stack=replace(config.stack, layers=tuple(layers)))


def same_positions(models: Mapping[str, Decoder], length: int) -> dict[str, str]:
    """Return a dict from each method to the first method that gives the same rotations in texts of `length`
    tokens.

    The first such method may be the method itself. Two methods with the same rotations compute the same
    numbers. Rotations are compared at two positions. The tables at position 1 determine all frequencies.
    The tables at the last position show the largest difference.
    """
    tables = {}
    for name, config in models.items():
        by_rope = position_tables(np.array([1, length - 1]), config=config)
        ropes = (getattr(mixer, "position", None) for mixer in config.stack.mixers)
        tables[name] = [by_rope[rope] for rope in ropes if isinstance(rope, Rope)]

    def alike(a: str, b: str) -> bool:
        pairs = zip(tables[a], tables[b], strict=True)
        return all(np.allclose(x, y, rtol=0, atol=SAME) for x, y in pairs)

    same: dict[str, str] = {}
    for name in models:
        same[name] = next((first for first in same.values() if alike(first, name)), name)
    return same


def compare(
    models: Mapping[str, Decoder],
    same: Mapping[str, str],
    params: Tree,
    windows: Sequence[Sequence[int]],
    trained: int,
    progress: Progress,
) -> Comparison:
    """Measure the perplexity with each method over windows of one length.

    If several methods give the same rotations, only the first such method is computed.
    """
    positions, by_way = edges(trained, len(windows[0])), {}
    for name, config in models.items():
        if same[name] == name:
            loss = losses(config, params, windows, f"reading with {name}", progress)
            by_way[name] = perplexity(loss, trained, positions)
    return Comparison(trained, positions, same, by_way)


def losses(
    config: Config, params: Tree, windows: Sequence[Sequence[int]], stage: str, progress: Progress
) -> np.ndarray:
    """Compute −log p of the next token after each position with the specification. Returns an array [windows,
    length − 1]."""
    engine = NumpyEngine(config, params)
    rows = []
    total, done = sum(len(window) - 1 for window in windows), 0
    for window in windows:
        ids = np.array(window)
        last = len(ids) - 1  # the last token is only predicted
        cache, parts = engine.start(), []
        for start in range(0, last, CHUNK):
            chunk = ids[start : min(start + CHUNK, last)]
            logits, cache = engine.step(chunk[None], cache, at=np.arange(len(chunk))[None])
            following = ids[start + 1 : start + 1 + len(chunk)]
            parts.append(-log_softmax(logits[0])[np.arange(len(chunk)), following])
            done += len(chunk)
            progress(stage, done, total)
        rows.append(np.concatenate(parts))
    return np.stack(rows)


def edges(trained: int, length: int) -> list[int]:
    """Split the positions of a window into parts of nearly equal length, and return the edges of the parts.
    One edge is the trained length.
    """
    last = length - 1
    inner = np.linspace(0, min(trained, last), PARTS + 1)
    outer = np.linspace(min(trained, last), last, PARTS + 1)
    return sorted({round(float(edge)) for edge in (*inner, *outer)})


def perplexity(loss: np.ndarray, trained: int, positions: Sequence[int]) -> Perplexity:
    """Return the perplexities of losses [windows, length − 1]: in each part between two of the edges
    `positions`, and within and beyond the trained length.
    """
    parts = [_perplexity(loss[:, start:end]) for start, end in pairwise(positions)]
    return Perplexity(parts, _perplexity(loss[:, :trained]), _perplexity(loss[:, trained:]))


def _perplexity(loss: np.ndarray) -> float | None:
    if not loss.size:
        return None
    return float(np.exp(min(loss.mean(), 700.0)))  # e^700 is near the largest float64

"""What goes into each product of a model while it reads a text, and what follows from it.

The mirror runs layer by layer over windows of the text that don't see each other, so that memory is
one layer's weights, the vectors of the text, and observers of fixed size (`refimpl.calibrate`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ...refimpl.calibrate import ranges, smooth
from ...refimpl.calibrate.least_error import mean_square
from ...refimpl.checkpoint.open import Checkpoint
from ...refimpl.errors import ExportError
from ...runtime.text.tokenizer import Tokenizer
from .activation_recorder import observe
from .plan import Calibration, Chosen

WINDOW, WINDOWS = 512, 8
FEW, ALPHA = 128, 0.5
# English prose with some numbers, a letter, a bit of code.
TEXT = Path(__file__).with_name("calibration.txt")
# A channel's range in the cache beside the largest magnitude that a text shows: another one goes further.
REACH = 1.5
# Bytes of a text that are read: more than so many tokens ever have.
LARGEST = WINDOW * WINDOWS * 64


def choose(checkpoint: Checkpoint, calibration: Calibration, progress: Callable[[str], None]) -> Chosen:
    """Factors of smoothing, and scale and zero point of each product's input in the smoothed model."""
    windows = _windows(checkpoint, calibration.text)
    factors, count = {}, sum(map(len, windows))
    if calibration.alpha is not None:
        progress(f"largest activations of {count} tokens")
        factors = _factors(checkpoint, smooth.places(checkpoint.config), windows, calibration.alpha)
    progress(f"ranges of activations over {count} tokens")
    observer = ranges.minmax if calibration.method == "minmax" else ranges.histogram
    held: dict[tuple[str, ...], Any] = {}
    reached: Counter[tuple[str, ...]] = Counter()

    def observed(names: tuple[str, ...], x: np.ndarray) -> None:
        held[names] = observer(held.get(names), x.reshape(-1))
        reached[names] += len(x)

    smoothed = lambda name: smooth.apply(name, checkpoint.leaf(name), factors)  # noqa: E731
    observe(checkpoint.config, smoothed, windows=windows, seen=observed)
    if idle := [names[0] for names in held if reached[names] == 0]:
        raise ExportError(
            f"{calibration.text}: gives {idle[0]} no token, so its input has no range; "
            "calibrate with a longer text"
        )
    inputs = {}
    for names, state in held.items():
        match calibration.method:
            case "minmax":
                found = state
            case "percentile":
                found = ranges.percentile(state)
            case "entropy":
                found = ranges.entropy(state)
        inputs |= dict.fromkeys(names, ranges.parameters(found))
    return Chosen(inputs, factors)


def _factors(
    checkpoint: Checkpoint, places: list[smooth.SmoothingSite], windows: list[list[int]], alpha: float
) -> dict[smooth.SmoothingSite, np.ndarray]:
    """The factors of these places, powers of two, from what the model computes of `windows`."""
    states: dict[str, Any] = {}

    def largest(names: tuple[str, ...], x: np.ndarray) -> None:
        for name in names:
            states[name] = smooth.largest(states.get(name), x)

    observe(checkpoint.config, checkpoint.leaf, windows=windows, seen=largest)
    found = {}
    for place in places:
        # A mixture's router reads what its experts do, but isn't among the products.
        most = np.max([states[name] for name in place.read if name in states], axis=0)
        found[place] = smooth.powers(smooth.folded(place, most, checkpoint.leaf, alpha=alpha))
    return found


def smoothing(
    checkpoint: Checkpoint, places: list[smooth.SmoothingSite], progress: Callable[[str], None]
) -> dict[smooth.SmoothingSite, np.ndarray]:
    """Factors for a model whose inputs are rounded too, from random tokens, as in `importance`.

    On SmolLM2 128 tokens serve as well as 512. KL at alpha 0.4, 0.5, 0.6, 0.75 is 0.0217, 0.0180, 0.0206,
    0.0355 for int8-dynamic; for int8 it is 0.0034 at 0.5, 0.0032 at 0.6.
    """
    progress(f"largest inputs over {FEW} random tokens")
    return _factors(checkpoint, places, [_random(checkpoint, FEW)], ALPHA)


def _random(checkpoint: Checkpoint, count: int) -> list[int]:
    config = checkpoint.config
    rng = np.random.default_rng(0)
    return rng.integers(0, config.embedding.vocabulary, min(count, config.context)).tolist()


def importance(checkpoint: Checkpoint, progress: Callable[[str], None]) -> dict[str, np.ndarray]:
    """Mean squares of the inputs of each leaf's product, while the model reads random tokens.

    Which coordinates are large depends on the model more than on the text: on SmolLM2 with 4-bit table
    the KL divergence is 0.44 without, 0.376 with random tokens and 0.342 with a text, which every user
    would have to bring along. An expert of a mixture that no token went to has none, and is rounded.
    """
    progress(f"importance of inputs over {WINDOW} random tokens")
    found: dict[str, np.ndarray] = {}

    def seen(names: tuple[str, ...], x: np.ndarray) -> None:
        if len(x):
            found.update(dict.fromkeys(names, mean_square(x)))

    observe(checkpoint.config, checkpoint.leaf, windows=[_random(checkpoint, WINDOW)], seen=seen)
    return found


def cached(checkpoint: Checkpoint, text: Path | None, progress: Callable[[str], None]) -> Checkpoint:
    """The model with keys and values kept in 8 bits: scale = REACH · max|x| / 127 of each channel of a head.

    The text is our own if none is given; random tokens won't do, their keys aren't those of any text. Scales
    that the checkpoint has stay. On SmolLM2, its weights in float32, the KL divergence at 1, 1.25, 1.5, 2 is
    0.0094, 0.0023, 0.0012, 0.0020; after ten times as long a text 0.0028, 0.0012, 0.0015 at the first three.
    """
    windows = _windows(checkpoint, TEXT if text is None else text)
    progress(f"ranges of keys and values over {sum(map(len, windows))} tokens")
    most: dict[str, np.ndarray] = {}

    def kept(layer: int, keys: np.ndarray, values: np.ndarray) -> None:
        for side, x in (("k", keys), ("v", values)):
            name = f"decoder.layers.{layer}.attn.{side}_scale"
            most[name] = smooth.largest(most.get(name), x.swapaxes(0, 1))

    observe(checkpoint.config.keeping("float"), checkpoint.leaf, windows=windows, kept=kept)
    own = set(checkpoint.leaves.names)
    added = {name: (x * (REACH / 127)).astype(np.float32) for name, x in most.items() if name not in own}
    return replace(checkpoint, config=checkpoint.config.keeping("int8"), added=added)


def _windows(checkpoint: Checkpoint, text: Path) -> list[list[int]]:
    """The first tokens of a text, each window as a text of its own where an encoder reads it: with what the
    model expects around a text. ExportError where there are none."""
    if checkpoint.tokenizer is None:
        raise ExportError("calibration reads a text, and the checkpoint has no tokenizer")
    try:
        with open(text, "rb") as file:
            read = file.read(LARGEST)
        # A character that the limit cut in two is dropped, any other bad byte isn't.
        told = read.decode("utf-8", "strict" if len(read) < LARGEST else "ignore")
    except (OSError, UnicodeDecodeError) as error:
        raise ExportError(f"{text}: must be a text in UTF-8 to calibrate with: {error}") from None
    config = checkpoint.config
    tokenizer = Tokenizer(checkpoint.tokenizer, config.embedding.vocabulary)
    ids = tokenizer.encode(told)
    if not ids:
        raise ExportError(f"{text}: must hold a text to calibrate with, it is empty")
    room = min(WINDOW, config.context) - (len(tokenizer.around([])) if config.encoder else 0)
    if room < 1:
        raise ExportError(f"a context of {config.context} has no room for a text to calibrate with")
    ids = ids[: WINDOW * WINDOWS]
    windows = [ids[i : i + room] for i in range(0, len(ids), room)]
    return [tokenizer.around(window) for window in windows] if config.encoder else windows

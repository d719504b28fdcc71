"""Run the model to choose quantization parameters: ranges, smoothing factors, importance, cache scales.

The model reads windows of the text side by side, and no window sees another. So memory contains only one
layer's weights, the vectors of the text, and observers of fixed size (`refimpl.calibrate`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ...refimpl.calibrate import ranges, smooth
from ...refimpl.calibrate.least_error import mean_square
from ...refimpl.checkpoint.protocol import ExportSource
from ...refimpl.config import Decoder
from ...refimpl.decoding.sampling import check_logits
from ...refimpl.engine.numpy_engine import NumpyEngine
from ...refimpl.errors import ExportError
from ...refimpl.ops.quantized_cache import hadamard, round_by_channel
from ...refimpl.params.parameter_shapes import ParameterShapes
from ...runtime.bundle.manifest import CACHE_BUDGET
from ...runtime.bundle.plan import Plan
from ...runtime.bundle.schemes import PerColumn, Scheme
from ...runtime.progress import Progress
from ...runtime.text.tokenizer import read_tokenizer
from ...runtime.verification.metrics import fidelity, log_softmax
from ..torch_engine import TorchEngine
from .activation_recorder import OnLayer, one_thread, record
from .plan import Calibration, CalibrationResult

Array = np.ndarray

WINDOW = 512  # tokens
MOST_WINDOWS = 8
# What a decoder draws itself, to round its matrices of 4 bits over: the length of a row, the most tokens, how
# many of them for each input of the widest matrix, how many products, and the numbers of a model that draws.
DRAWN_LENGTH = 128
DRAWN_TOKENS = 72 * DRAWN_LENGTH
TOKENS_AN_INPUT = 4
MOST_PRODUCTS = 200_000_000_000
MOST_NUMBERS = 200_000_000
SMOOTHING_TOKENS = 128
SMOOTHING_ALPHA = 0.5
# English prose with some numbers, a letter, a bit of code.
TEXT = Path(__file__).with_name("calibration.txt")
# A channel's range in the cache, as a multiple of its largest magnitude in the calibration text: another text
# goes further.
CACHE_RANGE = 1.5
# With 4 bits the range has the least error over that text: shares of the largest magnitude.
CACHE_SHARES = np.linspace(0.2, 1.2, 26)
# Bytes of a text that are read: more than the tokens of all windows ever have.
MOST_BYTES = WINDOW * MOST_WINDOWS * 64


def static_scales(
    checkpoint: ExportSource, plan: Plan, calibration: Calibration, scheme: Scheme, progress: Progress
) -> CalibrationResult:
    """Measure the ranges of activations over the calibration text. Return the smoothing factors, and the
    scale and zero point of each product's input in the smoothed model.

    If the scheme rounds outputs, the result also contains the scale and zero point of each product's output.
    Raises ExportError if no token of the text reaches a product, such as one of an expert.
    """
    columns = scheme.matrices
    assert isinstance(columns, PerColumn)
    windows = _windows(checkpoint, calibration.text)
    factors: dict[smooth.SmoothingSite, Array] = {}
    count = sum(map(len, windows))
    if calibration.alpha is not None:
        report = partial(progress, f"calibrating on {count} tokens")
        factors = _factors(checkpoint, plan.smoothable, windows, calibration.alpha, report)
    observer = ranges.minmax if calibration.method == "minmax" else ranges.histogram
    observed: dict[tuple[str, ...], Any] = {}
    outputs: dict[str, Any] = {}
    tokens: Counter[tuple[str, ...]] = Counter()

    def observe(names: tuple[str, ...], x: Array) -> None:
        # Distances are a second input of matrices that they share: its numbers count for the same range.
        names = next((known for known in observed if set(names) <= set(known)), names)
        observed[names] = observer(observed.get(names), x.reshape(-1))
        tokens[names] += len(x)

    def observe_output(name: str, y: Array) -> None:
        outputs[name] = observer(outputs.get(name), y.reshape(-1))

    def smoothed(name: str) -> Array:
        return smooth.smooth_leaf(name, checkpoint.leaf(name), factors)

    report = partial(progress, f"measuring ranges of activations on {count} tokens")
    on_output = observe_output if columns.rounds_output else None
    record(
        checkpoint.config, smoothed, windows=windows, on_input=observe, on_output=on_output, on_layer=report
    )
    if idle := [names[0] for names in observed if tokens[names] == 0]:
        raise ExportError(
            f"{calibration.text}: no token of this text reaches {idle[0]}, so the range of this weight's "
            "input is unknown; calibrate with a longer text"
        )
    bits = columns.activation_bits

    def scale_and_zero_point(state: Any) -> tuple[Array, Array]:
        match calibration.method:
            case "minmax":
                interval = state
            case "percentile":
                interval = ranges.percentile(state)
            case "entropy":
                interval = ranges.entropy(state, levels=2 ** (bits - 1))
        return ranges.scale_and_zero_point(interval, bits=bits)

    inputs: dict[str, tuple[Array, Array]] = {}
    for names, state in observed.items():
        inputs |= dict.fromkeys(names, scale_and_zero_point(state))
    rounded = {name: scale_and_zero_point(state) for name, state in outputs.items()}
    return CalibrationResult(inputs, factors, outputs=rounded)


def _factors(
    checkpoint: ExportSource,
    sites: Sequence[smooth.SmoothingSite],
    windows: list[list[int]],
    alpha: float,
    on_layer: OnLayer,
) -> dict[smooth.SmoothingSite, Array]:
    """Measure the activations of the model over `windows`, and return the smoothing factors of the sites. The
    factors are powers of two.
    """
    largest: dict[str, Array] = {}

    def observe(names: tuple[str, ...], x: Array) -> None:
        for name in names:
            largest[name] = smooth.channel_maxima(largest.get(name), x)

    record(checkpoint.config, checkpoint.leaf, windows=windows, on_input=observe, on_layer=on_layer)
    factors = {}
    for site in sites:
        # A mixture's router reads what its experts do, but isn't among the products.
        activation = np.max([largest[name] for name in site.consumers if name in largest], axis=0)
        factors[site] = smooth.nearest_powers_of_two(
            smooth.site_factors(site, activation, checkpoint.leaf, alpha=alpha)
        )
    return factors


def smoothing_factors(
    checkpoint: ExportSource, sites: Sequence[smooth.SmoothingSite], progress: Progress
) -> dict[smooth.SmoothingSite, Array]:
    """Return smoothing factors for a model whose products also round their inputs. The activations are
    measured over random tokens, as in `importance`.

    On SmolLM2, 128 tokens are as good as 512. For int8-dynamic, the KL divergence at alpha 0.4, 0.5, 0.6,
    0.75 is 0.0217, 0.0180, 0.0206, 0.0355. For int8, it is 0.0034 at 0.5 and 0.0032 at 0.6.
    """
    report = partial(progress, f"calibrating on {SMOOTHING_TOKENS} random tokens")
    windows = [_random_tokens(checkpoint, SMOOTHING_TOKENS)]
    return _factors(checkpoint, sites, windows, SMOOTHING_ALPHA, report)


def _random_tokens(checkpoint: ExportSource, count: int) -> list[int]:
    config = checkpoint.config
    rng = np.random.default_rng(0)
    return rng.integers(0, config.embedding.vocabulary, min(count, config.context)).tolist()


def importance(checkpoint: ExportSource, progress: Progress) -> dict[str, Array]:
    """Run the model on random tokens, and return the mean square of each coordinate of the input by which
    each parameter is multiplied.

    Which coordinates are large depends more on the model than on the text. On SmolLM2 with a 4-bit table, the
    KL divergence is 0.44 without importance, 0.376 with random tokens, and 0.342 with a text, which every
    user would have to provide. An expert of a mixture that gets no token has no importance, and is rounded to
    nearest.
    """
    mean_squares: dict[str, Array] = {}

    def observe(names: tuple[str, ...], x: Array) -> None:
        new = [name for name in names if name not in mean_squares]  # distances come after the text
        if len(x) and new:
            mean_squares.update(dict.fromkeys(new, mean_square(x)))

    windows = [_random_tokens(checkpoint, WINDOW)]
    report = partial(progress, f"measuring which weights matter on {WINDOW} random tokens")
    record(checkpoint.config, checkpoint.leaf, windows=windows, on_input=observe, on_layer=report)
    return mean_squares


def without_feedback(checkpoint: ExportSource, text: Path | None) -> str:
    """Return the reason why matrices of 4 bits can't be rounded with feedback, or "" if they can.

    For example, a large decoder needs a given text. To sample a text with such a decoder would take minutes,
    and memory for its float weights.
    """
    config, shapes = checkpoint.config, checkpoint.shapes
    if any(".experts." in name for name in shapes):
        return "a token of a mixture of experts may go to other experts on another processor"
    if config.sound_shape is not None:
        return "the model reads sounds, but rounding with feedback needs texts"
    if text is None and not isinstance(config, Decoder):
        return "without a calibration text, the model must be a decoder, which can write a text"
    if text is None and checkpoint.shapes.numbers > MOST_NUMBERS:
        return f"a decoder of more than {MOST_NUMBERS // 10**6} million parameters needs a calibration text"
    return ""


def rounding_text(checkpoint: ExportSource, text: Path | None, progress: Progress) -> Array:
    """Return rows of tokens [R, T] for rounding with feedback. The rows come from the given text. Without a
    text, the decoder samples the rows.

    On IgLM, the KL divergence is 0.0286 without feedback, and 0.0076 with feedback over 8,192 tokens that
    IgLM sampled after random first tokens.
    """
    if text is not None:
        return text_rows(checkpoint, text)
    config = checkpoint.config
    tokenizer = read_tokenizer(checkpoint, config)
    time = min(DRAWN_LENGTH, config.context)
    before = [] if tokenizer is None else tokenizer.before_text[: time - 1]
    widest = max(shape[0] for shape in checkpoint.shapes.values() if len(shape) == 2)
    most = min(DRAWN_TOKENS, MOST_PRODUCTS // checkpoint.shapes.numbers, TOKENS_AN_INPUT * widest)
    rows = max(1, most // time)
    rng, first = np.random.default_rng(0), len(before) + 1
    tokens = np.zeros((rows, time), np.int64)
    tokens[:, : first - 1], tokens[:, first - 1] = before, rng.integers(0, config.embedding.vocabulary, rows)
    stage = f"drawing {tokens.size} tokens from the model, to round its matrices with"
    progress(stage, 0, time)
    with one_thread():
        engine, new = TorchEngine(config, checkpoint.params), tokens[:, :first]
        cache = engine.start(rows)
        for at in range(first, time):
            logits, cache = engine.step(new, cache)
            check_logits(logits)
            shares = np.cumsum(np.exp(log_softmax(logits[:, -1])), axis=1)
            new = np.argmax(shares > rng.random((rows, 1)) * shares[:, -1:], axis=1)[:, None]
            tokens[:, at : at + 1] = new
            progress(stage, at + 1, time)
    return tokens


def text_rows(checkpoint: ExportSource, text: Path) -> Array:
    """Return the first tokens of a text as rows of equal length [R, T]."""
    windows = _windows(checkpoint, text, DRAWN_LENGTH, DRAWN_TOKENS)
    return np.array([window for window in windows if len(window) == len(windows[0])])


def with_cache_scales(
    checkpoint: ExportSource, kv: Literal["int8", "int4"], text: Path | None, progress: Progress
) -> ExportSource:
    """Return the checkpoint with keys and values in 8 or 4 bits, with scales that are measured over a text.

    In 8 bits, a channel's scale is CACHE_RANGE · max|x| / 127. In 4 bits, the scale is the share in
    CACHE_SHARES with the least squared error, and values are rotated first. On SmolLM2, over another text of
    139 tokens, 4 bits cost 0.098 nats per token. Without the rotation they cost 0.148, without rotation and
    search 0.187, and with keys rotated too 0.101.

    Without a `text`, a text that comes with tfm is used, because keys of random tokens differ too much from
    those of real texts. If the checkpoint has scales, they are kept.

    On SmolLM2 with its weights in float32, the KL divergence with a range of 1, 1.25, 1.5, 2 is 0.0094,
    0.0023, 0.0012, 0.0020. After ten times as long a text, it is 0.0028, 0.0012, 0.0015 with the first
    three.
    """
    windows = _windows(checkpoint, TEXT if text is None else text)
    scales: dict[str, Array] = {}
    held: dict[str, list[Array]] = {}  # of one layer: [T, G, K] of each window

    def choose() -> None:
        while held:
            name, parts = held.popitem()
            x = np.concatenate(parts)
            largest = np.abs(x).max(0)
            scales[name] = (largest * (CACHE_RANGE / 127)).astype(np.float32)
            if kv == "int4":
                scales[name] = least_scale(x, largest / 7)

    def observe(layer: int, keys: Array, values: Array) -> None:
        sides = {f"decoder.layers.{layer}.attn.{side}_scale": x for side, x in (("k", keys), ("v", values))}
        if not sides.keys() & held.keys():
            choose()
        for name, x in sides.items():
            x = x.swapaxes(0, 1)
            if kv == "int4" and name.endswith("v_scale"):
                x = hadamard(x[None])[0]
            held.setdefault(name, []).append(x)

    report = partial(progress, f"measuring ranges of keys and values on {sum(map(len, windows))} tokens")
    config = checkpoint.config.with_kv("float")
    record(config, checkpoint.leaf, windows=windows, on_cache=observe, on_layer=report)
    choose()
    names = [f"decoder.layers.{i}.attn.{side}_scale" for i in range(len(scales) // 2) for side in "kv"]
    return checkpoint.with_kv(kv, {name: scales[name] for name in names})


def least_scale(x: Array, largest: Array) -> Array:
    """Return the scales [G, K] with which the numbers x [T, G, K] have the least error in 4 bits. Each
    channel's scale is one of the shares `CACHE_SHARES` of `largest`, the scale for its largest magnitude.
    """
    candidates = [(share * largest).astype(np.float32) for share in CACHE_SHARES]
    rounded = [round_by_channel(x[None], scale, bits=4)[0] for scale in candidates]
    errors = [np.square(y - x, dtype=np.float64).sum(0) for y in rounded]
    return np.take_along_axis(np.stack(candidates), np.argmin(errors, axis=0)[None], axis=0)[0]


def cache_kl(checkpoint: ExportSource, text: Path | None, progress: Progress) -> float:
    """Measure and return the cost of keys and values in 4 bits: KL(the model ‖ the model with 4-bit keys and
    values), in nats per token.

    The cost is measured over the first window of the text. Raises ExportError if the cost exceeds
    CACHE_BUDGET.
    """
    config, window = checkpoint.config, _windows(checkpoint, TEXT if text is None else text)[0]
    tokenizer = read_tokenizer(checkpoint, config)
    before = tokenizer.before_text if tokenizer is not None and isinstance(config, Decoder) else []
    progress(f"measuring what keys and values in 4 bits cost over {len(window)} tokens", 0, 0)
    exact = config.with_kv("float")
    rounded, whole = (
        NumpyEngine(one, ParameterShapes(one).lazily(checkpoint.leaf)) for one in (config, exact)
    )
    cost = fidelity(rounded, whole, window[len(before) :], len(window), before=before).kl
    if not cost <= CACHE_BUDGET:
        raise ExportError(
            f"with kv=int4, this model loses {cost:.2g} nats per token on the calibration text, but only "
            f"{CACHE_BUDGET} are allowed: use kv=int8, or kv=float"
        )
    return cost


def _windows(
    checkpoint: ExportSource, path: Path, length: int = WINDOW, most: int = WINDOW * MOST_WINDOWS
) -> list[list[int]]:
    """Return the first `most` tokens of a text, in windows of at most `length` tokens. Each window begins
    with the tokens that the model expects before a text. If the model isn't a decoder, each window also ends
    with the tokens expected after a text.

    Raises ExportError if the text is empty or not UTF-8, or if the checkpoint has no tokenizer.

    Keys of the first token are often larger than all other keys. So with keys and values in 8 bits, Gemma 3
    270M has a KL divergence of 0.0015 if each window begins with these tokens, and of 0.0062 if none does.
    """
    config = checkpoint.config
    tokenizer = read_tokenizer(checkpoint, config)
    if tokenizer is None:
        raise ExportError("calibration needs a tokenizer for its text, but the checkpoint has no tokenizer")
    try:
        with open(path, "rb") as file:
            data = file.read(MOST_BYTES)
        # A character that the limit cut in two is dropped, any other bad byte isn't.
        text = data.decode("utf-8", "strict" if len(data) < MOST_BYTES else "ignore")
    except (OSError, UnicodeDecodeError) as error:
        raise ExportError(f"{path}: the calibration text must be UTF-8: {error}") from None
    ids = tokenizer.encode(text)
    if not ids:
        raise ExportError(f"{path}: the calibration text must not be empty")

    def with_tokens(part: list[int]) -> list[int]:
        """Return a part of the text, with the tokens that the model expects around a text."""
        if isinstance(config, Decoder):
            return tokenizer.before_text + part
        return tokenizer.with_special_tokens(part)

    room = min(length, config.context) - len(with_tokens([]))
    if room < 1:
        raise ExportError(
            f"the model's context of {config.context} tokens is too short for a calibration text"
        )
    ids = ids[:most]
    return [with_tokens(ids[i : i + room]) for i in range(0, len(ids), room)]

"""Golden inputs: a few tokens, the specification's outputs for them, and how far rounding may change these
outputs.

Golden inputs and outputs are stored in the bundle as files golden/NAME.npy (`runtime.bundle.golden_files`),
so that a device can check its model without the source. The outputs are logits, or the outputs of an
encoder's head, with one row for each real token or for each text. Outputs may differ by the budget of
`refimpl.error_budget`, which is computed from these terms over the whole output:

    A   the largest difference between the specification in float32 and in float64
    J   how far the outputs in float64 move when the embedded tokens move by one ulp
    u   one ulp of the largest number

The terms are stored with few digits, rounded up (`rounded_up`).

If tfm's kernels keep keys and values in float16, J is increased by the change in the specification's outputs
when the specification also keeps them in float16.

For a model in float16, A is measured with the residual stream rounded after each layer, and ulps are ulps of
float16. For a quantized model, or a model with keys and values in few bits, J is measured with a larger move
of the embedded tokens than one ulp (`CODE_MOVE`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ...refimpl.checkpoint.formats.file_bytes import read_file
from ...refimpl.checkpoint.formats.npy import read_array
from ...refimpl.config import LM, Config, Decoder, EncoderDecoder
from ...refimpl.engine.cache_kinds import Halved
from ...refimpl.error_budget import (
    CODE_MOVE,
    TRIES,
    ErrorTerms,
    error_terms,
    largest_difference,
    rounded_up,
)
from ...refimpl.errors import BundleError
from ...refimpl.ops.quant import Blocks
from ...refimpl.params.parameter_shapes import ParameterShapes
from ...refimpl.params.tree import Tree, leaf_of
from ..bundle.bundle import LIMITS, Bundle
from ..bundle.golden_files import (
    COMMON,
    ENCODER_IDS,
    ENCODER_LENGTHS,
    EXPECTED,
    FILES,
    FOLDER,
    HALF,
    ROUNDING,
    TOKEN_TYPES,
    TYPES,
    file_of,
)
from ..bundle.graph_io import graphs
from ..bundle.manifest import AGAIN
from ..progress import Progress, silent
from ..text.tokenizer import Tokenizer
from .golden_sound import SENTENCE, golden_sounds
from .leaf_digest import digest
from .metrics import kl_divergence
from .streamed_reference import SEED, Inputs, Precision, outputs

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

    from .streamed_reference import OnCache

TOKENS = 12  # of each of the two rows
TEXT = (
    f"{SENTENCE} A model that is exported, quantized and run on another machine "
    "should still say what its specification says."
)
LEAST = 1e-12  # probability of all columns that aren't stored: where all are, rounding leaves about as much
MOST_ROUNDING = 2**16  # tokens: they are read by whoever compares a bundle with its source
COLUMNS = 256  # logits that are stored of each row, beside the two best


@dataclass(frozen=True)
class Expected:
    """The specification's outputs, and the terms A, J and u from which each budget is computed.

    `logits` has a column for each of the golden columns. If outputs are predictions of tokens, `logits` has
    one more column: log Σ exp of all logits. `maximum` and `rms` each contain three terms: for the largest
    difference, and for the root mean square.
    """

    logits: Array
    maximum: Array
    rms: Array

    @property
    def budget(self) -> float:
        """The largest allowed difference between an output and the specification's output."""
        return ErrorTerms(*self.maximum.tolist()).budget

    @property
    def rms_budget(self) -> float:
        """The largest allowed root mean square of all differences."""
        return ErrorTerms(*self.rms.tolist()).budget


@dataclass(frozen=True)
class Golden:
    """The golden arrays of a bundle.

    - `tokens`, `lengths`, `encoder_ids`, `encoder_lengths`, `token_types`: the model's `Inputs`.
    - `columns`: the columns of the outputs that are stored.
    - `own`: the outputs of the specification over the bundle's own weights.
    - `plain`: the same outputs with activations that aren't rounded to codes. Without codes, small errors
      can't grow by rounding, so the budget of `plain` is a thousand times tighter. None if no activation is
      rounded in blocks.
    - `half` [2]: the largest change that a cache of float16 makes in `own`, and the root mean square of these
      changes. None if there is no such cache.
    - `floats`: the logits over the source's unquantized weights.
    - `rounding` [R, T]: the text over which matrices of 4 bits were rounded (`bundle.feedback`). None if
      their codes don't compensate each other.
    - `best`: the two best tokens [M, 2], and `gap`: the difference of their logits.
    - `digests`: the SHA-256 of each parameter, in the order of `ParameterShapes`.
    """

    tokens: Array
    lengths: Array
    columns: Array
    best: Array
    gap: Array
    digests: Array
    floats: Array
    own: Expected
    plain: Expected | None
    half: Array | None = None
    rounding: Array | None = None
    encoder_ids: Array | None = None
    encoder_lengths: Array | None = None
    token_types: Array | None = None

    @property
    def with_half_cache(self) -> Golden:
        """The golden arrays with budgets for a cache of float16. Without `half`, the arrays are unchanged."""
        if self.half is None:
            return self
        maximum, rms = (
            terms + np.array([0, moves, 0])
            for terms, moves in zip((self.own.maximum, self.own.rms), self.half, strict=True)
        )
        return replace(self, own=replace(self.own, maximum=maximum, rms=rms))

    @property
    def inputs(self) -> Inputs:
        """The inputs that the specification and an engine get."""
        return Inputs(self.tokens, self.lengths, self.encoder_ids, self.encoder_lengths, self.token_types)

    @property
    def split(self) -> int:
        """The number of tokens in the first part of a row, for checks that run each row in two parts."""
        return max(1, self.tokens.shape[1] // 2)

    def real(self, values: Array) -> Float[Array, "M N"]:
        """Return the outputs at the real positions of all rows [B, T, N], or of all texts [B, N]."""
        return real_positions(values, self.lengths)

    def kl(self, outputs: Float[Array, "M N"]) -> float:
        """Return KL(unquantized‖outputs) of predictions, in nats a token.

        The divergence is computed over the stored columns, and one more column for all other columns
        together. The result is at most the KL divergence over all columns.
        """
        return self._kl(self.view(outputs))

    @property
    def own_kl(self) -> float:
        """KL(unquantized‖specification over the bundle's own weights), in nats a token, computed as in
        `kl`.
        """
        return self._kl(self.own.logits)

    def _kl(self, view: Float[Array, "M C"]) -> float:
        return kl_divergence(_log_shares(self.floats), _log_shares(view)) / len(view)

    def view(self, outputs: Float[Array, "M N"]) -> Float[Array, "M C"]:
        """Return the columns of a model's outputs that are stored and compared."""
        return _view(outputs.astype(np.float64), self.columns, self.own.logits.shape[1] > len(self.columns))


def read(arrays: Mapping[str, Array], config: Config) -> Golden:
    """Make a `Golden` of a bundle's arrays.

    Raises BundleError with the name of an array that is missing or unknown, or has a wrong type, shape or
    value.
    """
    plain = {f"plain.{name}" for name in EXPECTED}
    has_plain = plain <= set(arrays)
    required = {*COMMON, *_model_inputs(config), *(f"own.{name}" for name in EXPECTED)}
    names = (set(arrays) - plain if has_plain else set(arrays)) - {HALF, ROUNDING}
    if wrong := sorted(names ^ required):
        wrong_names = ", ".join(f"{name:.40}" for name in wrong[:5])
        raise BundleError(
            f"{FOLDER} must contain {', '.join(sorted(required))}; missing or unknown: {wrong_names}; {AGAIN}"
        )
    _check_arrays(arrays, config)

    def read_expected(kind: str) -> Expected:
        return Expected(**{name: arrays[f"{kind}.{name}"] for name in EXPECTED})

    return Golden(
        **{name: arrays[name] for name in COMMON},
        own=read_expected("own"),
        plain=read_expected("plain") if has_plain else None,
        half=arrays.get(HALF),
        rounding=arrays.get(ROUNDING),
        encoder_ids=arrays.get(ENCODER_IDS),
        encoder_lengths=arrays.get(ENCODER_LENGTHS),
        token_types=arrays.get(TOKEN_TYPES),
    )


def _model_inputs(config: Config) -> tuple[str, ...]:
    """Return the names of the golden arrays for a model's inputs other than `tokens` and `lengths`."""
    if config.stem is not None or (isinstance(config, EncoderDecoder) and isinstance(config.head, LM)):
        return ENCODER_IDS, ENCODER_LENGTHS
    if config.embedding.token_types is not None:
        return (TOKEN_TYPES,)
    return ()


def load(bundle: Bundle) -> Golden:
    """Read the golden inputs and outputs of a bundle. Raises BundleError if they can't be read."""
    return read(stored(bundle), bundle.config)


def stored(bundle: Bundle) -> dict[str, Array]:
    """Return the golden arrays that a bundle stores, by name. Raises BundleError if they can't be read."""
    return {
        FILES[file]: read_array(read_file(bundle.path / file, LIMITS[file], BundleError), file, BundleError)
        for file in bundle.manifest.files
        if file in FILES
    }


def _check_arrays(arrays: Mapping[str, Array], config: Config) -> None:
    """Raise BundleError if an array has another type, shape or range of values than the function `golden`
    gives for this config.
    """

    def require(name: str, kind: str, *shape: int | None, least: int = 0, below: int = 2**62) -> Array:
        array = arrays[name]
        fits = len(shape) == array.ndim and all(
            want in (None, got) for want, got in zip(shape, array.shape, strict=True)
        )
        if not fits or array.dtype != TYPES[kind]:
            wanted = ["any" if size is None else size for size in shape]
            raise BundleError(
                f"{file_of(name)}: must have shape {wanted}, got {array.dtype} {list(array.shape)}"
            )
        if kind == "i" and array.size and not (array.min() >= least and array.max() < below):
            raise BundleError(
                f"{file_of(name)}: must have values from {least} to {below - 1}, got {array.min()} to "
                f"{array.max()}; {AGAIN}"
            )
        return array

    vocabulary = config.embedding.vocabulary
    rows, time = require("tokens", "i", 2, None, below=vocabulary).shape
    if not 1 <= time <= config.context:
        raise BundleError(
            f"{file_of('tokens')}: each row must have 1 to {config.context} tokens, got {time}; {AGAIN}"
        )
    lengths = require("lengths", "i", rows, least=1, below=time + 1)
    if config.stem is not None and config.sound_shape is not None:
        row = [None if isinstance(size, str) else size for size in config.sound_shape]
        sound = require(ENCODER_IDS, "f", rows, *row)
        if not np.isfinite(sound).all():
            raise BundleError(
                f"{file_of(ENCODER_IDS)}: must have finite values, got NaN or infinity; {AGAIN}"
            )
        positions = config.positions(sound.shape[1])
        require(ENCODER_LENGTHS, "i", rows, least=positions, below=positions + 1)
        if "decoder" not in config.stacks and (positions != time or lengths.min() < time):
            raise BundleError(
                f"{file_of('tokens')}: must have {positions} tokens, as many as the sound has positions, got "
                f"{time}; {AGAIN}"
            )
    elif ENCODER_IDS in arrays:
        _, text = require(ENCODER_IDS, "i", rows, None, below=vocabulary).shape
        require(ENCODER_LENGTHS, "i", rows, least=1, below=text + 1)
    if TOKEN_TYPES in arrays:
        require(TOKEN_TYPES, "i", rows, time, below=config.embedding.token_types or 0)
    *places, width = graphs(config)[-1].outputs[0].axes
    assert isinstance(width, int), "the last axis of a model's output has a fixed size"
    predictions = int(lengths.sum()) if len(places) == 2 else rows
    (columns,) = require("columns", "i", None, below=width).shape
    stored = columns + config.head.predicts_tokens
    require("best", "i", predictions, min(2, width), below=width)
    require("gap", "f", predictions)
    require("digests", "u", len(ParameterShapes(config)), 32)
    require("floats", "f", predictions, stored)
    if HALF in arrays:
        require(HALF, "f", 2)
    if ROUNDING in arrays:
        rows, time = require(ROUNDING, "i", None, None, below=vocabulary).shape
        if not (1 <= time <= config.context and 1 <= rows * time <= MOST_ROUNDING):
            raise BundleError(
                f"{file_of(ROUNDING)}: must have 1 to {MOST_ROUNDING} tokens in rows of at most "
                f"{config.context}, got {rows} rows of {time}"
            )
    for kind in ("own", "plain") if "plain.logits" in arrays else ("own",):
        require(f"{kind}.logits", "f", predictions, stored)
        for terms in EXPECTED[1:]:
            require(f"{kind}.{terms}", "f", 3)


def golden(
    config: Config,
    weights: Tree,
    quantized: Tree | None = None,
    dtype: str = "float32",
    tokenizer: str | None = None,
    progress: Progress = silent,
    on_cache: OnCache = lambda layer, cache: None,
    *,
    halved: Halved = "",
    like: Golden | None = None,
) -> dict[str, Array]:
    """Compute the golden arrays for a model that computes in `dtype`.

    `weights` are the source's weights, and `quantized` are the weights that the bundle will store. With a
    tokenizer, the tokens come from a natural text, because outputs for random tokens can be so unstable that
    their budget means nothing. If `like` is given, its inputs and columns are used again. `on_cache` is
    called with the cache of each layer of a decoder, computed with the bundle's own weights. With a
    `halved`, the result includes the array `half`, which is meaningless if keys or values are too large
    for float16.
    """
    rng = np.random.default_rng(SEED)
    precision = np.dtype(dtype)
    inputs = _make_inputs(config, tokenizer, rng) if like is None else like.inputs
    own = weights if quantized is None else quantized
    digests: dict[str, bytes] = {}

    def add_digest(name: str, leaf: Array | Blocks) -> None:
        digests[name] = digest(leaf, precision)

    stage, passes = "computing reference results", 1 if quantized is None else 2
    progress(stage, 0, 1)
    results = outputs(
        config, own, inputs, _runs(config, own, precision, halved), add_digest,
        lambda done, total: progress(stage, done, passes * total), on_cache,
    )  # fmt: skip
    # Leaves that no golden token goes through have digests too, such as those of a module for drafts.
    shapes = ParameterShapes(config)
    for name in shapes.keys() - digests.keys():
        add_digest(name, leaf_of(own, name))
    exact = results[0][: len(inputs.tokens)]
    if quantized is None:
        floats = exact
    else:
        (floats,) = outputs(
            config, weights, inputs, [Precision(np.dtype(np.float64))],
            on_layer=lambda done, total: progress(stage, total + done, passes * total),
        )  # fmt: skip
    logits = real_positions(exact, inputs.lengths)
    order = np.argsort(-logits, axis=-1, kind="stable")[:, :2]
    best_two = np.take_along_axis(logits, order, axis=-1)
    columns = _columns(logits.shape[1], order, rng) if like is None else like.columns
    with_total = config.head.predicts_tokens
    arrays = {
        "tokens": inputs.tokens,
        "lengths": inputs.lengths,
        "columns": columns,
        "best": order,
        "gap": best_two[:, 0] - best_two[:, -1],
        "digests": np.array([np.frombuffer(digests[name], np.uint8) for name in shapes]),
        "floats": _view(real_positions(floats, inputs.lengths), columns, with_total),
    }
    optional = {
        ENCODER_IDS: inputs.encoder_ids,
        ENCODER_LENGTHS: inputs.encoder_lengths,
        TOKEN_TYPES: inputs.token_types,
    }
    arrays |= {name: array for name, array in optional.items() if array is not None}
    distances = {"maximum": largest_difference, "rms": rms}
    eps = float(np.finfo(precision).eps)
    if halved:
        of_half = real_positions(results.pop(), inputs.lengths)
        arrays[HALF] = np.array([rounded_up(distance(of_half, logits)) for distance in distances.values()])
    for i in range(0, len(results), 2):
        kind = ("own", "plain")[i // 2]
        copies = [real_positions(copy, inputs.lengths) for copy in np.split(results[i], 1 + TRIES)]
        base, moved = copies[0], copies[1:]
        rounded = real_positions(results[i + 1], inputs.lengths)
        arrays[f"{kind}.logits"] = _view(base, columns, with_total)
        for name, distance in distances.items():
            terms = error_terms(base, rounded, moved, eps=eps, distance=distance)
            arrays[f"{kind}.{name}"] = np.array([rounded_up(term) for term in terms])
    return arrays


def _make_inputs(config: Config, tokenizer: str | None, rng: np.random.Generator) -> Inputs:
    """Return the golden inputs: two rows of tokens, the second of them padded. A model with an encoder, or
    with token types, also gets inputs for these.

    Rows begin with the tokens that the tokenizer puts before a text, as in `metrics.fidelity`, if the model
    is a decoder or reads sound. A model that reads sound gets the first sentence of TEXT as speech, and a
    tone.
    """
    time = min(TOKENS, config.context)
    vocabulary = config.embedding.vocabulary
    ids, before = [], []
    if tokenizer is not None:
        read = Tokenizer(tokenizer, vocabulary)
        ids = read.encode(TEXT)
        before = (
            read.before_text[: time - 1] if isinstance(config, Decoder) or config.stem is not None else []
        )
    room = time - len(before)
    if len(ids) < 2 * room:
        ids = rng.integers(0, vocabulary, 2 * room)
    tokens = np.array([[*before, *row] for row in (ids[:room], ids[room : 2 * room])], np.int64)
    lengths = np.array([time, max(1, time - 3)])
    names = _model_inputs(config)
    if config.stem is not None:
        sound = golden_sounds(config, time)
        heard = np.full(2, config.positions(sound.shape[1]))
        return Inputs(tokens, lengths if "decoder" in config.stacks else heard, sound, heard)
    if ENCODER_IDS in names:
        return Inputs(tokens, lengths, tokens[::-1].copy(), np.array([max(1, time - 5), time]))
    if TOKEN_TYPES in names:
        token_types = rng.integers(0, config.embedding.token_types or 0, tokens.shape)
        return Inputs(tokens, lengths, token_types=np.sort(token_types, axis=1))
    return Inputs(tokens, lengths)


def _runs(config: Config, weights: Tree, precision: np.dtype, halved: Halved) -> list[Precision]:
    """Return the runs of the specification that compute the golden outputs.

    The runs for `own` are exact and rounded. If activations are rounded in blocks, the same two runs follow
    for `plain`. If anything is `halved`, one run follows for `half`.
    """
    runs = own_runs(config, weights, precision)
    if activations(weights) == {"block"}:
        move = CODE_MOVE if config.rounds_cache else float(np.finfo(precision).eps)
        runs += [replace(run, move=move if run.tries else 0, plain=True) for run in runs]
    if halved:
        runs.append(Precision(np.dtype(np.float64), halved=halved))
    return runs


def own_runs(config: Config, weights: Tree, precision: np.dtype) -> list[Precision]:
    """Return two runs of the specification over the bundle's own weights. The first computes in float64 and
    includes perturbed copies of the batch. The second computes in float32 and rounds the residual stream to
    `precision`.
    """
    rounds = config.rounds_cache or activations(weights) - {"none"}
    move = CODE_MOVE if rounds else float(np.finfo(precision).eps)
    return [
        Precision(np.dtype(np.float64), tries=TRIES, move=move),
        Precision(np.dtype(np.float32), stream=precision),
    ]


def activations(weights: Tree) -> set[str]:
    """Return the values of `Blocks.activations` of two parameters: the token table, and the output projection
    of the first layer that has one.

    These two stand for the two kinds of matrices that schemes distinguish. A parameter in floats adds no
    value.
    """
    stack = weights["decoder" if "decoder" in weights else "encoder"]
    mixers = (layer["attn"] for layer in stack["layers"])
    two = weights["embedding"]["table"], next((mixer["wo"] for mixer in mixers if "wo" in mixer), None)
    return {leaf.activations for leaf in two if isinstance(leaf, Blocks)}


def real_positions(values: Array, lengths: Array) -> Array:
    """Return the outputs [M, N] at the real positions of rows [B, T, N]. `lengths` [B] are the numbers of
    real positions. Outputs of whole texts [B, N] are returned unchanged.
    """
    return values if values.ndim == 2 else values[np.arange(values.shape[1])[None] < lengths[:, None]]


def _columns(width: int, best: Array, rng: np.random.Generator) -> Array:
    """Return which columns of the outputs are stored: all columns of a narrow output, otherwise COLUMNS
    random ones and the best ones.
    """
    if width <= COLUMNS:
        return np.arange(width)
    return np.unique(np.concatenate([rng.choice(width, COLUMNS, replace=False), best.reshape(-1)]))


def _log_shares(view: Float[Array, "M C"]) -> Float[Array, "M C"]:
    """Return the logarithms of the probabilities of the stored columns, and of all other columns together."""
    logs = view[:, :-1] - view[:, -1:]
    rest = 1 - np.exp(logs).sum(axis=-1, keepdims=True)
    return np.concatenate([logs, np.log(np.maximum(rest, LEAST))], axis=-1)


def _view(logits: Array, columns: Array, with_total: bool) -> Array:
    """Return the columns that are stored and, `with_total`, one more column: log Σ exp of all logits."""
    if not with_total:
        return logits[:, columns]
    top = logits.max(axis=-1, keepdims=True)
    total = top + np.log(np.exp(logits - top).sum(axis=-1, keepdims=True))
    return np.concatenate([logits[:, columns], total], axis=-1)


def rms(logits: Array, truth: Array) -> float:
    """Return the root mean square of the differences between two arrays."""
    return float(np.sqrt(np.mean(np.square(logits - truth, dtype=np.float64))))

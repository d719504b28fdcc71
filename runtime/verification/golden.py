"""Golden inputs: a few tokens, what the specification says about them, and how far rounding may move it.

They travel in the bundle as golden.npz, so that a device can check its model without the source.

What is compared are logits, or whatever else the head of an encoder says: one row for each real token, or
for each text. The budget of a comparison is 4 · (A + J + u), over the whole output:

    A   the most by which the specification in float32 differs from the one in float64
    J   the most by which the one in float64 moves when the embedded tokens move by one ulp (three tries)
    u   one ulp of the largest number

In float16, A rounds the residual stream after each layer, and ulps are float16's. Where activations
are rounded to codes, a difference of one ulp can flip a code and is then a thousand times larger: in
a large model some always flip, in a small one rarely. So J moves by 2⁻¹⁶ for a quantized model, or one
that keeps its keys and values in 8 bits, and codes flip in every try.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...refimpl.config import LM, Config, EncoderDecoder, MaskedLM
from ...refimpl.error_budget import CODE_MOVE, TRIES, ErrorTerms, error_terms, largest_difference
from ...refimpl.errors import BundleError
from ...refimpl.ops.quant import Blocks
from ...refimpl.params import shapes as trees
from ..bundle.manifest import GOLDEN
from ..text.tokenizer import Tokenizer
from .metrics import log_softmax
from .streamed_reference import SEED, Inputs, Precision, outputs

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

TOKENS = 12
TEXT = (
    "The animal didn't cross the street because it was too tired. A model that is exported, "
    "quantized and run on another machine should still say what its specification says."
)
COLUMNS = 256


@dataclass(frozen=True)
class Says:
    """What the specification says, and the parts A, J, u of each budget.

    `logits` has a column for each of the golden columns and, if these are tokens, one of log Σ exp of all
    logits; `kl` is there for tokens only.
    """

    logits: Array
    maximum: Array
    rms: Array
    kl: Array | None

    @property
    def budget(self) -> float:
        """How far the largest difference of two logits may be."""
        return ErrorTerms(*self.maximum.tolist()).budget

    @property
    def rms_budget(self) -> float:
        """How far the root mean square of all differences may be."""
        return ErrorTerms(*self.rms.tolist()).budget

    @property
    def kl_budget(self) -> float:
        """How far the mean KL divergence, in nats, may be."""
        assert self.kl is not None, "only predictions of tokens have a KL divergence"
        return ErrorTerms(*self.kl.tolist()).budget


@dataclass(frozen=True)
class Golden:
    """What golden.npz holds.

    `own` is the specification over the bundle's own weights. `plain` is the same with products of
    blocks in float, activations unrounded: no code can flip there, so its budget is a thousand times
    sharper, unless the cache has codes of its own; None where the weights aren't in such blocks. `floats`
    are the logits over the weights as the source has them. `best` are the two best tokens [M, 2] and
    `gap` the distance between them. `digests` holds the SHA-256 of each leaf, in the order of
    `params.shapes`. `source`, `source_lengths` and `types` are those of `specified.Given`.
    """

    tokens: Array
    lengths: Array
    columns: Array
    best: Array
    gap: Array
    digests: Array
    floats: Array
    own: Says
    plain: Says | None
    source: Array | None = None
    source_lengths: Array | None = None
    types: Array | None = None

    @property
    def split(self) -> int:
        """How many tokens of each row go in first, where a row is run in two parts."""
        return max(1, self.tokens.shape[1] // 2)

    def real(self, values: Array) -> Float[Array, "M N"]:
        """The real positions [M, N] of all rows [B, T, N], padding left out; one a text stays as it is."""
        return _real(values, self.lengths)

    def view(self, said: Float[Array, "M N"]) -> Float[Array, "M C"]:
        """What is compared of what a model says."""
        return _view(said.astype(np.float64), self.columns, self.own.logits.shape[1] > len(self.columns))


OPTIONAL = ("source", "source_lengths", "types")
BARE = tuple(f.name for f in fields(Golden) if f.name not in ("own", "plain", *OPTIONAL))
SAYS = tuple(f.name for f in fields(Says))


def read(arrays: Mapping[str, Array], config: Config) -> Golden:
    """golden.npz's arrays as a Golden; BundleError names what is missing or unknown for this Config."""
    says = [name for name in SAYS if name != "kl" or _tokens(config)]
    plain = {f"plain.{name}" for name in says}
    given = []
    if isinstance(config, EncoderDecoder) and isinstance(config.head, LM):
        given = ["source", "source_lengths"]
    elif config.embedding.token_types is not None:
        given = ["types"]
    keys = {*BARE, *given, *(f"own.{name}" for name in says)}
    if wrong := sorted((set(arrays) - plain if plain <= set(arrays) else set(arrays)) ^ keys):
        raise BundleError(f"golden.npz must hold {', '.join(sorted(keys))}; wrong: {', '.join(wrong)}")

    def pick(kind: str) -> Says:
        rest = {name: arrays[f"{kind}.{name}"] for name in SAYS if name != "kl"}
        return Says(kl=arrays.get(f"{kind}.kl"), **rest)

    return Golden(
        **{name: arrays[name] for name in (*BARE, *given)},
        own=pick("own"),
        plain=pick("plain") if plain <= set(arrays) else None,
    )


def _tokens(config: Config) -> bool:
    """Whether the head predicts tokens."""
    return isinstance(config.head, LM | MaskedLM)


def load(bundle: Path, config: Config) -> Golden:
    """The golden inputs of a bundle; BundleError if they can't be read."""
    try:
        with np.load(bundle / GOLDEN, allow_pickle=False) as arrays:
            return read(dict(arrays), config)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise BundleError(f"{GOLDEN} can't be read: {error}: export the model again") from None


def golden(
    config: Config,
    params: trees.Tree,
    quantized: trees.Tree | None = None,
    dtype: str = "float32",
    tokenizer: str | None = None,
) -> dict[str, Array]:
    """The arrays of golden.npz for a model that computes in `dtype`.

    `params` are the weights as the source has them, `quantized` those that the bundle is to hold.
    The tokens are a natural text's where there is a tokenizer: models are at ease with nothing else,
    and some random tokens are so unstable that any budget would be idle.
    """
    rng = np.random.default_rng(SEED)
    time = min(TOKENS, config.context)
    ids = [] if tokenizer is None else Tokenizer(tokenizer, config.embedding.vocabulary).encode(TEXT)
    if len(ids) < 2 * time:
        ids = rng.integers(0, config.embedding.vocabulary, 2 * time)
    tokens = np.asarray(ids[: 2 * time], np.int64).reshape(2, time)
    lengths = np.array([time, max(1, time - 3)])
    given: dict[str, Array] = {"tokens": tokens, "lengths": lengths}
    if isinstance(config, EncoderDecoder) and isinstance(config.head, LM):
        given |= {"source": tokens[::-1].copy(), "source_lengths": np.array([max(1, time - 5), time])}
    elif config.embedding.token_types is not None:
        given["types"] = np.sort(rng.integers(0, config.embedding.token_types, tokens.shape), axis=1)
    own = params if quantized is None else quantized
    precision = np.dtype(dtype)
    digests: dict[str, bytes] = {}

    def seen(name: str, leaf: Array | Blocks) -> None:
        digests[name] = digest(leaf, precision)

    eps = float(np.finfo(precision).eps)
    kinds = {leaf.activations for leaf in _matrices(own) if isinstance(leaf, Blocks)}
    double, single, eps = np.dtype(np.float64), np.dtype(np.float32), float(np.finfo(precision).eps)
    move = CODE_MOVE if config.rounds_cache else eps
    coded = CODE_MOVE if kinds - {"none"} else move
    runs = [Precision(double, tries=TRIES, move=coded), Precision(single, stream=precision)]
    if kinds == {"block"}:
        runs += [
            Precision(double, tries=TRIES, move=move, plain=True),
            Precision(single, stream=precision, plain=True),
        ]
    made = outputs(config, own, Inputs(**given), runs, seen)
    base = made[0][: len(tokens)]
    floats = base if quantized is None else outputs(config, params, Inputs(**given), [Precision(double)])[0]
    first = _real(base, lengths)
    order = np.argsort(-first, axis=-1, kind="stable")[:, :2]
    ranked = np.take_along_axis(first, order, axis=-1)
    columns, total = _columns(first.shape[1], order, rng), _tokens(config)
    arrays = given | {
        "columns": columns,
        "best": order,
        "gap": ranked[:, 0] - ranked[:, -1],
        "digests": np.array([np.frombuffer(digests[n], np.uint8) for n in trees.shapes(config)]),
        "floats": _view(_real(floats, lengths), columns, total),
    }
    for kind, (exact, rounded) in zip(
        ("own", "plain"), zip(made[::2], made[1::2], strict=True), strict=False
    ):
        base, *moved = (_real(copy, lengths) for copy in np.split(exact, 1 + TRIES))
        arrays[f"{kind}.logits"] = _view(base, columns, total)
        distances = {"maximum": largest_difference, "rms": rms}
        if total:
            distances["kl"] = divergence
        for name, distance in distances.items():
            terms = error_terms(base, _real(rounded, lengths), moved, eps=eps, distance=distance)
            if name == "kl":  # a divergence grows with the square of the logits' errors
                terms = terms._replace(ulp=terms.ulp**2)
            arrays[f"{kind}.{name}"] = np.array(terms)
    return arrays


def _real(values: Array, lengths: Array) -> Array:
    """The real positions of all rows; what is said of a whole text has no positions."""
    return values if values.ndim == 2 else values[np.arange(values.shape[1])[None] < lengths[:, None]]


def _matrices(params: trees.Tree) -> list[Any]:
    """A matrix of each kind that a plan tells apart: tables and the others."""
    stack = params["decoder" if "decoder" in params else "encoder"]
    return [params["embedding"]["table"], stack["layers"][0]["attn"]["wo"]]


def _columns(width: int, best: Array, rng: np.random.Generator) -> Array:
    """Which columns are kept: all of a few, else a fixed choice and the best ones."""
    if width <= COLUMNS:
        return np.arange(width)
    return np.unique(np.concatenate([rng.choice(width, COLUMNS, replace=False), best.reshape(-1)]))


def _view(logits: Array, columns: Array, total: bool) -> Array:
    """The columns, and with `total` log Σ exp of all."""
    if not total:
        return logits[:, columns]
    top = logits.max(axis=-1, keepdims=True)
    whole = top + np.log(np.exp(logits - top).sum(axis=-1, keepdims=True))
    return np.concatenate([logits[:, columns], whole], axis=-1)


def rms(logits: Array, truth: Array) -> float:
    """The root of the mean of the squared differences."""
    return float(np.sqrt(np.mean(np.square(logits - truth, dtype=np.float64))))


def divergence(logits: Float[Array, "M N"], truth: Float[Array, "M N"]) -> float:
    """The mean KL divergence from the truth, in nats."""
    p, q = log_softmax(truth), log_softmax(logits)
    return float(np.einsum("mn,mn->", np.exp(p), p - q) / len(p))


def digest(leaf: Array | Blocks, dtype: np.dtype) -> bytes:
    """SHA-256 of a leaf's numbers in the bundle's types: codes, scales, zero points and minima.

    A matrix is hashed in its own orientation whichever way it lies in memory, a few rows at a time.
    """
    total = hashlib.sha256()
    if isinstance(leaf, Blocks):
        parts = [
            (leaf.codes, np.uint8),
            (leaf.scale, dtype),
            (leaf.zero, np.uint8),
            (leaf.minimum, np.float32),
        ]
        if leaf.activations == "static":
            parts += [(leaf.input_scale, dtype), (leaf.input_zero, np.uint8)]
        if leaf.activations == "smoothed":
            parts.append((leaf.input_factor, dtype))
    else:
        parts = [(leaf, dtype)]
    for part, kind in parts:
        total.update(b"|")
        if part is not None:
            part = np.atleast_1d(part)
            for start in range(0, len(part), 512):
                total.update(np.ascontiguousarray(part[start : start + 512], kind).data)
    return total.digest()

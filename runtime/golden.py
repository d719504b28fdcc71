"""Golden inputs: a few tokens, what the specification says about them, and how far rounding may move it.

They travel in the bundle as golden.npz, so that a device can check its model without the source.
The specification runs layer by layer: a leaf is loaded once, used by all runs, and dropped, so that
no more than one layer is ever in memory in float64.

The budget of a comparison of logits is 4 · (A + J + u), over the whole output:

    A   the most by which the specification in float32 differs from the one in float64
    J   the most by which the one in float64 moves when the embedded tokens move by one ulp (three tries)
    u   one ulp of the largest logit

In float16, A rounds the residual stream after each layer, and ulps are float16's. Where activations
are rounded to codes, a difference of one ulp can flip a code and is then a thousand times larger: in
a large model some always flip, in a small one rarely. So J moves by 2⁻¹⁶ for a quantized model, and
codes flip in every try.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..refimpl import params as trees
from ..refimpl.config import LM, Config
from ..refimpl.errors import BundleError
from ..refimpl.ops.block import block, normalize
from ..refimpl.ops.linear import linear
from ..refimpl.ops.model import embed, lm_logits, position_tables, score_biases
from ..refimpl.ops.quant import Blocks
from .fidelity import log_softmax
from .manifest import GOLDEN
from .tokenizer import Tokenizer

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

SEED = 2017
FACTOR = 4  # mirror.md's experiments: no honest draw passed 1.3, so four leaves room and still sees bugs
TRIES = 3
CODE_MOVE = 2.0**-16
TOKENS = 12
TEXT = (
    "The animal didn't cross the street because it was too tired. A model that is exported, "
    "quantized and run on another machine should still say what its specification says."
)
COLUMNS = 256
ROWS = 8192  # rows of an output table that are widened at a time


@dataclass(frozen=True)
class Says:
    """What the specification says: logits [M, C+1], and the parts A, J, u of each budget.

    A row for each real position; a column for each of the golden columns, and log Σ exp of all.
    """

    logits: Array
    maximum: Array
    rms: Array
    kl: Array

    @property
    def budget(self) -> float:
        """How far the largest difference of two logits may be."""
        return FACTOR * float(self.maximum.sum())

    @property
    def rms_budget(self) -> float:
        """How far the root mean square of all differences may be."""
        return FACTOR * float(self.rms.sum())

    @property
    def kl_budget(self) -> float:
        """How far the mean KL divergence, in nats, may be."""
        return FACTOR * float(self.kl.sum())


@dataclass(frozen=True)
class Golden:
    """What golden.npz holds.

    `own` is the specification over the bundle's own weights. `plain` is the same with products of
    blocks in float, activations unrounded: no code can flip there, so its budget is a thousand times
    sharper; None where the weights aren't in such blocks. `floats` are the logits over the weights
    as the source has them. `best` are the two best tokens [M, 2] and `gap` the distance between
    them. `digests` holds the SHA-256 of each leaf, in the order of `params.shapes`.
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

    @property
    def split(self) -> int:
        """How many tokens of each row go in first, where a row is run in two parts."""
        return max(1, self.tokens.shape[1] // 2)

    def real(self, values: Float[Array, "B T N"]) -> Float[Array, "M N"]:
        """The real positions of all rows, padding left out."""
        return values[np.arange(self.tokens.shape[1])[None] < self.lengths[:, None]]

    def view(self, logits: Float[Array, "M N"]) -> Float[Array, "M C"]:
        """What of a model's logits is compared: the golden columns and log Σ exp."""
        return _view(logits.astype(np.float64), self.columns)


BARE = tuple(f.name for f in fields(Golden) if f.name not in ("own", "plain"))
SAYS = tuple(f.name for f in fields(Says))


def read(arrays: Mapping[str, Array]) -> Golden:
    """golden.npz's arrays as a Golden; BundleError names what is missing or unknown."""
    keys = {*BARE, *(f"own.{name}" for name in SAYS)}
    plain = {f"plain.{name}" for name in SAYS}
    if wrong := sorted((set(arrays) - plain if plain <= set(arrays) else set(arrays)) ^ keys):
        raise BundleError(f"golden.npz must hold {', '.join(sorted(keys))}; wrong: {', '.join(wrong)}")
    says = lambda kind: Says(**{name: arrays[f"{kind}.{name}"] for name in SAYS})  # noqa: E731
    return Golden(
        **{name: arrays[name] for name in BARE},
        own=says("own"),
        plain=says("plain") if plain <= set(arrays) else None,
    )


def load(bundle: Path) -> Golden:
    """The golden inputs of a bundle; BundleError if they can't be read."""
    try:
        with np.load(bundle / GOLDEN, allow_pickle=False) as arrays:
            return read(dict(arrays))
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
    own = params if quantized is None else quantized
    precision = np.dtype(dtype)
    digests: dict[str, bytes] = {}

    def seen(name: str, leaf: Array | Blocks) -> None:
        digests[name] = digest(leaf, precision)

    eps = float(np.finfo(precision).eps)
    kinds = {leaf.activations for leaf in _matrices(own) if isinstance(leaf, Blocks)}
    double, single, eps = np.dtype(np.float64), np.dtype(np.float32), float(np.finfo(precision).eps)
    coded = bool(kinds - {"none"})
    runs = [Run(double, tries=TRIES, move=CODE_MOVE if coded else eps), Run(single, stream=precision)]
    if kinds == {"block"}:
        runs += [
            Run(double, tries=TRIES, move=eps, plain=True),
            Run(single, stream=precision, plain=True),
        ]
    made = logits(config, own, tokens, runs, seen)
    floats = made[0][:2] if quantized is None else logits(config, params, tokens, [Run(double)])[0]
    real = np.arange(time)[None] < lengths[:, None]
    first = made[0][:2][real]
    order = np.argsort(-first, axis=-1, kind="stable")[:, :2]
    ranked = np.take_along_axis(first, order, axis=-1)
    columns = _columns(config.embedding.vocabulary, order, rng)
    arrays = {
        "tokens": tokens,
        "lengths": lengths,
        "columns": columns,
        "best": order,
        "gap": ranked[:, 0] - ranked[:, -1],
        "digests": np.array([np.frombuffer(digests[n], np.uint8) for n in trees.shapes(config)]),
        "floats": _view(floats[real], columns),
    }
    for kind, (exact, rounded) in zip(
        ("own", "plain"), zip(made[::2], made[1::2], strict=True), strict=False
    ):
        base, *moved = (copy[real] for copy in exact.reshape(1 + TRIES, *tokens.shape, -1))
        arrays[f"{kind}.logits"] = _view(base, columns)
        ulp = eps * float(np.abs(base).max())
        for name, measure, u in (("maximum", largest, ulp), ("rms", rms, ulp), ("kl", divergence, ulp**2)):
            parts = [measure(rounded[real], base), max(measure(other, base) for other in moved), u]
            arrays[f"{kind}.{name}"] = np.array(parts)
    return arrays


def _matrices(params: trees.Tree) -> list[Any]:
    """A matrix of each kind that a plan tells apart: tables and the others."""
    return [params["embedding"]["table"], params["decoder"]["layers"][0]["attn"]["wo"]]


def _columns(vocabulary: int, best: Array, rng: np.random.Generator) -> Array:
    """Which logits are kept: all of a small vocabulary, else a fixed choice and the best ones."""
    if vocabulary <= COLUMNS:
        return np.arange(vocabulary)
    return np.unique(np.concatenate([rng.choice(vocabulary, COLUMNS, replace=False), best.reshape(-1)]))


def _view(logits: Array, columns: Array) -> Array:
    top = logits.max(axis=-1, keepdims=True)
    total = top + np.log(np.exp(logits - top).sum(axis=-1, keepdims=True))
    return np.concatenate([logits[:, columns], total], axis=-1)


def largest(logits: Array, truth: Array) -> float:
    """The largest difference."""
    return float(np.abs(logits - truth).max())


def rms(logits: Array, truth: Array) -> float:
    """The root of the mean of the squared differences."""
    return float(np.sqrt(np.mean(np.square(logits - truth, dtype=np.float64))))


def divergence(logits: Float[Array, "M N"], truth: Float[Array, "M N"]) -> float:
    """The mean KL divergence from the truth, in nats."""
    p, q = log_softmax(truth), log_softmax(logits)
    return float(np.einsum("mn,mn->", np.exp(p), p - q) / len(p))


@dataclass(frozen=True)
class Run:
    """One way to run the specification: in `dtype`, the residual stream rounded to `stream`.

    `tries` more copies of the batch follow the first, their embedded tokens moved by `move` of
    themselves, up or down. `plain` takes activations as they are where blocks would round them.
    Rows don't see each other, so all copies share each weight's widening.
    """

    dtype: np.dtype
    stream: np.dtype | None = None
    tries: int = 0
    move: float = 0
    plain: bool = False

    def begin(self, x: Array) -> Array:
        rng = np.random.default_rng(SEED)
        signs = rng.choice([-1.0, 1.0], (self.tries, *x.shape)).astype(x.dtype)
        return self.round(np.concatenate([x, *(x * (1 + sign * self.move) for sign in signs)]))

    def round(self, x: Array) -> Array:
        return x if self.stream is None else x.astype(self.stream).astype(self.dtype)

    def weights(self, leaf: Array | Blocks) -> Array | Blocks:
        """The leaf in this run's type."""
        if not isinstance(leaf, Blocks):
            return leaf.astype(self.dtype)
        minimum = None if leaf.minimum is None else leaf.minimum.astype(self.dtype)
        activations = "none" if self.plain else leaf.activations
        scale = leaf.scale.astype(self.dtype)
        given = None if leaf.input_scale is None else leaf.input_scale.astype(self.dtype)
        return replace(leaf, scale=scale, minimum=minimum, activations=activations, input_scale=given)


def logits(
    config: Config,
    params: trees.Tree,
    tokens: Array,
    runs: list[Run],
    seen: Callable[[str, Array | Blocks], None] = lambda name, leaf: None,
) -> list[Float[Array, "B T N"]]:
    """Logits of all positions, one array a run; each leaf is loaded once and shown to `seen`."""

    def load(tree: Any, prefix: str) -> dict[str, Any]:
        found = dict(trees.flatten(tree, prefix))
        for name, leaf in found.items():
            seen(name, leaf)
        return trees.unflatten({name.removeprefix(prefix): leaf for name, leaf in found.items()})

    stack, head, at = config.decoder, config.head, np.arange(tokens.shape[1])
    assert stack is not None
    assert isinstance(head, LM)
    time, tables = len(at), position_tables(at, config=config)
    decoder, table = params["decoder"], params["embedding"]["table"]
    seen("embedding.table", table)
    inner = [part for part in ("project", "project_bias") if part in params["embedding"]]
    own = load({part: params["embedding"][part] for part in inner}, "embedding.")
    parts = ("positions", "first_norm", "relative_bias")
    added = load({part: decoder[part] for part in parts if part in decoder}, "decoder.")
    ids, which = np.unique(tokens, return_inverse=True)
    streams = []
    for run in runs:
        few = trees.map_leaves(lambda _, leaf, run=run: run.weights(leaf), own | {"table": _rows(table, ids)})
        tree = trees.map_leaves(lambda _, leaf, run=run: run.weights(leaf), added)
        given = which.reshape(tokens.shape)
        streams.append(run.begin(embed(given, at[None], few, tree, config=config.embedding, stack=stack)))
    del table
    for i, layer in enumerate(stack.layers):
        leaves = load(decoder["layers"][i], f"decoder.layers.{i}.")
        for place, run in enumerate(runs):
            x = streams[place]
            near = {rope: (c.astype(run.dtype), s.astype(run.dtype)) for rope, (c, s) in tables.items()}
            tree = trees.map_leaves(lambda _, leaf, run=run: run.weights(leaf), added)
            near |= score_biases(at[None], at, tree, run.dtype, stack=stack, bidirectional=False)
            empty = np.zeros((len(x), layer.attention.groups, time, layer.attention.head_size), run.dtype)
            tree = trees.map_leaves(lambda _, leaf, run=run: run.weights(leaf), leaves)
            x, _ = block(x, (empty, empty), np.zeros(len(x), np.int64), near, tree, config=layer)
            streams[place] = run.round(x)
    norm = load(decoder["norm"], "decoder.norm.") if "norm" in decoder else None
    back = load({"project": params["head"]["project"]}, "head.") if config.embedding.inner else {}
    for place, run in enumerate(runs):
        x = normalize(streams[place], norm, norm=stack.final_norm)
        streams[place] = linear(x, run.weights(back["project"])) if back else x
    table = params["embedding" if head.tied else "head"]["table"]
    bias = params["head"]["bias"] if head.bias else None
    for name, leaf in (("head.table", None if head.tied else table), ("head.bias", bias)):
        if leaf is not None:
            seen(name, leaf)
    made: list[list[Array]] = [[] for _ in runs]
    for start in range(0, config.embedding.vocabulary, ROWS):
        some = _rows(table, slice(start, start + ROWS))
        few = None if bias is None else bias[start : start + ROWS]
        for place, run in enumerate(runs):
            own = None if few is None else few.astype(run.dtype)
            x = streams[place].astype(run.dtype)
            made[place].append(lm_logits(x, run.weights(some), own, head=head))
    return [np.concatenate(parts, axis=-1).astype(np.float64) for parts in made]


def _rows(table: Array | Blocks, index: Any) -> Array | Blocks:
    if not isinstance(table, Blocks):
        return table[index]
    pick = lambda a: None if a is None else a[index]  # noqa: E731
    return replace(
        table,
        codes=table.codes[index],
        scale=table.scale[index],
        zero=pick(table.zero),
        minimum=pick(table.minimum),
    )


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
    else:
        parts = [(leaf, dtype)]
    for part, kind in parts:
        total.update(b"|")
        if part is not None:
            part = np.atleast_1d(part)
            for start in range(0, len(part), 512):
                total.update(np.ascontiguousarray(part[start : start + 512], kind).data)
    return total.digest()

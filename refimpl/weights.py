"""The little language of weight maps, and the strict loader that reads it.

    ours <- theirs                    this tensor is that leaf
    ours, ours <- theirs : step …     a fused tensor, split along its output axis by the leaves' sizes;
                                      leaves after the first are named by their last part
    ours == theirs                    if this tensor exists, it must equal what we have or compute
    nothing <- theirs                 if this tensor exists, it belongs to a head that isn't used
    ours <- the(irs|m)                the first of these names that is there: theirs, else them
    for Classify, Tag:                the lines after it are of these heads; with another head, their
                                      tensors are unused

One line a tensor; `{i}` runs over the layers, `{e}` over a layer's experts; `{h}` on the right alone
runs over the heads of ours, whose tensors are stacked. `theirs[{e}]` is a part of a tensor with an axis
of experts. Lines for leaves that a Config doesn't need rest. `* <- *` reads leaves under our own
names. Steps:

    transpose     a linear map stored output-first
    unpermute     GGUF's Llama, whose query and key rows stand as pairs (2j, 2j + 1) for an
                  interleaved rotation
    grouped       queries, keys and values fused group by group, [G, R + 2, K], as GPT-NeoX, BLOOM (R = 1)
                  and Falcon have them; ours come in this order
    plus_one      a norm's weight stored as its difference from one (Gemma)
    column        a matrix of one column stored as a vector
    row           a vector stored as a matrix of one row (BART)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol, TypeVar

import numpy as np

from .config import Attention, Config, Learned, LongRope, MoE, Sinusoidal
from .errors import CheckpointError, NumericError
from .ops.model import position_tables
from .ops.position import rope_frequencies, sinusoidal
from .ops.quant import Blocks, transpose
from .params import Tree, shapes
from .storage import WHOLE

Weight = TypeVar("Weight", np.ndarray, Blocks)


class Source(Protocol):
    """A file of named tensors: SafeTensors, GGUF, or several shards as one."""

    @property
    def names(self) -> tuple[str, ...]: ...
    def kind(self, name: str) -> str: ...
    def shape(self, name: str) -> tuple[int, ...]: ...
    def load(self, name: str, part: int | None = None) -> np.ndarray: ...
    def native(self, name: str, part: int | None = None) -> Blocks | None: ...


@dataclass(frozen=True)
class Rule:
    """One line of a map, for one layer; `other` are the names that stand where `theirs` don't. Theirs are
    `stacked` to ours, or ours is one `part` of `parts` along their first axis."""

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    steps: tuple[str, ...]
    check: bool
    other: tuple[tuple[str, ...], ...] = ()
    stacked: bool = False
    part: int | None = None
    parts: int = 0


def rules(table: str, config: Config) -> Iterator[Rule]:
    """The lines of a map, `{i}` and `*` written out for a Config."""
    wanted = True
    for line in filter(None, (line.strip() for line in table.splitlines())):
        if heads := re.fullmatch(r"for (.+):", line):
            wanted = type(config.head).__name__ in heads[1].split(", ")
            continue
        text, _, steps = line.partition(" : ")
        check = " == " in text
        ours, theirs = text.split(" == " if check else " <- ")
        if text == "* <- *":
            yield from (Rule((name,), (name,), (), False) for name in shapes(config))
            continue
        encoder = ours.startswith("encoder.") or config.decoder is None
        stack = config.encoder if encoder else config.decoder
        layers = () if stack is None else stack.layers
        for i in range(len(layers)) if "{i}" in text else (0,):
            mlp = layers[i].mlp if "{e}" in text else None
            experts = mlp.experts if isinstance(mlp, MoE) else 0
            for e in range(experts) if "{e}" in text else (0,):
                here = lambda name, i=i, e=e: name.strip().replace("{i}", str(i)).replace("{e}", str(e))  # noqa: E731
                names, count = tuple(map(here, ours.split(","))), 1
                names = (names[0], *(f"{names[0].rpartition('.')[0]}.{name}" for name in names[1:]))
                if "{h}" in theirs:
                    attention = layers[i].attention
                    count = attention.groups if "k_norm" in ours else attention.heads
                whole, _, rest = theirs.partition("[{e}]")
                assert rest == "", f"a part stands last, got {theirs}"
                found = [
                    tuple(here(one).replace("{h}", str(h)) for h in range(count)) for one in _names(whole)
                ]
                part, parts = (e, experts) if whole != theirs else (None, 0)
                if wanted:
                    other, stacked = tuple(found[1:]), "{h}" in theirs
                    yield Rule(names, found[0], tuple(steps.split()), check, other, stacked, part, parts)
                else:
                    yield from (Rule(("nothing",), one, (), False) for one in found)


def _names(theirs: str) -> list[str]:
    """The names that one with a choice stands for, in order: a(b|c)d is abd, then acd."""
    before, _, rest = theirs.partition("(")
    inside, _, after = rest.partition(")")
    return [before + one + after for one in inside.split("|")]


def _each(weight: Weight, change: Callable[[np.ndarray], np.ndarray]) -> Weight:
    """The same change to a matrix, or to each array of a quantized one."""
    if isinstance(weight, np.ndarray):
        return change(weight)
    arrays = {f.name: getattr(weight, f.name) for f in fields(weight)}
    return replace(weight, **{k: change(v) for k, v in arrays.items() if isinstance(v, np.ndarray)})


def _unpermute(rows: int, heads: int) -> np.ndarray:
    """Where each row of a query or key matrix stands in GGUF: pairs (j, j + J) from (2j, 2j + 1)."""
    return np.arange(rows).reshape(heads, -1, 2).swapaxes(1, 2).reshape(-1)


def _ungroup(a: Attention) -> np.ndarray:
    """Where queries, then keys, then values stand in columns that are fused group by group."""
    order = np.arange((a.heads + 2 * a.groups) * a.head_size).reshape(a.groups, -1, a.head_size)
    return np.concatenate([order[:, :-2].reshape(-1), order[:, -2].reshape(-1), order[:, -1].reshape(-1)])


def check_finite(name: str, weight: np.ndarray | Blocks) -> None:
    """Raise NumericError that names the first NaN or infinity of a leaf."""
    if isinstance(weight, Blocks):
        check_finite(f"{name} (scale)", weight.scale)
        if weight.minimum is not None:
            check_finite(f"{name} (minimum)", weight.minimum)
    # NaN goes through min and max, so two passes without a temporary suffice.
    elif weight.size and not np.isfinite([weight.min(), weight.max()]).all():
        index = np.unravel_index(np.argmin(np.isfinite(weight)), weight.shape)
        at = [int(i) for i in index]
        raise NumericError(f"{name}{at} must be finite, is {weight[index]}: the checkpoint is damaged")


class Leaves:
    """The leaves that a Config needs, read from a Source by a map; each is made when asked for.

    Raises CheckpointError unless every leaf is found exactly once with its shape, and every tensor
    of the source is read or equals what we compute.
    """

    def __init__(self, config: Config, source: Source, table: str, prefix: str = "") -> None:
        self._config, self._source = config, Stripped(source, prefix) if prefix else source
        source = self._source
        self._shapes = shapes(config)
        self._reads: dict[str, tuple[Rule, slice]] = {}
        unread, present = dict.fromkeys(source.names), set(source.names)
        checks = []
        unused = []
        for rule in rules(table, config):
            there = (names for names in (rule.theirs, *rule.other) if names[0] in unread)
            rule = replace(rule, theirs=next(there, rule.theirs))
            if rule.check:
                checks += [rule] if rule.theirs[0] in unread else []
            elif rule.ours == ("nothing",):
                unused += [rule.theirs[0]] if rule.theirs[0] in unread else []
            elif any(name in self._shapes for name in rule.ours):
                known = unread if not rule.part else present
                if missing := [name for name in rule.theirs if name not in known]:
                    raise CheckpointError(f"tensor {missing[0]!r} is missing: {rule.ours[0]} needs it")
                self._found(rule)
                for name in rule.theirs:
                    unread.pop(name, None)
        self.unused = tuple(name for name in dict.fromkeys(unused) if name in unread)
        for name in self.unused:
            del unread[name]
        if missing := [name for name in self._shapes if name not in self._reads]:
            raise CheckpointError(f"{len(missing)} weights have no line in the map, first {missing[0]}")
        for rule in checks:
            if rule.theirs[0] in unread:
                self._compare(rule)
                del unread[rule.theirs[0]]
        if unread:
            first = next(iter(unread))
            raise CheckpointError(f"every tensor must be known, {len(unread)} aren't, first {first!r:.80}")

    def _found(self, rule: Rule) -> None:
        ends = np.cumsum([self._shapes[name][-1] for name in rule.ours]).tolist()
        shape = (*self._shapes[rule.ours[0]][:-1], ends[-1])
        shape = shape[1:] if rule.stacked else shape
        want = shape[::-1] if "transpose" in rule.steps else shape[:-1] if "column" in rule.steps else shape
        want = want if rule.part is None else (rule.parts, *want)
        want = (1, *want) if "row" in rule.steps else want
        for name in rule.theirs:
            if (kind := self._source.kind(name)) in WHOLE:
                raise CheckpointError(f"tensor {name!r} must be of a type with decimals, is {kind}")
            if (got := self._source.shape(name)) != want:
                raise CheckpointError(f"tensor {name!r} must have shape {list(want)}, has {list(got)}")
        for name, begin, end in zip(rule.ours, [0, *ends], ends, strict=False):
            self._reads[name] = (rule, slice(begin, end))

    def _compare(self, rule: Rule) -> None:
        """A tensor that states again what we know: a tied output table, a rotary frequency."""
        name, theirs = rule.ours[0], rule.theirs[0]
        # A table as large as the config says is made only where the file holds as many numbers.
        if name in LARGE and self._source.shape(theirs) != LARGE[name](self._config):
            raise CheckpointError(f"tensor {theirs!r} must equal {name}, its shape doesn't: another model's?")
        got = self._source.load(theirs)
        if name in self._shapes:
            same = np.array_equal(self.load(name), got)
        elif name in PLAIN:
            same = PLAIN[name](self._config, got)
        else:
            want = COMPUTED[name](self._config)
            rounding = {"F32": 1e-5, "F16": 2e-3, "I64": 0.0}.get(self._source.kind(theirs), 1e-2)
            same = got.shape == want.shape and np.allclose(got, want, rtol=rounding, atol=1e-7)
        if not same:
            raise CheckpointError(f"tensor {theirs!r} must equal {name}, it doesn't: another model's?")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._shapes)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._shapes[name]

    def load(self, name: str) -> np.ndarray:
        """The leaf as float32 in our orientation; NumericError if it isn't finite."""
        rule = self._reads[name][0]
        parts = [self._source.load(theirs, rule.part) for theirs in rule.theirs]
        weight = self._place(name, np.stack(parts) if rule.stacked else parts[0])
        check_finite(name, weight)
        return weight

    def native(self, name: str) -> Blocks | None:
        """The leaf in the file's own blocks, for GGUF's Q4_0, Q4_1 and Q8_0; else None."""
        rule = self._reads[name][0]
        blocks = self._source.native(rule.theirs[0], rule.part)
        if blocks is None:
            return None
        blocks = self._place(name, blocks)
        check_finite(name, blocks)
        return blocks

    def kind(self, name: str) -> str:
        """How the file stores the leaf: F32, BF16, Q4_1, …"""
        return self._source.kind(self._reads[name][0].theirs[0])

    def _place(self, name: str, weight: Weight) -> Weight:
        rule, part = self._reads[name]
        if "unpermute" in rule.steps:
            layer = self._config.layers[int(name.split(".")[2])].attention
            heads = layer.groups if name.endswith("k") else layer.heads
            order = _unpermute(weight.shape[0], heads)
            weight = _each(weight, lambda a: a[order])
        if "transpose" in rule.steps:
            weight = weight.T if isinstance(weight, np.ndarray) else transpose(weight)
        if "column" in rule.steps:
            assert isinstance(weight, np.ndarray)
            weight = weight[:, None]
        if "grouped" in rule.steps:
            stack, _, layer, *_ = name.split(".")
            held = self._config.encoder if stack == "encoder" else self._config.decoder
            assert held is not None
            columns = _ungroup(held.layers[int(layer)].attention)
            weight = _each(weight, lambda a: a[..., columns])
        if "row" in rule.steps:
            assert isinstance(weight, np.ndarray)
            weight = weight[0]
        if "plus_one" in rule.steps:
            assert isinstance(weight, np.ndarray)
            weight = weight + np.float32(1)
        return weight if len(rule.ours) == 1 else _each(weight, lambda a: a[..., part])


class Stripped:
    """A Source whose names are without a prefix, where they have it."""

    def __init__(self, source: Source, prefix: str) -> None:
        self._source = source
        self._of = {name.removeprefix(prefix): name for name in source.names}
        if len(self._of) < len(source.names):
            raise CheckpointError(f"tensors must not stand both with and without the prefix {prefix!r}")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._of)

    def kind(self, name: str) -> str:
        return self._source.kind(self._of[name])

    def shape(self, name: str) -> tuple[int, ...]:
        return self._source.shape(self._of[name])

    def load(self, name: str, part: int | None = None) -> np.ndarray:
        return self._source.load(self._of[name], part)

    def native(self, name: str, part: int | None = None) -> Blocks | None:
        return self._source.native(self._of[name], part)


class Lazy(Mapping[str, Any]):
    """A nested mapping whose leaves are made anew each time they are asked for."""

    def __init__(self, tree: Mapping[str, Any], load: Callable[[str], np.ndarray | Blocks]) -> None:
        self._tree, self._load = tree, load

    def __getitem__(self, key: str) -> Any:
        return self._wrap(self._tree[key])

    def _wrap(self, item: Any) -> Any:
        if isinstance(item, list):
            return [self._wrap(i) for i in item]
        return self._load(item) if isinstance(item, str) else Lazy(item, self._load)

    def __iter__(self) -> Iterator[str]:
        return iter(self._tree)

    def __len__(self) -> int:
        return len(self._tree)

    def __contains__(self, key: object) -> bool:
        return key in self._tree


def materialize(tree: Tree) -> dict[str, Any]:
    """The tree with all its leaves in memory."""

    def made(item: Any) -> Any:
        if isinstance(item, Mapping):
            return {key: made(item[key]) for key in item}
        return [made(i) for i in item] if isinstance(item, list) else item

    return made(tree)


def _inv_freq(config: Config) -> np.ndarray:
    """Rotary frequencies of the first layer that has them: the angles at position 1."""
    if not config.ropes:
        return np.zeros(0)
    cos, sin = position_tables(np.array([1]), config=config)[config.ropes[0]]
    return np.arctan2(sin, cos)[0]


def _rope_freqs(config: Config) -> np.ndarray:
    """What divides the plain frequencies to give the scaled ones: GGUF's form of a scaling."""
    if not config.ropes:
        return np.zeros(0)
    rope = config.ropes[0]
    pairs = np.arange(rope.dims // 2)
    return rope_frequencies(pairs, theta=rope.theta) / _inv_freq(config)


def _waves(config: Config) -> np.ndarray:
    """Sinusoidal positions, which older checkpoints of Marian and Pegasus store as a table."""
    stack = config.decoder or config.encoder
    assert stack is not None
    assert isinstance(stack.positions, Sinusoidal)
    frequencies = rope_frequencies(np.arange(config.embedding.width // 2), theta=stack.positions.theta)
    return sinusoidal(np.arange(config.context)[None], frequencies)[0]


def _position_rows(config: Config) -> int:
    stack = config.encoder or config.decoder
    assert stack is not None
    return stack.positions.offset + stack.positions.size if isinstance(stack.positions, Learned) else 0


def _divisors(config: Config) -> tuple[np.ndarray, np.ndarray]:
    """LongRoPE's short and long divisors, none where no layer has them."""
    found = [rope.scaling for rope in config.ropes if isinstance(rope.scaling, LongRope)]
    return (np.array(found[0].short), np.array(found[0].long)) if found else (np.zeros(0), np.zeros(0))


COMPUTED = {
    "inv_freq": _inv_freq,
    "rope_freqs": _rope_freqs,
    "short_divisors": lambda config: _divisors(config)[0],
    "long_divisors": lambda config: _divisors(config)[1],
    "waves": _waves,
    # The rows of the table of positions, which older checkpoints store beside it.
    "position_ids": lambda config: np.arange(_position_rows(config))[None],
}
LARGE: dict[str, Callable[[Config], tuple[int, ...]]] = {
    "waves": lambda config: (config.context, config.embedding.width),
    "position_ids": lambda config: (1, _position_rows(config)),
}


def _causal(config: Config, got: np.ndarray) -> bool:
    """Which token sees which, as GPT-2 and GPT-NeoX stored it in each layer."""
    n = config.context
    return got.shape == (1, 1, n, n) and np.array_equal(got[0, 0], np.tri(n, dtype=bool))


def _masked_score(config: Config, got: np.ndarray) -> bool:
    """The score of what isn't seen: any number so low that its softmax is 0 to all purposes."""
    return got.size == 1 and got.item() <= -1e4


PLAIN = {"causal": _causal, "masked_score": _masked_score}

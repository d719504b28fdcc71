"""The little language of weight maps, and the strict loader that reads it.

    ours <- theirs                    this tensor is that leaf
    ours, ours <- theirs : step …     a fused tensor, split along its output axis by the leaves' sizes
    ours == theirs                    if this tensor exists, it must equal what we have or compute

One line a tensor; `{i}` runs over the layers; lines for leaves that a Config doesn't need rest. Steps:
`transpose` (a linear map stored output-first) and `unpermute` (GGUF's Llama, whose query and key rows
stand as pairs (2j, 2j + 1) for an interleaved rotation). `* <- *` reads leaves under our own names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol, TypeVar

import numpy as np

from .config import Config
from .errors import CheckpointError, NumericError
from .ops.model import position_tables
from .ops.position import rope_frequencies
from .ops.quant import Blocks, transpose
from .params import Tree, shapes, unflatten

Weight = TypeVar("Weight", np.ndarray, Blocks)


class Source(Protocol):
    """A file of named tensors: SafeTensors, GGUF, or several shards as one."""

    @property
    def names(self) -> tuple[str, ...]: ...
    def kind(self, name: str) -> str: ...
    def shape(self, name: str) -> tuple[int, ...]: ...
    def load(self, name: str) -> np.ndarray: ...
    def native(self, name: str) -> Blocks | None: ...


@dataclass(frozen=True)
class Rule:
    """One line of a map, for one layer."""

    ours: tuple[str, ...]
    theirs: str
    steps: tuple[str, ...]
    check: bool


def rules(table: str, config: Config) -> Iterator[Rule]:
    """The lines of a map, `{i}` and `*` written out for a Config."""
    for line in filter(None, (line.strip() for line in table.splitlines())):
        text, _, steps = line.partition(" : ")
        check = " == " in text
        ours, theirs = text.split(" == " if check else " <- ")
        if text == "* <- *":
            yield from (Rule((name,), name, (), False) for name in shapes(config))
            continue
        encoder = ours.startswith("encoder.") or config.decoder is None
        stack = config.encoder if encoder else config.decoder
        for i in range(0 if stack is None else len(stack.layers)) if "{i}" in text else (0,):
            names = tuple(name.strip().replace("{i}", str(i)) for name in ours.split(","))
            yield Rule(names, theirs.replace("{i}", str(i)), tuple(steps.split()), check)


def _each(weight: Weight, change: Callable[[np.ndarray], np.ndarray]) -> Weight:
    """The same change to a matrix, or to each array of a quantized one."""
    if isinstance(weight, np.ndarray):
        return change(weight)
    arrays = {f.name: getattr(weight, f.name) for f in fields(weight)}
    return replace(weight, **{k: change(v) for k, v in arrays.items() if isinstance(v, np.ndarray)})


def _unpermute(rows: int, heads: int) -> np.ndarray:
    """Where each row of a query or key matrix stands in GGUF: pairs (j, j + J) from (2j, 2j + 1)."""
    return np.arange(rows).reshape(heads, -1, 2).swapaxes(1, 2).reshape(-1)


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

    def __init__(self, config: Config, source: Source, table: str) -> None:
        self._config, self._source = config, source
        self._shapes = shapes(config)
        self._reads: dict[str, tuple[Rule, slice]] = {}
        unread = dict.fromkeys(source.names)
        checks = []
        for rule in rules(table, config):
            if rule.check:
                checks += [rule] if rule.theirs in unread else []
            elif any(name in self._shapes for name in rule.ours):
                if rule.theirs not in unread:
                    raise CheckpointError(f"tensor {rule.theirs!r} is missing: {rule.ours[0]} needs it")
                self._found(rule)
                del unread[rule.theirs]
        if missing := [name for name in self._shapes if name not in self._reads]:
            raise CheckpointError(f"{len(missing)} weights have no line in the map, first {missing[0]}")
        for rule in checks:
            if rule.theirs in unread:
                self._compare(rule)
                del unread[rule.theirs]
        if unread:
            first = next(iter(unread))
            raise CheckpointError(f"every tensor must be known, {len(unread)} aren't, first {first!r:.80}")

    def _found(self, rule: Rule) -> None:
        if self._source.kind(rule.theirs) == "I64":
            raise CheckpointError(f"tensor {rule.theirs!r} must be of a type with decimals, is I64")
        ends = np.cumsum([self._shapes[name][-1] for name in rule.ours]).tolist()
        shape = (*self._shapes[rule.ours[0]][:-1], ends[-1])
        want = shape[::-1] if "transpose" in rule.steps else shape
        if (got := self._source.shape(rule.theirs)) != want:
            raise CheckpointError(f"tensor {rule.theirs!r} must have shape {list(want)}, has {list(got)}")
        for name, begin, end in zip(rule.ours, [0, *ends], ends, strict=False):
            self._reads[name] = (rule, slice(begin, end))

    def _compare(self, rule: Rule) -> None:
        """A tensor that states again what we know: a tied output table, a rotary frequency."""
        name, got = rule.ours[0], self._source.load(rule.theirs)
        if name in self._shapes:
            same = np.array_equal(self.load(name), got)
        else:
            want = COMPUTED[name](self._config)
            rounding = {"F32": 1e-5, "F16": 2e-3, "I64": 0.0}.get(self._source.kind(rule.theirs), 1e-2)
            same = got.shape == want.shape and np.allclose(got, want, rtol=rounding, atol=1e-7)
        if not same:
            raise CheckpointError(f"tensor {rule.theirs!r} must equal {name}, it doesn't: another model's?")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._shapes)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._shapes[name]

    def load(self, name: str) -> np.ndarray:
        """The leaf as float32 in our orientation; NumericError if it isn't finite."""
        weight = self._place(name, self._source.load(self._reads[name][0].theirs))
        check_finite(name, weight)
        return weight

    def native(self, name: str) -> Blocks | None:
        """The leaf in the file's own blocks, for GGUF's Q4_0, Q4_1 and Q8_0; else None."""
        blocks = self._source.native(self._reads[name][0].theirs)
        if blocks is None:
            return None
        blocks = self._place(name, blocks)
        check_finite(name, blocks)
        return blocks

    def kind(self, name: str) -> str:
        """How the file stores the leaf: F32, BF16, Q4_1, …"""
        return self._source.kind(self._reads[name][0].theirs)

    def _place(self, name: str, weight: Weight) -> Weight:
        rule, part = self._reads[name]
        if "unpermute" in rule.steps:
            layer = self._config.layers[int(name.split(".")[2])].attention
            heads = layer.groups if name.endswith("k") else layer.heads
            order = _unpermute(weight.shape[0], heads)
            weight = _each(weight, lambda a: a[order])
        if "transpose" in rule.steps:
            weight = weight.T if isinstance(weight, np.ndarray) else transpose(weight)
        return weight if len(rule.ours) == 1 else _each(weight, lambda a: a[..., part])

    def tree(self) -> Tree:
        """The nested tree of `params`; a leaf is loaded when it is asked for, and not kept."""
        return Lazy(unflatten({name: name for name in self.names}), self.load)


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
    """Rotary frequencies of the first layer: the angles at position 1."""
    cos, sin = position_tables(np.array([1]), config=config)[config.ropes[0]]
    return np.arctan2(sin, cos)[0]


def _rope_freqs(config: Config) -> np.ndarray:
    """What divides the plain frequencies to give the scaled ones: GGUF's form of a scaling."""
    rope = config.ropes[0]
    pairs = np.arange(rope.dims // 2)
    return rope_frequencies(pairs, theta=rope.theta) / _inv_freq(config)


def _position_ids(config: Config) -> np.ndarray:
    """The positions themselves, which older checkpoints store beside their table."""
    return np.arange(config.context)[None]


COMPUTED = {"inv_freq": _inv_freq, "rope_freqs": _rope_freqs, "position_ids": _position_ids}

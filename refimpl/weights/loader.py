"""The strict loader: every leaf found once, by a map (`refimpl.weights.weight_map`), and no tensor left unread."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import TypeVar

import numpy as np

from ..config import Attention, Config
from ..errors import CheckpointError, NumericError
from ..formats.dtypes import WHOLE
from ..formats.tensor_source import Source, Stripped
from ..ops.quant import Blocks, transpose
from ..params.shapes import shapes
from .derived_buffers import COMPUTED, LARGE, PLAIN
from .weight_map import Rule, rules

Weight = TypeVar("Weight", np.ndarray, Blocks)


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
    order = np.arange((a.heads + 2 * a.kv_heads) * a.head_size).reshape(a.kv_heads, -1, a.head_size)
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

    def __init__(self, config: Config, source: Source, table: str, prefixes: Sequence[str] = ()) -> None:
        self._config, self._source = config, Stripped(source, prefixes) if prefixes else source
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
        same = (want, want[1:]) if "table" in rule.steps and want[0] == 1 else (want,)
        for name in rule.theirs:
            if (kind := self._source.kind(name)) in WHOLE:
                raise CheckpointError(f"tensor {name!r} must be of a type with decimals, is {kind}")
            if (got := self._source.shape(name)) not in same:
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

    def _attention(self, name: str) -> Attention:
        """That of the layer that has this leaf."""
        stack, _, layer, *_ = name.split(".")
        return self._config.stacks[stack].layers[int(layer)].attention

    def _place(self, name: str, weight: Weight) -> Weight:
        rule, part = self._reads[name]
        if "unpermute" in rule.steps:
            layer = self._attention(name)
            heads = layer.kv_heads if name.endswith("k") else layer.heads
            order = _unpermute(weight.shape[0], heads)
            weight = _each(weight, lambda a: a[order])
        if "table" in rule.steps and isinstance(weight, np.ndarray):
            weight = np.atleast_2d(weight)
        if "transpose" in rule.steps:
            weight = weight.T if isinstance(weight, np.ndarray) else transpose(weight)
        if "column" in rule.steps:
            assert isinstance(weight, np.ndarray)
            weight = weight[:, None]
        if "grouped" in rule.steps:
            columns = _ungroup(self._attention(name))
            weight = _each(weight, lambda a: a[..., columns])
        if "row" in rule.steps:
            assert isinstance(weight, np.ndarray)
            weight = weight[0]
        if "plus_one" in rule.steps:
            assert isinstance(weight, np.ndarray)
            weight = weight + np.float32(1)
        return weight if len(rule.ours) == 1 else _each(weight, lambda a: a[..., part])

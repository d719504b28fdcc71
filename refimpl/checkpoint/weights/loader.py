"""Load weights strictly: find every parameter exactly once by a weight map, and leave no tensor unread."""

from __future__ import annotations

from collections.abc import Collection, Container, Mapping, Sequence
from dataclasses import replace
from itertools import chain, pairwise

import numpy as np

from ...config import LM, Config, MaskedLM
from ...errors import CheckpointError, NumericError
from ...ops.quant import Blocks
from ...params.parameter_shapes import ParameterShapes
from ..formats.dtypes import READABLE_INTEGERS
from ..formats.named_tensors import Tensors, stripped
from ..formats.tensor_source import TensorSource
from .derived_buffers import COMPUTED, LARGE, PLAIN, setting
from .left_out import LeftOut
from .low_rank import merge
from .steps import Shape, Split, Step, Weight, stored_shapes
from .weight_map import Rule, WeightMap


def check_finite(name: str, weight: np.ndarray | Blocks) -> None:
    """Raise NumericError if a parameter contains a NaN or an infinity. The error names the first such
    number.
    """
    if isinstance(weight, Blocks):
        check_finite(f"{name} (scale)", weight.scale)
        if weight.minimum is not None:
            check_finite(f"{name} (minimum)", weight.minimum)
    # NaN goes through min and max, so two passes without a temporary suffice.
    elif weight.size and not np.isfinite([weight.min(), weight.max()]).all():
        index = np.unravel_index(np.argmin(np.isfinite(weight)), weight.shape)
        at = [int(i) for i in index]
        raise NumericError(f"{name}{at} must be finite, but it is {weight[index]}: the checkpoint is damaged")


def _existing(rule: Rule, unread: Container[str]) -> tuple[str, ...]:
    """Return the first choice of tensors that is in the checkpoint and unread. If there is none, return the
    first choice of the rule.
    """
    return next((names for names in rule.choices if names[0] in unread), rule.tensors)


def applied(steps: Sequence[Step], split: Split | None, weight: Weight) -> Weight:
    """Apply the steps of a weight map to a stored tensor, and return the resulting parameter.

    If the tensor contains several fused parameters, `split` selects the columns of one parameter.
    """
    for step in steps:
        weight = step.apply(weight)
    return weight if split is None else split.apply(weight)


def leaf_parts(rule: Rule, shapes: Mapping[str, Shape]) -> tuple[list[Shape], list[tuple[str, Split | None]]]:
    """Return two lists for a rule: the shapes that its stored tensor may have, and the parameters that are
    made of the tensor.

    The usual shape comes first. Each parameter is its name with the columns to take, or with None if the
    tensor contains only this parameter."""
    ends = np.cumsum([shapes[leaf][-1] for leaf in rule.leaves]).tolist()
    allowed = stored_shapes(rule.steps, (*shapes[rule.leaves[0]][:-1], ends[-1]))
    splits = [Split(start, stop) if len(rule.leaves) > 1 else None for start, stop in pairwise([0, *ends])]
    return allowed, list(zip(rule.leaves, splits, strict=True))


class OtherTableError(CheckpointError):
    """The error for an output table that differs from the token table, although the Config says that the two
    are the same.
    """


class Leaves:
    """The parameters that a Config needs, read from a TensorSource by a weight map. Each parameter is made
    when it is needed.

    `elsewhere` names parameters that something else provides, so they aren't read from the source.

    Raises CheckpointError unless every parameter is found exactly once with its shape, and every tensor of
    the source is read, left out or unused by the map, or equal to the value that tfm computes. Raises the
    subclass OtherTableError if the source has a separate output table although the Config ties the output
    table to the token table. If the source's rotary frequencies differ from the Config's, `notes` reports the
    difference, and the Config's frequencies are used as in transformers.
    """

    def __init__(
        self,
        config: Config,
        source: TensorSource,
        weights: WeightMap,
        prefixes: Sequence[str] = (),
        elsewhere: Collection[str] = (),
    ) -> None:
        self._config = config
        self.notes: tuple[str, ...] = ()
        self._source = Tensors(stripped(source, prefixes)) if prefixes else source
        self.shapes = {k: v for k, v in ParameterShapes(config).items() if k not in elsewhere}
        self._reads: dict[str, tuple[Rule, Split | None]] = {}
        present = set(self._source.names)
        unread = dict.fromkeys(self._source.names)
        compared: list[Rule] = []
        unused: dict[str, None] = {}
        left_out: dict[str, list[str]] = {}
        absent: dict[str, str] = {}
        for rule in weights.rules(config):
            rule = replace(rule, choices=(_existing(rule, unread),))
            tensor = rule.tensors[0]
            if rule.use == "compare":
                # Ignore lines for parameters and settings that this Config doesn't have.
                name = rule.leaves[0]
                if "." not in name or name in self.shapes or setting(config, name) is not None:
                    compared.append(rule)
            elif rule.use == "left out":
                part = tensor.removesuffix("*")
                known = {other.tensors[0] for other in compared}
                names = [name for name in unread if name.startswith(part) and name not in known]
                left_out[part.removesuffix(".")] = names
            elif rule.use == "unused":
                unused[tensor] = None
            elif self._needed(rule):
                # Several experts read their parts of one tensor, so a part may be of a tensor already read.
                # Layers that share a tensor all read the whole tensor.
                available = present if rule.part or rule.shared or rule.tied else unread
                if missing := [name for name in rule.tensors if name not in available]:
                    absent = dict.fromkeys(rule.leaves, missing[0]) | absent
                    continue
                self._found(rule)
                for name in rule.tensors:
                    unread.pop(name, None)
        self.unused = tuple(name for name in unused if name in unread)
        self.left_out = {part: LeftOut.of(self._source, names) for part, names in left_out.items() if names}
        for name in (*self.unused, *chain.from_iterable(left_out.values())):
            del unread[name]
        if missing := [name for name in self.shapes if name not in self._reads]:
            if tensor := absent.get(missing[0]):
                raise CheckpointError(f"tensor {tensor!r} is missing: {missing[0]} needs this tensor")
            raise CheckpointError(
                f"the family's weight map has no line for {len(missing)} weights, the first is {missing[0]}"
            )
        for rule in compared:
            if rule.tensors[0] in unread:
                self._compare(rule)
                del unread[rule.tensors[0]]
        for name in [name for name in unread if self._adds_nothing(name)]:
            del unread[name]
        if unread:
            first = next(iter(unread))
            raise CheckpointError(
                f"the checkpoint has {len(unread)} tensors that this model family doesn't use, the first is "
                f"{first!r:.80}"
            )

    def _needed(self, rule: Rule) -> bool:
        """Return whether the Config needs parameters of a rule, and none of these parameters has been found
        in another tensor.
        """
        needed = [leaf for leaf in rule.leaves if leaf in self.shapes]
        return bool(needed) and not any(leaf in self._reads for leaf in needed)

    def _adds_nothing(self, name: str) -> bool:
        """Return whether a tensor is a bias of zeros beside a weight in GPTQ's format. Older writers of GPTQ
        give every module such a bias.
        """
        weight = f"{name.removesuffix('.bias')}.weight"
        return (
            name.endswith(".bias")
            and weight in self._source.names
            and self._source.kind(weight).startswith("GPTQ")
            and not self._source.load(name).any()
        )

    def _found(self, rule: Rule) -> None:
        """Check the types and shapes of the tensors that a rule reads, and record which parameters are made
        of them.
        """
        allowed, parts = leaf_parts(rule, self.shapes)
        for name in rule.tensors:
            if (kind := self._source.kind(name)) in READABLE_INTEGERS:
                raise CheckpointError(f"tensor {name!r} must be of a float type, but it is {kind}")
            shape = self._source.shape(name)
            factor = rule.updated and name != rule.tensors[0]
            if not rule.joined and not factor and shape not in allowed:
                raise CheckpointError(
                    f"tensor {name!r} must have shape {list(allowed[0])}, but it has {list(shape)}"
                )
        if rule.joined:
            shapes = [self._source.shape(name) for name in rule.tensors]
            rows = sum(shape[0] for shape in shapes if shape)
            if any(not shape or (rows, *shape[1:]) != allowed[0] for shape in shapes):
                raise CheckpointError(
                    f"tensors {', '.join(map(repr, rule.tensors))} together must have shape "
                    f"{list(allowed[0])}, but they have {', '.join(str(list(shape)) for shape in shapes)}"
                )
        if rule.updated:
            (rows, columns), up, down = map(self._source.shape, rule.tensors)
            if (up, down) != ((rows, *down[:1]), (*down[:1], columns)):
                _, first, second = rule.tensors
                raise CheckpointError(
                    f"tensors {first!r} and {second!r} must have shapes [{rows}, r] and [r, {columns}], but "
                    f"they have {list(up)} and {list(down)}"
                )
        usual = rule.joined or self._source.shape(rule.tensors[0]) == allowed[0]
        rule = replace(rule, steps=tuple(step.settled(usual) for step in rule.steps))
        for leaf, split in parts:
            self._reads[leaf] = (rule, split)

    def _compare(self, rule: Rule) -> None:
        """Check a tensor that repeats what tfm already knows, such as a tied output table or rotary
        frequencies.
        """
        name, tensor = rule.leaves[0], rule.tensors[0]
        # A table of the Config's size is made only if the file's tensor has the same shape.
        if name in LARGE and self._source.shape(tensor) != LARGE[name](self._config):
            raise CheckpointError(
                f"tensor {tensor!r} must equal {name}, but their shapes differ: does the tensor belong to "
                "another model?"
            )
        got = self._source.load(tensor)
        if name in self.shapes:
            same = np.array_equal(self.load(name), got)
        elif name in PLAIN:
            same = PLAIN[name](self._config, got)
        elif (stated := setting(self._config, name)) is not None:
            same = got.dtype == stated.dtype and np.array_equal(got, stated)
        else:
            want = COMPUTED[name](self._config)
            rounding = {"F32": 1e-5, "F16": 2e-3, "I64": 0.0}.get(self._source.kind(tensor), 1e-2)
            same = got.shape == want.shape and np.allclose(got, want, rtol=rounding, atol=1e-7)
        if not same and name == "inv_freq":
            told = "contains other rotary frequencies than config.json states; tfm uses those of config.json"
            self.notes = self.notes or (f"tensor {tensor!r} {told}",)
        elif not same:
            head = self._config.head
            tied = name == "embedding.table" and isinstance(head, LM | MaskedLM) and head.tied
            raise (OtherTableError if tied else CheckpointError)(
                f"tensor {tensor!r} must equal {name}, but their values differ: does the tensor belong to "
                "another model?"
            )

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.shapes)

    def load(self, name: str) -> np.ndarray:
        """Return the parameter as float32 in tfm's orientation. Raises NumericError if the parameter isn't
        finite.
        """
        rule, split = self._reads[name]
        tensors = [self._source.load(tensor, rule.part) for tensor in rule.tensors]
        stored = tensors[0]
        if rule.joined or rule.stacked:
            stored = np.concatenate(tensors) if rule.joined else np.stack(tensors)
        if rule.updated:
            stored = merge(stored, tensors[2], tensors[1])
        weight = applied(rule.steps, split, stored)
        check_finite(name, weight)
        return weight

    def native(self, name: str) -> Blocks | None:
        """Return the parameter in the blocks that the file stores, or None if the file stores it without
        blocks or its steps can't change blocks.
        """
        rule, split = self._reads[name]
        blocks = None if rule.joined or rule.updated else self._source.native(rule.tensors[0], rule.part)
        if blocks is None or not all(step.takes(blocks) for step in rule.steps):
            return None
        blocks = applied(rule.steps, split, blocks)
        check_finite(name, blocks)
        return blocks

    def kind(self, name: str) -> str:
        """Return the type in which the file stores the parameter: F32, BF16, Q4_1, …"""
        return self._source.kind(self._reads[name][0].tensors[0])

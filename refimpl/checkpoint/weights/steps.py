"""The steps that turn a stored tensor into a parameter. Each step knows the stored shape and the change.

`shapes` takes the shape of a step's result, and returns the shapes that its input may have, the usual one
first. The loader compares these shapes with the file before it reads any numbers. `apply` makes the change,
on an array or, where that makes sense, on the blocks of a quantized matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import TypeVar

import numpy as np

from ...config import Attention, TokenMixer
from ...ops.gated_delta import GatedDelta
from ...ops.quant import Blocks, transpose

Shape = tuple[int, ...]
Weight = TypeVar("Weight", np.ndarray, Blocks)


def _each_array(weight: Weight, change: Callable[[np.ndarray], np.ndarray]) -> Weight:
    """The same change to a matrix, or to each array of a quantized one."""
    if isinstance(weight, np.ndarray):
        return change(weight)
    arrays = {f.name: getattr(weight, f.name) for f in fields(weight)}
    return replace(weight, **{k: change(v) for k, v in arrays.items() if isinstance(v, np.ndarray)})


def _by_kind(weight: Weight, groups: int, ends: Sequence[int]) -> Weight:
    """Columns that are stored for one group after the other, each with several kinds that end at `ends`: each
    kind comes out for all groups together."""
    columns = np.arange(weight.shape[-1]).reshape(groups, -1)
    order = np.concatenate([part.reshape(-1) for part in np.split(columns, ends, axis=1)])
    return _each_array(weight, lambda a: a[..., order])


@dataclass(frozen=True)
class Step:
    """One change that is made to a stored tensor when it is read."""

    def bound(self, leaf: str, mixer: TokenMixer) -> Step:
        """Return the step for a parameter of a layer with this attention, or another mixer."""
        return self

    def _with(self, mixer: TokenMixer, **settings: str) -> Step:
        """The step with these settings of a mixer; without them where the mixer hasn't all of them."""
        if not all(hasattr(mixer, name) for name in settings.values()):
            return self
        return replace(self, **{field: getattr(mixer, name) for field, name in settings.items()})

    def shapes(self, result: Shape) -> tuple[Shape, ...]:
        """Return the shapes that the step's input may have if its result has the shape `result`."""
        return (result,)

    def settled(self, usual: bool) -> Step:
        """Return the step for a file whose tensor has the usual shape. If `usual` is false, return it for a
        file whose tensor has another shape.
        """
        return self

    def takes(self, blocks: Blocks) -> bool:
        """Return whether the step can change these blocks as they are, without dequantizing them."""
        return True

    def apply(self, weight: Weight) -> Weight:
        raise NotImplementedError


class Transpose(Step):
    """Transpose a linear map that is stored with its output axis first."""

    def shapes(self, result: Shape) -> tuple[Shape, ...]:
        return (result[::-1],)

    def apply(self, weight: Weight) -> Weight:
        return weight.T if isinstance(weight, np.ndarray) else transpose(weight)


@dataclass(frozen=True)
class EitherOrder(Transpose):
    """Read a linear map whose output axis comes first in some files and last in others. The shape tells
    which.

    In a square map the output axis is first, as transformers reads it.
    """

    transposed: bool = True

    def shapes(self, result: Shape) -> tuple[Shape, ...]:
        return (result[::-1], result)

    def settled(self, usual: bool) -> EitherOrder:
        return EitherOrder(usual)

    def apply(self, weight: Weight) -> Weight:
        return super().apply(weight) if self.transposed else weight


@dataclass(frozen=True)
class Unpermute(Step):
    """Reorder query or key rows that are stored as pairs (2j, 2j + 1) for an interleaved rotation, as Llama's
    are in GGUF."""

    heads: int = 0

    def bound(self, leaf: str, mixer: TokenMixer) -> Unpermute:
        if not isinstance(mixer, Attention):
            return self
        return Unpermute(mixer.kv_heads if leaf.endswith("k") else mixer.heads)

    def apply(self, weight: Weight) -> Weight:
        # Row j of a head's first half and of its second half are a pair.
        order = np.arange(weight.shape[0]).reshape(self.heads, -1, 2).swapaxes(1, 2).reshape(-1)
        return _each_array(weight, lambda a: a[order])


@dataclass(frozen=True)
class Ungroup(Step):
    """Separate queries, keys and values that are fused group by group, [G, R + 2, K]: GPT-NeoX, BLOOM (R = 1)
    and Falcon.

    The result has all queries first, then all keys, then all values.
    """

    kv_heads: int = 0
    head_size: int = 0

    def bound(self, leaf: str, mixer: TokenMixer) -> Step:
        groups = "kv_heads" if hasattr(mixer, "kv_heads") else "heads"
        return self._with(mixer, kv_heads=groups, head_size="head_size")

    def apply(self, weight: Weight) -> Weight:
        return _by_kind(weight, self.kv_heads, [-2 * self.head_size, -self.head_size])


@dataclass(frozen=True)
class GateByHead(Step):
    """Separate queries and gates that are stored head by head, [H, 2, K] (Qwen3-Next): all queries come
    first, then all gates."""

    head_size: int = 0

    def bound(self, leaf: str, mixer: TokenMixer) -> Step:
        return self._with(mixer, head_size="head_size")

    def apply(self, weight: Weight) -> Weight:
        return _by_kind(weight, weight.shape[-1] // (2 * self.head_size), [self.head_size])


@dataclass(frozen=True)
class ByKeyHead(Step):
    """Reorder the columns of a gated delta network's queries, keys, values and output gates, or the columns
    of its rates.

    The columns are stored one key head after the other, each with the value heads that share it: [G, K + K +
    R·V + R·V], or the rates [G, R + R]. The result has each kind for all heads together.
    """

    key_heads: int = 0
    widths: tuple[int, ...] = ()

    def bound(self, leaf: str, mixer: TokenMixer) -> ByKeyHead:
        if not isinstance(mixer, GatedDelta):
            return self
        share = mixer.heads // mixer.key_heads
        values = share * mixer.value_size
        widths = (mixer.key_size, mixer.key_size, values, values) if leaf.endswith("wi") else (share, share)
        return ByKeyHead(mixer.key_heads, widths)

    def apply(self, weight: Weight) -> Weight:
        return _by_kind(weight, self.key_heads, np.cumsum(self.widths)[:-1].tolist())


@dataclass(frozen=True)
class ValuesByKeyHead(Step):
    """Reorder the value heads of a gated delta network (Qwen 3.5 in GGUF). The file alternates between the
    key heads; afterwards the value heads of one key head are neighbours. The value heads are columns of a
    matrix, or rows of the output projection.

    The first `before` columns, which belong to queries and keys, aren't moved.
    """

    heads: int = 1
    key_heads: int = 1
    before: int = 0
    rows: bool = False

    def bound(self, leaf: str, mixer: TokenMixer) -> ValuesByKeyHead:
        if not isinstance(mixer, GatedDelta):
            return self
        mixed = leaf.endswith((".wi", ".conv"))
        before = 2 * mixer.key_heads * mixer.key_size if mixed else 0
        return ValuesByKeyHead(mixer.heads, mixer.key_heads, before, leaf.endswith(".wo"))

    def takes(self, blocks: Blocks) -> bool:
        # Rows are inputs, of which each block must be of one head.
        return not self.rows or blocks.shape[blocks.axis] // self.heads % blocks.block == 0

    def apply(self, weight: Weight) -> Weight:
        axis = 0 if self.rows else -1
        return _each_array(weight, lambda a: a.take(self._order(a.shape[axis]), axis))

    def _order(self, count: int) -> np.ndarray:
        at = np.arange(count)
        values = at[self.before :].reshape(self.heads // self.key_heads, self.key_heads, -1)
        return np.concatenate([at[: self.before], values.swapaxes(0, 1).reshape(-1)])


class FourParts(Step):
    """Reorder three matrices that are stored side by side in each of four parts of the columns (CodeGen), so
    that the parts of each matrix are neighbours."""

    def apply(self, weight: Weight) -> Weight:
        third = weight.shape[-1] // 12
        return _by_kind(weight, 4, [third, 2 * third])


class NegatedExp(Step):
    """Recover a parameter whose negated exponential is stored: the decay rates of a state in GGUF."""

    def apply(self, weight: Weight) -> Weight:
        assert isinstance(weight, np.ndarray)
        with np.errstate(divide="ignore", invalid="ignore"):  # what isn't finite is refused as a leaf
            return np.log(-weight)


class Exp(Step):
    """Recover a parameter whose exponential is stored: the rates of Ling 3's bounded decays in GGUF."""

    def apply(self, weight: Weight) -> Weight:
        assert isinstance(weight, np.ndarray)
        with np.errstate(divide="ignore", invalid="ignore"):  # what isn't finite is refused as a leaf
            return np.log(weight)


class InTurn(Step):
    """Separate two matrices, or two biases, whose columns alternate in the file: gate and up of gpt-oss'
    experts.

    The result has all columns of the first, and then all columns of the second.
    """

    def apply(self, weight: Weight) -> Weight:
        order = np.arange(weight.shape[-1]).reshape(-1, 2).T.reshape(-1)
        return _each_array(weight, lambda a: a[..., order])


class PlusOne(Step):
    """Add one to a norm's weight that is stored as its difference from one (Gemma)."""

    def apply(self, weight: Weight) -> Weight:
        assert isinstance(weight, np.ndarray)
        return weight + np.float32(1)


class MaybeVector(Step):
    """Restore the axis of a matrix with one row that may be stored as a vector, since llama.cpp's tools drop
    such an axis."""

    def shapes(self, result: Shape) -> tuple[Shape, ...]:
        return (result, result[1:]) if result[0] == 1 else (result,)

    def apply(self, weight: Weight) -> Weight:
        return np.atleast_2d(weight) if isinstance(weight, np.ndarray) else weight


class AddColumn(Step):
    """Make a matrix of one column from a vector, or from one row, in which newer versions of llama.cpp's
    converter store it."""

    def shapes(self, result: Shape) -> tuple[Shape, ...]:
        return (result[:-1], (1, *result[:-1]))

    def apply(self, weight: Weight) -> Weight:
        assert isinstance(weight, np.ndarray)
        return weight.reshape(-1, 1)


@dataclass(frozen=True)
class Flatten(Step):
    """Make a vector from a matrix with one column, or with one row for each of `groups` of heads (parameters
    of Mamba 2 in GGUF)."""

    groups: int | None = None

    def bound(self, leaf: str, mixer: TokenMixer) -> Step:
        return self._with(mixer, groups="groups") if leaf.endswith(".norm") else self

    def shapes(self, result: Shape) -> tuple[Shape, ...]:
        rows = self.groups or result[0]
        matrix = (rows, result[0] // rows)
        # llama.cpp's tools drop such an axis, and Kimi Linear has further ones.
        return (matrix, result, (1, *matrix), (1, 1, *matrix)) if 1 in matrix else (matrix,)

    def apply(self, weight: Weight) -> Weight:
        assert isinstance(weight, np.ndarray)
        return weight.reshape(-1)


class FirstRow(Step):
    """Make a vector from a matrix with one row (BART), which may have a further axis of one (RWKV)."""

    def shapes(self, result: Shape) -> tuple[Shape, ...]:
        return (1, *result), (1, 1, *result)

    def apply(self, weight: Weight) -> Weight:
        assert isinstance(weight, np.ndarray)
        return weight.reshape(-1)


@dataclass(frozen=True)
class KeysThenValues(Step):
    """Reorder a projection from a latent to keys and values, stored by head as [H, U + V] (DeepSeek): all
    keys come first, then all values."""

    heads: int = 0
    key_size: int = 0

    def bound(self, leaf: str, mixer: TokenMixer) -> Step:
        return self._with(mixer, heads="heads", key_size="key_size")

    def apply(self, weight: Weight) -> Weight:
        return _by_kind(weight, self.heads, [self.key_size])


@dataclass(frozen=True)
class ByHead(Step):
    """Make a projection [C, H·F] from one that is stored as [H, C, F]."""

    heads: int = 0

    def bound(self, leaf: str, mixer: TokenMixer) -> Step:
        return self._with(mixer, heads="heads")

    def shapes(self, result: Shape) -> tuple[Shape, ...]:
        return ((self.heads, result[0], result[1] // self.heads),)

    def apply(self, weight: Weight) -> Weight:
        assert isinstance(weight, np.ndarray)
        return weight.swapaxes(0, 1).reshape(weight.shape[1], -1)


@dataclass(frozen=True)
class MergeHeads(Step):
    """Join the heads of a tensor [..., H, K], which are stored along an axis of their own (XLNet), side by
    side."""

    heads: int = 1

    def bound(self, leaf: str, mixer: TokenMixer) -> Step:
        return self._with(mixer, heads="heads")

    def shapes(self, result: Shape) -> tuple[Shape, ...]:
        return ((*result[:-1], self.heads, result[-1] // self.heads),)

    def apply(self, weight: Weight) -> Weight:
        assert isinstance(weight, np.ndarray)
        return weight.reshape(*weight.shape[:-2], -1)


class Swap(Step):
    """Swap the last two axes of a tensor."""

    def shapes(self, result: Shape) -> tuple[Shape, ...]:
        return ((*result[:-2], result[-1], result[-2]),)

    def apply(self, weight: Weight) -> Weight:
        assert isinstance(weight, np.ndarray)
        return weight.swapaxes(-1, -2)


class Taps(Step):
    """Read the kernel of a depthwise convolution in the form of torch's Conv1d."""

    def shapes(self, result: Shape) -> tuple[Shape, ...]:
        return ((result[1], 1, result[0]),)

    def apply(self, weight: Weight) -> Weight:
        assert isinstance(weight, np.ndarray)
        return weight[:, 0].T


@dataclass(frozen=True)
class Kernel(Step):
    """Read the kernel of a convolution in the form of torch's Conv1d, [F, D, length]. Without a `length`, F
    is D.

    The result has one matrix [inputs, outputs] for each tap, stacked along the first axis.
    """

    length: int | None = None

    def shapes(self, result: Shape) -> tuple[Shape, ...]:
        rows, outputs = result
        length = self.length or rows // outputs
        return ((outputs, rows // length, length),)

    def apply(self, weight: Weight) -> Weight:
        assert isinstance(weight, np.ndarray)
        return weight.transpose(2, 1, 0).reshape(-1, weight.shape[0])


class FourGroups(Step):
    """Make a matrix, with zeros elsewhere, from a kernel [F, D / 4, 1] of a convolution in four groups
    (SqueezeBERT)."""

    def shapes(self, result: Shape) -> tuple[Shape, ...]:
        return ((result[1], result[0] // 4, 1),)

    def apply(self, weight: Weight) -> Weight:
        assert isinstance(weight, np.ndarray)
        rows, columns = weight.shape[1], weight.shape[0] // 4
        matrix = np.zeros((4 * rows, 4 * columns), weight.dtype)
        for g in range(4):
            group = slice(g * columns, (g + 1) * columns)
            matrix[g * rows : (g + 1) * rows, group] = weight[group, :, 0].T
        return matrix


class ByGroup(Transpose):
    """Make one matrix, with zeros elsewhere, from a linear map that may be stored as a matrix [D / G, F / G]
    for each of G groups of channels (ConvBERT).
    """

    def shapes(self, result: Shape) -> tuple[Shape, ...]:
        rows, columns = result
        counts = (g for g in range(2, min(result) + 1) if rows % g == columns % g == 0)
        return (*super().shapes(result), *((g, rows // g, columns // g) for g in counts))

    def apply(self, weight: Weight) -> Weight:
        if len(weight.shape) == 2:
            return super().apply(weight)
        assert isinstance(weight, np.ndarray)
        groups, rows, columns = weight.shape
        matrix = np.zeros((groups, rows, groups, columns), weight.dtype)
        matrix[np.arange(groups), :, np.arange(groups)] = weight
        return matrix.reshape(groups * rows, groups * columns)


@dataclass(frozen=True)
class NarrowValues(Step):
    """Add zeros after each value head, since value heads are narrower than key heads (MiMo-V2-Flash)."""

    head_size: int = 0
    value_size: int | None = None

    def bound(self, leaf: str, mixer: TokenMixer) -> Step:
        return self._with(mixer, head_size="head_size", value_size="value_size")

    def shapes(self, result: Shape) -> tuple[Shape, ...]:
        if self.value_size is None:
            return (result,)
        return ((*result[:-1], result[-1] // self.head_size * self.value_size),)

    def takes(self, blocks: Blocks) -> bool:
        return self.value_size is None

    def apply(self, weight: Weight) -> Weight:
        if self.value_size is None:
            return weight
        assert isinstance(weight, np.ndarray)
        heads = weight.reshape(*weight.shape[:-1], -1, self.value_size)
        zeros = [(0, 0)] * (heads.ndim - 1) + [(0, self.head_size - self.value_size)]
        return np.pad(heads, zeros).reshape(*weight.shape[:-1], -1)


class FewerRows(Step):
    """Drop the eight rows after the vocabulary's, which are for ids of images (Llama 3.2 Vision)."""

    def shapes(self, result: Shape) -> tuple[Shape, ...]:
        return ((result[0] + 8, *result[1:]),)

    def takes(self, blocks: Blocks) -> bool:
        return False

    def apply(self, weight: Weight) -> Weight:
        assert isinstance(weight, np.ndarray)
        return weight[:-8]


class ZerosAfter(Step):
    """Add a bias of zeros after a bias, for a projection that has none (DeBERTa's keys)."""

    def shapes(self, result: Shape) -> tuple[Shape, ...]:
        return ((result[0] // 2,),)

    def apply(self, weight: Weight) -> Weight:
        assert isinstance(weight, np.ndarray)
        return np.concatenate([weight, np.zeros_like(weight)])


class ZeroFirst(Step):
    """Add a row of zeros before a matrix's rows, or a zero before a bias: the logit of the first, implicit
    label (ELECTRA).

    The softmax of a logit and a zero is the logit's sigmoid.
    """

    def shapes(self, result: Shape) -> tuple[Shape, ...]:
        return ((result[0] - 1, *result[1:]),)

    def apply(self, weight: Weight) -> Weight:
        assert isinstance(weight, np.ndarray)
        return np.concatenate([np.zeros_like(weight[:1]), weight])


@dataclass(frozen=True)
class Part(Step):
    """Take one of `count` parts along the first axis, such as one expert from a tensor with all experts of a
    layer.

    The source reads only this part from the file, so the step itself does nothing.
    """

    index: int
    count: int

    def shapes(self, result: Shape) -> tuple[Shape, ...]:
        return ((self.count, *result),)

    def apply(self, weight: Weight) -> Weight:
        return weight


class StackRows(Step):
    """Stack several tensors, one for each head, as the rows of one parameter."""

    def shapes(self, result: Shape) -> tuple[Shape, ...]:
        return (result[1:],)

    def apply(self, weight: Weight) -> Weight:
        return weight


@dataclass(frozen=True)
class Split(Step):
    """Take the columns of a fused tensor that belong to one parameter."""

    start: int
    stop: int

    def apply(self, weight: Weight) -> Weight:
        return _each_array(weight, lambda a: a[..., self.start : self.stop])


# The words of a weight map.
STEPS: dict[str, Step] = {
    "transpose": Transpose(),
    "either_order": EitherOrder(),
    "unpermute": Unpermute(),
    "grouped": Ungroup(),
    "gate_by_head": GateByHead(),
    "by_key_head": ByKeyHead(),
    "four_parts": FourParts(),
    "in_turn": InTurn(),
    "values_by_key_head": ValuesByKeyHead(),
    "negated_exp": NegatedExp(),
    "exp": Exp(),
    "plus_one": PlusOne(),
    "table": MaybeVector(),
    "column": AddColumn(),
    "row": FirstRow(),
    "flatten": Flatten(),
    "keys_values": KeysThenValues(),
    "by_head": ByHead(),
    "merge_heads": MergeHeads(),
    "swap": Swap(),
    "taps": Taps(),
    "kernel": Kernel(),
    "one_tap": Kernel(1),
    "three_taps": Kernel(3),
    "four_groups": FourGroups(),
    "by_group": ByGroup(),
    "narrow": NarrowValues(),
    "fewer_rows": FewerRows(),
    "zeros_after": ZerosAfter(),
    "zero_first": ZeroFirst(),
}


def stored_shapes(steps: Sequence[Step], result: Shape) -> list[Shape]:
    """Return the shapes that a stored tensor may have so that `steps` give the shape `result`."""
    shapes = [result]
    for step in reversed(steps):
        shapes = [stored for shape in shapes for stored in step.shapes(shape)]
    return shapes

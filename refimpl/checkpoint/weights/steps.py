"""The steps that turn a stored tensor into a parameter. Each step states the stored shape and makes one
change.

`shapes` takes the shape of a step's result, and returns the shapes that its input may have, the usual shape
first. The loader compares these shapes with the file before it reads any numbers. `apply` makes the change on
an array. Some steps can also change the blocks of a quantized matrix.
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
    """Apply the same change to a matrix, or to each array of a quantized matrix."""
    if isinstance(weight, np.ndarray):
        return change(weight)
    arrays = {f.name: getattr(weight, f.name) for f in fields(weight)}
    return replace(weight, **{k: change(v) for k, v in arrays.items() if isinstance(v, np.ndarray)})


def _by_kind(weight: Weight, groups: int, ends: Sequence[int]) -> Weight:
    """Reorder columns that are stored group by group, so that they are sorted by kind.

    The columns of each group have several kinds, such as queries, keys and values. Within a group, `ends` are
    the columns at which a kind ends. In the result, the columns of the first kind of all groups come first,
    then the second kind, and so on."""
    columns = np.arange(weight.shape[-1]).reshape(groups, -1)
    order = np.concatenate([part.reshape(-1) for part in np.split(columns, ends, axis=1)])
    return _each_array(weight, lambda a: a[..., order])


@dataclass(frozen=True)
class Step:
    """One change to a stored tensor, which is made when the tensor is read."""

    def bound(self, leaf: str, mixer: TokenMixer) -> Step:
        """Return the step with the settings of `mixer`, such as its number of heads, for the parameter named
        `leaf`.
        """
        return self

    def _with(self, mixer: TokenMixer, **settings: str) -> Step:
        """Return the step with fields set from a mixer. `settings` names the mixer's attribute for each
        field. If the mixer lacks any of these attributes, return the step unchanged.
        """
        if not all(hasattr(mixer, name) for name in settings.values()):
            return self
        return replace(self, **{field: getattr(mixer, name) for field, name in settings.items()})

    def shapes(self, result: Shape) -> tuple[Shape, ...]:
        """Return the shapes that the step's input may have if its result has the shape `result`."""
        return (result,)

    def settled(self, usual: bool) -> Step:
        """Return the step for the shape that the file's tensor has. `usual` says whether this is the first
        shape that `shapes` returns.
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
    """Read a linear map that some files store with its output axis first, and other files with its output
    axis last. The stored shape tells which axis is first.

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
    """Reorder query or key rows that are stored for an interleaved rotation, as in GGUF files of Llama.

    In the file, rows 2j and 2j + 1 of a head are rotated as a pair. In the result, a pair is row j of the
    head's first half and row j of its second half."""

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
    """Separate queries, keys and values that are fused group by group, as [G, R + 2, K]. GPT-NeoX, BLOOM
    (both R = 1) and Falcon store them so.

    G is the number of groups, R the number of query heads in a group, and K the head size. The result has all
    queries first, then all keys, then all values.
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
    """Separate queries and gates that are stored head by head, as [H, 2, K] (Qwen3-Next). In the result, all
    queries come first, then all gates.

    H is the number of heads, and K the head size."""

    head_size: int = 0

    def bound(self, leaf: str, mixer: TokenMixer) -> Step:
        return self._with(mixer, head_size="head_size")

    def apply(self, weight: Weight) -> Weight:
        return _by_kind(weight, weight.shape[-1] // (2 * self.head_size), [self.head_size])


@dataclass(frozen=True)
class ByKeyHead(Step):
    """Reorder the columns of a gated delta network, which the file stores key head by key head (Qwen3-Next).

    Each of the G key heads has its own queries and keys of size K, and the values and output gates of the R
    value heads that share it, of size V each: [G, K + K + R·V + R·V]. The two rates of each value head are
    stored alike: [G, R + R]. The result has all queries first, then all keys, and so on.
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
    """Reorder the value heads of a gated delta network so that the value heads of one key head are neighbours
    (Qwen 3.5 in GGUF).

    The file stores one value head of each key head in turn. The value heads are columns of a matrix, or rows
    of the output projection. The first `before` columns, which belong to queries and keys, aren't moved.
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
    """Separate three matrices that are stored side by side in each of four parts of the columns (CodeGen).

    In the result, all columns of the first matrix come first, then all columns of the second, then the
    third."""

    def apply(self, weight: Weight) -> Weight:
        third = weight.shape[-1] // 12
        return _by_kind(weight, 4, [third, 2 * third])


class NegatedExp(Step):
    """Recover a parameter from its negated exponential, which the file stores. GGUF stores the decay rates of
    recurrent states in this form.
    """

    def apply(self, weight: Weight) -> Weight:
        assert isinstance(weight, np.ndarray)
        with np.errstate(divide="ignore", invalid="ignore"):  # what isn't finite is refused as a leaf
            return np.log(-weight)


class Exp(Step):
    """Recover a parameter from its exponential, which the file stores. GGUF stores the rates of Ling 3's
    bounded decays in this form.
    """

    def apply(self, weight: Weight) -> Weight:
        assert isinstance(weight, np.ndarray)
        with np.errstate(divide="ignore", invalid="ignore"):  # what isn't finite is refused as a leaf
            return np.log(weight)


class InTurn(Step):
    """Separate two matrices, or two biases, that are stored with alternating columns: gate and up projection
    of the experts of gpt-oss.

    The result has all columns of the first, and then all columns of the second.
    """

    def apply(self, weight: Weight) -> Weight:
        order = np.arange(weight.shape[-1]).reshape(-1, 2).T.reshape(-1)
        return _each_array(weight, lambda a: a[..., order])


class PlusOne(Step):
    """Add one to the weight of a norm, because the file stores the weight's difference from one (Gemma)."""

    def apply(self, weight: Weight) -> Weight:
        assert isinstance(weight, np.ndarray)
        return weight + np.float32(1)


class MaybeVector(Step):
    """Make a matrix with one row from a vector, since llama.cpp's tools drop an axis of size 1. Larger
    matrices are unchanged."""

    def shapes(self, result: Shape) -> tuple[Shape, ...]:
        return (result, result[1:]) if result[0] == 1 else (result,)

    def apply(self, weight: Weight) -> Weight:
        return np.atleast_2d(weight) if isinstance(weight, np.ndarray) else weight


class AddColumn(Step):
    """Make a matrix with one column from a vector, or from a matrix with one row.

    Newer versions of llama.cpp's converter store the matrix as one row."""

    def shapes(self, result: Shape) -> tuple[Shape, ...]:
        return (result[:-1], (1, *result[:-1]))

    def apply(self, weight: Weight) -> Weight:
        assert isinstance(weight, np.ndarray)
        return weight.reshape(-1, 1)


@dataclass(frozen=True)
class Flatten(Step):
    """Make a vector from a matrix with one column, or from a matrix with one row per group of heads. Mamba 2
    stores such parameters in GGUF."""

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
    """Make a vector from a matrix with one row (BART). The file may store a further axis of size 1 (RWKV)."""

    def shapes(self, result: Shape) -> tuple[Shape, ...]:
        return (1, *result), (1, 1, *result)

    def apply(self, weight: Weight) -> Weight:
        assert isinstance(weight, np.ndarray)
        return weight.reshape(-1)


@dataclass(frozen=True)
class KeysThenValues(Step):
    """Reorder the columns of a projection from a latent to keys and values, which the file stores head by
    head as [H, U + V] (DeepSeek).

    H is the number of heads, U the key size and V the value size. In the result, all keys come first, then
    all values."""

    heads: int = 0
    key_size: int = 0

    def bound(self, leaf: str, mixer: TokenMixer) -> Step:
        return self._with(mixer, heads="heads", key_size="key_size")

    def apply(self, weight: Weight) -> Weight:
        return _by_kind(weight, self.heads, [self.key_size])


@dataclass(frozen=True)
class ByHead(Step):
    """Make a projection [C, H·F] from a tensor [H, C, F] with one matrix for each of H heads."""

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
    """Make a tensor [..., H·K] from a tensor [..., H, K], which stores the heads along a separate axis
    (XLNet)."""

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
    """Read the kernel of a depthwise convolution, which is stored in the form of torch's Conv1d, [channels,
    1, taps]. The result is [taps, channels].
    """

    def shapes(self, result: Shape) -> tuple[Shape, ...]:
        return ((result[1], 1, result[0]),)

    def apply(self, weight: Weight) -> Weight:
        assert isinstance(weight, np.ndarray)
        return weight[:, 0].T


@dataclass(frozen=True)
class Kernel(Step):
    """Read the kernel of a convolution, which is stored in the form of torch's Conv1d, [F, D, length].

    F is the number of outputs, and D the number of inputs. Without a `length`, F must equal D. The result has
    one matrix [inputs, outputs] for each position of the kernel, stacked along the first axis.
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
    """Make one matrix [D, F] from a kernel [F, D / 4, 1] of a convolution in four groups (SqueezeBERT).
    Elements between different groups are zeros."""

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
    """Make one matrix [D, F] from a linear map that the file may store as G matrices [D / G, F / G], one for
    each group of channels (ConvBERT). Elements between different groups are zeros.
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
    """Add zeros after each value head, so that value heads are as wide as key heads (MiMo-V2-Flash)."""

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
    """Drop the last eight rows of a table, which follow the vocabulary's rows and are for ids of images
    (Llama 3.2 Vision).
    """

    def shapes(self, result: Shape) -> tuple[Shape, ...]:
        return ((result[0] + 8, *result[1:]),)

    def takes(self, blocks: Blocks) -> bool:
        return False

    def apply(self, weight: Weight) -> Weight:
        assert isinstance(weight, np.ndarray)
        return weight[:-8]


class ZerosAfter(Step):
    """Add zeros after a stored bias, as the bias of a second projection that has no bias in the file
    (DeBERTa's keys).
    """

    def shapes(self, result: Shape) -> tuple[Shape, ...]:
        return ((result[0] // 2,),)

    def apply(self, weight: Weight) -> Weight:
        assert isinstance(weight, np.ndarray)
        return np.concatenate([weight, np.zeros_like(weight)])


class ZeroFirst(Step):
    """Add a row of zeros before a matrix, or a zero before a bias. The zeros give a first, implicit label the
    logit 0 (ELECTRA).

    The softmax of a logit and a zero is the logit's sigmoid.
    """

    def shapes(self, result: Shape) -> tuple[Shape, ...]:
        return ((result[0] - 1, *result[1:]),)

    def apply(self, weight: Weight) -> Weight:
        assert isinstance(weight, np.ndarray)
        return np.concatenate([np.zeros_like(weight[:1]), weight])


@dataclass(frozen=True)
class Part(Step):
    """Take one of `count` parts along the first axis. An example is one expert from a tensor that contains
    all experts of a layer.

    The source reads only this part from the file, so the step itself does nothing.
    """

    index: int
    count: int

    def shapes(self, result: Shape) -> tuple[Shape, ...]:
        return ((self.count, *result),)

    def apply(self, weight: Weight) -> Weight:
        return weight


class StackRows(Step):
    """Stack several tensors, one for each head, as the rows of one parameter. The loader stacks the tensors,
    so the step itself does nothing.
    """

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

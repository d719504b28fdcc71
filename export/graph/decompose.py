"""Replace the operators of a captured PyTorch program that ONNX lacks, without tracing the program again.

The exporter lets torch decompose a program. For this, torch traces the program two more times, which takes
more than half of an export's time. But few operators of a program need decomposing, and most of these are
views that only state a shape in another way. This module replaces these operators in place. All other
operators stay as torch would have left them.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Container, Sequence
from typing import Any

import torch
from onnxscript import opset18 as op
from torch import fx
from torch._export.utils import _is_preservable_cia_op
from torch._ops import HigherOrderOperator, OpOverload
from torch.export import ExportedProgram

aten = torch.ops.aten

# The exporter drops them in any case.
ASSERTIONS = frozenset([aten._assert_scalar.default, aten._assert_tensor_metadata.default])


def _cast(x: Any, dtype: int) -> Any:
    """Return ONNX's Cast for torch's operator `aten.to.dtype`. The exporter itself can only translate the
    operators into which torch decomposes `aten.to.dtype`.
    """
    return op.Cast(x, to=dtype)


# Translations to give to the exporter, for operators that stay as well.
TRANSLATED: dict[Any, Callable[..., Any]] = {aten.to.dtype: _cast}


def decompose(program: ExportedProgram, table: Container[Any]) -> bool:
    """Replace the operators that `RULES` can replace and the exporter's table decomposes. Returns False if
    operators without a rule remain.

    The outputs and their names stay the same. If several nodes compute the same length from the inputs, all
    readers get the first of these nodes.
    """
    if not all(node.target in RULES or _stays(node.target, table) for node in program.graph.nodes):
        return False
    lengths: dict[Any, fx.Node] = {}
    for node in list(program.graph.nodes):
        if node.target in ASSERTIONS:
            program.graph.erase_node(node)
        elif node.target in RULES and not _stays(node.target, table):
            RULES[node.target](_Place(node, lengths), *node.args, **node.kwargs)
        node.replace_all_uses_with(_first(node, lengths))
    program.graph.eliminate_dead_code()
    return all(_stays(node.target, table) for node in program.graph.nodes)


def _stays(target: Any, table: Container[Any]) -> bool:
    """Return whether torch's decomposition would leave the operator as it is.

    torch decomposes the operators in the table, composite operators that may return a view of their input,
    and operators that contain graphs of their own, such as `scan`.
    """
    if not isinstance(target, OpOverload):
        return not isinstance(target, HigherOrderOperator)
    if target in TRANSLATED:
        return True
    if target in table or target._schema.is_mutable:
        return False
    return not target._can_decompose() or _is_preservable_cia_op(target)


def _first(node: fx.Node, lengths: dict[Any, fx.Node]) -> fx.Node:
    """Return the first node that computes the same length as the given node. If the node doesn't compute a
    length, the node itself is returned.
    """
    value = node.meta.get("val")
    return lengths.setdefault(value.node.expr, node) if isinstance(value, torch.SymInt) else node


class _Place:
    """The place of a node in a program. New nodes are inserted before the node, and `lengths` contains the
    lengths that are computed before it.
    """

    def __init__(self, node: fx.Node, lengths: dict[Any, fx.Node]) -> None:
        self.node = node
        self.lengths = lengths

    def new(self, function: Callable[..., Any], *args: Any, **options: Any) -> fx.Node:
        with self.node.graph.inserting_before(self.node):
            made = self.node.graph.call_function(function, args, options)
        with self.node.meta["val"].fake_mode:
            value = function(*fx.map_arg(args, lambda read: read.meta["val"]), **options)
        made.meta = {**self.node.meta, "val": value}
        return _first(made, self.lengths)

    def becomes(self, function: Callable[..., Any], *args: Any, **options: Any) -> None:
        """Replace the node's operator and arguments. The node keeps its name, which may be the name of an
        output.
        """
        self.node.target, self.node.args, self.node.kwargs = function, args, options

    def shape(self, x: fx.Node) -> list[Any]:
        """Return the shape of x. A size is a number, or a node that computes the size if it depends on the
        inputs.
        """
        return [
            self.lengths.get(length.node.expr) or self.new(aten.sym_size.int, x, axis)
            if isinstance(length, torch.SymInt)
            else length
            for axis, length in enumerate(x.meta["val"].shape)
        ]

    def view(self, x: fx.Node, shape: Sequence[Any]) -> None:
        # torch refuses a view across memory in another order, which may depend on the inputs.
        x = self.new(aten.clone.default, x, memory_format=torch.contiguous_format)
        known = self.node.meta["val"].shape
        sizes = [size if isinstance(size, int) else length for size, length in zip(known, shape, strict=True)]
        self.becomes(aten.view.default, x, sizes)


def _chunk(place: _Place, x: fx.Node, chunks: int, dim: int = 0) -> None:
    place.becomes(aten.split.Tensor, x, place.node.meta["val"][0].shape[dim], dim)


def _expand_as(place: _Place, x: fx.Node, other: fx.Node) -> None:
    place.becomes(aten.expand.default, x, place.shape(other))


def _flatten(place: _Place, x: fx.Node, start_dim: int = 0, end_dim: int = -1) -> None:
    rank, shape = x.meta["val"].ndim, place.shape(x)
    start, end = start_dim % rank, end_dim % rank

    def times(a: Any, b: Any) -> Any:
        return a * b if isinstance(a, int) and isinstance(b, int) else place.new(operator.mul, a, b)

    merged = functools.reduce(times, shape[start : end + 1])
    place.view(x, [*shape[:start], merged, *shape[end + 1 :]])


def _index_add(place: _Place, x: fx.Node, dim: int, index: fx.Node, source: fx.Node) -> None:
    place.becomes(aten.index_put.default, x, [*[None] * (dim % x.meta["val"].ndim), index], source, True)


def _matrix_transpose(place: _Place, x: fx.Node) -> None:
    place.becomes(aten.transpose.int, x, -2, -1)


def _narrow(place: _Place, x: fx.Node, dim: int, start: Any, length: Any) -> None:
    numbers = isinstance(start, int) and isinstance(length, int)
    end = start + length if numbers else place.new(operator.add, start, length)
    place.becomes(aten.slice.Tensor, x, dim, start, end)


def _rms_norm(
    place: _Place, x: fx.Node, normalized_shape: Sequence[int], weight: fx.Node | None = None, eps: float = 0
) -> None:
    if x.meta["val"].dtype != torch.float32:
        return  # torch casts them
    axes = [-1 - axis for axis in range(len(normalized_shape))]
    mean = place.new(aten.mean.dim, place.new(aten.pow.Tensor_Scalar, x, 2), axes, True)
    factor = place.new(aten.rsqrt.default, place.new(aten.add.Scalar, mean, eps))
    if weight is None:
        place.becomes(aten.mul.Tensor, x, factor)
    else:
        place.becomes(aten.mul.Tensor, place.new(aten.mul.Tensor, x, factor), weight)


def _tensor_split(place: _Place, x: fx.Node, indices: Sequence[int], dim: int = 0) -> None:
    sizes = [part.shape[dim] for part in place.node.meta["val"]]
    place.becomes(aten.split_with_sizes.default, x, sizes, dim)


def _transpose(place: _Place, x: fx.Node) -> None:
    place.becomes(aten.permute.default, x, list(reversed(range(x.meta["val"].ndim))))


def _unflatten(place: _Place, x: fx.Node, dim: int, sizes: Sequence[Any]) -> None:
    dim, shape = dim % x.meta["val"].ndim, place.shape(x)
    place.view(x, [*shape[:dim], *sizes, *shape[dim + 1 :]])


RULES: dict[Any, Callable[..., None]] = {
    aten.__and__.Tensor: lambda place, a, b: place.becomes(aten.bitwise_and.Tensor, a, b),
    aten.__or__.Tensor: lambda place, a, b: place.becomes(aten.bitwise_or.Tensor, a, b),
    aten.chunk.default: _chunk,
    aten.clip.default: lambda place, x, *bounds, **named: place.becomes(
        aten.clamp.default, x, *bounds, **named
    ),
    aten.detach_.default: lambda place, x: place.becomes(aten.alias.default, x),
    aten.expand_as.default: _expand_as,
    aten.flatten.using_ints: _flatten,
    aten.index_add.default: _index_add,
    aten.mT.default: _matrix_transpose,
    aten.narrow.default: _narrow,
    aten.numpy_T.default: _transpose,
    aten.reshape.default: lambda place, x, shape: place.view(x, shape),
    aten.rms_norm.default: _rms_norm,
    aten.rsub.Scalar: lambda place, x, number, alpha=1: place.becomes(
        aten.sub.Tensor, number, x, alpha=alpha
    ),
    aten.swapaxes.default: lambda place, x, a, b: place.becomes(aten.transpose.int, x, a, b),
    aten.tensor_split.indices: _tensor_split,
    aten.unflatten.int: _unflatten,
}

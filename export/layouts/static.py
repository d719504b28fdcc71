"""Write a bundle's graph of the target standard with fixed shapes, which NPUs and mobile runtimes need.

    model.onnx        the bundle's graph with a fixed size for each axis
    model.onnx.data   the bundle's weights
    tokenizer.json    as in the bundle, with its chat templates
    encoder.onnx      only for Whisper: the encoder, which reads frames of a sound. model.onnx is then the
                      decoder. The number of frames is fixed anyway

The graph takes `time` tokens per run. A shorter row is filled up on the right. The graph outputs logits at
the single position `at`.

A decoder's cache has room for `capacity` tokens, including padding. So a text may have capacity − time + 1
tokens. Rotary tables are inputs, with a row for each token of the cache.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnx_ir as ir
from onnx_ir import convenience
from onnx_ir.passes import common

from ...refimpl.config import Config, SampleStem
from ...refimpl.errors import ExportError
from ...runtime.bundle.bundle import Bundle
from ...runtime.bundle.graph_io import ENCODER, GRAPH
from ...runtime.bundle.manifest import DATA
from ...runtime.bundle.targets import Target
from ..graph import passes
from . import arithmetic
from .data_file import copy
from .layout import BundleLayout


@dataclass(frozen=True)
class Sizes:
    """The fixed sizes of a graph: the number of rows, and the number of tokens per run. `capacity` is the
    number of tokens for which a decoder's cache has room.
    """

    batch: int
    time: int
    capacity: int | None = None

    def axes(self) -> dict[str, int]:
        """Return the size of each named axis of a graph."""
        sizes = {"batch": self.batch, "time": self.time, "wanted": 1}
        return sizes if self.capacity is None else sizes | {"capacity": self.capacity}


def layout(sizes: Sizes) -> BundleLayout:
    """Return the layout that writes graphs with these sizes."""
    return BundleLayout("fixed shapes", partial(refusal, sizes), partial(write, sizes))


def refusal(sizes: Sizes, config: Config, target: Target) -> str | None:
    """Return the reason why a model's graph can't have these sizes, or None if it can."""
    if target.name != "standard":
        return (
            f"a graph with fixed shapes may have only operators of ai.onnx, got target={target.name}: export "
            "for target=standard"
        )
    if isinstance(config.stem, SampleStem):
        return (
            "a model that reads the samples of a sound can't have fixed shapes, because sounds "
            "differ in length"
        )
    if len(config.stacks) > 1 and "decoder" in config.stacks and config.sound_shape is None:
        return (
            "a decoder that reads an encoder's text can't have fixed shapes, because that text has "
            "another length"
        )
    if min(sizes.axes().values()) < 1:
        return f"sizes must be at least 1, got {sizes.axes()}"
    if "decoder" not in config.stacks:
        longest, tokens = config.context, "time"
        if sizes.capacity is not None:
            return (
                "capacity is the size of a decoder's cache, but this model has no decoder: leave out capacity"
            )
    else:
        longest, tokens = sizes.capacity or config.context, "time (because of capacity)"
        if sizes.capacity is None:
            return "capacity is missing: give the number of tokens that the decoder's cache can store"
        if sizes.capacity > config.context:
            return f"capacity may be at most the context ({config.context} tokens), got {sizes.capacity}"
    if sizes.time > longest:
        return f"{tokens} may be at most {longest} tokens, got {sizes.time}"
    return None


def write(sizes: Sizes, bundle: Bundle, folder: Path) -> None:
    """Write the bundle's graphs with fixed sizes, and their weights. Raises ExportError if an axis still has
    no fixed size.
    """
    copy(bundle.path / DATA, folder / DATA)
    for file, model in graphs(sizes, bundle, folder / DATA).items():
        ir.save(model, folder / file)


def graphs(sizes: Sizes, bundle: Bundle, data: Path) -> dict[str, ir.Model]:
    """Return the bundle's graphs with fixed sizes, by file name. The graphs read their weights from the file
    `data`.

    Raises ExportError if an axis still has no fixed size.
    """
    found, heard = {}, bundle.config.sound_shape
    axes = sizes.axes() | ({} if heard is None else {"text": heard[0] // 2})
    for file in (GRAPH,) if heard is None else (GRAPH, ENCODER):
        found[file] = ir.load(bundle.path / file)
        fix(found[file], axes, bundle.manifest.tensors)
        passes.point_weights(found[file], bundle.manifest.tensors, data)
    return found


def fix(model: ir.Model, sizes: Mapping[str, int], stored: Mapping[str, object]) -> None:
    """Give each axis of the graph a fixed size, and fold all values that are then constant. Raises
    ExportError if an axis still has no fixed size.
    """
    for value in (*model.graph.inputs, *model.graph.outputs):
        assert value.shape is not None
        value.shape = ir.Shape([sizes.get(str(axis), axis) for axis in value.shape])
    for value in (value for node in model.graph for value in node.outputs if value.name):
        if value.shape is not None and not value.is_graph_output():
            value.shape = ir.Shape([sizes.get(str(axis), axis) for axis in value.shape])
    passes.optimize(model, stored)
    arithmetic.rewrite(model)
    _divide(model)
    _widen(model)
    common.CommonSubexpressionEliminationPass()(model)
    common.RemoveUnusedNodesPass()(model)
    common.ShapeInferencePass(data_prop=False)(model)
    for node in model.graph:
        for value in node.outputs:
            if value.name and (value.shape is None or not value.shape.is_static()):
                raise ExportError(
                    f"value {value.name} must have a fixed shape, got {value.shape}: please report this"
                )


def _widen(model: ir.Model) -> None:
    """Insert a cast to int32 before each cast of bytes to floats. Without it, Qualcomm's provider turns 255
    into 1.0.
    """
    for node in [node for node in model.graph if node.op_type == "Cast"]:
        given, to = node.inputs[0], node.outputs[0].dtype
        if given is None or given.dtype != ir.DataType.UINT8 or to is None or not to.is_floating_point():
            continue
        wide = ir.node("Cast", [given], {"to": ir.DataType.INT32}, name=f"{node.name}.int32")
        wide.outputs[0].name = f"{node.outputs[0].name}.int32"
        wide.outputs[0].shape, wide.outputs[0].type = given.shape, ir.TensorType(ir.DataType.INT32)
        model.graph.insert_before(node, wide)
        node.replace_input_with(0, wide.outputs[0])


def _divide(model: ir.Model) -> None:
    """Replace each Reciprocal of x by the Div 1 / x. NNAPI lacks Reciprocal, and CoreML's adds an epsilon."""
    nodes = [node for node in model.graph if node.op_type == "Reciprocal"]
    if not nodes:
        return
    one = ir.Value(name="one", const_value=ir.tensor(np.array(1, np.float32), name="one"))
    model.graph.register_initializer(one)
    for node in nodes:
        new = ir.node("Div", [one, node.inputs[0]], name=node.name)
        new.outputs[0].name = node.outputs[0].name
        convenience.replace_nodes_and_values(model.graph, node, [node], [new], node.outputs, new.outputs)

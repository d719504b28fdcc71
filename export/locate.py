"""Where a graph leaves the specification: the first part out of its budget, by name.

The graph is cut at the values between its parts, which the names of the weights lead to. Every part
is fed what the specification says stands there, so that errors don't cascade and, since equal
numbers round to equal codes, quantized parts are held to budgets of float rounding too. One run
shows the error of each part.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from ..refimpl import params as trees
from ..refimpl.config import LM, Config, Gated, Layer, MoE, Norm, Rope, Window
from ..refimpl.errors import BundleError
from ..refimpl.ops.activation import activation
from ..refimpl.ops.attention import cached_attention
from ..refimpl.ops.block import normalize, projected
from ..refimpl.ops.linear import linear
from ..refimpl.ops.model import embed, lm_logits, position_tables, score_biases
from ..refimpl.ops.quant import Blocks
from ..runtime import windows
from ..runtime.bundle import Bundle
from ..runtime.golden import CODE_MOVE, FACTOR, SEED, TRIES, largest
from ..runtime.ports import GRAPH
from ..runtime.session import one_line, open_session, options
from .graph import quiet
from .ops import attention as mirror

# What may stand between a product and the residual sum, each one node.
PASSED = ("Add", "Mul", "Cast", "Reshape", "RMSNormalization", "LayerNormalization")

Array = np.ndarray
Values = dict[str, Array]


@dataclass(frozen=True)
class Part:
    """A part of the graph, its largest error and the budget, and what a second look at it showed."""

    name: str
    error: float
    budget: float
    note: str = ""

    @property
    def ok(self) -> bool:
        return bool(self.error <= self.budget)


@dataclass(frozen=True)
class Piece:
    """A part as the specification states it: its output's name, its inputs' names, and the function."""

    name: str
    inputs: tuple[str, ...]
    compute: Callable[..., Array]
    tree: Any


def locate(bundle: Bundle, tokens: Array) -> list[Part]:
    """The parts of the graph on the tokens [B, T], in the order of a forward pass, as far as followed.

    BundleError for a model with an encoder, whose parts have no names yet.
    """
    config = bundle.config
    if config.encoder is not None:
        raise BundleError("the parts of a graph are known for a decoder alone, this model has an encoder")
    model = onnx.load(bundle.path / GRAPH, load_external_data=False)
    places = _places(model.graph, config)
    if not places:
        return []
    pieces = list(_pieces(config, bundle.params(), tokens))
    dtype = np.dtype(bundle.dtype)
    truth, budgets = _specification(pieces, dtype)
    cut = {name: value for name, value in places.items() if name in truth}
    found = _replay(bundle, model, cut, truth, tokens)
    made = []
    for piece in pieces:
        if piece.name in found:
            part = Part(piece.name, largest(found[piece.name], truth[piece.name]), budgets[piece.name])
            if not part.ok and piece.name.endswith("attention, heads") and bundle.cache != "copied":
                part = replace(part, note=_as_standard(config, piece, truth, budgets[piece.name]))
            made.append(part)
    return made


def first(parts: list[Part]) -> Part | None:
    """The first part out of its budget."""
    return next((part for part in parts if not part.ok), None)


# What the specification says


def _pieces(config: Config, params: Any, tokens: Array) -> Iterator[Piece]:
    stack, decoder = config.decoder, params["decoder"]
    assert stack is not None
    lm = config.head
    assert isinstance(lm, LM)
    added = {part: decoder[part] for part in ("positions", "relative_bias") if part in decoder}
    first = {"first_norm": dict(trees.flatten(decoder["first_norm"]))} if "first_norm" in decoder else {}

    def embedded(tree: Any) -> Array:
        at = np.arange(tokens.shape[1])[None]
        return embed(tokens, at, tree["own"], tree["stack"], config=config.embedding, stack=stack)

    own = dict(trees.flatten(params["embedding"]))
    yield Piece("embedding", (), embedded, {"own": own, "stack": {**added, **first}})
    stream = "embedding"
    for i, layer in enumerate(config.layers):
        tree = trees.unflatten(dict(trees.flatten(decoder["layers"][i])))
        attn, mlp, at = tree["attn"] | added, tree["mlp"], f"layer {i}, "
        a, heads, h = f"{at}attention, input", f"{at}attention, heads", f"{at}attention, output"
        norm = lambda x, t, norm: normalize(x, t, norm=norm)  # noqa: E731
        yield Piece(a, (stream,), _with(norm, norm=layer.attention.pre), tree.get("attn_pre"))
        yield Piece(heads, (a,), _with(_heads, layer=layer, config=config), attn)
        if not _followed(layer):
            return
        out = {"w": attn["wo"], "b": attn.get("bo"), "post": tree.get("attn_post", {})}
        yield Piece(h, (stream, heads), _with(_added, layer=layer, norm=layer.attention.post), out)
        if isinstance(layer.mlp, MoE):
            return  # which expert a vector goes to is decided inside: no one value is a mixture's hidden one
        m, hidden, y = f"{at}mlp, input", f"{at}mlp, hidden", f"{at}mlp, output"
        yield Piece(m, (h,), _with(norm, norm=layer.mlp.pre), tree.get("mlp_pre"))
        yield Piece(hidden, (m,), _with(_hidden, layer=layer), mlp)
        out = {"w": mlp["down"], "b": mlp.get("bdown"), "post": tree.get("mlp_post", {})}
        yield Piece(y, (h, hidden), _with(_added, layer=layer, norm=layer.mlp.post), out)
        stream = y
    last = {"norm": dict(trees.flatten(decoder.get("norm", {})))}
    last |= {} if config.embedding.inner is None else {"project": params["head"]["project"]}

    def leaving(x: Array, tree: Any) -> Array:
        y = normalize(x, tree["norm"], norm=stack.final_norm)
        return linear(y, tree["project"]) if "project" in tree else y

    yield Piece("head, input", (stream,), leaving, last)
    tree = {"table": params["embedding" if lm.tied else "head"]["table"]}
    if lm.bias:
        tree["bias"] = params["head"]["bias"]
    head = lambda x, t: lm_logits(x, t["table"], t.get("bias"), head=lm)  # noqa: E731
    yield Piece("logits", ("head, input",), head, tree)


def _with(function: Callable[..., Array], **settings: Any) -> Callable[..., Array]:
    return lambda *args: function(*args, **settings)


def _followed(layer: Layer) -> bool:
    """Whether a layer's streams are told apart: one sublayer after the other, added to its own input."""
    return not (layer.parallel or layer.residual == "norm" or layer.attention.after or layer.mlp.after)


def _added(x: Array, y: Array, tree: Any, *, layer: Layer, norm: Norm | None) -> Array:
    """The stream after a sublayer, of whose last product y is the input."""
    y = normalize(linear(y, tree["w"], tree["b"]), tree["post"], norm=norm)
    return x + (y if layer.scale is None else layer.scale * y)


def _rest(x: Array, tree: Any, layer: Layer, config: Config) -> tuple[list[Array | None], dict[str, Any]]:
    """What cached attention takes beside queries, keys and values: an empty cache, positions, settings."""
    a, (b, t, *_) = layer.attention, x.shape
    empty = np.zeros((b, a.groups, t, a.head_size), x.dtype)
    at, stack = np.arange(t), config.decoder
    assert stack is not None
    cos, sin = None, None
    if isinstance(a.position, Rope):
        cos, sin = (y.astype(x.dtype) for y in position_tables(at, config=config)[a.position])
    biases = score_biases(np.tile(at, (b, 1)), at, tree, x.dtype, stack=stack, bidirectional=False)
    settings = {
        "window": a.pattern.size if isinstance(a.pattern, Window) else None,
        "scale": a.scale,
        "softcap": a.softcap,
        "interleaved": isinstance(a.position, Rope) and a.position.interleaved,
    }
    bias, scales = biases.get((a.position, a.heads)), [tree.get(f"{side}_scale") for side in "kv"]
    return [empty, empty, np.zeros(b, np.int64), cos, sin, bias, *scales], settings


def _heads(x: Array, tree: Any, *, layer: Layer, config: Config) -> Array:
    given, settings = _rest(x, tree, layer, config)
    call: Any = cached_attention
    y, _, _ = call(*projected(x, tree, config=layer.attention), *given, **settings)
    return y.reshape(*x.shape[:2], -1)


def _hidden(x: Array, tree: Any, *, layer: Layer) -> Array:
    up = linear(x, tree["up"], tree.get("bup"))
    if isinstance(layer.mlp, Gated):
        gate = linear(x, tree["gate"], tree.get("bgate"))
        return activation(gate, kind=layer.mlp.activation) * up
    return activation(up, kind=layer.mlp.activation)


def _specification(pieces: list[Piece], dtype: np.dtype) -> tuple[Values, dict[str, float]]:
    """What stands between the parts, and each part's budget 4 · (A + J + u), activations unrounded."""
    truth: Values = {}
    budgets = {}
    eps, rng = float(np.finfo(dtype).eps), np.random.default_rng(SEED)
    for piece in pieces:
        move = CODE_MOVE if "k_scale" in (piece.tree or ()) else eps  # codes of a cache flip, see golden
        given = [truth[name].astype(np.float32) for name in piece.inputs]
        run = lambda inputs, kind, plain, p=piece: p.compute(*inputs, _cast(p.tree, kind, plain))  # noqa: E731
        own = run(given, np.float32, False)
        wide = [x.astype(np.float64) for x in given]
        exact = run(wide, np.float64, True)
        moves = [0.0]
        for _ in range(TRIES if wide else 0):
            moved = [x * (1 + move * rng.choice([-1, 1], x.shape)) for x in wide]
            moves.append(largest(run(moved, np.float64, True), exact))
        a = largest(run(given, np.float32, True), exact)
        budgets[piece.name] = FACTOR * (a + max(moves) + eps * float(np.abs(exact).max()))
        truth[piece.name] = own.astype(dtype)
    return truth, budgets


def _cast(tree: Any, dtype: Any, plain: bool) -> Any:
    if isinstance(tree, dict):
        return {name: _cast(leaf, dtype, plain) for name, leaf in tree.items()}
    if isinstance(tree, Blocks):
        minimum = None if tree.minimum is None else tree.minimum.astype(dtype)
        activations = "none" if plain else tree.activations
        return replace(tree, scale=tree.scale.astype(dtype), minimum=minimum, activations=activations)
    return tree if tree is None else tree.astype(dtype)


# Where it stands in the graph


def _places(graph: onnx.GraphProto, config: Config) -> dict[str, str]:
    """Name of a part -> the graph's value that it computes."""
    uses: dict[str, list[onnx.NodeProto]] = {}
    makers = {name: node for node in graph.node for name in node.output}
    constant = {value.name for value in graph.initializer}
    for node in graph.node:
        if all(name in constant or not name for name in node.input):
            constant.update(node.output)
        for name in dict.fromkeys(node.input):
            uses.setdefault(name, []).append(node)

    def product(*leaves: str) -> onnx.NodeProto:
        """The node that multiplies activations with one of these leaves."""
        near = [v.name for v in graph.initializer if v.name.startswith(tuple(f"{leaf}." for leaf in leaves))]
        near += [v.name for v in graph.initializer if v.name in leaves]
        while near:
            name = near.pop(0)
            for node in uses.get(name, []):
                if "Gather" in node.op_type:
                    continue
                if node.output[0] not in constant and name in node.input[1:]:
                    return node
                near += [n for n in node.output if n in constant]
        raise BundleError(f"{GRAPH}: no product with {' or '.join(leaves)}: export the model again")

    def fed(node: onnx.NodeProto) -> str:
        """The activations that a product takes, before they were rounded to codes."""
        name = node.input[0]
        while name in makers and makers[name].op_type in ("QuantizeLinear", "DynamicQuantizeLinear"):
            name = makers[makers[name].input[0]].input[0]  # codes of x / largest
        return name

    def summed(node: onnx.NodeProto) -> tuple[str, str]:
        """The residual sum that a product's output ends in, and the product's side of it, or nothing."""
        name, side, total = node.output[0], "", ""
        while len(uses.get(name, [])) == 1 and uses[name][0].op_type in PASSED:
            node = uses[name][0]
            if node.op_type == "Add":
                side, total = name, node.output[0]
            name = node.output[0]
        return total, side

    found = {}
    for i, layer in enumerate(config.layers):
        at, leaf = f"layer {i}, ", f"decoder.layers.{i}."
        out = product(f"{leaf}attn.wo")
        found[f"{at}attention, input"] = fed(product(f"{leaf}attn.wqkv", f"{leaf}attn.wq"))
        found[f"{at}attention, heads"] = fed(out)
        total, side = summed(out) if _followed(layer) else ("", "")
        if not total:
            return found if i else {}  # without the first sum nobody knows the embedding
        found[f"{at}attention, output"] = total
        if i == 0:
            (found["embedding"],) = {*makers[total].input} - {side}
        if isinstance(layer.mlp, MoE):
            break
        down = product(f"{leaf}mlp.down")
        found[f"{at}mlp, input"] = fed(product(f"{leaf}mlp.gate_up", f"{leaf}mlp.gate", f"{leaf}mlp.up"))
        found[f"{at}mlp, hidden"] = fed(down)
        found[f"{at}mlp, output"], _ = summed(down)
    tied = "head.table" not in trees.shapes(config)
    found["head, input"] = fed(product("embedding.table" if tied else "head.table"))
    found["logits"] = "logits"
    return found


def _replay(
    bundle: Bundle, model: onnx.ModelProto, cut: dict[str, str], truth: Values, tokens: Array
) -> Values:
    """Run the graph with every cut value replaced by the specification's; what each part then gives."""
    graph, inner = model.graph, {value for name, value in cut.items() if name != "logits"}
    kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(bundle.dtype))
    for node in graph.node:
        for i, name in enumerate(node.input):
            if name in inner:
                node.input[i] = f"{name}.given"
    for name in inner:
        graph.input.append(onnx.helper.make_tensor_value_info(f"{name}.given", kind, None))
        graph.output.append(onnx.helper.make_tensor_value_info(name, kind, None))
    session = open_session(bundle.path / GRAPH, "cpu", options(), model.SerializeToString())
    config, (b, t) = bundle.config, tokens.shape
    feeds: Values = {"tokens": tokens, "past": np.zeros(b, np.int64), "at": np.tile(np.arange(t), (b, 1))}
    for i, pair in enumerate(position_tables(np.arange(t), config=config).values()):
        feeds |= {
            f"{name}.{i}": table.astype(bundle.dtype)
            for name, table in zip(("cos", "sin"), pair, strict=True)
        }
    for i, layer in enumerate(config.layers):
        a = layer.attention
        dtype = np.int8 if a.kv == "int8" else bundle.dtype
        empty = np.zeros((b, a.groups, t, a.head_size), dtype)
        feeds |= {f"k.{i}": empty, f"v.{i}": empty}
    feeds |= {f"held.{size}": np.zeros(b, np.int64) for size in windows.sizes(config)}
    feeds |= {f"{value}.given": truth[name] for name, value in cut.items() if value in inner}
    wanted = {v.name for v in session.get_inputs()}
    with one_line(f"{GRAPH} can't be run in parts"):
        values = session.run(list(cut.values()), {name: feeds[name] for name in wanted})
    return {name: np.asarray(value).astype(np.float64) for name, value in zip(cut, values, strict=True)}


def _as_standard(config: Config, piece: Piece, truth: Values, budget: float) -> str:
    """Whether the operator is wrong or what it is given: the same attention, exported as standard."""
    index = int(piece.name.split(",")[0].removeprefix("layer "))
    layer = config.layers[index]
    x = truth[piece.inputs[0]].astype(np.float32)
    tree = _cast(piece.tree, np.float32, False)
    given, settings = _rest(x, tree, layer, config)
    arrays = [*projected(x, tree, config=layer.attention), *given]
    tensors = tuple(None if a is None else torch.from_numpy(a) for a in arrays)

    class Alone(torch.nn.Module):
        def forward(self, *args: Any) -> torch.Tensor:
            return mirror.cached_attention(*args, **settings)[0]

    with warnings.catch_warnings(), quiet():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(Alone().eval(), tensors, dynamo=True, verbose=False)
    assert program is not None
    session = open_session(Path("standard"), "cpu", options(), program.model_proto.SerializeToString())
    names = [v.name for v in session.get_inputs()]
    feeds = dict(zip(names, [a for a in arrays if a is not None], strict=True))
    (y,) = session.run(None, feeds)
    error = largest(np.asarray(y).reshape(truth[piece.name].shape), truth[piece.name])
    fused = "the fused operator or its attributes" if error <= budget else "not the fused operator alone"
    return f"{fused}: exported as standard, its error is {error:.2g}"

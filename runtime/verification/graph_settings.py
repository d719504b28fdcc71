"""Compare the settings in a graph with the Config's: norms, attention, activations and other numbers.

The layer of a node is found by the stored tensors that the node reads, which have the names of the Config's
parameters, and by the graph's inputs and outputs for caches and rotary tables. This module uses neither the
names of nodes nor code of `export`. These settings are compared:

    eps of norms           each eps, found by the norm's weight, even if a norm consists of several operators
    attention's operators  heads, scale, window, soft cap, whether causal, rotation, the cosines that are
                           read, and the layer that made the keys
    products with blocks   sizes, bits, whether inputs are rounded, and that all inputs are of one weight
    activations of mlps    the operators that compute them
    tables of distances    each row, and that the largest distance has the last row
    integers that Equal    One integer must be a token of the Config or the number of the expert that it
    compares with          chooses rows for. Several integers must count up from 0.
    any other float        The Config must state it for its layer, the next layer or the parts outside of
                           layers. For a float before any weight, all layers count.
    integers of masks      The Config must state the integer, or the integer before or after it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ...refimpl.config import Activation, Attention, Gated, Layer, Plain, Rope, Stack, has_mtp
from ...refimpl.engine.cache_kinds import cache_kinds
from ..bundle.bundle import Bundle
from ..bundle.graph_io import MTP, Graph
from ..bundle.graph_nodes import Node, content
from ..bundle.kernel_storage import KERNELS
from ..bundle.plan import Tensor
from ..bundle.views import stored_name
from .config_numbers import (
    compared_tokens,
    distance_tables,
    epsilons,
    integers,
    numbers,
    shared_numbers,
    stacks,
)

if TYPE_CHECKING:
    from numpy import ndarray as Array

# What any graph may compute with: signs and halves, the least scale of a row of codes and the largest code,
# and where log(1 + exp x) is x. Numbers beyond HIDDEN hide scores, or are the largest of a type; NaN marks
# a run that is too long.
COMMON = (0.0, 1.0, 2.0, 0.5, 127.0, 128.0, 1e-30, 40.0)
HIDDEN = 30_000.0
NORMS = frozenset(
    {"RMSNormalization", "LayerNormalization", "RMSNorm", "AddRMSNorm", "LayerNorm", "AddLayerNorm"}
)
# What stands between the eps of a norm that is written out and its weight.
IN_NORMS = frozenset({"Sqrt", "Reciprocal", "Div", "Mul", "Cast", "Reshape", "Transpose", "Pow"})
# Attention with a cache: which of its inputs are keys and cosines.
CACHED = {"GroupQueryAttention": (3, 7), "Attention": (1, 6), "SharedAttention": (1, 4)}
POSITIONS = 8  # of Attention's inputs
TEXT_ATTENTION = frozenset({"MultiHeadAttention", "TextAttention"})
# Operators that an activation is made of; another one in an mlp is another activation.
MADE_OF: dict[Activation, frozenset[str]] = {
    "relu": frozenset({"Relu"}),
    "relu_squared": frozenset({"Relu"}),
    "gelu": frozenset({"Gelu", "Erf"}),
    "gelu_tanh": frozenset({"Gelu tanh", "GeluTanh", "Tanh"}),
    "silu": frozenset({"Sigmoid", "Swish", "SiLU", "SwiGLU", "BlockSwiGLU"}),
    "quick_gelu": frozenset({"Sigmoid", "Swish"}),
    "sigmoid": frozenset({"Sigmoid"}),
    "tanh": frozenset({"Tanh"}),
    "mish": frozenset({"Softplus", "Tanh", "Mish"}),
}
# Where an integer is a number and no axis or shape: in masks, buckets of distances and choices.
ARITHMETIC = frozenset(
    {"Add", "Sub", "Mul", "Div", "Mod", "Min", "Max", "Clip", "TopK"}
    | {"Less", "LessOrEqual", "Greater", "GreaterOrEqual"}
)
LOOKUPS = frozenset({"Gather", "GatherND"})
ACTIVATIONS = frozenset().union(*MADE_OF.values())
EXPERT = re.compile(r"\.experts\.(\d+)")


class Place(NamedTuple):
    """The place of a value in the model: the latest stored tensor from which the value is computed.

    `leaf` is the name of this tensor, and `order` is the index of the node that reads this tensor.
    """

    order: int
    leaf: str


NOWHERE = Place(-1, "")


def different_settings(
    data: bytes, graph: Graph, bundle: Bundle, tensors: Mapping[str, Tensor]
) -> tuple[list[str], int]:
    """Return the settings of a graph's file that differ from the Config's, and the number of settings
    compared.

    `tensors` are the stored tensors that the graph reads. The file must be one that `graph_check` accepts.
    """
    settings = _Settings(data, graph, bundle, tensors)
    settings.compare_all()
    return settings.different, settings.compared


class _Settings:
    """The settings of one graph, which are compared with a Config's.

    `compared` counts the settings compared so far. `different` describes the settings that differ.
    """

    def __init__(self, data: bytes, graph: Graph, bundle: Bundle, tensors: Mapping[str, Tensor]) -> None:
        config = bundle.config
        self.graph, self.tensors, self.groups = graph, tensors, bundle.plan.groups
        self.nodes, self.numbers = content(data)
        self.config = config.mtp_decoder if graph.file == MTP and has_mtp(config) else config
        self.kinds = cache_kinds(self.config, windowed=bundle.cache == "windowed")
        self.stacks = stacks(config)
        self.shapes, self.forms = bundle.plan.shapes, bundle.manifest.forms
        self.epsilons = epsilons(config)
        self.compared = 0
        self.different: list[str] = []
        self.seen: set[str] = set()  # norms and mlps that were compared
        self.writers: dict[str, int] = {}  # which layer made the keys of a cache that the graph begins
        self.readers: dict[str, list[Node]] = {}
        self.places: dict[str, Place] = {}
        self.tables: dict[str, frozenset[str]] = {p.name: frozenset({p.name}) for p in graph.inputs}
        self.leaves: dict[str, str] = {}
        self.allowed: dict[tuple[str, int, str], frozenset[float]] = {}
        stated = set(integers(self.config))
        self.integers = {0, 1, 2}.union(*({n - 1, n, n + 1} for n in stated))
        self.tokens = frozenset(compared_tokens(self.config))
        for order, node in enumerate(self.nodes):
            self._place(order, node)

    def _place(self, order: int, node: Node) -> None:
        """Record the place of a node's outputs: the stored tensor that the node reads, otherwise the latest
        place of its inputs.
        """
        own = next((leaf for name in node.inputs if (leaf := self.leaf(name))), "")
        before = max((self.places.get(name, NOWHERE) for name in node.inputs), default=NOWHERE)
        place = Place(order, own) if own else before
        tables = frozenset[str]().union(*(self.tables.get(name, ()) for name in node.inputs))
        for name in node.inputs:
            self.readers.setdefault(name, []).append(node)
        if node.operator == "Cast" and own:  # norms of float16 are in float32
            self.leaves[node.outputs[0]] = own
        for name in node.outputs:
            self.places[name] = place
            if place is NOWHERE:  # of tables and lengths, before any weight
                self.tables[name] = tables

    def leaf(self, name: str) -> str:
        """Return the name of the stored tensor that a value is, whatever the value's shape. For any other
        value, return an empty text.
        """
        if name not in self.leaves:
            computed = name in self.places or name in self.tables or name in self.numbers or not name
            self.leaves[name] = "" if computed else stored_name(name, self.tensors) or ""
        return self.leaves[name]

    def place(self, node: Node) -> Place:
        """Return the place of a node's outputs in the model."""
        return self.places.get(next(filter(None, node.outputs)), NOWHERE)

    def layer(self, leaf: str) -> tuple[Stack, int, Layer] | None:
        """Return the stack of a parameter, the index of its layer and the layer. Return None for a parameter
        outside of layers.
        """
        match leaf.split(".", 3):
            case [stack, "layers", number, _]:
                i = int(number)
                return self.stacks[stack], i, self.stacks[stack].layers[i]
            case _:
                return None

    def compare(self, where: str, found: object, wanted: object) -> None:
        """Compare one setting, and record it if it differs. Numbers are compared in float32."""
        if isinstance(found, float) and isinstance(wanted, float):
            found, wanted = float(np.float32(found)), float(np.float32(wanted))
        self.require(found == wanted, f"{where} is {_shown(found)}, but the Config says {_shown(wanted)}")

    def require(self, equal: bool, different: str) -> None:
        """Count one setting as compared. If it isn't `equal`, record the text `different`."""
        self.compared += 1
        if not equal:
            self.different.append(different)

    def compare_all(self) -> None:
        for node in self.nodes:
            if node.operator in NORMS:
                self._norm(node)
            elif node.operator in CACHED:
                self._cached_attention(node)
            elif node.operator in TEXT_ATTENTION:
                self._text_attention(node)
            else:
                self._activation(node)
                self._product(node)
                self._others(node)
        for leaf in self.epsilons:
            if any(map(self._computes_with, (leaf, f"{leaf}.weight", f"{leaf}.bias"))):
                self.require(leaf in self.seen, f"{leaf}: no norm of the graph reads this weight")
        for name, stack in self.stacks.items():
            for i, layer in enumerate(stack.layers):
                for part in _activations(layer):
                    mlp = f"{name}.layers.{i}.{part}"
                    if self._computes_with(f"{mlp}.up"):
                        self.require(mlp in self.seen, f"{mlp}: the graph computes no activation of this mlp")

    def _computes_with(self, leaf: str) -> bool:
        """Return whether this graph computes with a parameter of the model."""
        return leaf in self.shapes and self.graph.owns(leaf)

    def _norm(self, node: Node) -> None:
        """Compare the eps of a norm that is one operator, with or without a stored weight or bias."""
        own = next((leaf for name in node.inputs[1:] if (leaf := self.leaf(name))), "")
        key = own.removesuffix(".weight").removesuffix(".bias") if own else self._norm_behind(node)
        found = node.attributes.get("epsilon", 1e-5)
        if key in self.epsilons:
            self.seen.add(key)
            self.compare(f"{key}: eps", found, self.epsilons[key])
        else:
            self._is_allowed(node, "epsilon", np.float32(found))

    def _norm_behind(self, node: Node) -> str:
        """Return the name of the norm that a node is a part of, found by the norm's weight, which a later
        node reads. Return an empty text if the node is a part of no norm.
        """
        values, known = list(node.outputs), set(node.outputs)
        while values:
            for reader in self.readers.get(values.pop(), ()):
                for name in reader.inputs:
                    key = self.leaf(name).removesuffix(".weight")
                    if key in self.epsilons:
                        return key
                if reader.operator in IN_NORMS:
                    values += [name for name in reader.outputs if name not in known]
                    known.update(reader.outputs)
        return ""

    def _attention_at(self, node: Node) -> tuple[str, Stack, int, Layer] | None:
        """Return the name of the layer of an attention operator, with the layer's stack, index and settings.
        The layer is found by the operator's queries.

        Return None, and record a difference, if the queries come from no layer.
        """
        leaf = self.places.get(node.inputs[0], NOWHERE).leaf
        found = self.layer(leaf)
        self.require(found is not None, f"the queries of a node {node.operator} come from no layer")
        if found is None:
            return None
        stack, i, layer = found
        return f"{leaf.split('.', 1)[0]}.layers.{i}", stack, i, layer

    def _cached_attention(self, node: Node) -> None:
        if (at := self._attention_at(node)) is None:
            return
        name, _, i, layer = at
        a = layer.attention.softmax_attention
        self.require(
            a is not None,
            f"{name}: the graph has {node.operator}, but the Config says {type(layer.attention).__name__}",
        )
        if a is None:
            return
        keys, cosines = CACHED[node.operator]
        read = node.inputs[keys]
        if self.graph.encodes:  # it begins empty, and a layer may read what another one wrote
            self.compare(f"{name}: keys", self.writers.get(read), a.kv_layer)
            self.writers |= dict.fromkeys(node.outputs[1:2], i)
        else:
            port = read.replace("_out.", ".")  # a cache that isn't shared holds new keys after a layer
            self.compare(f"{name}: keys", port, f"k.{i if a.kv_layer is None else a.kv_layer}")
            if node.operator == "Attention" and self.kinds[i].window is not None:
                why = (
                    f"{name}: {node.operator} reads no positions, because an older tfm wrote the "
                    "graph: export the model again"
                )
                self.require(any(node.inputs[POSITIONS : POSITIONS + 1]), why)
        self._heads(f"{name}.attn", node, a)
        stated = node.attributes
        self.compare(f"{name}.attn: kv_num_heads", stated.get("kv_num_heads"), a.kv_heads)
        self.compare(f"{name}.attn: softcap", stated.get("softcap", 0.0), a.softcap or 0.0)
        window = -1 if a.window is None else a.window
        self.compare(f"{name}.attn: local_window_size", stated.get("local_window_size", -1), window)
        self.compare(f"{name}.attn: causal", stated.get("causal", 1), 1)
        table = node.inputs[cosines] if len(node.inputs) > cosines else ""
        rotates = bool(table)
        if node.operator == "GroupQueryAttention":
            self.compare(f"{name}.attn: do_rotary", stated.get("do_rotary", 0), int(rotates))
        if rotates:
            self.compare(f"{name}.attn: cosines", self._table(table), self._rope(a))
            interleaved = stated.get("rotary_interleaved", 0)
            self.compare(f"{name}.attn: rotary_interleaved", interleaved, int(a.interleaved))
        elif a.qk_norm is None or not a.qk_norm.rotated:  # else the graph rotates before the norm
            self.compare(f"{name}.attn: cosines", "", self._rope(a))

    def _table(self, name: str) -> str:
        return ", ".join(sorted(self.tables.get(name, {"computed ones"})))

    def _rope(self, a: Attention) -> str:
        """Return the name of the graph's input with the cosines of an attention. Return an empty text for an
        attention without rotary positions.
        """
        return f"cos.{self.config.ropes.index(a.position)}" if isinstance(a.position, Rope) else ""

    def _heads(self, name: str, node: Node, a: Attention) -> None:
        self.compare(f"{name}: num_heads", node.attributes.get("num_heads"), a.heads)
        self.compare(f"{name}: scale", node.attributes.get("scale"), next(a.numbers()))

    def _text_attention(self, node: Node) -> None:
        if (at := self._attention_at(node)) is None:
            return
        name, stack, _, layer = at
        crosses = ".cross." in self.places[node.inputs[0]].leaf
        a, causal = (layer.cross, False) if crosses else (layer.attention, stack.causal)
        self.compare(f"{name}: unidirectional", node.attributes.get("unidirectional", 0), int(causal))
        if node.operator == "MultiHeadAttention":
            hidden = node.attributes.get("mask_filter_value", -1e4)
            self.require(
                hidden <= -HIDDEN,
                f"{name}: mask_filter_value must be at most {_shown(-HIDDEN)}, got {_shown(hidden)}",
            )
        if isinstance(a, Attention):
            self._heads(f"{name}.{'cross' if crosses else 'attn'}", node, a)
        else:
            self.compare(f"{name}: num_heads", node.attributes.get("num_heads"), getattr(a, "heads", None))
            self._is_allowed(node, "scale", np.float32(node.attributes.get("scale", 0.0)))

    def _activation(self, node: Node) -> None:
        """Compare an operator that computes an activation in an mlp with the mlp's activation in the Config.
        Other operators are ignored.
        """
        operator = node.operator
        if operator == "Gelu" and node.attributes.get("approximate") == "tanh":
            operator = "Gelu tanh"
        if operator == "RowLinear" and node.attributes.get("gelu"):
            operator = "Gelu"
        leaf = self.place(node).leaf
        if operator not in ACTIVATIONS or (at := self.layer(leaf)) is None:
            return
        name = leaf.split(".", 3)[3]
        for part, kind in _activations(at[2]).items():
            if name.startswith(f"{part}."):
                mlp = leaf.removesuffix(name) + part
                self.seen.add(mlp)
                made_of = MADE_OF[kind]
                if getattr(at[2].mlp, "sparsity", None) is not None:
                    made_of |= {"Relu"}  # of the gates above their limit
                self.require(
                    operator in made_of, f"{mlp}: the graph has {operator}, but the Config says {kind}"
                )

    def _product(self, node: Node) -> None:
        """Compare a product with a quantized matrix, or a look-up in a quantized table: sizes, bits, and
        whether the input is rounded.
        """
        leaf = next((leaf for name in node.inputs if (leaf := self.leaf(name))), "")
        group = self.groups.get(leaf.rpartition(".")[0])
        if group is None or (form := group.format) is None:
            return
        for name in node.inputs:
            other = self.groups.get(self.leaf(name).rpartition(".")[0], group)
            is_own = other.format is None or _matrix(other.name) == _matrix(group.name)
            self.require(
                is_own, f"{group.name}: {node.operator} also reads {name}, which is part of another weight"
            )
        level = 4 if form.activations == "block" else 0
        bits = self.forms.get(group.name, form).bits if node.operator in KERNELS else form.bits
        sizes = {"K": group.length, "N": group.width, "bits": bits, "block_size": form.block}
        for name, wanted in {**sizes, "accuracy_level": level}.items():
            if (found := node.attributes.get(name)) is not None:
                self.compare(f"{group.name}: {name}", found, wanted)

    def _others(self, node: Node) -> None:
        """Compare the numbers of any other node with the Config's, and the eps of norms that consist of
        several operators.
        """
        for name, value in node.attributes.items():
            if isinstance(value, float):
                self._is_allowed(node, name, np.float32(value))
        for place, name in enumerate(node.inputs):
            values = self.numbers.get(name)
            if values is None:
                continue
            if values.dtype.kind == "f":
                if node.operator == "Add" and values.size == 1 and (key := self._eps_of(node)):
                    self.seen.add(key)
                    self.compare(f"{key}: eps", float(values.ravel()[0]), self.epsilons[key])
                    continue
                for value in np.unique(values):
                    self._is_allowed(node, f"input {place}", value)
            elif node.operator in LOOKUPS and place == 0 and values.ndim == 1:
                self._table_of_distances(node, values)
            elif node.operator in ARITHMETIC and values.size == 1:
                value = int(values.ravel()[0])
                self._stated(node, f"input {place}", value, abs(value) in self.integers)
            elif node.operator == "Equal" and values.dtype.kind == "i":
                self._compared(node, place, values.ravel().tolist())

    def _compared(self, node: Node, place: int, values: list[int]) -> None:
        """Compare the integers that an `Equal` operator reads. These integers must be the positions of a row,
        the number of an expert, a special token of the Config, or 0.
        """
        if len(values) != 1:
            self.compare(f"{node.outputs[0]}: places", values, [*range(len(values))])
        elif expert := self._expert_behind(node):
            self.compare(f"{node.outputs[0]}: expert", values, [int(expert)])
        else:
            others = () if node.inputs[1 - place] == "tokens" else (0,)
            self._stated(node, f"input {place}", values[0], values[0] in self.tokens.union(others))

    def _expert_behind(self, node: Node) -> str:
        """Return the number, as text, of the expert that gets the rows that a comparison chooses. Return an
        empty text if there is no such expert, or if the node isn't in a layer.
        """
        if self.layer(self.place(node).leaf) is None:
            return ""
        values, known = [*node.outputs], {*node.outputs}
        for value in values:  # the nearest first
            for reader in self.readers.get(value, ()):
                if found := EXPERT.search(self.place(reader).leaf):
                    return found[1]
                values += [name for name in reader.outputs if name not in known]
                known.update(reader.outputs)
        return ""

    def _table_of_distances(self, node: Node, rows: Array) -> None:
        """Compare a table of distances in the graph with the Config's tables. The largest distance that is
        looked up must be the last row of the table.
        """
        same = tuple(rows.tolist()) in distance_tables(self.config)
        self.require(same, f"{node.outputs[0]}: the table of distances has other rows than the Config's")
        made = {name: other for other in self.nodes for name in other.outputs}
        index = made.get(node.inputs[1])
        while index is not None and index.operator in ("Unsqueeze", "Cast", "Reshape"):
            index = made.get(index.inputs[0])
        limit = self.numbers.get(index.inputs[-1]) if index is not None else None
        found = None if limit is None else limit.ravel().tolist()
        self.compare(f"{node.outputs[0]}: largest distance", found, [len(rows) - 1])

    def _eps_of(self, node: Node) -> str:
        """Return the name of the norm if an addition adds the norm's eps. Return an empty text for any other
        addition.
        """
        (output,) = node.outputs
        roots = all(reader.operator == "Sqrt" for reader in self.readers.get(output, ()))
        return self._norm_behind(node) if roots else ""

    def _is_allowed(self, node: Node, name: str, value: np.floating) -> None:
        if value.dtype == np.float64:  # libraries differ in the last digits of a power
            value = np.float32(value)
        number, leaf = float(value), self.place(node).leaf
        beyond = abs(number) >= HIDDEN or np.isnan(number)
        stated = abs(number) in self._allowed(leaf, value.dtype) or abs(number) in self._of_codes(leaf)
        self._stated(node, name, number, beyond or stated)

    def _of_codes(self, leaf: str) -> frozenset[float]:
        """Return the numbers with which a graph turns the codes of a quantized table into values.

        Two codes of 4 bits are in one byte, so 16 and 1/16 split it. Codes without zero points have the
        middle of their range subtracted."""
        group = self.groups.get(leaf.rpartition(".")[0])
        if group is None or (form := group.format) is None:
            return frozenset()
        return frozenset({16.0, 1 / 16, 2.0 ** (form.bits - 1)})

    def _stated(self, node: Node, name: str, value: float, stated: bool) -> None:
        """Count a number of a node as compared. If it isn't `stated`, record that the Config doesn't state
        it.
        """
        leaf = self.place(node).leaf or "before any weight"
        self.require(
            stated, f"{leaf}: {name} of {node.operator} is {_shown(value)}, which the Config doesn't state"
        )

    def _allowed(self, leaf: str, dtype: np.dtype) -> frozenset[float]:
        """Return the absolute values that a float of this dtype may have at a place of the graph. `leaf` is
        the parameter of the place.

        If the parameter is in a layer, these are the numbers of its layer, of the next layer and of the parts
        outside of layers. The next layer counts because its first weight may be read later than its first
        numbers. Otherwise the numbers of all layers count."""
        at = self.layer(leaf)
        key = (leaf.split(".", 1)[0], -1 if at is None else at[1], dtype.str)
        if key not in self.allowed:
            if at is None:
                layers = tuple(layer for stack in self.stacks.values() for layer in stack.layers)
            else:
                stack, i, _ = at
                layers = stack.layers[i : i + 2]
            stated = (*COMMON, *shared_numbers(self.config), *numbers(layers))
            if not leaf:  # masks divide positions, in floats too
                stated += (*self.integers,)
            exact = np.array([abs(x) for x in stated if abs(x) < HIDDEN], dtype)
            # Powers may be off by the last digit, as libraries have them.
            near = [np.nextafter(exact, limit, dtype=dtype).tolist() for limit in (-np.inf, np.inf)]
            self.allowed[key] = frozenset(exact.tolist()).union(*near)
        return self.allowed[key]


def _matrix(group: str) -> str:
    """Return the name of a group of parameters without the number of an expert, so that all experts have the
    same name.
    """
    return EXPERT.sub("", group)


def _activations(layer: Layer) -> dict[str, Activation]:
    """Return the activations of a layer's mlps, by the names of the mlps' parameters.

    Only a `Gated` or `Plain` mlp is included, and only if a name states its activation."""
    inner = {f"attn.mlps.{i}": mlp for i, mlp in enumerate(layer.attention.inner_mlps())}
    return {
        name: mlp.activation
        for name, mlp in {"mlp": layer.mlp, "attn.mlp": layer.attention.inner_mlp, **inner}.items()
        if isinstance(mlp, Gated | Plain) and isinstance(mlp.activation, str)
    }


def _shown(value: object) -> str:
    return f"{value:.8g}" if isinstance(value, float) else repr(value) if value == "" else str(value)

"""Define the nn.Module that is traced. The module owns the weights, and its forward method computes one graph
of the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import nn

from ...refimpl.config import Config, Decoder, Encoder, SampleStem, has_mtp
from ...refimpl.engine.cache_kinds import CacheKind, cache_kinds, encoder_kinds, windows
from ...refimpl.ops.cross_attention import EncoderKV
from ...refimpl.ops.encoder import encode, encoder_kv, pooled_lengths, predict
from ...refimpl.ops.model import model, model_with_hidden, mtp_model
from ...refimpl.ops.position import Rotary
from ...runtime.bundle.graph_io import MTP, Graph, row_length_names
from .. import dispatch
from ..targets.group_query_attention import RowLengths


class Weights(nn.Module):
    """A tree of weights as nested modules, so that each weight is a buffer with its dotted name.

    A level of the tree is a dict, a list, or a dataclass with tensors among its fields (a quantized
    parameter). `tree` returns the weights in their original form, with the module's own tensors.
    """

    def __init__(self, tree: Any) -> None:
        super().__init__()
        self._original = tree
        for name, value in _items(tree):
            if isinstance(value, torch.Tensor):
                self.register_buffer(name, value)
            elif isinstance(value, Mapping | list) or is_dataclass(value):
                self.add_module(name, Weights(value))

    def tree(self) -> Any:
        values = {}
        for name, value in _items(self._original):
            if not isinstance(value, str | int | None):
                value = getattr(self, name, value)
            values[name] = value.tree() if isinstance(value, Weights) else value
        if is_dataclass(self._original):
            return replace(self._original, **values)  # pyright: ignore[reportArgumentType]
        return list(values.values()) if isinstance(self._original, list) else values


def _items(tree: Any) -> list[tuple[str, Any]]:
    if isinstance(tree, Mapping):
        return list(tree.items())
    if isinstance(tree, list):
        return [(str(i), value) for i, value in enumerate(tree)]
    return [(field.name, getattr(tree, field.name)) for field in fields(tree)]


class GraphModule(nn.Module):
    """A module that computes one graph of a model over its own weights.

    `forward` takes tensors in the order of the graph's inputs, and returns tensors in the order of the
    graph's outputs. A float16 model returns its logits, or its head's outputs, in float32. Caches keep their
    type.
    """

    def __init__(
        self, config: Config, graph: Graph, weights: Any, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        self.config = config
        self.graph = graph
        self.dtype = dtype
        self.leaves = Weights(weights)

    @property
    def _decoder(self) -> Config:
        """Return the Config that determines the graph's inputs and outputs. For the graph of a multi-token
        prediction module, this is a decoder of one layer.
        """
        if self.graph.file == MTP:
            assert isinstance(self.config, Decoder)
            return self.config.mtp_decoder
        return self.config

    def forward(self, *tensors: torch.Tensor) -> list[torch.Tensor]:
        inputs = {port.name: tensor for port, tensor in zip(self.graph.inputs, tensors, strict=True)}
        rotary = {
            rope: Rotary(inputs[f"cos.{i}"], inputs[f"sin.{i}"])
            for i, rope in enumerate(self._decoder.ropes)
            if f"cos.{i}" in inputs
        }
        if self.graph.encodes:
            return self._encode(inputs, rotary)
        return self._decode(inputs, rotary)

    def _encode(self, inputs: Mapping[str, torch.Tensor], rotary: Mapping[Any, Rotary]) -> list[torch.Tensor]:
        config, weights = self.config, self.leaves.tree()
        if config.sound_shape is not None:
            tokens, cache = inputs[self.graph.inputs[0].name], None
            if isinstance(stem := config.stem, SampleStem):
                # Counted where the samples are: what is made of a shape would be copied there. Each position
                # has a last sample of its own.
                lengths = (tokens[:, stem.least(1) - 1 :: stem.stride].abs() >= 0).sum(1)
            else:
                count = config.positions(tokens.shape[1])
                lengths = tokens.new_full((tokens.shape[0],), count, dtype=torch.int64)
        else:
            tokens, lengths, cache = inputs["tokens"], inputs["lengths"], None
        if isinstance(config, Encoder):
            kinds = [(kind, kind.shapes(*tokens.shape)) for kind in cache_kinds(config)]
            cache = [k.value([tokens.new_zeros(shape, dtype=self.dtype) for shape in of]) for k, of in kinds]
        states = encode(tokens, lengths, rotary, weights, inputs.get("token_types"), cache, config=config)
        if "decoder" not in config.stacks:
            lengths = pooled_lengths(tokens, lengths, head=config.head)
            return [_float32(predict(states, lengths, weights, config=config))]
        layers = encoder_kv(states, lengths, weights, config=config)
        return [side for layer in layers for side in (layer.keys, layer.values)]

    def _decode(self, inputs: Mapping[str, torch.Tensor], rotary: Mapping[Any, Rotary]) -> list[torch.Tensor]:
        config, weights = self.config, self.leaves.tree()
        cross = None
        if "encoder_lengths" in inputs:
            arrays = _arrays(inputs, encoder_kinds(config))
            cross = [EncoderKV(keys, values, inputs["encoder_lengths"]) for keys, values in arrays]
        kinds = cache_kinds(self._decoder)
        lengths = inputs.get("lengths")
        pairs = zip(kinds, _arrays(inputs, kinds), strict=True)
        cache = [kind.value(layer, lengths) for kind, layer in pairs]
        of_windows = windows(cache_kinds(self._decoder, windowed=True))
        window_lengths = {
            window: inputs[f"window_length.{window}"]
            for window in of_windows
            if f"window_length.{window}" in inputs
        }
        row_lengths = {
            window: RowLengths(*(inputs[name] for name in row_length_names(window)))
            for window in (None, *of_windows)
            if row_length_names(window)[0] in inputs
        }
        extra: dict[str, Any] = {"window_lengths": window_lengths} if window_lengths else {}
        extra |= {"row_lengths": row_lengths} if row_lengths else {}
        with ExitStack() as stack:
            for name in ("attention", "shared_attention") if extra else ():
                stack.enter_context(dispatch.extra_inputs(name, **extra))
            tokens, arguments = inputs["tokens"], (inputs["past"], inputs["at"], rotary, cache, weights)
            hidden = None
            if self.graph.file == MTP:
                assert isinstance(config, Decoder)
                logits, hidden, new_cache = mtp_model(tokens, inputs["hidden"], *arguments, config=config)
            elif has_mtp(config):
                logits, hidden, new_cache = model_with_hidden(tokens, *arguments, config=config)
            else:
                logits, new_cache = model(tokens, *arguments, cross, config=config)
        outputs = [_float32(logits)]
        if any(port.name == "best" for port in self.graph.outputs):
            outputs.append(_best(outputs[0]))
        if hidden is not None:
            outputs.append(hidden)
        for kind, layer in zip(kinds, new_cache, strict=True):
            outputs += [array for array in layer[: len(kind.arrays)] if array is not None]
        return outputs


def _arrays(inputs: Mapping[str, torch.Tensor], kinds: Sequence[CacheKind]) -> list[list[torch.Tensor]]:
    """Return the cache arrays of each layer, taken from the graph's inputs by their names."""
    return [[inputs[f"{array.name}.{i}"] for array in kind.arrays] for i, kind in enumerate(kinds)]


def _best(logits: torch.Tensor) -> torch.Tensor:
    """Return the id of the largest logit, the lowest id if several are equal. Return -1 if the sum of the
    logits isn't finite.
    """
    largest = torch.finfo(logits.dtype).max
    return torch.where(logits.sum(-1).abs() <= largest, logits.argmax(-1), -1)


def _float32(x: torch.Tensor) -> torch.Tensor:
    return x.float() if x.dtype == torch.float16 else x

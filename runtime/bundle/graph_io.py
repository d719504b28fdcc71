"""Name the inputs and outputs of a bundle's graphs. Part of the format.

    graph         model               inputs                                       outputs
    model.onnx    a decoder           tokens past at k.I v.I cos.J sin.J           logits k_out.I v_out.I
                  … with recurrence   the same, lengths state.I norm.I or h.I c.I  logits state_out.I …
                  … that reads an     the same, encoder_k.I encoder_v.I            the same
                  encoder             encoder_lengths
                  an encoder alone,   tokens lengths token_types cos.J sin.J       predictions
                  or with a reader
                  … that hears        samples                                      predictions
    encoder.onnx  an encoder that a   tokens lengths token_types cos.J sin.J       encoder_k.I encoder_v.I
                  decoder reads
                  … that hears        frames, or samples cos.J sin.J               the same
    mtp.onnx      a decoder's module  tokens hidden past at k.I … cos.J sin.J      logits hidden_out k_out.I …
                  for drafts

I counts the decoder's layers, and J counts the rotary settings in the Config's order. A graph has only the
settings of its own stacks of layers. A graph has the input `token_types` if the embedding has token types.
`past`, `at`, `lengths` and `encoder_lengths` count tokens, as in `ops.model` and `ops.encoder`.
`predictions` is the output of the head (`ops.encoder.predict`).

A layer's cache consists of the arrays that its kind names (`refimpl.engine.cache_kinds`), such as k and v
for keys and values. If the manifest's cache is shared, each output array uses the memory of its input
array. So a graph reads a whole state before it writes the next one.

A graph over tfm's own kernels (`runtime.bundle.kernel_storage`) has the inputs and outputs of the graph
that it replaces. Its keys and values are float16 if the manifest says so.

A decoder with a module for drafts has the output `hidden_out` after its logits: the vectors of all its
tokens. For each of its own tokens, the module reads the vector of the token before it (`ops.mtp`). In
mtp.onnx, I and J count the module's own layers and rotary settings.

A decoder with a windowed cache also has an input window_length.W for each window W below the context. The
input states how many tokens of each row the layers with window W hold. These are the latest tokens, stored
from entry 0 on. The other layers hold all tokens. On a target with `row_lengths`, a decoder whose cache
isn't copied has GroupQueryAttention's own inputs instead. seqlens [B] is the entry of the cache for each
row's last token, counting padding. total is the length of the longest row with its new tokens. seqlens.W
and total.W are the same for the layers with window W. The output best [B, P] is the token with the largest
logit. If several tokens have this logit, best is the first of them. If a logit isn't finite, best is -1.

All ids and numbers are int64, except seqlens and total, which are int32. Logits and predictions are
float32. Cosines, sines and the cache's arrays have the bundle's `dtype`, except the codes of a layer with
an 8-bit cache, which are int8.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeVar

from ...refimpl.config import Config, has_mtp
from ...refimpl.engine.cache_kinds import (
    ArrayType,
    CacheKind,
    Halved,
    cache_kinds,
    encoder_kinds,
    recurrent,
    windows,
)

T = TypeVar("T")
GRAPH, ENCODER, MTP = "model.onnx", "encoder.onnx", "mtp.onnx"
# What inputs and outputs are, by the first part of their names.
MEANINGS = {
    "tokens": "ids of each row's new tokens; the padding after them may be any ids",
    "frames": "of a model of sound, in the place of tokens: the log-mel spectrogram of each row's 30 seconds",
    "samples": "of a model that reads a sound itself: 16,000 a second, with a mean of 0 and a variance "
    "of 1 where `generation.ctc.normalized` of tfm.json is true",
    "past": "how many tokens of each row the cache holds",
    "at": "indices, from 0, of the new tokens that logits are computed for",
    "k": "keys of layer I at their positions; if `cache` is `shared`, bind the output to the input's memory",
    "v": "values of layer I at their positions; if `cache` is `shared`, bind the output as for the keys",
    "cos": "cosines of rotary setting J: row p, column i is cos(p × theta^(−2i / dims)) before any scaling",
    "sin": "sines of rotary setting J: row p, column i is sin(p × theta^(−2i / dims)) before any scaling",
    "window_length": "how many tokens of each row layers with window W store; only if `cache` is `windowed`",
    "encoder_k": "keys of the text for the decoder's layer I",
    "encoder_v": "values of the text for the decoder's layer I",
    "encoder_lengths": "how many tokens each text has",
    "lengths": "how many tokens each row has without its padding",
    "hidden": "vectors after the model's last norm: in mtp.onnx an input of the tokens before, and its own",
    "token_types": "types of the tokens, if the model has token types",
    "logits": "logits of the token that follows each of the tokens `at`",
    "predictions": "outputs of the head for each token or for each text",
    "state": "what the recurrence of layer I has summed up",
    "norm": "the sums that linear attention of layer I divides by",
    "h": "output of the LSTM of layer I after the tokens so far",
    "c": "cell of the LSTM of layer I after the tokens so far",
    "conv": "last inputs of the short convolution of layer I",
    "shift": "last input of time or channel mixing, layer I",
    "numerator": "the sums of time mixing, layer I: of weighted values, divided by e^exponent",
    "denominator": "the sums of time mixing, layer I: of weights, divided by e^exponent",
    "exponent": "the largest exponent of a weight of time mixing, layer I",
    "context": "last tokens that a memory of n-grams has read, as numbers, layer I",
    "latent": "latents of layer I and rotary keys behind them, at their positions",
    "index": "keys of the indexer of layer I, at their positions",
    "seqlens": "where in the cache the last of each row's tokens goes, in layers with a window or without",
    "total": "how many tokens the longest row has then",
    "best": "the first token of the largest of the logits, -1 where one isn't finite",
}
# Leaves of a decoder's cross-attention that the encoder's graph uses, joined or not.
READ = ("wk", "wv", "bk", "bv", "wkv", "bkv", "k_norm")


class Port(NamedTuple):
    """An input or output of a graph: its name, its axes and its type.

    An axis of varying length is a string. A type of None means the bundle's float type.
    """

    name: str
    axes: tuple[str | int, ...]
    dtype: Literal["int64", "int32"] | ArrayType | None = None


def meaning(port: str) -> str:
    """Return a sentence that says what an input or output means. An output of the cache means the same as its
    input, with the new tokens added.
    """
    return MEANINGS[port.split(".")[0].removesuffix("_out")]


@dataclass(frozen=True)
class Graph:
    """One graph of a bundle.

    - `file`: the name of its file.
    - `encodes`: True for the graph of an encoder.
    - `inputs`, `outputs`: its inputs and outputs in order.
    - `embedding`: the name of the parameters of its embedding.
    """

    file: str
    encodes: bool
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    embedding: str = "embedding"

    def owned(self, named: Mapping[str, T]) -> dict[str, T]:
        """Return the entries of `named` that belong to parameters, groups or tensors with which this graph
        computes.
        """
        return {name: value for name, value in named.items() if self.owns(name)}

    def owns(self, leaf: str) -> bool:
        """Return whether this graph computes with the parameter, the group of parameters, or the stored
        tensor of this name."""
        top = leaf.split(".", 1)[0]
        if self.file == MTP:
            return top in ("mtp", "embedding", "head")
        if self.encodes and self.file == GRAPH:
            return True
        if ".cross." in leaf:
            return (leaf.split(".cross.")[1].split(".")[0] in READ) == self.encodes
        if top == "embedding" and leaf != "embedding.token_types":
            # Where logits are another graph's, nothing multiplies the table here; nor does a sound need one.
            of_product = ("embedding.table.input_", "embedding.table.output_")
            reads_tokens = any(port.name == "tokens" for port in self.inputs)
            mine = reads_tokens and self.embedding == top
            return not self.encodes or (mine and not leaf.startswith(of_product))
        return top in ("encoder", "embedding", self.embedding) if self.encodes else top in ("decoder", "head")


def graphs(
    config: Config, windowed: bool = False, halved: Halved = "", row_lengths: bool = False
) -> tuple[Graph, ...]:
    """Return the graphs of a model, in the order in which they run.

    - `windowed`: layers with a window cache only the latest tokens.
    - `halved`: which keys and values are float16.
    - `row_lengths`: the graph gets the lengths of rows that GroupQueryAttention needs as inputs.
    """
    result = []
    if "encoder" in config.stacks:
        alone = "decoder" not in config.stacks
        outputs = (
            (Port("predictions", _predictions(config)),)
            if alone
            else _encoder_kv(config, _read(config), halved)
        )
        file = GRAPH if alone else ENCODER
        inputs = tuple(_encoder_inputs(config))
        result.append(Graph(file, True, inputs, tuple(outputs), config.text_tables))
    if "decoder" in config.stacks:
        logits = Port("logits", ("batch", "wanted", config.embedding.vocabulary))
        kinds = cache_kinds(config, windowed=windowed, half=bool(halved))
        best = (Port("best", ("batch", "wanted"), "int64"),) if row_lengths else ()
        module = config.mtp_decoder if has_mtp(config) else None
        hidden = ("batch", "time", config.embedding.width)
        vectors = () if module is None else (Port("hidden_out", hidden),)
        outputs = (logits, *best, *vectors, *_arrays(kinds, "_out"))
        result.append(
            Graph(GRAPH, False, tuple(_decoder_inputs(config, kinds, row_lengths, halved)), outputs)
        )
        if module is not None:
            kinds = cache_kinds(module, windowed=windowed, half=bool(halved))
            tokens, *inputs = _decoder_inputs(module, kinds, row_lengths, halved)
            outputs = (logits, *vectors, *_arrays(kinds, "_out"))
            result.append(Graph(MTP, False, (tokens, Port("hidden", hidden), *inputs), outputs))
    return tuple(result)


def row_length_names(window: int | None) -> tuple[str, str]:
    """Return the names of the two inputs with row lengths for the layers with this window. None means the
    layers without a window.

    The first input is the entry of the cache for each row's last token. The second input is the length of
    the longest row.
    """
    suffix = "" if window is None else f".{window}"
    return f"seqlens{suffix}", f"total{suffix}"


def _read(config: Config) -> str | int:
    """Return the length of the axis that a decoder reads of an encoder. It is a number if the sound has a
    fixed number of frames, else a name.
    """
    frames = None if config.sound_shape is None else config.sound_shape[0]
    return config.positions(frames) if isinstance(frames, int) else "time"


def _encoder_inputs(config: Config) -> list[Port]:
    if config.sound_shape is not None:
        name = "frames" if len(config.sound_shape) > 1 else "samples"
        return [Port(name, ("batch", *config.sound_shape)), *_tables(config, ("encoder",), "time")]
    inputs = [Port("tokens", ("batch", "time"), "int64"), Port("lengths", ("batch",), "int64")]
    if config.embedding.token_types is not None:
        inputs.append(Port("token_types", ("batch", "time"), "int64"))
    return [*inputs, *_tables(config, ("encoder", "reader"), "time")]


def _decoder_inputs(
    config: Config, kinds: tuple[CacheKind, ...], row_lengths: bool, halved: Halved
) -> list[Port]:
    counts = [Port(f"window_length.{window}", ("batch",), "int64") for window in windows(kinds)]
    if row_lengths:
        names = [row_length_names(window) for window in (None, *windows(kinds))]
        axes: tuple[tuple[str, ...], ...] = (("batch",), ())
        counts = [Port(*port, "int32") for pair in names for port in zip(pair, axes, strict=True)]
    inputs = [
        Port("tokens", ("batch", "time"), "int64"),
        Port("past", ("batch",), "int64"),
        Port("at", ("batch", "wanted"), "int64"),
        *([Port("lengths", ("batch",), "int64")] if recurrent(kinds) else []),
        *_arrays(kinds),
        *_tables(config, ("decoder",), "capacity"),
        *counts,
    ]
    if "encoder" in config.stacks:
        inputs += [*_encoder_kv(config, "text", halved), Port("encoder_lengths", ("batch",), "int64")]
    return inputs


def _tables(config: Config, names: tuple[str, ...], rows: str) -> list[Port]:
    """Return the ports of cosines and sines for the rotary settings of the stacks with these names."""
    stacks = [stack for name, stack in config.stacks.items() if name in names]
    read = {rope for stack in stacks for rope in stack.ropes}
    ropes = [(i, rope) for i, rope in enumerate(config.ropes) if rope in read]
    return [Port(f"{side}.{i}", (rows, rope.dims // 2)) for i, rope in ropes for side in ("cos", "sin")]


def _arrays(kinds: tuple[CacheKind, ...], suffix: str = "") -> list[Port]:
    """Return the ports of the arrays of each layer's cache."""
    return [
        Port(f"{array.name}{suffix}.{i}", array.axes, array.dtype)
        for i, kind in enumerate(kinds)
        for array in kind.arrays
    ]


def _encoder_kv(config: Config, length: str | int, halved: Halved) -> list[Port]:
    """Return the ports of the keys and values that a decoder reads of an encoder's text. `length` is the name
    or the size of the text's axis."""
    ports = _arrays(encoder_kinds(config, half=halved == "all"))
    return [port._replace(axes=tuple(length if a == "text" else a for a in port.axes)) for port in ports]


def _predictions(config: Config) -> tuple[str | int, ...]:
    head, e = config.head, config.embedding
    return *(("batch", "time") if head.pooling is None else ("batch",)), head.outputs(e.width, e.vocabulary)

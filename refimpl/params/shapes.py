"""The names and shapes of the parameters that a Config needs.

A name is a path such as `decoder.layers.0.attn.wq`. The path leads through `ops.model.ModelWeights` down
to the weights of a mixer (`TokenMixer.weights`) or an mlp; the items of a list are numbered. The shapes of
these weights are read from their annotations. The norms of a sublayer `attn`, `cross` or `mlp` are beside
it, named as in `attn_pre` and `attn_after`.

Weights are oriented so that a linear map is `x @ w`. The parameters of a function in `ops` are one mapping
in the tree, so a call reads `gated_mlp(x, weights["mlp"])`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise

from ..config import (
    Attention,
    Config,
    ConvStem,
    Embedding,
    Gated,
    Head,
    HyperConnections,
    Layer,
    LayerNorm,
    Mlp,
    MoE,
    MoonshineStem,
    Norm,
    Plain,
    Stack,
    Stem,
    TokenMixer,
    WaveStem,
    has_mtp,
)
from ..ops.adaptive_softmax import Tail
from ..ops.altup import AltUpWeights, StreamWeights
from ..ops.attention import CachedAttentionWeights
from ..ops.conv_stem import ConvStemWeights
from ..ops.cross_attention import CrossKeyWeights
from ..ops.head import HeadWeights, LabelWeights, LinearWeights
from ..ops.hyper_connections import HyperWeights
from ..ops.laurel import LaurelWeights
from ..ops.mlp import GatedMlpWeights, PlainMlpWeights
from ..ops.moe import ExpertWeights, MoEWeights
from ..ops.moonshine_stem import MoonshineStemWeights
from ..ops.mtp import MTPInputWeights
from ..ops.neighbour_conv import NeighbourConvWeights
from ..ops.per_layer import PerLayerEmbeddingWeights, PerLayerWeights
from ..ops.shared_attention import SharedAttentionWeights
from ..ops.wave_stem import ConvolutionWeights, WaveStemWeights
from .annotations import Leaf, Leaves, Shape, annotated

MLPS: dict[type, type] = {Gated: GatedMlpWeights, Plain: PlainMlpWeights, MoE: MoEWeights}

# Small tables whose rows are added to vectors or scores, or are inputs of products.
ADDED = (
    "positions",
    "token_types",
    "task_types",
    "relative_bias",
    "global_relative_bias",
    "distances",
    "segments",
)


def parameter_shapes(config: Config) -> dict[str, Shape]:
    """Return the shape of each parameter that a Config needs, as a dict from dotted name to shape. The
    order is the order in which a forward pass reads the parameters."""
    return {name: leaf.shape for name, leaf in _leaves(config).items()}


def multiplied(config: Config) -> frozenset[str]:
    """Return the dotted names of the parameters that may be quantized: matrices of products and tables of
    tokens.
    """
    return frozenset(name for name, leaf in _leaves(config).items() if leaf.multiplied)


def _leaves(config: Config) -> Leaves:
    e, inner = config.embedding, config.embedding.projection
    tables = e.width if inner is None else inner.width
    entry = tables if inner is not None and inner.late else e.width
    leaves = {"embedding.table": Leaf((e.vocabulary, tables), multiplied=True)}
    if e.apart is not None:
        leaves["embedding.apart"] = Leaf((e.width,))
    if e.token_types is not None and not any(stack.segments for stack in config.stacks.values()):
        leaves["embedding.token_types"] = Leaf((e.token_types, entry))
    if e.task_types is not None:
        leaves["embedding.task_types"] = Leaf((e.task_types, entry))
    if inner is not None:
        rows = 3 * inner.width if inner.trigram else inner.width
        leaves["embedding.project"] = Leaf((rows, e.width), multiplied=True)
        leaves |= {"embedding.project_bias": Leaf((e.width,))} if inner.bias else {}
    if e.per_layer is not None:
        (stack,) = config.stacks.values()
        widths = [layer.per_layer.width for layer in stack.layers if layer.per_layer]
        sizes = {"N": e.per_layer.rows or 0, "D": e.width, "C": len(widths), "F": widths[0]}
        table = ("table",) if e.per_layer.rows else ()
        leaves |= _under("embedding.per_layer.", annotated(PerLayerEmbeddingWeights, sizes, table))
    own = config.text_embedding
    if config.text_tables == "encoder_embedding":
        leaves["encoder_embedding.table"] = Leaf((own.vocabulary, own.width), multiplied=True)
        leaves |= {"encoder_embedding.apart": Leaf((own.width,))} if own.apart is not None else {}
    for name, stack in config.stacks.items():
        width = config.width(name)
        leaves |= _under(f"{name}.", _stack(stack, width, entry if own is e else width, own.width))
    if has_mtp(config):
        leaves |= _under("mtp.", annotated(MTPInputWeights, {"D": e.width}))
        leaves |= _under("mtp.", _stack(config.mtp_decoder.stack, e.width, entry, e.width))
    return leaves | _under("head.", _head(config.head, e, tables))


def _under(prefix: str, leaves: Leaves) -> Leaves:
    return {f"{prefix}{name}": leaf for name, leaf in leaves.items()}


def _tables(shapes: Mapping[str, Shape]) -> Leaves:
    return {name: Leaf(shape) for name, shape in shapes.items()}


def _stack(stack: Stack, d: int, entry: int, encoded: int) -> Leaves:
    """Return the parameters of a stack of width d. Its layers may read an encoder's vectors of width
    `encoded`.
    """
    leaves: Leaves = {}
    if stack.stem is not None:
        leaves |= _under("stem.", _stem(stack.stem, d))
    leaves |= {} if stack.positions is None else _tables(stack.positions.tables(entry))
    leaves |= _norm("first_norm.", stack.first_norm, entry)
    for mixer in stack.mixers:
        leaves |= _tables(mixer.tables(d))
    leaves |= {} if stack.distances is None else _norm("distances_norm.", stack.distances.norm, d)
    for i in range(0 if stack.altup is None else stack.altup.streams - 1):
        leaves |= _under(f"streams.{i}.", annotated(StreamWeights, {"D": d}))
    for i, layer in enumerate(stack.layers):
        leaves |= _under(f"layers.{i}.", _layer(layer, d, encoded))
    if stack.hyper is not None:
        leaves |= _under("join.", _hyper(stack.hyper, d))
    return leaves | _norm("norm.", stack.final_norm, d)


def _hyper(hyper: HyperConnections, d: int, *leaves: str) -> Leaves:
    return annotated(HyperWeights, {"D": d, "X": hyper.streams, "F": hyper.rank}, leaves)


def _stem(stem: Stem, d: int) -> Leaves:
    if isinstance(stem, ConvStem):
        return annotated(ConvStemWeights, {"C": stem.bands, "D": d})
    assert isinstance(stem, WaveStem | MoonshineStem)
    wave = stem if isinstance(stem, WaveStem) else None
    convolutions, channels, last = [], 1, 1
    norms = len(stem.convolutions) if wave is not None and wave.normalized == "each" else 1
    for i, one in enumerate(stem.convolutions):
        last, sizes = one.width, {"F": one.width, "C": channels, "A": one.length - 1}
        inner = {"norm": _norm("", LayerNorm(stem.eps), one.width)} if i < norms else {}
        biased = i > 0 if wave is None else wave.bias
        convolutions.append(annotated(ConvolutionWeights, sizes, ("bias",) * biased, inner=inner))
        channels = one.width
    inner = {"convolutions": _listed(convolutions)}
    if wave is None:
        return annotated(MoonshineStemWeights, {}, inner=inner)
    inner |= {"norm": _norm("", wave.norm, last)}
    return annotated(WaveStemWeights, {"C": last, "D": d}, inner=inner)


def _layer(layer: Layer, d: int, encoded: int) -> Leaves:
    leaves: Leaves = {}
    cross = () if layer.cross is None else (("cross", layer.cross, _cross(layer, d, encoded)),)
    mixed = {"attn": not layer.attention.reads_streams, "mlp": layer.mlp.op is not None}
    for part, sublayer, own in (
        ("attn", layer.attention, _mixer(layer.attention, d)),
        *cross,
        ("mlp", layer.mlp, _mlp(layer.mlp, d)),
    ):
        if layer.hyper is not None and mixed[part]:
            leaves |= _under(f"{part}_hyper.", _hyper(layer.hyper, d, "open"))
        norms = {name: _norm(f"{part}_{name}.", norm, d) for name, norm in sublayer.placed_norms.items()}
        leaves |= norms.pop("pre", {}) | _under(f"{part}.", own)
        for others in norms.values():
            leaves |= others
    if layer.beside is not None:
        leaves |= _under("beside.", _mixer(layer.beside.mixer, d))
    if (conv := layer.conv) is not None:
        leaves |= _under("conv.", annotated(NeighbourConvWeights, {"A": conv.neighbours, "D": d}, ("bias",)))
        leaves |= _norm("conv_after.", conv.after, d)
    if (vectors := layer.per_layer) is not None:
        scale = ("scale",) if vectors.scaled else ()
        leaves |= _under("per_layer.", annotated(PerLayerWeights, {"D": d, "F": vectors.width}, scale))
        leaves |= _norm("per_layer_post.", vectors.post, d)
    if layer.laurel is not None:
        leaves |= _under("laurel.", annotated(LaurelWeights, {"D": d, "F": layer.laurel.rank}))
    if layer.altup is not None:
        leaves |= _under("altup.", annotated(AltUpWeights, {"D": d, "X": layer.altup.streams}))
    return leaves | ({"scalar": Leaf((1,))} if layer.scalar else {})


def _head(head: Head, e: Embedding, tables: int) -> Leaves:
    d = tables if head.generates else e.width
    f, n = head.inner(d), e.vocabulary
    sizes, inner = {"D": e.width, "C": tables, "F": f, "N": n, "X": head.further or 0}, dict[str, Leaves]()
    if head.dense is not None:
        inner = {"dense": _map(LinearWeights, d, f, head.dense.bias), "norm": _norm("", head.dense.norm, f)}
    if head.mlp is not None:
        inner |= {"mlp": _mlp(head.mlp, f), "mlp_after": _norm("", head.mlp.after, f)}
    if head.adaptive is not None:
        sizes["W"] = head.adaptive.columns
        inner["tails"] = _listed(annotated(Tail, letters) for letters in head.adaptive.clusters(f, n))
    if head.last == "labels":
        inner["out"] = _map(LabelWeights, f, head.outputs(f, n), head.bias)
    projected = zip(head.projections, pairwise(head.widths(f)), strict=True)
    inner["projections"] = _listed(_map(LabelWeights, *widths, dense.bias) for dense, widths in projected)
    mapped = ("project",) if head.generates and e.projection is not None else ()
    return annotated(HeadWeights, sizes, (*head.leaves(), *mapped), head.form, inner)


def _listed(parts: Iterable[Leaves]) -> Leaves:
    return {f"{i}.{name}": leaf for i, part in enumerate(parts) for name, leaf in part.items()}


def _map(weights: type, d: int, f: int, bias: bool) -> Leaves:
    return annotated(weights, {"D": d, "F": f}, ("bias",) if bias else ())


def _norm(prefix: str, norm: Norm | None, d: int) -> Leaves:
    return {} if norm is None else {f"{prefix}{leaf}": Leaf((d,)) for leaf in norm.leaves()}


def _mixer(mixer: TokenMixer, d: int) -> Leaves:
    weights = _attention_weights(mixer) if isinstance(mixer, Attention) else mixer.weights
    sizes, width = {"D": d, **mixer.sizes(d)}, mixer.inner_width
    inner = {name: _norm("", norm, width) for name, norm in mixer.inner_norms().items()}
    inner["mlps"] = _listed(
        {**_mlp(one, width), **_norm("after.", one.after, width)} for one in mixer.inner_mlps()
    )
    inner["mlp"] = {} if mixer.inner_mlp is None else _mlp(mixer.inner_mlp, d)
    return annotated(weights, sizes, mixer.leaves(), mixer.form, inner)


def _cross(layer: Layer, d: int, encoded: int) -> Leaves:
    """Return the parameters of cross-attention, with keys and values made from an encoder's vectors.
    Merged attention adds only the maps to these keys and values.
    """
    assert layer.cross is not None
    of_encoder, keys = _mixer(layer.cross, encoded), CrossKeyWeights.__annotations__
    return {
        name: of_encoder[name] if name in keys else leaf
        for name, leaf in _mixer(layer.cross, d).items()
        if name in keys or not layer.merged
    }


def _attention_weights(a: Attention) -> type:
    return CachedAttentionWeights if a.kv_layer is None else SharedAttentionWeights


def _mlp(mlp: Mlp, d: int) -> Leaves:
    if mlp.op is None:
        return {}
    inner = _experts(mlp, d) if isinstance(mlp, MoE) else {}
    return annotated(MLPS[type(mlp)], {"D": d, **mlp.sizes()}, mlp.leaves(), inner=inner)


def _experts(m: MoE, d: int) -> dict[str, Leaves]:
    """Return the parameters of all experts and of the shared expert. D of the experts is the latent's
    width.
    """
    sizes, optional = {"D": m.latent or d, "F": m.width}, m.expert_leaves(biased=m.expert_bias)
    inner = {"experts": _listed([annotated(ExpertWeights, sizes, optional)] * m.experts)}
    if m.shared is not None:
        optional = m.expert_leaves(biased=m.shared_bias)
        inner["shared"] = annotated(ExpertWeights, {"D": d, "F": m.shared}, optional)
    return inner

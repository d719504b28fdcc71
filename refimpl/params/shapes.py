"""Which arrays a Config needs: their names in the tree of parameters, and their shapes.

A name is a path, as `decoder.layers.0.attn.wq`: through `ops.model.ModelWeights` down to the weights of a
mixer (`TokenMixer.weights`) or an mlp, by number through lists. The shapes of these are read from their
annotations. Beside a sublayer `attn`, `cross` or `mlp` are its norms, as `attn_pre` and `attn_after`.

Weights are oriented so that a linear map is `x @ w`. Leaf names are the parameter names of the
functions in `ops`, so a call reads `gated_mlp(x, weights["mlp"])`.
"""

from __future__ import annotations

from ..config import (
    LM,
    AdaptiveSoftmax,
    Attention,
    Classify,
    Config,
    Embedding,
    Gated,
    Head,
    MaskedLM,
    Mlp,
    MoE,
    NoMlp,
    Norm,
    Plain,
    Pool,
    QuestionAnswering,
    Stack,
    Tag,
    TokenMixer,
    has_mtp,
)
from ..ops.altup import AltUpWeights
from ..ops.attention import CachedAttentionWeights
from ..ops.laurel import LaurelWeights
from ..ops.mlp import GatedMlpWeights, PlainMlpWeights
from ..ops.moe import ExpertWeights, MoEWeights
from ..ops.per_layer import PerLayerEmbeddingWeights, PerLayerWeights
from ..ops.shared_attention import SharedAttentionWeights
from .annotations import Shapes, annotated

MLPS: dict[type, type] = {Gated: GatedMlpWeights, Plain: PlainMlpWeights, MoE: MoEWeights}

# Small tables whose rows are added to vectors or scores, or are inputs of products: they stay in float.
ADDED = ("positions", "token_types", "relative_bias", "global_relative_bias", "distances", "segments")
# What a stack has beside its layers and its last norm: leaves that it needs from before the first layer on.
ENTRY = (
    "positions", "first_norm", "relative_bias", "global_relative_bias", "distances", "distances_norm",
    "streams",
)  # fmt: skip
# Small matrices whose products choose or weigh experts: they stay in float, since a small error could choose
# another expert.
ROUTING = (".router", ".shared_gate")
# Tiny matrices that give the coefficients of streams, of all numbers of a token each: they stay in float.
COEFFICIENTS = (".altup.router", ".altup.predict", ".altup.correct")
# Maps of an indexer, whose scores choose what attention sees: they stay in float for the same reason.
INDEXER = (".wq_index", ".wk_index", ".w_index")
# Weights of norms, which may have a row for each head.
NORMS = (".q_norm", ".k_norm")
# Scales of cached keys and values, one per channel.
SCALES = (".k_scale", ".v_scale")
# Weights of an LSTM's gates: ONNX's operator takes them as floats.
GATES = (".wx", ".wh")
# Rates of decay, of writing and of reading of a state: small, and their errors add up over a whole text.
RATES = (".wa", ".wa_a", ".wb", ".wc", ".wdt", ".wdt_a", ".a_log")
# Kernels of convolutions, which multiply channel by channel.
KERNELS = (".conv",)
# Maps of a latent to keys and values, which products take from either side.
LATENT_MAPS = (".wk_b", ".wv_b")
# Projections to the labels, or to an embedding's own space: small, and no later layer averages their rounding
# error out, so they stay in float.
LABELS = ("head.out.weight",)
PROJECTIONS = "head.projections."


def parameter_shapes(config: Config) -> Shapes:
    """Dotted leaf name -> shape, in the order in which a forward pass reads them."""
    e, inner = config.embedding, config.embedding.projection
    tables = e.width if inner is None else inner.width
    entry = tables if inner is not None and inner.late else e.width
    shapes: Shapes = {"embedding.table": (e.vocabulary, tables)}
    if e.token_types is not None and not any(stack.segments for stack in config.stacks.values()):
        shapes["embedding.token_types"] = (e.token_types, entry)
    if inner is not None:
        shapes["embedding.project"] = (inner.width, e.width)
        shapes |= {"embedding.project_bias": (e.width,)} if inner.bias else {}
    if e.per_layer is not None:
        shapes |= _per_layer_embedding(config)
    for name, stack in config.stacks.items():
        shapes |= {f"{name}.{leaf}": shape for leaf, shape in _stack(stack, e.width, entry).items()}
    if has_mtp(config):
        shapes |= {"mtp.token_norm": (e.width,), "mtp.hidden_norm": (e.width,)}
        shapes["mtp.project"] = (2 * e.width, e.width)
        module = _stack(config.mtp_decoder.stack, e.width, entry)
        shapes |= {f"mtp.{leaf}": shape for leaf, shape in module.items()}
    return shapes | {f"head.{leaf}": shape for leaf, shape in _head(config.head, e).items()}


def _per_layer_embedding(config: Config) -> Shapes:
    e, widths = config.embedding, [layer.per_layer.width for layer in config.layers if layer.per_layer]
    assert e.per_layer is not None
    sizes = {"N": e.per_layer.rows, "D": e.width, "C": len(widths), "F": widths[0]}
    leaves = annotated(PerLayerEmbeddingWeights, sizes)
    return {f"embedding.per_layer.{leaf}": shape for leaf, shape in leaves.items()}


def _stack(stack: Stack, d: int, entry: int) -> Shapes:
    shapes: Shapes = {}
    shapes |= {} if stack.positions is None else stack.positions.tables(entry)
    shapes |= _norm("first_norm.", stack.first_norm, entry)
    for mixer in stack.mixers:
        shapes |= mixer.tables(d)
    shapes |= {} if stack.distances is None else _norm("distances_norm.", stack.distances.norm, d)
    for i in range(0 if stack.altup is None else stack.altup.streams - 1):
        shapes |= {f"streams.{i}.enter": (d, d), f"streams.{i}.leave": (d, d)}
    for i, layer in enumerate(stack.layers):
        at = f"layers.{i}."
        cross = () if layer.cross is None else (("cross", layer.cross, _mixer(layer.cross, d)),)
        for part, sublayer, leaves in (
            ("attn", layer.attention, _mixer(layer.attention, d)),
            *cross,
            ("mlp", layer.mlp, _mlp(layer.mlp, d)),
        ):
            shapes |= _norm(f"{at}{part}_pre.", sublayer.pre, d)
            shapes |= {f"{at}{part}.{name}": shape for name, shape in leaves.items()}
            shapes |= _norm(f"{at}{part}_post.", sublayer.post, d)
            shapes |= _norm(f"{at}{part}_after.", sublayer.after, d)
        if layer.beside is not None:
            leaves = _mixer(layer.beside.mixer, d)
            shapes |= {f"{at}beside.{name}": shape for name, shape in leaves.items()}
        if layer.conv is not None:
            shapes |= {f"{at}conv.weight": ((2 * layer.conv.neighbours + 1) * d, d), f"{at}conv.bias": (d,)}
            shapes |= _norm(f"{at}conv_after.", layer.conv.after, d)
        if (own := layer.per_layer) is not None:
            leaves = annotated(PerLayerWeights, {"D": d, "F": own.width}, ("scale",) if own.scaled else ())
            shapes |= {f"{at}per_layer.{name}": shape for name, shape in leaves.items()}
            shapes |= _norm(f"{at}per_layer_post.", own.post, d)
        if layer.laurel is not None:
            leaves = annotated(LaurelWeights, {"D": d, "F": layer.laurel.rank})
            shapes |= {f"{at}laurel.{name}": shape for name, shape in leaves.items()}
        if layer.altup is not None:
            leaves = annotated(AltUpWeights, {"D": d, "X": layer.altup.streams})
            shapes |= {f"{at}altup.{name}": shape for name, shape in leaves.items()}
        shapes |= {f"{at}scalar": (1,)} if layer.scalar else {}
    return shapes | _norm("norm.", stack.final_norm, d)


def _head(head: Head, e: Embedding) -> Shapes:
    n, d = e.vocabulary, e.width
    shapes: Shapes = {}
    if isinstance(head, LM):
        shapes |= {} if e.projection is None else {"project": (d, e.projection.width)}
        d = d if e.projection is None else e.projection.width
    if head.dense is not None:
        f = head.dense.width or d
        shapes |= {"dense.weight": (d, f)} | ({"dense.bias": (f,)} if head.dense.bias else {})
        shapes |= _norm("norm.", head.dense.norm, f)
        d = f
    match head:
        case LM(adaptive=AdaptiveSoftmax() as adaptive, bias=bias):
            return shapes | _adaptive(adaptive, n, d, bias)
        case LM(tied=tied, bias=bias) | MaskedLM(tied=tied, bias=bias):
            return shapes | ({} if tied else {"table": (n, d)}) | ({"bias": (n,)} if bias else {})
        case Classify(labels=labels, bias=bias) | Tag(labels=labels, bias=bias):
            return shapes | {"out.weight": (d, labels)} | ({"out.bias": (labels,)} if bias else {})
        case QuestionAnswering(bias=bias, mlp=mlp):
            if mlp is not None:
                shapes |= {f"mlp.{name}": shape for name, shape in _mlp(mlp, d).items()}
                shapes |= _norm("mlp_after.", mlp.after, d)
            return shapes | {"out.weight": (d, 2)} | ({"out.bias": (2,)} if bias else {})
        case Pool(projections=projections):
            for i, dense in enumerate(projections):
                f = dense.width or d
                shapes[f"projections.{i}.weight"] = (d, f)
                shapes |= {f"projections.{i}.bias": (f,)} if dense.bias else {}
                d = f
            return shapes


def _adaptive(adaptive: AdaptiveSoftmax, n: int, d: int, bias: bool) -> Shapes:
    ends = (*adaptive.cutoffs, n)
    frequent = ends[0] + len(adaptive.cutoffs)
    shapes: Shapes = {"frequent": (d, frequent)} | ({"bias": (frequent,)} if bias else {})
    for i in range(len(adaptive.cutoffs)):
        width = adaptive.width(i, d)
        shapes |= {f"tails.{i}.down": (d, width), f"tails.{i}.up": (width, ends[i + 1] - ends[i])}
    return shapes


def _norm(prefix: str, norm: Norm | None, d: int) -> Shapes:
    return {} if norm is None else {f"{prefix}{leaf}": (d,) for leaf in norm.leaves()}


def _mixer(mixer: TokenMixer, d: int) -> Shapes:
    weights = _attention_weights(mixer) if isinstance(mixer, Attention) else mixer.weights
    return annotated(weights, {"D": d, **mixer.sizes(d)}, mixer.leaves(), mixer.form)


def _attention_weights(a: Attention) -> type:
    return CachedAttentionWeights if a.kv_layer is None else SharedAttentionWeights


def _mlp(mlp: Mlp, d: int) -> Shapes:
    if isinstance(mlp, NoMlp):
        return {}
    inner = _experts(mlp, d) if isinstance(mlp, MoE) else {}
    return annotated(MLPS[type(mlp)], {"D": d, **mlp.sizes()}, mlp.leaves(), inner=inner)


def _experts(m: MoE, d: int) -> dict[str, Shapes]:
    """Those of all experts, whose D is the latent's width, and of the shared one."""
    sizes, leaves = {"D": m.latent or d, "F": m.width}, m.expert_leaves(biased=m.expert_bias)
    one = annotated(ExpertWeights, sizes, leaves)
    shapes = {"experts": {f"{i}.{leaf}": shape for i in range(m.experts) for leaf, shape in one.items()}}
    if m.shared is not None:
        leaves = m.expert_leaves(biased=m.shared_bias)
        shapes["shared"] = annotated(ExpertWeights, {"D": d, "F": m.shared}, leaves)
    return shapes


def multiplied(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a leaf is a matrix of products or a table of tokens: what may be stored in fewer bits."""
    stays_in_float = name.startswith(PROJECTIONS) or name.endswith(
        (
            *ADDED,
            *ROUTING,
            *COEFFICIENTS,
            *INDEXER,
            *NORMS,
            *SCALES,
            *GATES,
            *RATES,
            *KERNELS,
            *LATENT_MAPS,
            *LABELS,
        )
    )
    return len(shape) == 2 and not stays_in_float

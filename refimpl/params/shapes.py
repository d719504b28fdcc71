"""Which arrays a Config needs: their names in the tree of parameters, and their shapes.

    embedding                       table N,D  token_types _,D  project E,D  project_bias D
    embedding.per_layer             table N,C*F  project D,C*F  norm F
    encoder, reader, decoder        positions _,D  first_norm  relative_bias W,H  layers  norm
                                    (relative_bias in each layer's attn where it isn't shared)
                                    global_relative_bias W,H
                                    distances W,D  distances_norm
    decoder.layers.I.attn_pre       weight D, bias D      (likewise attn_post, attn_after, cross_*, mlp_*)
    decoder.layers.I.attn           wq D,H*K  wk D,G*K  wv D,G*K  wo H*K,D  bq bk bv bo
                                    q_norm, k_norm: K, or H,K and G,K, or H*K and G*K
                                    (no wv and bv where keys are values; no wk, bk and k_norm either, nor
                                    scales, in a layer that reads another's keys and values)
                                    sink_logits H  wg D,H*K  bg H*K
                                    k_scale, v_scale: G,K where keys and values are kept in 8 bits
                                    of an LSTM: wx D,4*F  wh F,4*F  wo F,D  bias 4*F  bo
                                    of a short convolution: wi D,3*F  conv _,F  wo F,D
                                    bi 3*F  conv_bias F  bo D
                                    of a gated delta network: wi D,2*G*K+H*V  conv _,2*G*K+H*V
                                    wz D,H*V  wb D,H  wa D,H  a_log H  dt_bias H  norm V  wo H*V,D
                                    of Mamba: wi D,F  conv _,F  wz D,F  wdt_a F,C  wdt C,F  wb F,K  wc F,K
                                    a_log F,K  dt_bias F  skip F  wo F,D  dt_norm C  b_norm K  c_norm K
                                    bi conv_bias bz bo
                                    of Mamba 2: wi D,H*V+2*G*K  conv _,H*V+2*G*K  wz D,H*V  wdt D,H
                                    a_log H  dt_bias H  skip H  norm H*V  wo H*V,D
                                    bi conv_bias bz bdt bo
                                    of latent attention: wkv_a D,C+2*J  kv_norm C  wk_b C,H*U  wv_b C,H*V
                                    wo H*V,D  wq D,H*K, or wq_a D,F  q_norm F  wq F,H*K  bkv_a bq_a bo
                                    and of its indexer: wq_index F,X*P  wk_index D,P  w_index D,X
                                    index_norm, index_bias P
                                    of disentangled attention: also wq_pos D,H*K  wk_pos D,H*K  bq_pos bk_pos
                                    of Longformer's with global tokens: also wq_global, …, bv_global
                                    of LongT5's with summaries: also global_norm D
                                    of XLNet's: also wk_pos D,H*K  content_bias position_bias segment_bias H*K
                                    segments 2,H*K
    decoder.layers.I.beside         as attn of Mamba 2
    decoder.layers.I.scalar         1
    decoder.layers.I.per_layer      gate D,F  project F,D  scale D  (and per_layer_post, a norm)
    decoder.layers.I.laurel         left D,F  right F,D  norm D
    decoder.layers.I.altup          router D,X  norm D  predict X,X*X  correct X,X
    decoder.streams.I               enter D,D  leave D,D  (for each stream but the first)
    encoder.layers.I.conv           weight _*D,D  bias D  (and conv_after, a norm)
    decoder.layers.I.cross          the same, over the encoder's output
    decoder.layers.I.mlp            gate D,F  up D,F  down F,D  bgate bup bdown
                                    of a plain mlp with xIELU: up down bup bdown  alpha_p alpha_n 1
                                    of a mixture: router D,E  router_bias E  bias E  shared_gate D,1
                                    experts.E and shared (as an mlp each), with a latent of C numbers
                                    latent_down D,C  latent_up C,D  latent_bdown latent_bup
                                    expert_scale E  router_norm experts_pre experts_post shared_pre
                                    shared_post: D
    head.dense                      weight D,D  bias D    (and head.norm; of a language model too)
    head.project                    D,E                   (with an inner width, of a language model)
    head.table, head.bias           N,D and N             (the table is absent when tied to embedding.table)
    head.frequent, head.tails.I     D,F and down D,K  up K,V   (of an adaptive softmax, in place of the table)
    head.out                        weight D,F  bias F    (F labels, or 2 for QuestionAnswering)
    head.mlp                        as a layer's (and head.mlp_after, a norm)
    head.projections.I              weight D,F  bias F    (after the pooling)

Weights are oriented so that a linear map is `x @ w`. Leaf names are the parameter names of the
functions in `ops`, so a call reads `gated_mlp(x, weights["mlp"])`.
"""

from __future__ import annotations

from ..config import (
    LM,
    XIELU,
    AdaptiveSoftmax,
    Attention,
    Classify,
    Config,
    Embedding,
    Gated,
    Head,
    LayerNorm,
    Learned,
    MaskedLM,
    Mlp,
    MoE,
    NoMlp,
    Norm,
    Pool,
    QuestionAnswering,
    Stack,
    Tag,
    TokenMixer,
    has_mtp,
)
from ..ops.block import CachedAttentionWeights
from ..ops.shared_attention import SharedAttentionWeights
from .annotations import Shapes, annotated

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
    leaves = {
        "table": (e.per_layer.rows, sum(widths)),
        "project": (e.width, sum(widths)),
        "norm": (widths[0],),
    }
    return {f"embedding.per_layer.{leaf}": shape for leaf, shape in leaves.items()}


def _stack(stack: Stack, d: int, entry: int) -> Shapes:
    shapes: Shapes = {}
    if isinstance(stack.positions, Learned):
        shapes["positions"] = (stack.positions.offset + stack.positions.size, entry)
    shapes |= _norm("first_norm.", stack.first_norm, entry)
    for mixer in stack.mixers:
        shapes |= mixer.tables()
    if (distances := stack.distances) is not None:
        shapes["distances"] = (2 * distances.span, d)
        shapes |= _norm("distances_norm.", distances.norm, d)
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
            shapes |= {f"{at}per_layer.gate": (d, own.width), f"{at}per_layer.project": (own.width, d)}
            shapes |= {f"{at}per_layer.scale": (d,)} if own.scaled else {}
            shapes |= _norm(f"{at}per_layer_post.", own.post, d)
        if layer.laurel is not None:
            rank = layer.laurel.rank
            leaves = {"left": (d, rank), "right": (rank, d), "norm": (d,)}
            shapes |= {f"{at}laurel.{name}": shape for name, shape in leaves.items()}
        if layer.altup is not None:
            y = layer.altup.streams
            leaves = {"router": (d, y), "norm": (d,), "predict": (y, y * y), "correct": (y, y)}
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
    if norm is None:
        return {}
    weight, bias = (norm.weight, norm.bias) if isinstance(norm, LayerNorm) else (True, False)
    shapes: Shapes = {f"{prefix}weight": (d,)} if weight else {}
    return shapes | ({f"{prefix}bias": (d,)} if bias else {})


def _mixer(mixer: TokenMixer, d: int) -> Shapes:
    weights = _attention_weights(mixer) if isinstance(mixer, Attention) else mixer.weights
    return annotated(weights, {"D": d, **mixer.sizes(d)}, mixer.leaves(), mixer.form)


def _attention_weights(a: Attention) -> type:
    return CachedAttentionWeights if a.kv_layer is None else SharedAttentionWeights


def _mixture(m: MoE, d: int) -> Shapes:
    shapes: Shapes = {"router": (d, m.experts)}
    inner = m.latent or d
    for i in range(m.experts):
        shapes |= _expert(f"experts.{i}.", inner, m.width, gated=m.gated, biased=m.expert_bias)
    if m.shared is not None:
        shapes |= _expert("shared.", d, m.shared, gated=m.gated, biased=m.shared_bias)
    if m.latent is not None:
        shapes |= {"latent_down": (d, inner), "latent_up": (inner, d)}
        shapes |= {"latent_bdown": (inner,), "latent_bup": (d,)} if m.shared_bias else {}
    bias: Shapes = {"router_bias": (m.experts,)} if m.router_bias else {}
    bias |= {"bias": (m.experts,)} if m.choice_bias else {}
    bias |= {"expert_scale": (m.experts,)} if m.expert_scale else {}
    if m.own_norms is not None:
        parts = ("experts",) if m.shared is None else ("experts", "shared")
        names = ["router_norm", *(f"{part}_{side}" for part in parts for side in ("pre", "post"))]
        bias |= dict.fromkeys(names, (d,))
    return shapes | bias | ({"shared_gate": (d, 1)} if m.shared_gate else {})


def _expert(prefix: str, d: int, f: int, *, gated: bool, biased: bool) -> Shapes:
    leaves: Shapes = {"gate": (d, f), "bgate": (f,)} if gated else {}
    leaves |= {"up": (d, f), "down": (f, d), "bup": (f,), "bdown": (d,)}
    return {prefix + name: shape for name, shape in leaves.items() if biased or len(shape) == 2}


def _mlp(mlp: Mlp, d: int) -> Shapes:
    if isinstance(mlp, MoE):
        return _mixture(mlp, d)
    if isinstance(mlp, NoMlp):
        return {}
    f = mlp.width
    gate: Shapes = {"gate": (d, f)} if isinstance(mlp, Gated) else {}
    bias: Shapes = {}
    if mlp.bias:
        bias = ({"bgate": (f,)} if gate else {}) | {"bup": (f,), "bdown": (d,)}
    elif isinstance(mlp, Gated) and mlp.down_bias:
        bias = {"bdown": (d,)}
    curves: Shapes = {}
    if isinstance(mlp.activation, XIELU):
        curves = {"alpha_p": (1,), "alpha_n": (1,)}
    norm: Shapes = {"down_norm": (f,)} if isinstance(mlp, Gated) and mlp.down_norm is not None else {}
    return gate | {"up": (d, f), "down": (f, d)} | bias | curves | norm


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

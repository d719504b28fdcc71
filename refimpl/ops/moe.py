"""Mixture of experts: a router sends each token to a few of many mlps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NotRequired, TypedDict, cast

import numpy as np

from ..config import ONE_GROUP, ExpertGroups, Gate, LimitedSwiGLU, MoE, SparseMixer
from .activation import sigmoid
from .arrays import each_row, exp, filled, join_rows, row_sum, split_rows, where
from .attention import softmax
from .dispatch import op
from .linear import linear
from .mlp import GatedMlpWeights, PlainMlpWeights, gated_mlp, plain_mlp
from .norm import rms_norm
from .quant import Blocks

if TYPE_CHECKING:
    from ..axes import Array, Bool, Float, Index


class ExpertWeights(TypedDict):
    """The parameters of one expert: a gated mlp, or a plain mlp if the expert has no gate."""

    gate: NotRequired[Float[Array, "D F"] | Blocks]
    bgate: NotRequired[Float[Array, " F"]]
    up: Float[Array, "D F"] | Blocks
    down: Float[Array, "F D"] | Blocks
    bup: NotRequired[Float[Array, " F"]]
    bdown: NotRequired[Float[Array, " D"]]


class MoEWeights(TypedDict):
    """The parameters of a mixture of experts: the router, the experts, and the shared expert, which takes
    every token.

    Experts are a list of parameters, not arrays with an axis of experts. So each parameter stays a matrix
    that `linear` takes, quantized or not, and experts are separate, as in checkpoints. If the mixture has
    a latent, the experts' parameters have its width C instead of D.
    """

    router: Float[Array, "D E"]
    experts: list[ExpertWeights]
    shared: NotRequired[ExpertWeights]
    latent_down: NotRequired[Float[Array, "D C"] | Blocks]
    latent_up: NotRequired[Float[Array, "C D"] | Blocks]
    latent_bdown: NotRequired[Float[Array, " C"]]
    latent_bup: NotRequired[Float[Array, " D"]]
    router_bias: NotRequired[Float[Array, " E"]]
    bias: NotRequired[Float[Array, " E"]]
    expert_scale: NotRequired[Float[Array, " E"]]
    router_norm: NotRequired[Float[Array, " D"]]
    experts_pre: NotRequired[Float[Array, " D"]]
    experts_post: NotRequired[Float[Array, " D"]]
    shared_pre: NotRequired[Float[Array, " D"]]
    shared_post: NotRequired[Float[Array, " D"]]
    shared_gate: NotRequired[Float[Array, "D 1"]]


@op
def route(
    logits: Float[Array, "M E"],
    bias: Float[Array, " E"] | None = None,
    *,
    top: int,
    score: Literal["softmax", "sigmoid"],
    renormalize: bool,
    scale: float | None = None,
    groups: ExpertGroups = ONE_GROUP,
    sum_eps: float | None = None,
) -> tuple[Index[Array, "M I", "< E"], Float[Array, "M I"]]:
    """Return the `top` experts of each token, best first, and the weights of their outputs.

    Scores are a softmax over the experts (Shazeer et al. 2017; Fedus et al. 2022, eq. 1), or a sigmoid of
    each logit (DeepSeek-V3 2024, eq. 15). The weights are the scores of the chosen experts. With
    `renormalize` they are divided by their sum (plus `sum_eps` if there is one). Then they are multiplied
    by `scale`, if there is one.

    If experts are on several machines and any expert may be chosen, a token is sent to many machines.
    `groups` of neighbouring experts limit this. First the groups are compared, each by the score of its
    best expert (DeepSeek-V2 2024, §2.1.2) or by the sum of its two best scores (DeepSeek-V3, §2.1.2). Then
    only the experts of the best groups are compared:

        scores           0.9 0.0 | 0.6 0.5 | 0.1 0.2      1 of 3 groups is chosen, and 2 experts
        best, two best   0.9 0.9 | 0.6 1.1 | 0.2 0.3
        chosen by max    0.9 0.0 |         |
        chosen by top2           | 0.6 0.5 |

    Conventions: a bias affects only the choice, not the weights (DeepSeek-V3, eq. 16). If experts or
    groups are equal, the lower index is chosen. Without a bias, logits are compared instead of scores.
    Logits have the same order as scores, but rounding never makes two different logits equal.
    """
    scores = softmax(logits) if score == "softmax" else sigmoid(logits)
    choice = logits if bias is None else scores + bias
    if groups.count > 1:
        compared = scores if bias is None and groups.by == "top2" else choice
        choice = np.where(_in_best_groups(compared, groups), choice, -np.inf)
    index = np.argsort(-choice, axis=-1, kind="stable")[:, :top]
    weights = np.take_along_axis(scores, index, axis=-1)
    if renormalize:
        total = row_sum(weights) + (sum_eps or 0)
        weights = weights / np.where(total == 0, 1, total)
    return index, weights if scale is None else weights * scale


@op
def sparse_mixer(
    logits: Float[Array, "M E"], *, top: int, jitter: float
) -> tuple[Index[Array, "M I", "< E"], Float[Array, "M I"]]:
    """Return the `top` experts of each token, best first, with their weights. An expert is weighed only
    against experts that aren't chosen yet and have logits near its own.

        w_i = 1 / Σ_e exp(l_e − l_i)    e: not chosen before i, l_i − l_e ≤ 2 · jitter · max(|l_e|, l_i)

    In training, an expert is sampled from the experts near the best one. A softmax over them gives its
    probability, and so a gradient for the router (SparseMixer-v2, Liu et al. 2024, "GRIN:
    GRadient-INformed MoE", arXiv 2409.12136, §2.1). After training the best expert is taken, with its
    probability as its weight. The second expert is chosen in the same way from the others:

        logits           2.00  1.99  1.00  0.50      jitter 0.01
        first  near it   2.00  1.99                  w = 1 / (1 + e^−0.01) = 0.5025
        second near it         1.99                  w = 1

    Conventions: an expert without near rivals has the weight 1, and the weights of a token have no fixed
    sum. If experts are equal, the lower index is chosen. In a float type of few bits, rounding decides
    whether an expert at the bound counts as near.
    """
    left, rows = logits.copy(), np.arange(len(logits))
    index, weights = [], []
    for _ in range(top):
        chosen = np.argmax(left, axis=-1)
        best = left[rows, chosen][:, None]
        far = best - logits > 2 * jitter * np.maximum(np.abs(logits), best)
        odds = np.where(far, 0, exp(np.minimum(left - best, 0)))
        index.append(chosen)
        weights.append(1 / row_sum(odds))
        left[rows, chosen] = -np.inf
    return np.stack(index, axis=1), np.concatenate(weights, axis=1)


def _in_best_groups(choice: Array, groups: ExpertGroups) -> Array:
    """Return a mask [M, E] of the experts that are in the best groups of each token."""
    size = choice.shape[1] // groups.count  # stated, as there may be no tokens
    members = np.sort(choice.reshape(-1, groups.count, size), axis=-1)
    score = members[..., -1] if groups.by == "max" else members[..., -2:].sum(-1)
    best = np.argsort(-score, axis=-1, kind="stable")[:, : groups.top]
    within = np.zeros(score.shape, bool)
    np.put_along_axis(within, best, True, axis=-1)
    return np.repeat(within, members.shape[-1], axis=-1)


@op
def within_capacity(
    index: Index[Array, "M I", "< E"],
    capacity: Index[Array, " E", "< M+1"],
) -> Bool[Array, "M I"]:
    """Return which choices fit into their expert's capacity. Expert e takes the first `capacity[e]` tokens
    sent to it.

    Conventions: all first choices come before all second choices, and tokens come in their order (GShard,
    Lepikhin et al. 2020, algorithm 1; Switch, Fedus et al. 2022, section 2.2). A choice without room is
    dropped: its expert adds nothing to the token, and the weights of the token's other choices stay
    unchanged.
    """
    room, fits = capacity.copy(), np.zeros(index.shape, bool)
    for choice in range(index.shape[1]):
        for token in range(index.shape[0]):
            expert = index[token, choice]
            fits[token, choice] = room[expert] > 0
            room[expert] -= fits[token, choice]
    return fits


@op
def expert_mlp(x: Array, weights: ExpertWeights, *, kind: Gate) -> Array:
    """Compute one expert: `gated_mlp`, or `plain_mlp` if the expert has no gate. A target may have joined
    gate and up into one matrix.
    """
    if "up" in weights and "gate" not in weights:
        assert not isinstance(kind, LimitedSwiGLU)
        return plain_mlp(x, cast("PlainMlpWeights", weights), kind=kind)
    return gated_mlp(x, cast("GatedMlpWeights", weights), kind=kind)


@op
def mixture(
    x: Float[Array, "M D"],
    index: Index[Array, "M I", "< E"],
    weights: Float[Array, "M I"],
    experts: list[ExpertWeights],
    fits: Bool[Array, "M I"] | None = None,
    *,
    kind: Gate,
    weighs: Literal["output", "input"] = "output",
) -> Float[Array, "M D"]:
    """Compute the weighted sum of the chosen experts: y[m] = Σ_i weights[m,i] · expert_index[m,i](x[m]).
    Each expert is computed only for its tokens.

    If `weighs` is the input, the result is Σ_i expert_index[m,i](weights[m,i] · x[m]) (Llama 4). Then a
    weight has two effects: on the gate, and on the values that the gate multiplies. Conventions: an expert
    without tokens isn't computed. A choice for which there is no room adds nothing.
    """
    y = np.zeros_like(x)
    for e, expert in enumerate(experts):
        token, choice = np.nonzero(index == e if fits is None else (index == e) & fits)
        share = weights[token, choice, None]
        if weighs == "input":
            out = expert_mlp((share * x[token])[None], expert, kind=kind)[0]
        else:
            out = share * expert_mlp(x[token][None], expert, kind=kind)[0]
        np.add.at(y, token, out)
    return y


@op
def moe(
    x: Float[Array, "B T D"],
    weights: MoEWeights,
    *,
    settings: MoE,
    capacity: int | None = None,
) -> Float[Array, "B T D"]:
    """Return the sum of the shared expert and the `mixture` of the experts that are chosen for each token.

    `route` or `sparse_mixer` chooses the experts by the logits x · router + router_bias. The shared expert
    takes every token. Several shared experts are treated as one expert with their joint width. With
    `shared_gate`, the shared expert's output is multiplied by σ(x · shared_gate) (Qwen2-MoE). gpt-oss
    takes the softmax over the chosen logits only, which equals the renormalized softmax over all logits.
    With `settings.own_norms`, the shared expert is a dense mlp beside the mixture, and both have norms of
    their own. So neither of the two depends on the scale of the other (Gemma 4, Google 2026):

            ┌── norm, /√D ── router ───── which experts, and how much of each
        x ──┼── norm ── experts ───────── norm ──┐
            └── norm ── shared expert ─── norm ──┴── + ── y

    The sum of the experts is normalized, so their weights say how they are mixed, but not how large the
    sum is. `expert_scale` gives an expert more weight than others. If experts are on several machines, a
    token's vector is sent to each of its experts and back. A latent with fewer numbers, x · latent_down,
    makes this cheaper, so that more experts can be chosen: x → latent → experts → · latent_up (Nemotron 3,
    NVIDIA 2025, "LatentMoE"). Router and shared expert read x itself. Conventions: without `capacity` no
    token is dropped, and a token's result doesn't depend on other tokens. With `capacity`, each expert
    takes at most this percentage of an even share: ceil(capacity / 100 · top · tokens / experts) tokens
    over all rows of the batch (Fedus et al. 2022, eq. 3, where top is 1). The capacity is a percentage
    because with a factor such as 0.7, engines would round the number of tokens differently.

    Indices above the last expert mean identities: such a choice adds weight · x. An identity has room for
    every token (LongCat, Meituan 2025, arXiv 2509.01322, §2.1, "zero-computation experts").
    """
    flat, experts, norm = join_rows(x), weights["experts"], settings.own_norms

    def normed(x: Array, weight: Array | None) -> Array:
        return x if norm is None else rms_norm(x, weight, eps=norm.eps)

    asked = normed(flat, weights.get("router_norm"))
    asked = asked if norm is None else asked * x.shape[-1] ** -0.5
    logits, router_bias = each_row(asked, weights["router"]), weights.get("router_bias")
    logits = logits if router_bias is None else logits + router_bias
    if isinstance(settings.score, SparseMixer):
        index, shares = sparse_mixer(logits, top=settings.top, jitter=settings.score.jitter)
    else:
        index, shares = route(
            logits,
            weights.get("bias"),
            top=settings.top,
            score=settings.score,
            renormalize=settings.renormalize,
            scale=settings.scale,
            groups=settings.groups,
            sum_eps=settings.sum_eps,
        )
    if "expert_scale" in weights:
        shares = shares * weights["expert_scale"][index]
    fits = None
    if capacity is not None:
        even = 100 * logits.shape[-1]
        # Rounded up without negative numbers, whose division ONNX rounds towards zero.
        most = (capacity * settings.top * flat.shape[0] + even - 1) // even
        fits = within_capacity(index, filled(logits.shape[-1], most, x))
    kept = None
    if settings.identities:  # no expert has shares of such a choice
        chosen = index < settings.experts
        kept = row_sum(where(chosen, 0.0, shares)) * flat
        index, shares = where(chosen, index, 0), where(chosen, shares, 0.0)
    kind, weighs = settings.activation, settings.weighs
    read = normed(flat, weights.get("experts_pre"))
    if "latent_down" in weights:
        read = linear(read[None], weights["latent_down"], weights.get("latent_bdown")).squeeze(0)
    y = mixture(read, index, shares, experts, fits, kind=kind, weighs=weighs)
    y = split_rows(y if kept is None else y + kept, x)
    if "latent_up" in weights:
        y = linear(y, weights["latent_up"], weights.get("latent_bup"))
    y = normed(y, weights.get("experts_post"))
    shared, gate = weights.get("shared"), weights.get("shared_gate")
    if shared is None:
        return y
    common = expert_mlp(normed(x, weights.get("shared_pre")), shared, kind=settings.shared_kind)
    common = normed(common, weights.get("shared_post"))
    return y + (common if gate is None else sigmoid(linear(x, gate)) * common)


@op
def load_balancing_loss(
    logits: Float[Array, "M E"],
    index: Index[Array, "M I", "< E"],
) -> Float[Array, ""]:
    """Compute the loss that training uses to balance experts: E · Σ_e f_e · P_e (Fedus et al. 2022, eq. 4
    to 6, without the factor α).

    f_e is the share of tokens that chose expert e, and P_e is the mean of softmax(logits) at e.
    Conventions: if a token makes several choices, f_e counts all of them, and the f_e sum up to the number
    of choices, as in Mixtral's loss. If each token makes one choice and the load is even, the loss is 1.
    Without tokens, the loss is 0.
    """
    tokens, experts = logits.shape
    chosen = np.bincount(index.reshape(-1), minlength=experts) / max(tokens, 1)
    mean = np.sum(softmax(logits), axis=0) / max(tokens, 1)
    return np.asarray(experts * np.sum(chosen * mean), logits.dtype)


@op
def router_z_loss(logits: Float[Array, "M E"]) -> Float[Array, ""]:
    """Compute the loss that keeps a router's logits small: the mean over tokens of (log Σ_e
    exp(logits_e))² (ST-MoE, Zoph et al. 2022, eq. 5). Without tokens the loss is 0."""
    top = np.max(logits, axis=-1)
    total = top + np.log(np.sum(np.exp(logits - top[:, None]), axis=-1))
    return np.asarray(np.sum(total * total) / max(len(total), 1), logits.dtype)

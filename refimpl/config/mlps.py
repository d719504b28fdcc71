"""What each token's vector goes through by itself: mlps, mixtures of them, and their activations."""

from __future__ import annotations

from typing import ClassVar, Literal

from .norms import Norm, RMSNorm
from .record import Record

Activation = Literal[
    "relu", "gelu", "gelu_tanh", "silu", "tanh", "quick_gelu", "relu_squared", "sigmoid", "mish"
]  # fmt: skip


class ClampedSwiGLU(Record):
    """What gpt-oss' experts compute in the place of act(gate) · up (`ops.mlp.clamped_swiglu`)."""

    alpha: float = 1.702
    limit: float = 7.0


class XIELU(Record):
    """An activation of a plain mlp whose two curves each layer learns (`ops.activation.xielu`).

    `eps` is the largest number of which the exponential is taken.
    """

    beta: float = 0.5
    eps: ClassVar[float] = -1e-6


class Gated(Record):
    """down(act(gate(x)) * up(x)); `bias` means one of each map, `down_bias` one of `down` alone (GTE).

    `gate_scale` multiplies what the activation takes, `scale` the mlp's output (Falcon-H1). With `sparsity`
    about this share of the hidden units is 0, those with the lowest gates (`ops.gaussian_topk`, Gemma 3n).
    `down_norm` normalizes the hidden units (BitNet).
    """

    width: int
    activation: Activation
    bias: bool = False
    pre: Norm | None = None
    post: Norm | None = None
    after: Norm | None = None
    down_bias: bool = False
    gate_scale: float | None = None
    scale: float | None = None
    sparsity: float | None = None
    down_norm: RMSNorm | None = None


class Plain(Record):
    """down(act(up(x)))."""

    width: int
    activation: Activation | XIELU
    bias: bool = True
    pre: Norm | None = None
    post: Norm | None = None
    after: Norm | None = None


class ExpertGroups(Record):
    """Experts in `count` equal groups of neighbours: a token chooses among those of its `top` best groups.

    A group is as good as its best expert (`max`: DeepSeek-V2), or as its two best together (`top2`:
    DeepSeek-V3).
    """

    count: int = 1
    top: int = 1
    by: Literal["max", "top2"] = "top2"


ONE_GROUP = ExpertGroups()  # no limit


class SparseMixer(Record):
    """A token's experts are chosen one by one, and each is weighed among those left (`ops.moe.sparse_mixer`).

    Only rivals within 2 · `jitter` of the best, relative to their own logits, count for its weight.
    """

    jitter: float = 0.01


class MoE(Record):
    """Each token's vector goes to the `top` best of `experts` mlps of `width`, chosen by a router.

    Their outputs are summed with the weights of `ops.moe.route`, or of a `SparseMixer` as `score`, which has
    nothing of what else says how experts are weighed (Phi-3.5-MoE). With `choice_bias` a learned number
    for each expert counts for the choice alone; with `router_bias` one is added to its logit. `groups` limit
    the choice. Renormalized weights are divided by their sum, plus `sum_eps` (LFM2). `expert_bias` means a
    bias of each map of an expert. `shared` is the width of an expert that takes every token, its output
    multiplied by a sigmoid of the token's own with `shared_gate`. An expert's weight multiplies its output,
    or its input (`weighs`: Llama 4), and with `expert_scale` a learned number of the expert's too. With
    `own_norms` router, experts and shared expert each read the sublayer's input by a norm of their own, and
    what experts and shared expert give is normalized before it is added (Gemma 4). Experts without gates
    (`gated`) are plain mlps, the shared one too. With `latent` the experts read and give vectors of that many
    numbers, between a map to them and one back, and `shared_bias` means a bias of each map that all tokens
    take: the shared expert's and these two (Nemotron-H). Experts have no capacity
    here: what is dropped for want of room depends on the other rows of a batch and on padding, and a model's
    row must not.
    """

    experts: int
    top: int
    width: int
    activation: Activation | ClampedSwiGLU
    score: Literal["softmax", "sigmoid"] | SparseMixer = "softmax"
    renormalize: bool = True
    scale: float | None = None
    choice_bias: bool = False
    router_bias: bool = False
    expert_bias: bool = False
    shared: int | None = None
    shared_gate: bool = False
    groups: ExpertGroups = ONE_GROUP
    weighs: Literal["output", "input"] = "output"
    pre: Norm | None = None
    post: Norm | None = None
    after: Norm | None = None
    sum_eps: float | None = None
    own_norms: RMSNorm | None = None
    expert_scale: bool = False
    gated: bool = True
    latent: int | None = None
    shared_bias: bool = False


class NoMlp(Record):
    """The layer ends with its mixer (Mamba 2)."""

    pre: ClassVar[None] = None
    post: ClassVar[None] = None
    after: ClassVar[None] = None


Mlp = Gated | Plain | MoE | NoMlp

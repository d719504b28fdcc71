"""The parts of a layer that compute each token's vector by itself: mlps, mixtures of experts, activations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

from .bounds import LIMITS, check_bounds, need, within
from .norms import NoSublayer, RMSNorm, Sublayer
from .record import Record, SmoothingSite, bounded

Activation = Literal[
    "relu", "gelu", "gelu_tanh", "silu", "tanh", "quick_gelu", "relu_squared", "sigmoid", "mish"
]  # fmt: skip


class SwiGLUOAI(Record):
    """The clamped SwiGLU of gpt-oss and MiniMax-M3, computed from the outputs of the maps `gate` and `up`.

    It replaces act(gate) · up (`ops.mlp.swiglu_oai`).
    """

    alpha: float = 1.702
    limit: float = 7.0


class SwiGLUStep(Record):
    """Step 3.7's clamped SwiGLU: min(silu(gate), limit) · clip(up, −limit, limit).

    The model's config.json calls the limit `swiglu_limits`.
    """

    limit: float


LimitedSwiGLU = SwiGLUOAI | SwiGLUStep
Gate = Activation | LimitedSwiGLU


class XIELU(Record):
    """The xIELU activation of a plain mlp: each layer learns the two curves of its activation
    (`ops.activation.xielu`).

    `eps` is an upper bound: the exponential is computed of min(x, eps).
    """

    beta: float = 0.5
    eps: ClassVar[float] = -1e-6

    def numbers(self) -> Iterator[float]:
        yield self.eps


def describe_activation(activation: Gate | XIELU) -> str:
    """Return the text that `inspect` shows for an activation."""
    match activation:
        case XIELU():
            return "xIELU"
        case SwiGLUOAI(limit=limit):
            return f"SwiGLU clamped to {limit:g}"
        case SwiGLUStep(limit=limit):
            return f"SwiGLU within {limit:g}"
        case _:
            return activation


class FeedForward(Record):
    """The base class of mlps: the settings of an mlp, and what other packages derive from the settings.

    Its methods name parameters as the mlp's weights do.
    """

    op: ClassVar[str | None] = None  # the op that computes it, None for no mlp

    @property
    def settings(self) -> Mapping[str, Any]:
        """The keyword arguments of the mlp's op, without the input `x` and the weights."""
        return {}

    @property
    def output_scale(self) -> float | None:
        """The factor that multiplies the mlp's output; None means 1."""
        return None

    def check(self, at: str, *, parallel: bool) -> None:
        """Raise ConfigError if the mlp's sizes contradict each other. The message begins with `at`."""
        check_bounds(at, self)

    def sizes(self) -> Mapping[str, int]:
        """Return a dict from each axis letter in the mlp's weights to the axis's size, without the model's
        width D.
        """
        return {}

    def leaves(self) -> Sequence[str]:
        """Return the optional parameters that this mlp has. They are marked `NotRequired` in the mlp's
        weights.
        """
        return ()

    def readers(self) -> Sequence[str]:
        """Return the names of the matrices that multiply the mlp's input."""
        return ()

    def smoothing(self) -> list[SmoothingSite]:
        """Return the activations inside the mlp that can be smoothed before quantization."""
        return []

    def epsilons(self) -> dict[str, float]:
        """Return a dict from the parameter of each norm inside the mlp to the norm's eps."""
        return {}

    def describe(self) -> str:
        """Return the text that `inspect` shows for the mlp."""
        raise NotImplementedError


class Gated(FeedForward, Sublayer):
    """A gated mlp: down(act(gate(x)) · up(x)).

    With `bias` each of the three maps has a bias; with `down_bias` only `down` has one (GTE). `gate_scale`
    multiplies the activation's input, and `scale` multiplies the mlp's output (Falcon-H1). `sparsity` is the
    approximate share of hidden units that are set to 0: the units with the lowest gates (`ops.gaussian_topk`,
    Gemma 3n). `down_norm` normalizes the hidden units (BitNet).
    """

    width: int = bounded("width", "mlp width")
    activation: Gate
    bias: bool = False
    down_bias: bool = False
    gate_scale: float | None = None
    scale: float | None = None
    sparsity: float | None = None
    down_norm: RMSNorm | None = None

    op = "gated_mlp"

    @property
    def settings(self) -> Mapping[str, Any]:
        normed = {} if self.down_norm is None else {"norm_eps": self.down_norm.eps}
        return {"kind": self.activation, "gate_scale": self.gate_scale, "sparsity": self.sparsity, **normed}

    @property
    def output_scale(self) -> float | None:
        return self.scale

    def check(self, at: str, *, parallel: bool) -> None:
        super().check(at, parallel=parallel)
        once = not (self.bias and self.down_bias)
        need(once, f"{at}bias and down_bias must not both be set")
        share = self.sparsity is None or self.sparsity < 1
        need(share, f"{at}sparsity must be below 1, got {self.sparsity!r}")

    def sizes(self) -> Mapping[str, int]:
        return {"F": self.width}

    def leaves(self) -> Sequence[str]:
        biases = ("bgate", "bup", "bdown") if self.bias else ("bdown",) if self.down_bias else ()
        return *biases, *(() if self.down_norm is None else ("down_norm",))

    def readers(self) -> Sequence[str]:
        return "gate", "up"

    def smoothing(self) -> list[SmoothingSite]:
        if self.down_norm is not None:
            return [SmoothingSite(("down_norm",), ("down",))]
        if isinstance(self.activation, LimitedSwiGLU):
            return []
        return [SmoothingSite(("up", "bup") if self.bias else ("up",), ("down",))]

    def numbers(self) -> Iterator[float]:
        if self.sparsity is not None:
            from statistics import NormalDist  # 5 ms, for the two models that have it

            yield NormalDist().inv_cdf(self.sparsity)

    def epsilons(self) -> dict[str, float]:
        return {} if self.down_norm is None else {"down_norm": self.down_norm.eps}

    def describe(self) -> str:
        normed = "" if self.down_norm is None else " with a norm of the units"
        return f"gated mlp {self.width} ({describe_activation(self.activation)}){normed}"


class Plain(FeedForward, Sublayer):
    """An mlp of two maps: down(act(up(x)))."""

    width: int = bounded("width", "mlp width")
    activation: Activation | XIELU
    bias: bool = True

    op = "plain_mlp"

    @property
    def settings(self) -> Mapping[str, Any]:
        return {"kind": self.activation}

    def sizes(self) -> Mapping[str, int]:
        return {"F": self.width}

    def leaves(self) -> Sequence[str]:
        curves = ("alpha_p", "alpha_n") if isinstance(self.activation, XIELU) else ()
        return *(("bup", "bdown") if self.bias else ()), *curves

    def readers(self) -> Sequence[str]:
        return ("up",)

    def smoothing(self) -> list[SmoothingSite]:
        if self.activation != "relu":
            return []
        return [SmoothingSite(("up", "bup") if self.bias else ("up",), ("down",))]

    def describe(self) -> str:
        return f"plain mlp {self.width} ({describe_activation(self.activation)})"


class ExpertGroups(Record):
    """A division of the experts into `count` equal groups; a token's experts come from its `top` best groups.

    Experts in a group are consecutive. A group's score is the score of its best expert (`max`: DeepSeek-V2),
    or the sum of its two best scores (`top2`: DeepSeek-V3).
    """

    count: int = 1
    top: int = 1
    by: Literal["max", "top2"] = "top2"


ONE_GROUP = ExpertGroups()  # no limit


class SparseMixer(Record):
    """A router that chooses a token's experts one after the other (`ops.moe.sparse_mixer`).

    The weight of a chosen expert is a softmax over the experts that weren't chosen before. Only experts with
    a logit close to the best one take part: the relative difference must be at most 2 · `jitter`.
    """

    jitter: float = 0.01

    def numbers(self) -> Iterator[float]:
        yield 2 * self.jitter


class MoE(FeedForward, Sublayer):
    """A mixture of experts: a router sends each token to the `top` best of `experts` mlps of `width`.

    **Weights of experts.** The output is a weighted sum of the experts' outputs, with the weights of
    `ops.moe.route`. If `score` is a `SparseMixer`, the weights are this router's, and no other option for
    weights is allowed (Phi-3.5-MoE). With `choice_bias` each expert has a learned number that affects which
    experts are chosen, but not their weights. With `router_bias` a learned number is added to each expert's
    logit. `groups` limits which experts can be chosen together. With `renormalize` the weights are divided by
    their sum plus `sum_eps` (LFM2). `weighs` says whether an expert's weight multiplies its output or its
    input (Llama 4). With `expert_scale`, a learned number for each expert multiplies the weight too.

    **Identities.** The router has `identities` additional columns after the experts. If a token is routed to
    such a column, the token's own vector is added, times the weight of this column (LongCat).

    **Experts.** With `expert_bias` each map of an expert has a bias. Without `gated` all experts, including
    the shared one, are plain mlps. `latent` is the number of elements in the experts' inputs and outputs: one
    map leads from the model's width to this width, and another map leads back. Experts have no capacity
    limit. A capacity limit would drop tokens depending on the batch's other rows and on padding, but a row's
    result must not depend on either.

    **Shared expert.** `shared` is the width of an expert that every token passes through. With `shared_gate`
    its output is multiplied by a sigmoid that depends on the token. `shared_activation` is the shared
    expert's own activation. With `shared_bias`, all maps that every token passes through have biases: the
    maps of the shared expert and the two maps of `latent` (Nemotron-H). With `average` the output is half the
    sum of the experts and the shared expert (Command A+). With `own_norms` the router, the experts and the
    shared expert each read the sublayer's input through their own norm; the outputs of the experts and of the
    shared expert are normalized before they are added (Gemma 4). With `late`, this layer adds only the shared
    expert's output, and the experts' sum is added at the end of the next layer (`ops.block`, LongCat).
    """

    experts: int = bounded("experts")
    top: int
    width: int = bounded("width", "mlp width")
    activation: Gate
    score: Literal["softmax", "sigmoid"] | SparseMixer = "softmax"
    renormalize: bool = True
    scale: float | None = None
    choice_bias: bool = False
    router_bias: bool = False
    expert_bias: bool = False
    shared: int | None = bounded("width", "width of the shared expert", default=None)
    shared_gate: bool = False
    groups: ExpertGroups = ONE_GROUP
    weighs: Literal["output", "input"] = "output"
    sum_eps: float | None = None
    own_norms: RMSNorm | None = None
    expert_scale: bool = False
    gated: bool = True
    latent: int | None = bounded("width", "numbers of the experts' latent", default=None)
    shared_bias: bool = False
    average: bool = False
    shared_activation: Gate | None = None
    identities: int = 0
    late: bool = False

    op = "moe"

    @property
    def shared_kind(self) -> Gate:
        """The activation of the shared expert."""
        return self.activation if self.shared_activation is None else self.shared_activation

    @property
    def settings(self) -> Mapping[str, Any]:
        return {"settings": self}

    @property
    def output_scale(self) -> float | None:
        return 0.5 if self.average else None

    def check(self, at: str, *, parallel: bool) -> None:
        super().check(at, parallel=parallel)
        within(at + "identities", self.identities, LIMITS["experts"], 0)
        within(at + "chosen experts", self.top, self.experts + self.identities)
        self._check_groups(at)
        gated = self.shared is not None or not self.shared_gate
        need(gated, f"{at}a shared expert's gate needs a shared expert, got none")
        need(self.shared is not None or not self.average, f"{at}average=True needs a shared expert, got none")
        between = self.latent is None or self.own_norms is None
        need(between, f"{at}experts with norms of their own must have no latent")
        alone = self.shared_gate or self.own_norms is not None
        own = self.latent is not None or self.own_norms is not None or self.expert_scale
        own = own or self.groups != ONE_GROUP or isinstance(self.score, SparseMixer)
        need(
            not self.identities or not (own or self.weighs == "input"),
            f"{at}identities (experts that return their input) can't be combined with groups, latent, norms, "
            "expert_scale, weighed inputs or a sparse mixer",
        )
        need(
            not self.late or (self.shared is not None and not (self.average or parallel or alone)),
            f"{at}late experts need a shared expert without a gate, no norms of their own, no average, "
            "and a layer that isn't parallel",
        )
        kinds = self.activation, self.shared_activation
        clamped = any(isinstance(kind, LimitedSwiGLU) for kind in kinds)
        need(self.gated or not clamped, f"{at}a clamped SwiGLU needs gated experts")
        alone = self.shared_activation is None or self.shared is not None
        need(alone, f"{at}a shared expert's activation needs a shared expert, got none")
        need(
            not self.shared_bias or (self.shared, self.latent) != (None, None),
            f"{at}shared_bias needs a shared expert or a latent, got neither",
        )
        need(
            self.own_norms is None or (self.pre is None and not parallel),
            f"{at}a mixture with norms of its own must have no norm before it, and must not be parallel",
        )

    def _check_groups(self, at: str) -> None:
        if isinstance(self.score, SparseMixer):
            settings = self.renormalize, self.scale, self.choice_bias, self.groups, self.sum_eps
            plain = settings == (False, None, False, ONE_GROUP, None)
            need(plain, f"{at}a sparse mixer can't have renormalize, scale, choice_bias, groups or sum_eps")
        count, top = self.groups.count, self.groups.top
        within(at + "groups of experts", count, self.experts)
        within(at + "chosen groups of experts", top, count)
        size, left = divmod(self.experts, count)
        need(left == 0, f"{at}experts must be a multiple of their groups, got {self.experts} and {count}")
        most = top * size
        fit = f"{at}chosen experts must be at most the experts of the chosen groups ({most}), got {self.top}"
        need(self.top <= most + self.identities, fit)
        pair = count == 1 or self.groups.by != "top2" or size > 1
        need(pair, f"{at}groups that are scored by their two best experts must have at least two, got {size}")

    def sizes(self) -> Mapping[str, int]:
        return {"E": self.experts + self.identities, "C": self.latent or 0}

    def leaves(self) -> Sequence[str]:
        latent, normed = self.latent is not None, self.own_norms is not None
        there = {
            "shared": self.shared is not None, "shared_gate": self.shared_gate,
            **dict.fromkeys(("latent_down", "latent_up"), latent),
            **dict.fromkeys(("latent_bdown", "latent_bup"), latent and self.shared_bias),
            "router_bias": self.router_bias, "bias": self.choice_bias, "expert_scale": self.expert_scale,
            **dict.fromkeys(("router_norm", "experts_pre", "experts_post"), normed),
            **dict.fromkeys(("shared_pre", "shared_post"), normed and self.shared is not None),
        }  # fmt: skip
        return [leaf for leaf, has in there.items() if has]

    def expert_leaves(self, *, biased: bool) -> Sequence[str]:
        """Return the parameters of an expert, without the two matrices that every expert has.

        `biased` says whether the expert's maps have biases. The shared expert has the same parameter
        names.
        """
        biases = ("bup", "bdown") if biased else ()
        gate = ("gate", "bgate") if biased else ("gate",)
        return *biases, *(gate if self.gated else ())

    @property
    def _all(self) -> list[str]:
        return [f"experts.{i}" for i in range(self.experts)] + ([] if self.shared is None else ["shared"])

    def readers(self) -> Sequence[str]:
        read = self._all if self.latent is None else ["shared"] * (self.shared is not None)
        inner = [f"{one}.{leaf}" for one in read for leaf in (("gate", "up") if self.gated else ("up",))]
        latent = ["latent_down"] * (self.latent is not None)
        return "router", *inner, *latent, *(["shared_gate"] if self.shared_gate else [])

    def smoothing(self) -> list[SmoothingSite]:
        kinds = self.activation, self.shared_activation
        linear = self.gated and not any(isinstance(kind, LimitedSwiGLU) for kind in kinds)
        if not linear and (self.gated or self.activation != "relu"):
            return []
        biased = ("experts",) * self.expert_bias + ("shared",) * self.shared_bias
        return [
            SmoothingSite(
                (f"{one}.up", *([f"{one}.bup"] if one.startswith(biased) else [])), (f"{one}.down",)
            )
            for one in self._all
        ]

    def epsilons(self) -> dict[str, float]:
        names = ("router_norm", "experts_pre", "experts_post", "shared_pre", "shared_post")
        return {} if self.own_norms is None else dict.fromkeys(names, self.own_norms.eps)

    def describe(self) -> str:
        form = "gated" if self.gated else "plain"
        latent = "" if self.latent is None else f", through a latent of {self.latent}"
        kind = describe_activation(self.activation)
        beside = f" and {self.identities} identities" if self.identities else ""
        return f"{self.top} of {self.experts} {form} mlps {self.width} ({kind}){latent}{beside}"


class NoMlp(FeedForward, NoSublayer):
    """The absence of an mlp: the layer ends with its token mixer (Mamba 2)."""

    def describe(self) -> str:
        return "no mlp"


Mlp = Gated | Plain | MoE | NoMlp

"""Laws of mixtures of experts: the router's choice and weights, capacities, and the experts' sum."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from ..config import SparseMixer
from ..ops.activation import sigmoid
from ..ops.moe import expert_mlp
from ..ops.moe import mixture as plain_mixture
from ..ops.moe import route as plain_route
from ..ops.moe import sparse_mixer as plain_mixer
from . import Call, Draw, Subject, law
from .kit.budget import cast
from .kit.strategies import permutations


@law("route")
def the_chosen_are_the_best(route: Subject, draw: Draw) -> None:
    """`route` chooses the best experts: no other expert is better than a chosen one. Of equal experts, it
    chooses the lower index."""
    call = draw(route.calls(bias=None, groups=None))
    index, _ = route(call)
    logits = call["logits"]
    for row, chosen in zip(logits, index, strict=True):
        ranked = sorted(range(len(row)), key=lambda e, row=row: (-row[e], e))
        assert list(chosen) == ranked[: call["top"]], f"chose {list(chosen)} of {list(row)}"


@law("route")
def weights_sum_to_the_scale(route: Subject, draw: Draw) -> None:
    """Renormalized weights of a token sum to scale · s / (s + sum_eps), where s is the sum of the chosen
    scores. The exception is s = 0.
    """
    call = draw(route.calls(renormalize=True))
    scores = route(call.but(renormalize=False, scale=None))[1].astype(np.float64).sum(1)
    _, weights = route(call)
    some = scores > 0
    expected = (1.0 if call["scale"] is None else call["scale"]) * scores[some]
    expected /= scores[some] + (call["sum_eps"] or 0)
    route.near(weights.sum(1)[some], expected, call, times=call["top"])


@law("route")
def a_bias_counts_for_the_choice_alone(route: Subject, draw: Draw) -> None:
    """If a bias lifts one expert (and so the expert's group), `route` chooses this expert first. The
    expert's weight is still its score without the bias."""
    call = draw(route.calls(bias=True, renormalize=False))
    bias = np.zeros_like(call["bias"])
    bias[-1] = 10
    index, weights = route(call.but(bias=bias))
    assert (index[:, 0] == len(bias) - 1).all(), "the expert with the largest bias isn't the first choice"
    logits = call["logits"].astype(np.float64)
    odds = np.exp(logits - logits.max(-1, keepdims=True))
    score = odds / odds.sum(-1, keepdims=True) if call["score"] == "softmax" else sigmoid(logits)
    expected = score[:, -1] * (1.0 if call["scale"] is None else call["scale"])
    route.near(weights[:, 0], expected, call, call.but(bias=bias))


@law("route")
def groups_limit_the_choice(route: Subject, draw: Draw) -> None:
    """The chosen experts are the best experts of the best groups. The law finds them group by group."""
    call = draw(route.calls(groups=draw(st.sampled_from(("max", "top2"))), bias=None))
    groups, logits = call["groups"], call["logits"].astype(np.float64)
    size = logits.shape[1] // groups.count
    odds = np.exp(logits - logits.max(-1, keepdims=True))
    scores = odds / odds.sum(-1, keepdims=True) if call["score"] == "softmax" else sigmoid(logits)
    index, _ = route(call)
    for row, chosen in zip(logits if groups.by == "max" else scores, index, strict=True):
        members = [sorted(row[g * size : (g + 1) * size]) for g in range(groups.count)]
        worth = [m[-1] if groups.by == "max" else sum(m[-2:]) for m in members]
        best = sorted(sorted(range(groups.count), key=lambda g, worth=worth: -worth[g])[: groups.top])
        within = [e for g in best for e in range(g * size, (g + 1) * size)]
        ranked = sorted(within, key=lambda e, row=row: -row[e])[: call["top"]]
        assert list(chosen) == ranked, f"chose {list(chosen)} of {list(row)} in {groups.count} groups"


@law("route")
def renaming_the_experts_renames_the_choice(route: Subject, draw: Draw) -> None:
    """If the logits are permuted, the choice of experts is permuted in the same way, unless logits are
    equal.
    """
    call = draw(route.calls(bias=None, groups=None))
    count = call["logits"].shape[1]
    steps = np.arange(count, dtype=call["logits"].dtype)
    apart = call.but(logits=np.broadcast_to(steps, call["logits"].shape).copy())
    order = draw(permutations(count))
    other = apart.but(logits=apart["logits"][:, order])
    assert (order[route(other)[0]] == route(apart)[0]).all(), "the choice depends on the order of the experts"


@law("sparse_mixer")
def each_choice_is_weighed_among_what_is_left(sparse_mixer: Subject, draw: Draw) -> None:
    """`sparse_mixer` always chooses the best of the experts that are left. The choice's weight is its
    share of a softmax over the experts that are left and have logits near its own.
    """
    call = draw(sparse_mixer.calls())
    index, weights = sparse_mixer(call)
    expected = np.zeros(weights.shape)
    for m, row in enumerate(call["logits"]):
        left = list(range(len(row)))
        for i in range(call["top"]):
            best = min(left, key=lambda e, row=row: (-row[e], e))
            assert index[m, i] == best, f"chose {index[m]} of {list(row)}"
            bound = [2 * call["jitter"] * max(abs(row[e]), row[best]) for e in left]
            near = [e for e, most in zip(left, bound, strict=True) if row[best] - row[e] <= most]
            share = np.exp(row[near].astype(np.float64) - row[best].astype(np.float64))
            expected[m, i] = 1 / share.sum()
            left.remove(best)
    sparse_mixer.near(weights, expected, call)


@law("within_capacity")
def no_token_is_dropped_while_its_expert_has_room(within_capacity: Subject, draw: Draw) -> None:
    """Each expert takes all tokens that were sent to it, up to its capacity."""
    call = draw(within_capacity.calls())
    fits, index = within_capacity(call), call["index"]
    for expert, capacity in enumerate(call["capacity"]):
        routed = index == expert
        count = fits[routed].sum()
        assert count == min(routed.sum(), capacity), (
            f"expert {expert} gets {count} tokens, expected {min(routed.sum(), capacity)}"
        )


@law("within_capacity")
def earlier_tokens_keep_their_places(within_capacity: Subject, draw: Draw) -> None:
    """Later tokens never displace the first choice of an earlier token. So the first choices of the first
    tokens don't depend on later tokens.
    """
    call = draw(within_capacity.calls())
    all_tokens = within_capacity(call)
    for count in range(1, len(call["index"])):
        first_tokens = within_capacity(within_capacity.take(call, "M", range(count)))
        assert (first_tokens[:, 0] == all_tokens[:count, 0]).all(), (
            "a later token changes which expert an earlier token gets"
        )


@law("mixture")
def each_choice_adds_its_expert(mixture: Subject, draw: Draw) -> None:
    """`mixture` returns the sum of weight · expert(x), or of expert(weight · x), over the choices that
    fit. The law computes every expert for every token."""
    call = draw(mixture.calls())
    x, weights = call["x"].astype(np.float64), call["weights"].astype(np.float64)
    fits = np.ones(weights.shape, bool) if call["fits"] is None else call["fits"]
    y, ones = np.zeros_like(x), np.ones_like(weights)
    outer, inner = (ones, weights) if call["weighs"] == "input" else (weights, ones)
    for i in range(weights.shape[1]):
        read = (inner[:, i : i + 1] * x)[None]
        every = [expert_mlp(read, cast(e, np.float64), kind=call["kind"])[0] for e in call["experts"]]
        picked = np.stack(every)[call["index"][:, i], np.arange(len(x))]
        y += (outer * fits)[:, i : i + 1] * picked
    mixture.near(mixture(call), y, call)


@law("moe")
def tokens_do_not_depend_on_each_other(moe: Subject, draw: Draw) -> None:
    """Without a capacity, a token's result equals the result for the token by itself."""
    call = draw(moe.calls(capacity=None))
    y = moe(call)
    for t in range(call["x"].shape[1]):
        alone = moe.take(call, "T", [t])
        moe.near(moe(alone), y[:, t : t + 1], call, alone)


@law("moe")
def tokens_go_where_the_router_sends_them(moe: Subject, draw: Draw) -> None:
    """Without a shared expert, `moe` sends each token to the experts that the logits x · router +
    router_bias choose, and returns the weighted sum of their outputs. The law computes the logits by einsum.
    It includes norms, a latent and factors of experts, if there are any.
    """
    latent = draw(st.sampled_from((None, True)))
    call = draw(moe.calls(capacity=None, shared=None, shared_gate=None, latent_down=latent))
    x, experts, settings = call["x"].astype(np.float64), cast(call["experts"], np.float64), call["settings"]
    asked, read = _normed(x, call, "router_norm"), _normed(x, call, "experts_pre")
    asked = asked if settings.own_norms is None else asked / np.sqrt(x.shape[-1])
    logits = np.einsum("btd,de->bte", asked, call["router"]).reshape(-1, settings.experts)
    if call["router_bias"] is not None:
        logits = logits + call["router_bias"]
    names = ("top", "score", "renormalize", "scale", "groups", "sum_eps")
    routing = {n: getattr(settings, n) for n in names}
    if isinstance(settings.score, SparseMixer):
        index, shares = plain_mixer(logits, top=settings.top, jitter=settings.score.jitter)
    else:
        index, shares = plain_route(logits, cast(call["bias"], np.float64), **routing)
    if call["expert_scale"] is not None:
        shares = shares * call["expert_scale"].astype(np.float64)[index]
    flat = _mapped(read, call, "down").reshape(len(index), -1)
    y = plain_mixture(flat, index, shares, experts, kind=settings.activation, weighs=settings.weighs)
    y = _mapped(y, call, "up").reshape(x.shape)
    moe.near(moe(call), _normed(y, call, "experts_post"), call)


def _mapped(x: np.ndarray, call: Call, end: str) -> np.ndarray:
    """Return x · latent_down or x · latent_up, plus the bias. A mixture without a latent returns x."""
    if (matrix := call[f"latent_{end}"]) is None:
        return x
    bias = call[f"latent_b{end}"]
    y = np.einsum("...d,df->...f", x, matrix.astype(np.float64))
    return y if bias is None else y + bias.astype(np.float64)


def _normed(x: np.ndarray, call: Call, weight: str) -> np.ndarray:
    """Return x normalized with the weight of this name. A mixture without norms returns x."""
    if (norm := call["settings"].own_norms) is None:
        return x
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + norm.eps) * call[weight]


@law("moe")
def a_large_capacity_is_no_limit(moe: Subject, draw: Draw) -> None:
    """If each expert has room for every token, the result is the same as without a capacity."""
    call = draw(moe.calls(capacity=None))
    wide = call.but(capacity=100 * len(call["experts"]))
    moe.near(moe(wide), moe(call), call)


@law("moe")
def the_shared_expert_adds_to_the_others(moe: Subject, draw: Draw) -> None:
    """The output of `moe` with the shared expert, minus the output without it, is the shared expert's
    output times its gate.
    """
    call = draw(moe.calls(shared=True))
    without_shared = call.but(shared=None, shared_gate=None)
    x = _normed(call["x"].astype(np.float64), call, "shared_pre")
    shared_output = expert_mlp(x, cast(call["shared"], np.float64), kind=call["activation"])
    shared_output, x = _normed(shared_output, call, "shared_post"), call["x"].astype(np.float64)
    if call["shared_gate"] is not None:
        shared_output = shared_output * sigmoid(x @ call["shared_gate"])
    moe.near(moe(call), moe(without_shared) + shared_output, call, without_shared)


@law("load_balancing_loss")
def an_even_load_costs_the_number_of_choices(load_balancing_loss: Subject, draw: Draw) -> None:
    """If all logits are equal, the mean probabilities are 1/E. So the loss is the number of choices per
    token, whichever experts are chosen.
    """
    call = draw(load_balancing_loss.calls())
    even = call.but(logits=np.zeros_like(call["logits"]))
    load_balancing_loss.near(load_balancing_loss(even), np.array(float(call["index"].shape[1])), even)


@law("load_balancing_loss", "router_z_loss")
def the_order_of_tokens_does_not_matter(loss: Subject, draw: Draw) -> None:
    """Permuted tokens give the same loss, because the loss is a mean over tokens."""
    call = draw(loss.calls())
    other = loss.take(call, "M", draw(permutations(len(call["logits"]))))
    loss.near(loss(other), loss(call), other, call)


@law("router_z_loss")
def equal_logits_give_the_square_of_their_log_sum_exp(router_z_loss: Subject, draw: Draw) -> None:
    """If all logits equal a, `router_z_loss` is (a + log E)²."""
    call = draw(router_z_loss.calls())
    flat = call.but(logits=np.full_like(call["logits"], 3))
    router_z_loss.near(router_z_loss(flat), np.square(3 + np.log(flat["logits"].shape[1])), flat)

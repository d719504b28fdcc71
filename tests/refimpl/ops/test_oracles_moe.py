"""Mixtures of experts against transformers' blocks and models with random weights, in float64.

Their routers compute softmax in float32: the weights of a block are compared to that precision, or it is
given ours, and then the experts agree to float64. Whole models are those of the families. The queue of
`within_capacity` is Switch's.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from helpers.tolerances import equal
from hypothesis import given
from hypothesis import strategies as st
from tfm.refimpl.config import ExpertGroups, MoE, SwiGLUOAI
from tfm.refimpl.ops.attention import softmax
from tfm.refimpl.ops.mlp import swiglu_oai
from tfm.refimpl.ops.moe import (
    load_balancing_loss,
    mixture,
    moe,
    route,
    router_z_loss,
    sparse_mixer,
    within_capacity,
)
from transformers import (
    DeepseekV2Config,
    DeepseekV3Config,
    GptOssConfig,
    Llama4TextConfig,
    MixtralConfig,
    NemotronHConfig,
    Qwen2MoeConfig,
    Qwen3MoeConfig,
)
from transformers import SwitchTransformersConfig as SwitchConfig
from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2Moe
from transformers.models.deepseek_v3.modeling_deepseek_v3 import (
    DeepseekV3MoE,
    DeepseekV3TopkRouter,
)
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssMLP
from transformers.models.llama4.modeling_llama4 import Llama4TextMoe
from transformers.models.mixtral import modeling_mixtral as mixtral
from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHMoE
from transformers.models.phimoe.modeling_phimoe import sparsemixer
from transformers.models.qwen2_moe.modeling_qwen2_moe import Qwen2MoeSparseMoeBlock
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeSparseMoeBlock
from transformers.models.switch_transformers import modeling_switch_transformers as switch

# Their routers' softmax and sigmoid are float32: 2⁻²³ of weights up to 1, times the experts' outputs.
SINGLE = 2e-6
D, F, E = 6, 9, 5
seeds = st.integers(0, 2**32 - 1)


def random(block: torch.nn.Module, seed: int) -> Any:
    """The block in float64 with weights of a sensible size."""
    generator = torch.Generator().manual_seed(seed)
    block = block.double().eval()
    with torch.no_grad():
        for weight in (*block.parameters(), *block.buffers()):
            weight.copy_(torch.randn(weight.shape, generator=generator, dtype=torch.float64) * 0.5)
    return block


def linear_of(*modules: torch.nn.Linear) -> list[np.ndarray]:
    return [m.weight.detach().numpy().T for m in modules]


def ours(block: Any) -> dict[str, Any]:
    """The leaves of a block of theirs: each expert's gate and up lie in one array there."""
    arrays = [p.detach().numpy() for p in (block.experts.gate_up_proj, block.experts.down_proj)]
    experts = [{"gate": gu[:F].T, "up": gu[F:].T, "down": d.T} for gu, d in zip(*arrays, strict=True)]
    return {"router": block.gate.weight.detach().numpy().T, "experts": experts}


def shared_of(mlp: Any) -> dict[str, np.ndarray]:
    return dict(
        zip(("gate", "up", "down"), linear_of(mlp.gate_proj, mlp.up_proj, mlp.down_proj), strict=True)
    )


def agree(block: Any, seed: int, leaves: dict[str, Any], **settings: Any) -> None:
    """Codes first, then weights, then the experts given codes and weights, then the whole."""
    x = np.random.default_rng(seed).standard_normal((2, 7, D))
    flat = torch.from_numpy(x).flatten(0, 1)
    with torch.no_grad():
        _, weights, index = block.gate(flat)
        given_codes = block.experts(flat, index, weights.double())
        out = block(torch.from_numpy(x))
    mine, scores = route(x.reshape(-1, D) @ leaves["router"], leaves.get("bias"), **settings)
    order = np.argsort(mine, axis=1), np.argsort(index.numpy(), axis=1)
    sort = lambda a, b: np.take_along_axis(np.asarray(a), b, axis=1)  # noqa: E731
    assert (sort(mine, order[0]) == sort(index, order[1])).all()
    equal(sort(scores, order[0]), sort(weights, order[1]), SINGLE)
    got = mixture(x.reshape(-1, D), index.numpy(), weights.double().numpy(), leaves["experts"], kind="silu")
    equal(got, given_codes)
    weights_: Any = leaves
    config = MoE(len(leaves["experts"]), width=F, activation="silu", **settings)
    equal(moe(x, weights_, settings=config), out, 10 * SINGLE)


@given(seeds, st.integers(1, 3))
def test_mixtral(seed: int, top: int):
    config = MixtralConfig(hidden_size=D, intermediate_size=F, num_local_experts=E, num_experts_per_tok=top)
    block = random(mixtral.MixtralSparseMoeBlock(config), seed)
    agree(block, seed, ours(block), top=top, score="softmax", renormalize=True)


@given(seeds, st.integers(2, 6), st.sampled_from([0.01, 0.1, 1.0]), st.sampled_from([0.1, 3.0]))
def test_sparse_mixer_is_phis(seed: int, experts: int, jitter: float, scale: float):
    """Two experts of each token, of which rivals are near or far."""
    logits = np.random.default_rng(seed).standard_normal((7, experts)) * scale
    expected, index = sparsemixer(torch.from_numpy(logits), jitter, training=False)
    mine, weights = sparse_mixer(logits, top=2, jitter=jitter)
    assert np.array_equal(mine, index.numpy())
    equal(weights, expected)


@given(seeds, st.integers(1, 3), st.booleans())
def test_qwen2_moe(seed: int, top: int, renormalize: bool):
    config = Qwen2MoeConfig(
        hidden_size=D, moe_intermediate_size=F, shared_expert_intermediate_size=4, num_experts=E,
        num_experts_per_tok=top, norm_topk_prob=renormalize,
    )  # fmt: skip
    block = random(Qwen2MoeSparseMoeBlock(config), seed)
    (shared_gate,) = linear_of(block.shared_expert_gate)
    leaves = ours(block) | {"shared": shared_of(block.shared_expert), "shared_gate": shared_gate}
    agree(block, seed, leaves, top=top, score="softmax", renormalize=renormalize)


@given(seeds, st.integers(1, 3), st.booleans())
def test_qwen3_moe(seed: int, top: int, renormalize: bool):
    config = Qwen3MoeConfig(
        hidden_size=D, moe_intermediate_size=F, num_experts=E, num_experts_per_tok=top,
        norm_topk_prob=renormalize,
    )  # fmt: skip
    block = random(Qwen3MoeSparseMoeBlock(config), seed)
    agree(block, seed, ours(block), top=top, score="softmax", renormalize=renormalize)


@given(seeds, st.integers(1, 2), st.sampled_from([1.0, 16.0]), st.integers(1, 4))
def test_deepseek_v2(seed: int, top: int, scale: float, groups: int):
    """Softmax scores, not renormalized; groups by their best expert, or the choice among all."""
    config = DeepseekV2Config(
        hidden_size=D, moe_intermediate_size=F, n_routed_experts=8, num_experts_per_tok=top, n_group=4,
        num_attention_heads=2, topk_group=groups, n_shared_experts=2, routed_scaling_factor=scale,
        topk_method="greedy" if groups == 4 else "group_limited_greedy",
    )  # fmt: skip
    block = random(DeepseekV2Moe(config), seed)
    leaves = ours(block) | {"shared": shared_of(block.shared_experts)}
    limit = ExpertGroups(4, groups, "max")
    agree(block, seed, leaves, top=top, score="softmax", renormalize=False, scale=scale, groups=limit)


@given(seeds, st.integers(1, 3), st.booleans(), st.sampled_from([(1, 1), (3, 1), (3, 2), (2, 1), (2, 2)]))
def test_deepseek_v3(seed: int, top: int, renormalize: bool, groups: tuple[int, int]):
    """Sigmoid scores, a bias for the choice, a scale, one shared expert; groups by their two best experts."""
    count, chosen = groups
    top = min(top, 6 // count * chosen)
    config = DeepseekV3Config(
        hidden_size=D, moe_intermediate_size=F, n_routed_experts=6, num_experts_per_tok=top, n_group=count,
        topk_group=chosen, n_shared_experts=2, norm_topk_prob=renormalize, routed_scaling_factor=2.5,
    )  # fmt: skip
    block = random(DeepseekV3MoE(config), seed)
    bias = block.gate.e_score_correction_bias.detach().numpy()
    leaves = ours(block) | {"bias": bias, "shared": shared_of(block.shared_experts)}
    limit = ExpertGroups(count, chosen)
    agree(block, seed, leaves, top=top, score="sigmoid", renormalize=renormalize, scale=2.5, groups=limit)


def test_experts_whose_scores_are_all_0_weigh_nothing_in_deepseek_v3():
    """Their sum is no divisor: DeepSeek-V3 adds 1e-20 to it."""
    config = DeepseekV3Config(
        hidden_size=D, n_routed_experts=E, num_experts_per_tok=3, n_group=1, topk_group=1
    )
    gate = random(DeepseekV3TopkRouter(config), 0)
    x = 1e5 * np.random.default_rng(0).standard_normal((400, D))
    logits, bias = x @ gate.weight.detach().numpy().T, gate.e_score_correction_bias.detach().numpy()
    with torch.no_grad():
        expected = np.sort(gate(torch.from_numpy(x))[1])
    _, weights = route(logits, bias, top=3, score="sigmoid", renormalize=True, scale=2.5)
    equal(np.sort(weights), expected, SINGLE)
    assert (expected == 0).all(1).any()


@given(seeds, st.integers(1, 3), st.sampled_from((0.5, 7.0)))
def test_swiglu_oai_is_gpt_oss(seed: int, top: int, limit: float):
    """Its experts too, with biases, after a router with one, whose softmax is over the chosen alone."""
    config = GptOssConfig(
        hidden_size=D, intermediate_size=F, num_local_experts=E, num_experts_per_tok=top, swiglu_limit=limit,
        swiglu_alpha=1.3,
    )  # fmt: skip
    block, rng = random(GptOssMLP(config), seed), np.random.default_rng(seed)
    both = 5 * rng.standard_normal((2, 7, 2 * F))
    gate, up = both[..., ::2], both[..., 1::2]
    equal(swiglu_oai(gate, up, alpha=1.3, limit=limit), block.experts._apply_gate(torch.from_numpy(both)))
    theirs = {name: p.detach().numpy() for name, p in block.named_parameters()}
    first, bias = theirs["experts.gate_up_proj"], theirs["experts.gate_up_proj_bias"]
    experts = [
        {
            "gate": first[e, :, ::2], "up": first[e, :, 1::2], "down": theirs["experts.down_proj"][e],
            "bgate": bias[e, ::2], "bup": bias[e, 1::2], "bdown": theirs["experts.down_proj_bias"][e],
        }
        for e in range(E)
    ]  # fmt: skip
    leaves: Any = {
        "router": theirs["router.weight"].T,
        "router_bias": theirs["router.bias"],
        "experts": experts,
    }
    x = rng.standard_normal((2, 7, D))
    with torch.no_grad():
        out, _ = block(torch.from_numpy(x))
    settings = MoE(E, top, F, SwiGLUOAI(1.3, limit), router_bias=True, expert_bias=True)
    equal(moe(x, leaves, settings=settings), out)


@given(seeds, st.integers(1, 3))
def test_weights_at_the_input_are_llama_4s(seed: int, top: int):
    config = Llama4TextConfig(
        hidden_size=D, intermediate_size=F, num_local_experts=E, num_experts_per_tok=top
    )
    block = random(Llama4TextMoe(config), seed)
    theirs = {name: p.detach().numpy() for name, p in block.named_parameters()}
    both, down = theirs["experts.gate_up_proj"], theirs["experts.down_proj"]
    experts = [{"gate": both[e, :, :F], "up": both[e, :, F:], "down": down[e]} for e in range(E)]
    leaves: Any = {
        "router": theirs["router.weight"].T,
        "experts": experts,
        "shared": shared_of(block.shared_expert),
    }
    x = np.random.default_rng(seed).standard_normal((2, 7, D))
    with torch.no_grad():
        out, _ = block(torch.from_numpy(x))
    settings = MoE(E, top, F, "silu", "sigmoid", renormalize=False, shared=F, weighs="input")
    equal(moe(x, leaves, settings=settings), out.reshape(x.shape), SINGLE)


@given(seeds, st.sampled_from((None, 4, 8)), st.booleans())
def test_experts_without_gates_are_nemotrons(seed: int, latent: int | None, biased: bool):
    """With and without a latent, and biases of what all tokens take."""
    config = NemotronHConfig(
        hidden_size=D, moe_intermediate_size=F, n_routed_experts=E, num_experts_per_tok=2,
        moe_latent_size=latent, moe_shared_expert_intermediate_size=7, mlp_bias=biased,
        routed_scaling_factor=2.5,
    )  # fmt: skip
    block = random(NemotronHMoE(config), seed)
    theirs = {name: p.detach().numpy() for name, p in (*block.named_parameters(), *block.named_buffers())}
    up, down = theirs["experts.up_proj"], theirs["experts.down_proj"]
    shared = {name: theirs[f"shared_experts.{name}_proj.weight"].T for name in ("up", "down")}
    leaves: Any = {
        "router": theirs["gate.weight"].T,
        "bias": theirs["gate.e_score_correction_bias"],
        "experts": [{"up": up[e].T, "down": down[e].T} for e in range(E)],
        "shared": shared,
    }
    if latent is not None:
        maps = {"latent_down": "fc1_latent_proj", "latent_up": "fc2_latent_proj"}
        leaves |= {name: theirs[f"{linear}.weight"].T for name, linear in maps.items()}
        if biased:
            leaves["latent_bdown"], leaves["latent_bup"] = (theirs[f"{m}.bias"] for m in maps.values())
    if biased:
        shared |= {f"b{name}": theirs[f"shared_experts.{name}_proj.bias"] for name in ("up", "down")}
    x = np.random.default_rng(seed).standard_normal((2, 7, D))
    with torch.no_grad():
        out = block(torch.from_numpy(x))
    settings = MoE(
        E, 2, F, "relu_squared", "sigmoid", scale=2.5, choice_bias=True, shared=7, gated=False, latent=latent,
        shared_bias=biased,
    )  # fmt: skip
    equal(moe(x, leaves, settings=settings), out, 10 * SINGLE)


@given(seeds, st.integers(1, 4), st.integers(1, 9))
def test_capacity_is_switchs(seed: int, capacity: int, tokens: int):
    config = SwitchConfig(d_model=D, num_experts=E, expert_capacity=capacity)
    router = random(switch.SwitchTransformersTop1Router(config), seed)
    x = np.random.default_rng(seed).standard_normal((1, tokens, D))
    with torch.no_grad():
        dispatched, probability, logits = router(torch.from_numpy(x))
    index, weights = route(logits[0].numpy(), top=1, score="softmax", renormalize=False)
    equal(weights, probability[0], SINGLE)
    kept = within_capacity(index, np.full(E, min(capacity, tokens)))
    assert (kept * (index == np.arange(E)) == dispatched[0].numpy()).all()


@given(seeds, st.integers(1, 9), st.integers(1, 3), st.sampled_from((0.1, 1.0, 30.0)))
def test_losses_are_transformers(seed: int, tokens: int, top: int, scale: float):
    logits = np.random.default_rng(seed).standard_normal((tokens, E)) * scale
    index, _ = route(logits, top=top, score="softmax", renormalize=False)
    expected = mixtral.load_balancing_loss_func((torch.from_numpy(logits),), E, top)
    equal(load_balancing_loss(logits, index), expected, SINGLE)
    equal(router_z_loss(logits), switch.router_z_loss_func(torch.from_numpy(logits)[None]))
    first = torch.from_numpy(softmax(logits))[None], torch.from_numpy(index[None, :, :1])
    equal(load_balancing_loss(logits, index[:, :1]), switch.load_balancing_loss_func(*first), SINGLE)


def test_no_token_costs_nothing():
    """Both losses are means, and a mean of nothing would not be a number."""
    logits, index = np.zeros((0, E)), np.zeros((0, 2), int)
    assert load_balancing_loss(logits, index) == 0
    assert router_z_loss(logits) == 0

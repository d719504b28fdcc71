"""Mixtures of experts against transformers' blocks and models with random weights, in float64.

Their routers compute softmax in float32: the weights of a block are compared to that precision, or it is
given ours, and then the experts agree to float64; in whole models the router is made float64 too. The
queue of `seated` is Switch's.
"""

from __future__ import annotations

from typing import Any

import exact
import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from tfm.refimpl import params
from tfm.refimpl.config import (
    LM,
    Attention,
    Config,
    Embedding,
    Gated,
    Layer,
    MoE,
    RMSNorm,
    Rope,
    Stack,
)
from tfm.refimpl.engine import NumpyEngine
from tfm.refimpl.ops.attention import softmax
from tfm.refimpl.ops.moe import load_balancing_loss, mixture, moe, route, router_z_loss, seated
from tolerances import equal
from transformers import (
    DeepseekV3Config,
    MixtralConfig,
    MixtralForCausalLM,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
    Qwen3MoeConfig,
)
from transformers import SwitchTransformersConfig as SwitchConfig
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3MoE
from transformers.models.mixtral import modeling_mixtral as mixtral
from transformers.models.qwen2_moe.modeling_qwen2_moe import Qwen2MoeSparseMoeBlock
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeSparseMoeBlock
from transformers.models.switch_transformers import modeling_switch_transformers as switch

# Their routers' softmax and sigmoid are float32: 2⁻²³ of weights up to 1, times the experts' outputs.
SINGLE = 2e-6
D, F, E = 6, 9, 5
seeds = st.integers(0, 2**32 - 1)


def random(block: torch.nn.Module, seed: int) -> Any:
    """The block in float64 with weights of a sensible size."""
    made = torch.Generator().manual_seed(seed)
    block = block.double().eval()
    with torch.no_grad():
        for weight in (*block.parameters(), *block.buffers()):
            weight.copy_(torch.randn(weight.shape, generator=made, dtype=torch.float64) * 0.5)
    return block


def linear_of(*modules: torch.nn.Linear) -> list[np.ndarray]:
    return [m.weight.detach().numpy().T for m in modules]


def ours(block: Any) -> dict[str, Any]:
    """The leaves of a block of theirs: each expert's gate and up lie in one array there."""
    held = [p.detach().numpy() for p in (block.experts.gate_up_proj, block.experts.down_proj)]
    experts = [{"gate": gu[:F].T, "up": gu[F:].T, "down": d.T} for gu, d in zip(*held, strict=True)]
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
        whole = block(torch.from_numpy(x))
    routing = {n: v for n, v in settings.items() if n != "kind"}
    mine, scores = route(x.reshape(-1, D) @ leaves["router"], leaves.get("bias"), **routing)
    order = np.argsort(mine, axis=1), np.argsort(index.numpy(), axis=1)
    sort = lambda a, b: np.take_along_axis(np.asarray(a), b, axis=1)  # noqa: E731
    assert (sort(mine, order[0]) == sort(index, order[1])).all()
    equal(sort(scores, order[0]), sort(weights, order[1]), SINGLE)
    got = mixture(x.reshape(-1, D), index.numpy(), weights.double().numpy(), leaves["experts"], kind="silu")
    equal(got, given_codes)
    equal(moe(x, **leaves, **settings), whole, 10 * SINGLE)


@given(seeds, st.integers(1, 3))
def test_mixtral(seed: int, top: int):
    config = MixtralConfig(hidden_size=D, intermediate_size=F, num_local_experts=E, num_experts_per_tok=top)
    block = random(mixtral.MixtralSparseMoeBlock(config), seed)
    agree(block, seed, ours(block), kind="silu", top=top, score="softmax", renormalize=True)


@given(seeds, st.integers(1, 3), st.booleans())
def test_qwen2_moe(seed: int, top: int, renormalize: bool):
    config = Qwen2MoeConfig(
        hidden_size=D, moe_intermediate_size=F, shared_expert_intermediate_size=4, num_experts=E,
        num_experts_per_tok=top, norm_topk_prob=renormalize,
    )  # fmt: skip
    block = random(Qwen2MoeSparseMoeBlock(config), seed)
    (shared_gate,) = linear_of(block.shared_expert_gate)
    leaves = ours(block) | {"shared": shared_of(block.shared_expert), "shared_gate": shared_gate}
    agree(block, seed, leaves, kind="silu", top=top, score="softmax", renormalize=renormalize)


@given(seeds, st.integers(1, 3), st.booleans())
def test_qwen3_moe(seed: int, top: int, renormalize: bool):
    config = Qwen3MoeConfig(
        hidden_size=D, moe_intermediate_size=F, num_experts=E, num_experts_per_tok=top,
        norm_topk_prob=renormalize,
    )  # fmt: skip
    block = random(Qwen3MoeSparseMoeBlock(config), seed)
    agree(block, seed, ours(block), kind="silu", top=top, score="softmax", renormalize=renormalize)


@given(seeds, st.integers(1, 3), st.booleans())
def test_deepseek_v3(seed: int, top: int, renormalize: bool):
    """Sigmoid scores, a bias for the choice, a scale, one shared expert; groups of experts aren't ours."""
    config = DeepseekV3Config(
        hidden_size=D, moe_intermediate_size=F, n_routed_experts=6, num_experts_per_tok=top, n_group=1,
        topk_group=1, n_shared_experts=2, norm_topk_prob=renormalize, routed_scaling_factor=2.5,
    )  # fmt: skip
    block = random(DeepseekV3MoE(config), seed)
    bias = block.gate.e_score_correction_bias.detach().numpy()
    leaves = ours(block) | {"bias": bias, "shared": shared_of(block.shared_experts)}
    agree(block, seed, leaves, kind="silu", top=top, score="sigmoid", renormalize=renormalize, scale=2.5)


@given(seeds, st.integers(1, 4), st.integers(1, 9))
def test_seats_are_switchs(seed: int, capacity: int, tokens: int):
    config = SwitchConfig(d_model=D, num_experts=E, expert_capacity=capacity)
    router = random(switch.SwitchTransformersTop1Router(config), seed)
    x = np.random.default_rng(seed).standard_normal((1, tokens, D))
    with torch.no_grad():
        dispatched, probability, logits = router(torch.from_numpy(x))
    index, weights = route(logits[0].numpy(), top=1, score="softmax", renormalize=False)
    equal(weights, probability[0], SINGLE)
    kept = seated(index, np.full(E, min(capacity, tokens)))
    assert (kept * (index == np.arange(E)) == dispatched[0].numpy()).all()


@given(seeds, st.integers(1, 9), st.integers(1, 3), st.sampled_from((0.1, 1.0, 30.0)))
def test_losses_are_transformers(seed: int, tokens: int, top: int, scale: float):
    logits = np.random.default_rng(seed).standard_normal((tokens, E)) * scale
    index, _ = route(logits, top=top, score="softmax", renormalize=False)
    wanted = mixtral.load_balancing_loss_func((torch.from_numpy(logits),), E, top)
    equal(load_balancing_loss(logits, index), wanted, SINGLE)
    equal(router_z_loss(logits), switch.router_z_loss_func(torch.from_numpy(logits)[None]))
    first = torch.from_numpy(softmax(logits))[None], torch.from_numpy(index[None, :, :1])
    equal(load_balancing_loss(logits, index[:, :1]), switch.load_balancing_loss_func(*first), SINGLE)


def whole_model(model: Any, config: Config) -> None:
    """Logits of their decoder and ours: three tokens at once, then one by one."""
    exact.random(model)
    rotary = model.model.rotary_emb
    rotary.inv_freq = 10_000.0 ** (-torch.arange(2, dtype=torch.float64) / 2)
    w = {name: p.detach().numpy() for name, p in model.named_parameters()}
    leaves = {
        "embedding.table": w["model.embed_tokens.weight"],
        "decoder.norm.weight": w["model.norm.weight"],
        "head.table": w["lm_head.weight"],
    }
    for i, (layer, block) in enumerate(zip(config.layers, model.model.layers, strict=True)):
        at, theirs = f"decoder.layers.{i}.", f"model.layers.{i}."
        leaves[f"{at}attn_pre.weight"] = w[f"{theirs}input_layernorm.weight"]
        leaves[f"{at}mlp_pre.weight"] = w[f"{theirs}post_attention_layernorm.weight"]
        for n in "qkvo":
            leaves[f"{at}attn.w{n}"] = w[f"{theirs}self_attn.{n}_proj.weight"].T
            if layer.attention.qkv_bias and n != "o":
                leaves[f"{at}attn.b{n}"] = w[f"{theirs}self_attn.{n}_proj.bias"]
        tree: dict[str, Any] = ours(block.mlp) if isinstance(layer.mlp, MoE) else shared_of(block.mlp)
        if isinstance(layer.mlp, MoE) and layer.mlp.shared is not None:
            tree["shared"] = shared_of(block.mlp.shared_expert)
            (tree["shared_gate"],) = linear_of(block.mlp.shared_expert_gate)
        leaves |= {f"{at}mlp.{name}": leaf for name, leaf in params.flatten(tree)}
    shapes = params.shapes(config)
    assert {name: leaf.shape for name, leaf in leaves.items()} == shapes
    engine = NumpyEngine(config, params.unflatten({name: leaves[name] for name in shapes}))
    ids = np.random.default_rng(0).integers(0, 31, (2, 9))
    cache, found = engine.start(2), []
    for start, end in ((0, 3), *((i, i + 1) for i in range(3, 9))):
        at = np.broadcast_to(np.arange(end - start), (2, end - start))
        logits, cache = engine.step(ids[:, start:end], cache, at=at)
        found.append(logits)
    wanted = exact.exactly(model, torch.from_numpy(ids), use_cache=False).logits
    equal(np.concatenate(found, 1), wanted, 1e-9)


SIZES = {"vocab_size": 31, "hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 2}
EAGER = {"attn_implementation": "eager", "experts_implementation": "eager"}
NORM, PLAIN = RMSNorm(1e-5), Attention(2, 1, 4, Rope(10_000.0, 4), pre=RMSNorm(1e-5))


def test_a_whole_mixtral():
    theirs = MixtralConfig(
        **SIZES, num_key_value_heads=1, intermediate_size=F, num_local_experts=E, num_experts_per_tok=2,
        rms_norm_eps=1e-5, rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        **EAGER,
    )  # fmt: skip
    layers = (Layer(PLAIN, MoE(E, 2, F, "silu", pre=NORM)),) * 2
    whole_model(MixtralForCausalLM(theirs), Config(Embedding(31, 8), Stack(layers, NORM), LM(False), 32))


def test_a_whole_qwen2_moe():
    """A layer without experts, one with an expert that all tokens share, by a gate."""
    theirs = Qwen2MoeConfig(
        **SIZES, num_key_value_heads=1, intermediate_size=12, moe_intermediate_size=F,
        shared_expert_intermediate_size=7, num_experts=E, num_experts_per_tok=3, norm_topk_prob=False,
        decoder_sparse_step=2, rms_norm_eps=1e-5, **EAGER,
    )  # fmt: skip
    attention = Attention(2, 1, 4, Rope(10_000.0, 4), qkv_bias=True, pre=NORM)
    mixture_ = MoE(E, 3, F, "silu", renormalize=False, shared=7, shared_gate=True, pre=NORM)
    layers = Layer(attention, Gated(12, "silu", pre=NORM)), Layer(attention, mixture_)
    whole_model(Qwen2MoeForCausalLM(theirs), Config(Embedding(31, 8), Stack(layers, NORM), LM(False), 32))

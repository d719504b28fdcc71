"""What Gemma has alone, against transformers: keys and values of another layer and vectors for each layer of
Gemma 4; streams of a token, the learned residual and sparse gates of Gemma 3n; T5Gemma 2's softmax over two
texts."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from helpers.float64 import in_float64, randomize
from helpers.tolerances import equal
from hypothesis import given
from hypothesis import strategies as st
from tfm.refimpl.config import AltUp, Attention, FullAttention, HeadNorm, RMSNorm, Rope, Window
from tfm.refimpl.ops.altup import altup_correct, altup_predict, enter_streams, leave_streams
from tfm.refimpl.ops.cache import KVCache
from tfm.refimpl.ops.cross_attention import cross_keys
from tfm.refimpl.ops.gaussian_topk import gaussian_topk
from tfm.refimpl.ops.laurel import laurel
from tfm.refimpl.ops.merged_attention import EncoderText, merged_attention
from tfm.refimpl.ops.norm import rms_norm
from tfm.refimpl.ops.per_layer import per_layer_inputs, per_layer_update
from tfm.refimpl.ops.position import Rotary, rope_frequencies, rope_tables
from tfm.refimpl.ops.shared_attention import shared_attention
from transformers import Gemma3nTextConfig, Gemma4TextConfig, T5Gemma2DecoderConfig
from transformers.models.gemma3n import modeling_gemma3n as gemma3n
from transformers.models.gemma4 import modeling_gemma4 as gemma4
from transformers.models.t5gemma2 import modeling_t5gemma2 as t5gemma2

# √F is a whole number: transformers keeps it in float32.
H, G, K, D, N, F, LAYERS, T, WINDOW = 6, 2, 8, 10, 13, 9, 4, 7, 3
EPS = 0.1
KINDS = ("sliding_attention", "full_attention")


def config_of(**more: Any) -> Gemma4TextConfig:
    return Gemma4TextConfig(
        hidden_size=D, num_hidden_layers=LAYERS, num_attention_heads=H, num_key_value_heads=G, head_dim=K,
        global_head_dim=K, layer_types=[*KINDS, *KINDS], num_kv_shared_layers=2, rms_norm_eps=EPS,
        vocab_size=N, vocab_size_per_layer_input=N, hidden_size_per_layer_input=F, intermediate_size=5,
        sliding_window=WINDOW, attn_implementation="eager", pad_token_id=0, **more,
    )  # fmt: skip


@given(st.integers(0, 2**32 - 1), st.sampled_from([2, 3]), st.booleans(), st.integers(1, T - 1))
def test_shared_attention_is_gemma4s(seed: int, layer: int, bias: bool, cut: int):
    """A text at once there, in two calls here, over a cache with garbage behind the text."""
    module: Any = randomize(gemma4.Gemma4TextAttention(config_of(attention_bias=bias), layer), seed)
    rng = np.random.default_rng(seed)
    x, keys, values = rng.standard_normal((2, T, D)), *rng.standard_normal((2, 2, G, T, K))
    rotary = Rotary(*rope_tables(np.arange(T + 3), rope_frequencies(np.arange(K // 2), theta=100.0)))
    positions = tuple(torch.from_numpy(np.concatenate([a[:T], a[:T]], -1))[None] for a in rotary)
    back = np.arange(T)[:, None] - np.arange(T)
    sees = (back >= 0) & ((back < WINDOW) | (layer == 3))
    mask = torch.from_numpy(np.where(sees, 0, -np.inf))[None, None]
    shared = {KINDS[layer % 2]: (torch.from_numpy(keys), torch.from_numpy(values))}
    expected, _ = in_float64(
        module, hidden_states=torch.from_numpy(x), position_embeddings=positions, attention_mask=mask,
        shared_kv_states=shared,
    )  # fmt: skip
    settings = Attention(
        H, G, K, Rope(100.0, K), FullAttention() if layer == 3 else Window(WINDOW), bias, bias,
        HeadNorm(RMSNorm(EPS)), scale=1.0, kv_layer=layer - 2,
    )  # fmt: skip
    weights: Any = {
        name: module.get_submodule(f"{name[1]}_proj").weight.detach().numpy().T for name in ("wq", "wo")
    }
    weights["q_norm"] = module.q_norm.weight.detach().numpy()
    if bias:
        weights |= {
            name: module.get_submodule(f"{name[1]}_proj").bias.detach().numpy() for name in ("bq", "bo")
        }
    cache = KVCache(*(np.concatenate([a, np.full((2, G, 3, K), 9.0)], 2) for a in (keys, values)))
    parts = [
        shared_attention(x[:, at], cache, np.full(2, start), weights, rotary, settings=settings)
        for start, at in ((0, slice(cut)), (cut, slice(cut, T)))
    ]
    equal(np.concatenate(parts, 1), expected)


@given(st.integers(0, 2**32 - 1), st.booleans(), st.booleans(), st.integers(1, T - 1), st.integers(0, 4))
def test_merged_attention_is_t5gemma2s(seed: int, windowed: bool, bias: bool, cut: int, length: int):
    """A text at once there, in two calls here; `length` of four other tokens in the second row are real."""
    kind = KINDS[not windowed]
    config = T5Gemma2DecoderConfig(
        hidden_size=12, num_hidden_layers=1, num_attention_heads=H, num_key_value_heads=G, head_dim=K,
        layer_types=[kind], rms_norm_eps=EPS, query_pre_attn_scalar=5, attention_bias=bias,
        sliding_window=WINDOW, attn_implementation="eager", attn_logit_softcapping=2.0,
    )  # fmt: skip
    module: Any = randomize(t5gemma2.T5Gemma2MergedAttention(config, 0), seed)
    rng = np.random.default_rng(seed)
    x, states, lengths = *(rng.standard_normal((2, n, 12)) for n in (T, 4)), np.array([4, length])
    rotary = Rotary(*rope_tables(np.arange(T + 3), rope_frequencies(np.arange(K // 2), theta=100.0)))
    positions = tuple(torch.from_numpy(np.concatenate([a[:T], a[:T]], -1))[None] for a in rotary)
    back = np.arange(T)[:, None] - np.arange(T)
    own = (back >= 0) & ((back < WINDOW) | (not windowed))
    other = np.arange(4) < lengths[:, None, None]
    sees = np.concatenate([np.broadcast_to(own, (2, T, T)), np.broadcast_to(other, (2, T, 4))], 2)
    mask = torch.from_numpy(np.where(sees, 0, -np.inf))[:, None]
    expected, *_ = in_float64(module, torch.from_numpy(x), positions, mask, torch.from_numpy(states))
    w = {name: p.detach().numpy() for name, p in module.named_parameters()}
    weights: Any = {f"w{n}": w[f"{n}_proj.weight"].T for n in "qkvo"}
    weights |= {f"b{n}": w[f"{n}_proj.bias"] for n in "qkvo" if bias}
    weights |= {f"{n}_norm": 1 + w[f"{n}_norm.weight"] for n in "qk"}
    mask_ = Window(WINDOW) if windowed else FullAttention()
    settings = Attention(
        H, G, K, Rope(100.0, K), mask_, bias, bias, HeadNorm(RMSNorm(EPS)), scale=5**-0.5
    )  # fmt: skip
    text = EncoderText(*cross_keys(states, weights, settings=settings), lengths)
    parts, cache = [], KVCache(*(np.full((2, G, T + 3, K), 9.0) for _ in "kv"))
    for start, at in ((0, slice(cut)), (cut, slice(cut, T))):
        past = np.full(2, start)
        y, cache = merged_attention(x[:, at], cache, past, text, weights, rotary, settings=settings)
        parts.append(y)
    equal(np.concatenate(parts, 1), expected)


@given(st.integers(0, 2**32 - 1))
def test_per_layer_inputs_are_gemma4s(seed: int):
    module: Any = randomize(gemma4.Gemma4TextModel(config_of()), seed)
    rng = np.random.default_rng(seed)
    tokens, x = rng.integers(0, N, (2, T)), rng.standard_normal((2, T, D))
    own = in_float64(module.get_per_layer_inputs, torch.from_numpy(tokens))
    expected = in_float64(module.project_per_layer_inputs, torch.from_numpy(x), own)
    weights: Any = {
        "table": module.embed_tokens_per_layer.weight.detach().numpy(),
        "project": module.per_layer_model_projection.weight.detach().numpy().T,
        "norm": module.per_layer_projection_norm.weight.detach().numpy(),
    }
    got = per_layer_inputs(tokens, x, weights, eps=EPS)
    assert got.shape == (2, T, LAYERS, F)
    equal(got, expected)


@given(st.integers(0, 2**32 - 1), st.sampled_from(["silu", "gelu_pytorch_tanh"]))
def test_per_layer_updates_are_gemma4s(seed: int, activation: str):
    """Of a layer whose attention and mlp give nothing: its input, with what it makes of its vectors."""
    layer: Any = randomize(gemma4.Gemma4TextDecoderLayer(config_of(hidden_activation=activation), 2), seed)
    rng = np.random.default_rng(seed)
    x, vectors = rng.standard_normal((2, T, D)), rng.standard_normal((2, T, F))
    with torch.no_grad():
        for name in ("self_attn.o_proj", "mlp.down_proj"):
            layer.get_submodule(name).weight.zero_()
    zeros = torch.zeros(2, G, T, K, dtype=torch.float64)
    ones = torch.ones(1, T, K, dtype=torch.float64)
    expected = in_float64(
        layer, torch.from_numpy(x), torch.from_numpy(vectors), {KINDS[0]: (zeros, zeros)}, (ones, ones)
    )
    weights: Any = {
        "gate": layer.per_layer_input_gate.weight.detach().numpy().T,
        "project": layer.per_layer_projection.weight.detach().numpy().T,
    }
    kind: Any = "silu" if activation == "silu" else "gelu_tanh"
    update = per_layer_update(x, vectors, weights, kind=kind)
    got = x + rms_norm(update, layer.post_per_layer_input_norm.weight.detach().numpy(), eps=EPS)
    equal(got * layer.layer_scalar.numpy(), expected)


STREAMS = 3


def config_of_3n(**more: Any) -> Gemma3nTextConfig:
    return Gemma3nTextConfig(
        hidden_size=D, num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1, head_dim=K,
        layer_types=["full_attention"], num_kv_shared_layers=0, rms_norm_eps=EPS, vocab_size=N,
        vocab_size_per_layer_input=N, hidden_size_per_layer_input=F, intermediate_size=11, laurel_rank=4,
        altup_num_inputs=STREAMS, attn_implementation="eager", **more,
    )  # fmt: skip


def matrix(module: Any) -> np.ndarray:
    return module.weight.detach().numpy().T


@given(st.integers(0, 2**32 - 1), st.integers(0, STREAMS - 1))
def test_altup_is_gemma3ns(seed: int, active: int):
    module: Any = randomize(gemma3n.Gemma3nTextAltUp(config_of_3n(altup_active_idx=active)), seed)
    module.router_input_scale = torch.tensor(1 / D, dtype=torch.float64)
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((2, T, STREAMS, D)), rng.standard_normal((2, T, D))
    streams = torch.from_numpy(np.moveaxis(x, 2, 0).copy())
    weights: Any = {
        "router": matrix(module.modality_router),
        "norm": module.router_norm.weight.detach().numpy(),
        "predict": matrix(module.prediction_coefs),
        "correct": matrix(module.correction_coefs),
    }
    settings = AltUp(STREAMS, active, RMSNorm(EPS))
    predicted = altup_predict(x, weights, settings=settings)
    equal(predicted, np.moveaxis(in_float64(module.predict, streams).numpy(), 0, 2))
    corrected = in_float64(module.correct, streams, torch.from_numpy(y))
    equal(altup_correct(x, y, weights, settings=settings), np.moveaxis(corrected.numpy(), 0, 2))


@given(st.integers(0, 2**32 - 1), st.sampled_from([1.0, 1e-3]))
def test_streams_enter_and_leave_as_gemma3ns(seed: int, size: float):
    """Around a layer that gives what it gets, in a model whose last norm and output are not there."""
    model: Any = randomize(gemma3n.Gemma3nTextModel(config_of_3n()), seed)
    x = np.random.default_rng(seed).standard_normal((2, T, D)) * size
    maps: Any = [
        {"enter": matrix(enter), "leave": matrix(leave)}
        for enter, leave in zip(model.altup_projections, model.altup_unembed_projections, strict=True)
    ]
    got: list[torch.Tensor] = []

    class Layer(torch.nn.Module):
        def forward(self, streams: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
            got.append(streams)
            return streams * torch.arange(1, STREAMS + 1)[:, None, None, None]

    model.layers, model.norm = torch.nn.ModuleList([Layer()]), torch.nn.Identity()
    expected = in_float64(model, inputs_embeds=torch.from_numpy(x), use_cache=False).last_hidden_state
    entered = enter_streams(x, maps)
    equal(entered, np.moveaxis(got[0].numpy(), 0, 2))
    equal(leave_streams(entered * np.arange(1, STREAMS + 1)[:, None], maps), expected)


@given(st.integers(0, 2**32 - 1))
def test_laurel_is_gemma3ns(seed: int):
    module: Any = randomize(gemma3n.Gemma3nTextLaurelBlock(config_of_3n()), seed)
    x, h = np.random.default_rng(seed).standard_normal((2, 2, T, D))
    expected = (torch.from_numpy(h) + in_float64(module, torch.from_numpy(x))) / np.sqrt(2)
    weights: Any = {
        "left": matrix(module.linear_left),
        "right": matrix(module.linear_right),
        "norm": module.post_laurel_norm.weight.detach().numpy(),
    }
    equal(laurel(x, h, weights, eps=EPS), expected)


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.95, 0.5, 0.1]))
def test_gaussian_topk_is_gemma3ns(seed: int, share: float):
    module: Any = gemma3n.Gemma3nTextMLP(config_of_3n(activation_sparsity_pattern=[share]))
    x = np.random.default_rng(seed).standard_normal((2, T, 40)) + 0.5
    equal(gaussian_topk(x, share=share), in_float64(module._gaussian_topk, torch.from_numpy(x)))

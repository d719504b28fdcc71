"""The LSTM against torch.nn.LSTM in float64 and against ONNX Runtime's LSTM operator; short convolutions
against torch's and LFM2's; gated delta networks against Qwen 3.5's, Kimi Linear's and Ling 3's; lightning
attention against MiniMax's; linear recurrent units against RecurrentGemma's; time and channel
mixing against RWKV's; state-space duality and its
layer against Mamba's and Mamba 2's."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from families.minimax import amend
from helpers import onnx_nodes
from helpers.float64 import in_float64, randomize
from helpers.tolerances import equal
from hypothesis import given, settings
from hypothesis import strategies as st
from tfm.refimpl.ops import ssd
from tfm.refimpl.ops.channel_mix import ChannelMixState, channel_mix
from tfm.refimpl.ops.gated_delta import GatedDelta, gated_delta
from tfm.refimpl.ops.lightning import Lightning, LightningState, lightning
from tfm.refimpl.ops.lstm import LstmState, bidirectional_lstm, lstm, lstm_cell, lstm_layer
from tfm.refimpl.ops.mamba import ChannelState, Mamba, mamba
from tfm.refimpl.ops.mamba2 import Mamba2, mamba2
from tfm.refimpl.ops.rg_lru import RgLru, RgLruState, rg_lru
from tfm.refimpl.ops.selective_scan import selective_scan, selective_scan_chunked
from tfm.refimpl.ops.short_conv import ConvState, MatrixState, causal_conv, short_conv
from tfm.refimpl.ops.time_mix import TimeMixState, time_mix
from tfm.refimpl.ops.wkv import NEVER, wkv
from torch.nn import functional
from transformers import (
    BailingHybridConfig,
    JambaConfig,
    Lfm2Config,
    Mamba2Config,
    MambaConfig,
    MiniMaxConfig,
    Qwen3_5TextConfig,
    RecurrentGemmaConfig,
    RwkvConfig,
)
from transformers.models.bailing_hybrid.modeling_bailing_hybrid import BailingHybridDeltaAttention
from transformers.models.jamba.modeling_jamba import JambaMambaMixer
from transformers.models.kimi_linear.configuration_kimi_linear import KimiLinearConfig
from transformers.models.kimi_linear.modeling_kimi_linear import KimiLinearDeltaAttention
from transformers.models.lfm2.modeling_lfm2 import Lfm2ShortConv
from transformers.models.mamba.modeling_mamba import (
    MambaMixer,
    mamba_selective_scan,
    mamba_selective_state_update,
)
from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer, mamba2_chunk_scan
from transformers.models.minimax.modeling_minimax import MiniMaxLightningAttention
from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5GatedDeltaNet
from transformers.models.recurrent_gemma.modeling_recurrent_gemma import RecurrentGemmaRecurrentBlock
from transformers.models.rwkv.modeling_rwkv import (
    RwkvFeedForward,
    RwkvSelfAttention,
    rwkv_linear_attention_cpu,
)

seeds = st.integers(0, 2**32 - 1)
scales = st.sampled_from((0.1, 1.0, 4.0))


def t(a: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(a)


def weights(rng: np.random.Generator, d: int, f: int, scale: float) -> Any:
    """Ours of one direction: columns i, f, g, o."""
    draw = lambda *shape: rng.standard_normal(shape) * scale  # noqa: E731
    return {"wx": draw(d, 4 * f), "wh": draw(f, 4 * f), "bias": draw(4 * f)}


def theirs(rng: np.random.Generator, d: int, *directions: dict[str, np.ndarray]) -> torch.nn.LSTM:
    """torch's layer of the same weights; its two biases sum up to ours."""
    f = directions[0]["wh"].shape[0]
    module = torch.nn.LSTM(d, f, batch_first=True, bidirectional=len(directions) == 2, dtype=torch.float64)
    with torch.no_grad():
        for end, w in zip(("", "_reverse"), directions, strict=False):
            part = rng.standard_normal(4 * f)
            for name, value in (
                ("weight_ih", w["wx"].T), ("weight_hh", w["wh"].T),
                ("bias_ih", w["bias"] - part), ("bias_hh", part),
            ):  # fmt: skip
                getattr(module, f"{name}_l0{end}").copy_(t(value))
    return module


def states(rng: np.random.Generator, *shape: int) -> tuple[np.ndarray, np.ndarray]:
    return rng.standard_normal(shape), rng.standard_normal(shape)


@given(seeds, scales)
def test_cell_is_torchs(seed: int, scale: float):
    rng = np.random.default_rng(seed)
    ours, (h, c), x = weights(rng, 3, 4, scale), states(rng, 2, 4), rng.standard_normal((2, 3))
    cell = torch.nn.LSTMCell(3, 4, dtype=torch.float64)
    with torch.no_grad():
        cell.weight_ih.copy_(t(ours["wx"].T))
        cell.weight_hh.copy_(t(ours["wh"].T))
        cell.bias_ih.copy_(t(ours["bias"]))
        cell.bias_hh.zero_()
        expected = cell(t(x), (t(h), t(c)))
    for got, want in zip(lstm_cell(x, h, c, ours), expected, strict=True):
        equal(got, want)


@given(seeds, scales, st.integers(1, 7), st.booleans())
def test_layer_is_torchs(seed: int, scale: float, tokens: int, start: bool):
    rng = np.random.default_rng(seed)
    ours, x = weights(rng, 3, 4, scale), rng.standard_normal((2, tokens, 3))
    h, c = states(rng, 2, 4)
    with torch.no_grad():
        y, (h1, c1) = theirs(rng, 3, ours)(t(x), (t(h)[None], t(c)[None]) if start else None)
    got = lstm(x, ours, h, c) if start else lstm(x, ours)
    for one, want in zip(got, (y, h1[0], c1[0]), strict=True):
        equal(one, want)


@given(seeds, scales, st.lists(st.integers(1, 6), min_size=1, max_size=4), st.booleans())
def test_packed_rows_are_torchs(seed: int, scale: float, lengths: list[int], start: bool):
    """Both directions over rows of unequal length, as a packed sequence."""
    rng, rows = np.random.default_rng(seed), len(lengths)
    ours, back = weights(rng, 3, 4, scale), weights(rng, 3, 4, scale)
    x, (h, c) = rng.standard_normal((rows, max(lengths), 3)), states(rng, 2, rows, 4)
    with torch.no_grad():
        packed = torch.nn.utils.rnn.pack_padded_sequence(
            t(x), torch.tensor(lengths), batch_first=True, enforce_sorted=False
        )
        out, (h1, c1) = theirs(rng, 3, ours, back)(packed, (t(h), t(c)) if start else None)
        y, _ = torch.nn.utils.rnn.pad_packed_sequence(out, batch_first=True)
    given_states = {"h0": h, "c0": c} if start else {}
    got = bidirectional_lstm(x, ours, back, **given_states, lengths=np.array(lengths))
    for one, want in zip(got, (y, h1, c1), strict=True):
        equal(one, want)


def onnx_order(columns: np.ndarray, parts: int) -> np.ndarray:
    """Our columns i, f, g, o (peepholes i, f, o) as ONNX's rows i, o, f, c (i, o, f)."""
    split = np.split(columns, parts, axis=-1)
    return np.concatenate([split[i] for i in ((0, 3, 1, 2) if parts == 4 else (0, 2, 1))], axis=-1).T


@given(seeds, st.lists(st.integers(1, 6), min_size=1, max_size=4), st.booleans())
def test_layer_is_onnx_runtimes(seed: int, lengths: list[int], peepholes: bool):
    """Its fused kernel, with sequence_lens, initial states and peepholes, forward, reverse and both.

    Rows of length 0 aren't drawn: torch refuses them, and ONNX Runtime forgets their initial state.
    """
    rng, rows = np.random.default_rng(seed), len(lengths)
    single = lambda a: a.astype(np.float32)  # noqa: E731
    x, (h, c) = rng.standard_normal((rows, max(lengths) + 1, 3)), states(rng, 2, rows, 4)
    pair = [weights(rng, 3, 4, 0.5) for _ in range(2)]
    if peepholes:
        for halves in pair:
            halves["peephole"] = rng.standard_normal(12) * 0.5

    def run(direction: str, chosen: list[int]) -> list[Any]:
        stack = lambda name, parts: np.stack([onnx_order(pair[i][name], parts) for i in chosen])  # noqa: E731
        bias = stack("bias", 4)
        given_arrays = [
            x.transpose(1, 0, 2), stack("wx", 4), stack("wh", 4), np.concatenate((bias, bias * 0), axis=1),
            None, h[chosen], c[chosen], stack("peephole", 3) if peepholes else None,
        ]  # fmt: skip
        inputs = [None if a is None else single(a) for a in given_arrays]
        inputs[4] = np.array(lengths, np.int32)
        return onnx_nodes.run("LSTM", inputs, 3, hidden_size=4, direction=direction)

    for direction, i in (("forward", 0), ("reverse", 1)):
        y, h1, c1 = run(direction, [i])
        got = lstm(x, pair[i], h0=h[i], c0=c[i], lengths=np.array(lengths), reverse=bool(i))
        for one, want in zip(got, (y[:, 0].transpose(1, 0, 2), h1[0], c1[0]), strict=True):
            equal(one, want, 2e-6)
    y, h1, c1 = run("bidirectional", [0, 1])
    got = bidirectional_lstm(x, *pair, h0=h, c0=c, lengths=np.array(lengths))
    y = y.transpose(2, 0, 1, 3).reshape(*x.shape[:2], 8)
    for one, want in zip(got, (y, h1, c1), strict=True):
        equal(one, want, 2e-6)


@settings(max_examples=20)
@given(seeds, st.lists(st.integers(1, 5), min_size=1, max_size=3), st.lists(st.integers(1, 5), max_size=3))
def test_sublayer_is_torchs(seed: int, lengths: list[int], then: list[int]):
    """Rows padded on the right, then read on in parts: torch's layer and linear map over each row alone."""
    rng, rows, total = np.random.default_rng(seed), len(lengths), sum(then)
    gates, x = weights(rng, 3, 4, 1.0), rng.standard_normal((rows, max(lengths), 3))
    more = rng.standard_normal((rows, total, 3))
    leaves = {**gates, "wo": rng.standard_normal((4, 3)), "bo": rng.standard_normal(3)}
    garbage = LstmState(*states(rng, rows, 4), np.array(lengths))
    y, cache = lstm_layer(x, garbage, np.zeros(rows, np.int64), leaves)
    past, results, at = np.array(lengths), [y], 0
    for part in then:
        y, cache = lstm_layer(more[:, at : at + part], cache, past + at, leaves)
        at += part
        results.append(y)
    module = theirs(rng, 3, gates)
    for row, n in enumerate(lengths):
        with torch.no_grad():
            hidden, _ = module(t(np.concatenate([x[row, :n], more[row]]))[None])
            expected = functional.linear(hidden[0], t(leaves["wo"].T), t(leaves["bo"]))
        equal(np.concatenate([results[0][row, :n], *(y[row] for y in results[1:])]), expected)


@given(seeds, st.integers(1, 4), st.integers(1, 6), st.booleans())
def test_short_conv_is_lfm2s(seed: int, taps: int, cut: int, bias: bool):
    """A text of eight tokens at once there, in two calls here; the convolution alone is torch's, padded."""
    config = Lfm2Config(
        hidden_size=5, num_hidden_layers=1, layer_types=["conv"], conv_L_cache=taps + 1, conv_bias=bias
    )
    block, rng = Lfm2ShortConv(config, 0).double().eval(), np.random.default_rng(seed)
    with torch.no_grad():
        for weight in block.parameters():
            weight.copy_(t(rng.standard_normal(tuple(weight.shape))))
    stored = {name: weight.detach().numpy() for name, weight in block.named_parameters()}
    ours: Any = {
        "wi": stored["in_proj.weight"].T,
        "conv": stored["conv.weight"][:, 0].T,
        "wo": stored["out_proj.weight"].T,
    }
    if bias:
        names = {"bi": "in_proj.bias", "conv_bias": "conv.bias", "bo": "out_proj.bias"}
        ours |= {leaf: stored[name] for leaf, name in names.items()}
    x = rng.standard_normal((2, 8, 5))
    with torch.no_grad():
        whole = block(t(x))
        padded = functional.pad(t(x).transpose(1, 2), (taps, 0))
        alone = functional.conv1d(padded, block.conv.weight, block.conv.bias, groups=5).transpose(1, 2)
    equal(causal_conv(x, ours["conv"], bias=ours.get("conv_bias")), alone)
    garbage = ConvState(np.full((2, taps, 5), 9.0))
    first, cache = short_conv(x[:, :cut], garbage, np.array([0, 0]), ours)
    second, _ = short_conv(x[:, cut:], cache, np.array([cut, cut]), ours)
    equal(np.concatenate([first, second], 1), whole)


def gated_delta_equals(layer: Any, mixer: GatedDelta, ours: Any, seed: int, cut: int) -> None:
    """A text of 70 tokens, more than a chunk there, at once there, in two calls here."""
    x = np.random.default_rng(seed).standard_normal((2, 70, 10))
    state = (2, mixer.heads, mixer.key_size, mixer.value_size)
    garbage = MatrixState(np.full((2, mixer.length - 1, mixer.channels), 9.0), np.full(state, 9.0))
    first, cache = gated_delta(x[:, :cut], garbage, np.array([0, 0]), ours, settings=mixer)
    second, _ = gated_delta(x[:, cut:], cache, np.array([cut, cut]), ours, settings=mixer)
    equal(np.concatenate([first, second], 1), in_float64(layer, t(x)))


@given(seeds, st.sampled_from([(2, 4), (3, 3), (1, 2)]), st.integers(2, 4), st.integers(1, 69))
def test_gated_delta_is_qwen_3_5s(seed: int, heads: tuple[int, int], length: int, cut: int):
    key_heads, value_heads = heads
    config = Qwen3_5TextConfig(
        hidden_size=10, num_hidden_layers=1, layer_types=["linear_attention"], linear_num_key_heads=key_heads,
        linear_num_value_heads=value_heads, linear_key_head_dim=3, linear_value_head_dim=5,
        linear_conv_kernel_dim=length, rms_norm_eps=1e-5, hidden_act="silu",
    )  # fmt: skip
    layer = randomize(Qwen3_5GatedDeltaNet(config, 0), seed)
    stored = {name: weight.detach().numpy() for name, weight in layer.named_parameters()}
    names = {"wi": "in_proj_qkv", "wz": "in_proj_z", "wb": "in_proj_b", "wa": "in_proj_a", "wo": "out_proj"}
    ours: Any = {leaf: stored[f"{name}.weight"].T for leaf, name in names.items()}
    ours |= {"conv": stored["conv1d.weight"][:, 0].T, "norm": stored["norm.weight"]}
    ours |= {"a_log": stored["A_log"], "dt_bias": stored["dt_bias"]}
    mixer = GatedDelta(value_heads, key_heads, 3, 5, length, 1e-5)
    gated_delta_equals(layer, mixer, ours, seed, cut)


@settings(max_examples=20)
@given(seeds, st.integers(1, 3), st.integers(2, 4), st.integers(1, 69))
def test_gated_delta_is_kimi_linears(seed: int, heads: int, length: int, cut: int):
    config = KimiLinearConfig(
        hidden_size=10, num_hidden_layers=1, layer_types=["linear_attention"], linear_num_heads=heads,
        linear_head_dim=3, linear_conv_kernel_dim=length, rms_norm_eps=1e-5,
    )  # fmt: skip
    layer = randomize(KimiLinearDeltaAttention(config, 0), seed)
    stored = {name: weight.detach().numpy() for name, weight in layer.named_parameters()}
    names = {"wz_a": "g_a_proj", "wz": "g_b_proj", "wb": "b_proj", "wo": "o_proj"}
    names |= {"wa_a": "forget_gate.f_a_proj", "wa": "forget_gate.f_b_proj"}
    ours: Any = {leaf: stored[f"{name}.weight"].T for leaf, name in names.items()}
    ours |= {"wi": np.concatenate([stored[f"{kind}_proj.weight"].T for kind in "qkv"], 1)}
    ours |= {"conv": stored["conv1d.weight"][:, 0].T, "norm": stored["o_norm.weight"]}
    ours |= {"a_log": stored["forget_gate.A_log"].reshape(-1), "dt_bias": stored["forget_gate.dt_bias"]}
    mixer = GatedDelta(heads, heads, 3, 3, length, 1e-5, rank=3)
    gated_delta_equals(layer, mixer, ours, seed, cut)


@settings(max_examples=20)
@given(seeds, st.integers(1, 3), st.integers(2, 4), st.integers(1, 69), st.booleans())
def test_gated_delta_is_ling_3s(seed: int, heads: int, length: int, cut: int, safe: bool):
    config = BailingHybridConfig(
        hidden_size=10, num_hidden_layers=1, layer_types=["linear_attention"], num_attention_heads=heads,
        head_dim=3, short_conv_kernel_size=length, rms_norm_eps=1e-5, kda_safe_gate=safe,
        kda_lower_bound=-2.0,
    )  # fmt: skip
    layer = randomize(BailingHybridDeltaAttention(config, 0), seed)
    stored = {name: weight.detach().numpy() for name, weight in layer.named_parameters()}
    names = {"wz": "g_proj", "wb": "b_proj", "wo": "o_proj", "wa": "forget_gate.f_proj"}
    ours: Any = {leaf: stored[f"{name}.weight"].T for leaf, name in names.items()}
    ours |= {"wi": np.concatenate([stored[f"{kind}_proj.weight"].T for kind in "qkv"], 1)}
    ours |= {"conv": stored["conv1d.weight"][:, 0].T, "norm": stored["o_norm.weight"]}
    ours |= {"a_log": stored["forget_gate.A_log"], "dt_bias": stored["forget_gate.dt_bias"]}
    mixer = GatedDelta(heads, heads, 3, 3, length, 1e-5, by_channel=True, max_decay=2.0 if safe else None)
    gated_delta_equals(layer, mixer, ours, seed, cut)


@given(
    seeds, st.sampled_from([(3, 4), (4, 2)]), st.sampled_from([(0, 1), (1, 4), (3, 4)]), st.integers(1, 19)
)
def test_lightning_is_minimaxs(seed: int, sizes: tuple[int, int], at: tuple[int, int], cut: int):
    """A text of 20 tokens, in blocks of 6 there, in two calls here; rates follow from the layer's number."""
    (heads, size), (number, layers) = sizes, at
    config = MiniMaxConfig(
        hidden_size=10, num_hidden_layers=layers, layer_types=["linear_attention"] * layers, block_size=6,
        num_attention_heads=heads, head_dim=size,
    )  # fmt: skip
    layer = randomize(MiniMaxLightningAttention(config, number), seed)
    stored = {name: weight.detach().numpy() for name, weight in layer.named_parameters()}
    mixed = stored["qkv_proj.weight"].reshape(heads, 3, size, 10).swapaxes(0, 1).reshape(-1, 10)
    ours: Any = {"wi": mixed.T, "wz": stored["output_gate.weight"].T, "wo": stored["out_proj.weight"].T}
    ours |= {"norm": stored["norm.weight"]}
    mixer = Lightning(heads, size, 1 - number / (layers - 1 + 1e-5) + 1e-5)
    x = np.random.default_rng(seed).standard_normal((2, 20, 10))
    garbage = LightningState(np.full((2, heads, size, size), 9.0))
    first, cache = lightning(x[:, :cut], garbage, np.array([0, 0]), ours, settings=mixer)
    second, _ = lightning(x[:, cut:], cache, np.array([cut, cut]), ours, settings=mixer)
    amend(layer.double())
    want = in_float64(layer, t(x), position_embeddings=None, attention_mask=None)[0]
    equal(np.concatenate([first, second], 1), want)


@settings(max_examples=20)
@given(seeds, st.integers(1, 3), st.integers(2, 4), st.integers(1, 19), st.booleans())
def test_rg_lru_is_recurrent_gemmas(seed: int, heads: int, length: int, cut: int, silu: bool):
    """A text of 20 tokens at once there, in two calls here."""
    config = RecurrentGemmaConfig(
        hidden_size=10, num_hidden_layers=1, num_attention_heads=heads, lru_width=heads * 4,
        conv1d_width=length, hidden_activation="silu" if silu else "gelu_pytorch_tanh",
    )  # fmt: skip
    layer = randomize(RecurrentGemmaRecurrentBlock(config, 0), seed)
    stored = {name: weight.detach().numpy() for name, weight in layer.named_parameters()}
    ours: Any = {"conv": stored["conv_1d.weight"][:, 0].T, "conv_bias": stored["conv_1d.bias"]}
    for letter, name in {"i": "linear_x", "z": "linear_y", "o": "linear_out"}.items():
        ours |= {f"w{letter}": stored[f"{name}.weight"].T, f"b{letter}": stored[f"{name}.bias"]}
    for leaf, name in {"input": "rg_lru.input_gate", "decay": "rg_lru.recurrent_gate"}.items():
        ours |= {f"w_{leaf}": stored[f"{name}_weight"], f"b_{leaf}": stored[f"{name}_bias"]}
    ours |= {"forget": stored["rg_lru.recurrent_param"]}
    mixer = RgLru(heads, 4, length, "silu" if silu else "gelu_tanh")
    x = np.random.default_rng(seed).standard_normal((2, 20, 10))
    garbage = RgLruState(np.full((2, length - 1, heads * 4), 9.0), np.full((2, heads * 4), 9.0))
    first, cache = rg_lru(x[:, :cut], garbage, np.array([0, 0]), ours, settings=mixer)
    second, _ = rg_lru(x[:, cut:], cache, np.array([cut, cut]), ours, settings=mixer)
    at = torch.arange(20).expand(2, 20)
    whole = in_float64(layer, t(x), position_ids=at, attention_mask=None, use_cache=False)[0]
    equal(np.concatenate([first, second], 1), whole)


def rwkvs(seed: int) -> tuple[Any, Any]:
    """Both sublayers of a block, with rates of decay of several sizes."""
    config = RwkvConfig(
        hidden_size=10, num_hidden_layers=1, attention_hidden_size=7, intermediate_size=13, vocab_size=9
    )
    layers = randomize(RwkvSelfAttention(config, 0), seed), randomize(RwkvFeedForward(config, 0), seed + 1)
    layers[0].time_decay.data -= torch.arange(7)
    return layers


@given(seeds, st.integers(1, 19), st.sampled_from([0.1, 1.0, 60.0]))
def test_wkv_is_rwkvs(seed: int, cut: int, scale: float):
    """A text of 20 tokens at once there, in two calls here; keys whose exponentials overflow too."""
    rng = np.random.default_rng(seed)
    k, v = rng.standard_normal((2, 2, 20, 5)) * [[[[scale]]], [[[1]]]]
    log_rate, bonus = rng.normal(-2, 2, 5), rng.standard_normal(5)
    decay = np.broadcast_to(-np.exp(log_rate), k.shape)
    none = np.zeros((2, 5)), np.ones((2, 5)), np.full((2, 5), NEVER)
    first, *sums = wkv(k[:, :cut], v[:, :cut], decay[:, :cut], bonus, *none)
    second, *sums = wkv(k[:, cut:], v[:, cut:], decay[:, cut:], bonus, *sums)
    want, state = in_float64(rwkv_linear_attention_cpu, *map(t, (log_rate, bonus, k, v)), return_state=True)
    for got, expected in zip((np.concatenate([first, second], 1), *sums), (want, *state), strict=True):
        equal(got, expected)


@settings(max_examples=20)
@given(seeds, st.integers(1, 19))
def test_time_mix_is_rwkvs(seed: int, cut: int):
    """A text of 20 tokens at once there, in two calls here, after what another text left."""
    layer, _ = rwkvs(seed)
    stored = {name: weight.detach().numpy() for name, weight in layer.named_parameters()}
    names = {"k": "key", "v": "value", "r": "receptance", "o": "output"}
    ours: Any = {f"w{n}": stored[f"{name}.weight"].T for n, name in names.items()}
    ours |= {f"mix_{n}": stored[f"time_mix_{name}"][0, 0] for n, name in names.items() if n != "o"}
    ours |= {"log_rate": stored["time_decay"], "bonus": stored["time_first"]}
    x = np.random.default_rng(seed).standard_normal((2, 20, 10))
    garbage = TimeMixState(np.full((2, 1, 10), 9.0), *np.full((3, 2, 7), 9.0))
    first, cache = time_mix(x[:, :cut], garbage, np.array([0, 0]), ours)
    second, _ = time_mix(x[:, cut:], cache, np.array([cut, cut]), ours)
    equal(np.concatenate([first, second], 1), in_float64(layer, t(x))[0])


@settings(max_examples=20)
@given(seeds, st.integers(1, 19))
def test_channel_mix_is_rwkvs(seed: int, cut: int):
    """A text of 20 tokens at once there, in two calls here, after what another text left."""
    _, layer = rwkvs(seed)
    stored = {name: weight.detach().numpy() for name, weight in layer.named_parameters()}
    names = {"units": "key", "gate": "receptance", "down": "value"}
    ours: Any = {f"w_{n}": stored[f"{name}.weight"].T for n, name in names.items()}
    ours |= {f"mix_{n}": stored[f"time_mix_{name}"][0, 0] for n, name in names.items() if n != "down"}
    x = np.random.default_rng(seed).standard_normal((2, 20, 10))
    garbage = ChannelMixState(np.full((2, 1, 10), 9.0))
    first, cache = channel_mix(x[:, :cut], garbage, np.array([0, 0]), ours)
    second, _ = channel_mix(x[:, cut:], cache, np.array([cut, cut]), ours)
    equal(np.concatenate([first, second], 1), in_float64(layer, t(x))[0])


@given(seeds, st.sampled_from([(2, 4), (3, 3), (1, 2)]), st.integers(1, 70), st.integers(1, 40))
def test_ssd_is_transformers(seed: int, heads: tuple[int, int], tokens: int, chunk: int):
    """Its function that mamba_ssm's kernel replaces, at any length of chunks there and here, in each form."""
    rng, (groups, count) = np.random.default_rng(seed), heads
    x, b, c, state = (
        rng.standard_normal(shape)
        for shape in ((2, tokens, count, 3), *[(2, tokens, groups, 5)] * 2, (2, count, 5, 3))
    )
    steps, rates = np.abs(rng.standard_normal((2, tokens, count))), -np.exp(rng.standard_normal(count))
    given_arrays = [t(a) for a in (x, steps, rates, b, c)]
    y, last = in_float64(
        mamba2_chunk_scan,
        *given_arrays,
        chunk_size=chunk,
        initial_states=t(state).transpose(2, 3),
        return_final_states=True,
    )
    ours = x * steps[..., None], rates * steps, b, c, state
    for got in (ssd.ssd_recurrent(*ours), ssd.ssd_quadratic(*ours), ssd.ssd_chunked(*ours, chunk=chunk)):
        equal(got[0], y)
        equal(got[1], last.transpose(2, 3))


@given(seeds, st.sampled_from([(2, 4), (3, 3), (1, 2)]), st.integers(2, 4), st.integers(1, 39), st.booleans())
def test_mamba2_is_mamba_2s(seed: int, heads: tuple[int, int], length: int, cut: int, bias: bool):
    """A text of 40 tokens, in chunks of 16 there, in two calls here."""
    groups, count = heads
    config = Mamba2Config(
        hidden_size=count * 3, num_heads=count, head_dim=6, n_groups=groups, state_size=5, chunk_size=16,
        conv_kernel=length, use_bias=bias, use_conv_bias=not bias, layer_norm_epsilon=1e-4,
        num_hidden_layers=1,
    )  # fmt: skip
    layer = randomize(Mamba2Mixer(config, 0), seed)
    stored = {name: weight.detach().numpy() for name, weight in layer.named_parameters()}
    mixer = Mamba2(count, groups, 5, 6, length, not bias, bias, bias, eps=1e-4)
    ends = [mixer.width, mixer.width + mixer.channels]
    ours: Any = dict(zip(("wz", "wi", "wdt"), np.split(stored["in_proj.weight"].T, ends, 1), strict=True))
    ours |= {"conv": stored["conv1d.weight"][:, 0].T, "norm": stored["norm.weight"], "skip": stored["D"]}
    ours |= {"a_log": stored["A_log"], "dt_bias": stored["dt_bias"], "wo": stored["out_proj.weight"].T}
    if bias:
        ours |= dict(zip(("bz", "bi", "bdt"), np.split(stored["in_proj.bias"], ends), strict=True))
        ours |= {"bo": stored["out_proj.bias"]}
    else:
        ours |= {"conv_bias": stored["conv1d.bias"]}
    x = np.random.default_rng(seed).standard_normal((2, 40, count * 3))
    whole = in_float64(layer, t(x))
    garbage = MatrixState(np.full((2, length - 1, mixer.channels), 9.0), np.full((2, count, 5, 6), 9.0))
    first, cache = mamba2(x[:, :cut], garbage, np.array([0, 0]), ours, settings=mixer)
    second, _ = mamba2(x[:, cut:], cache, np.array([cut, cut]), ours, settings=mixer)
    equal(np.concatenate([first, second], 1), whole)


@settings(max_examples=20)
@given(seeds, st.integers(1, 5), st.integers(1, 60), st.integers(1, 30))
def test_selective_scan_is_transformers(seed: int, size: int, tokens: int, chunk: int):
    """Its function that mamba_ssm's kernel replaces, from an empty state; then its step."""
    rng = np.random.default_rng(seed)
    x, more = rng.standard_normal((2, 2, tokens, 3))
    step, rates = np.abs(rng.standard_normal((2, tokens, 3))), -np.exp(rng.standard_normal((3, size)))
    b, c = rng.standard_normal((2, 2, tokens, size))
    turned = [t(a).transpose(1, 2) for a in (x, step, b, c)]
    y, last = in_float64(mamba_selective_scan, *turned[:2], t(rates), *turned[2:], return_last_state=True)
    state = np.zeros((2, 3, size))
    for got in (
        selective_scan(x, step, rates, b, c, state),
        selective_scan_chunked(x, step, rates, b, c, state, chunk=chunk),
    ):
        equal(got[0], y.transpose(1, 2))
        equal(got[1], last)
    next_y = in_float64(
        mamba_selective_state_update, last, t(more[:, 0]), t(step[:, 0]), t(rates), t(b[:, 0]), t(c[:, 0])
    )
    got = selective_scan(more[:, :1], step[:, :1], rates, b[:, :1], c[:, :1], got[1])
    equal(got[0][:, 0], next_y)
    equal(got[1], last)  # written in place


@settings(max_examples=20)
@given(seeds, st.integers(2, 4), st.integers(1, 19), st.booleans(), st.booleans())
def test_mamba_is_mamba_s(seed: int, length: int, cut: int, bias: bool, normed: bool):
    """Mamba's mixer, and Jamba's with norms: a text of 20 tokens at once there, in two calls here."""
    if normed:
        jamba = JambaConfig(
            hidden_size=10, mamba_expand=1, mamba_d_state=5, mamba_dt_rank=3, mamba_d_conv=length,
            mamba_conv_bias=not bias, mamba_proj_bias=bias, rms_norm_eps=1e-4, num_attention_heads=2,
        )  # fmt: skip
        layer = randomize(JambaMambaMixer(jamba, 0), seed)
    else:
        config = MambaConfig(
            hidden_size=10, expand=1, state_size=5, time_step_rank=3, conv_kernel=length, use_bias=bias,
            use_conv_bias=not bias, num_hidden_layers=1,
        )  # fmt: skip
        layer = randomize(MambaMixer(config, 0), seed)
    stored = {name: weight.detach().numpy() for name, weight in layer.named_parameters()}
    mixer = Mamba(10, 5, 3, length, not bias, bias, "weighted" if normed else None, 1e-4)
    ours: Any = dict(zip(("wi", "wz"), np.split(stored["in_proj.weight"].T, 2, 1), strict=True))
    ours |= dict(zip(("wdt_a", "wb", "wc"), np.split(stored["x_proj.weight"].T, [3, 8], 1), strict=True))
    ours |= {"conv": stored["conv1d.weight"][:, 0].T, "skip": stored["D"], "a_log": stored["A_log"]}
    ours |= {"wdt": stored["dt_proj.weight"].T, "dt_bias": stored["dt_proj.bias"]}
    ours |= {"wo": stored["out_proj.weight"].T}
    if normed:
        ours |= {f"{name}_norm": stored[f"{name}_layernorm.weight"] for name in ("dt", "b", "c")}
    if bias:
        ours |= dict(zip(("bi", "bz"), np.split(stored["in_proj.bias"], 2), strict=True))
        ours |= {"bo": stored["out_proj.bias"]}
    else:
        ours |= {"conv_bias": stored["conv1d.bias"]}
    x = np.random.default_rng(seed).standard_normal((2, 20, 10))
    whole = in_float64(layer, t(x))
    garbage = ChannelState(np.full((2, length - 1, 10), 9.0), np.full((2, 10, 5), 9.0))
    first, cache = mamba(x[:, :cut], garbage, np.array([0, 0]), ours, settings=mixer)
    second, _ = mamba(x[:, cut:], cache, np.array([cut, cut]), ours, settings=mixer)
    equal(np.concatenate([first, second], 1), whole)

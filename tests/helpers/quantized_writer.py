"""Tiny Llamas whose matrices are stored as quantizing libraries do: random codes, and what they stand for.

Written from the libraries' documentation of what they store, without our readers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

Tensors = dict[str, torch.Tensor]
Rng = np.random.Generator
# A decoder whose sizes are multiples of 32.
CONFIG: dict[str, Any] = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 97, "hidden_size": 64,
    "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
}  # fmt: skip
SIZES = {
    "self_attn.q_proj": (64, 64), "self_attn.k_proj": (32, 64), "self_attn.v_proj": (32, 64),
    "self_attn.o_proj": (64, 64), "mlp.gate_proj": (96, 64), "mlp.up_proj": (96, 64),
    "mlp.down_proj": (64, 96),
}  # fmt: skip


@dataclass(frozen=True)
class Format:
    """A quantization_config, and a function from a matrix's shape to what is stored, beside its module's
    name, and the matrix."""

    config: dict[str, Any]
    store: Callable[[Rng, int, int], tuple[Tensors, torch.Tensor]]


def pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """Rows of codes as rows of words: code after code, the lowest bits first."""
    spread = (codes[..., None] >> np.arange(bits) & 1).reshape(len(codes), -1).astype(np.uint64)
    padded = np.pad(spread, ((0, 0), (0, -spread.shape[1] % 32))).reshape(len(codes), -1, 32)
    return (
        (padded << np.arange(32, dtype=np.uint64))
        .sum(axis=2, dtype=np.uint64)
        .astype(np.uint32)
        .view(np.int32)
    )


def _scales(rng: Rng, *shape: int) -> torch.Tensor:
    return torch.from_numpy(rng.uniform(0.01, 0.03, shape)).half()


def _words(words: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(words))


def gptq(
    bits: int, group: int, *, v2: bool = False, ordered: bool = False, symmetric: bool = False
) -> Format:
    def store(rng: Rng, outputs: int, inputs: int) -> tuple[Tensors, torch.Tensor]:
        count = 1 if group == -1 else -(-inputs // group)
        g_idx = np.arange(inputs) // (inputs if group == -1 else group)
        g_idx = rng.permutation(g_idx) if ordered else g_idx
        codes = rng.integers(0, 2**bits, (inputs, outputs))
        zeros = rng.integers(0 if v2 else 1, 2**bits, (count, outputs))
        zeros = np.full_like(zeros, 2 ** (bits - 1)) if symmetric else zeros
        scales = _scales(rng, count, outputs)
        weight = scales[g_idx].float() * torch.from_numpy(codes - zeros[g_idx])
        tensors = {
            "qweight": _words(pack(codes.T, bits).T),
            "qzeros": _words(pack(zeros if v2 else zeros - 1, bits)),
            "scales": scales, "g_idx": torch.from_numpy(g_idx.astype(np.int32)),
            "bias": torch.zeros(outputs).half(),
        }  # fmt: skip
        return tensors, weight.T

    config = {
        "quant_method": "gptq",
        "bits": bits,
        "group_size": group,
        "desc_act": ordered,
        "sym": symmetric,
    }
    return Format(config | ({"checkpoint_format": "gptq_v2"} if v2 else {}), store)


def awq(group: int) -> Format:
    order = [0, 2, 4, 6, 1, 3, 5, 7]

    def store(rng: Rng, outputs: int, inputs: int) -> tuple[Tensors, torch.Tensor]:
        codes = rng.integers(0, 16, (inputs, outputs))
        zeros = rng.integers(0, 16, (inputs // group, outputs))
        scales = _scales(rng, inputs // group, outputs)
        packed = [pack(a.reshape(len(a), -1, 8)[..., order].reshape(a.shape), 4) for a in (codes, zeros)]
        weight = scales.float().repeat_interleave(group, 0) * torch.from_numpy(codes - zeros.repeat(group, 0))
        return {"qweight": _words(packed[0]), "qzeros": _words(packed[1]), "scales": scales}, weight.T

    config = {"quant_method": "awq", "bits": 4, "group_size": group, "zero_point": True, "version": "gemm"}
    return Format(config, store)


def fp8(config: Mapping[str, Any], grid: Callable[[int, int], tuple[int, ...]], scale: str) -> Format:
    """`grid` gives the shape of the scales."""

    def store(rng: Rng, outputs: int, inputs: int) -> tuple[Tensors, torch.Tensor]:
        codes = torch.from_numpy(rng.standard_normal((outputs, inputs)) * 100).to(torch.float8_e4m3fn)
        shape = grid(outputs, inputs)
        scales = torch.from_numpy(rng.uniform(1e-3, 2e-3, shape).astype(np.float32))
        rows, columns = (*shape, 1, 1)[:2] if shape else (1, 1)
        spread = scales.reshape(rows, columns)
        for axis, length in enumerate((outputs, inputs)):
            size = {1: length, length: 1}.get(spread.shape[axis], 40)
            spread = spread.repeat_interleave(size, axis).narrow(axis, 0, length)
        return {"weight": codes, scale: scales, "input_scale": torch.ones(1)}, codes.float() * spread

    return Format({**config}, store)


def compressed(
    packing: str, weights: Mapping[str, Any], store: Callable[..., Any], inputs: Any = None
) -> Format:
    group = {"targets": ["Linear"], "weights": {"dynamic": False, **weights}, "input_activations": inputs}
    config = {
        "quant_method": "compressed-tensors", "format": packing, "quantization_status": "compressed",
        "config_groups": {"group_0": group}, "ignore": ["lm_head"], "kv_cache_scheme": None,
    }  # fmt: skip
    return Format(config, store)


def packed_integers(bits: int, group: int, *, symmetric: bool) -> Format:
    def store(rng: Rng, outputs: int, inputs: int) -> tuple[Tensors, torch.Tensor]:
        middle = 2 ** (bits - 1)
        codes = rng.integers(-middle, middle, (outputs, inputs))
        scales = _scales(rng, outputs, inputs // group).bfloat16()
        zeros = np.zeros(scales.shape, int) if symmetric else rng.integers(-middle, middle, scales.shape)
        tensors = {
            "weight_packed": _words(pack(codes + middle, bits)), "weight_scale": scales,
            "weight_shape": torch.tensor([outputs, inputs]),
        }  # fmt: skip
        if not symmetric:
            tensors["weight_zero_point"] = _words(pack((zeros + middle).T, bits).T)
        centred = torch.from_numpy(codes - zeros.repeat(group, 1)).float()
        return tensors, centred * scales.float().repeat_interleave(group, 1)

    args = {"num_bits": bits, "type": "int", "strategy": "group", "group_size": group, "symmetric": symmetric}
    return compressed("pack-quantized", args, store)


def _int8(rng: Rng, outputs: int, inputs: int) -> tuple[Tensors, torch.Tensor]:
    codes = torch.from_numpy(rng.integers(-128, 128, (outputs, inputs)).astype(np.int8))
    scales = _scales(rng, outputs, 1).float()
    return {"weight": codes, "weight_scale": scales}, codes.float() * scales


E2M1 = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0])


def nvfp4(
    weight: str, whole: str, *, divides: bool
) -> Callable[[Rng, int, int], tuple[Tensors, torch.Tensor]]:
    def store(rng: Rng, outputs: int, inputs: int) -> tuple[Tensors, torch.Tensor]:
        codes = torch.from_numpy(rng.integers(0, 16, (outputs, inputs)))
        scales = torch.from_numpy(rng.uniform(20, 200, (outputs, inputs // 16))).to(torch.float8_e4m3fn)
        one = torch.tensor([3000.0 if divides else 1 / 3000])
        of_block = scales.float() / one if divides else scales.float() * one
        packed = (codes[:, ::2] | codes[:, 1::2] << 4).to(torch.uint8)
        return {weight: packed, "weight_scale": scales, whole: one}, (
            E2M1[codes] * of_block.repeat_interleave(16, 1)
        )

    return store


def _mxfp4(rng: Rng, outputs: int, inputs: int) -> tuple[Tensors, torch.Tensor]:
    codes = torch.from_numpy(rng.integers(0, 16, (outputs, inputs)))
    exponents = torch.from_numpy(rng.integers(118, 124, (outputs, inputs // 32))).to(torch.uint8)
    packed = (codes[:, ::2] | codes[:, 1::2] << 4).to(torch.uint8)
    scales = torch.exp2(exponents.float() - 127).repeat_interleave(32, 1)
    return {"weight_packed": packed, "weight_scale": exponents}, E2M1[codes] * scales


NF4 = [
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
    -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
    0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023,
    1.0,
]  # fmt: skip


def _nf4(rng: Rng, outputs: int, inputs: int) -> tuple[Tensors, torch.Tensor]:
    codes, count = torch.from_numpy(rng.integers(0, 16, outputs * inputs)), outputs * inputs // 64
    absmax = torch.from_numpy(rng.integers(0, 256, count).astype(np.uint8))
    maps, nested = (
        torch.linspace(-1, 1, 256),
        torch.from_numpy(rng.random(-(-count // 256)).astype(np.float32)),
    )
    state = {
        "quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [outputs, inputs],
        "nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 0.04,
    }  # fmt: skip
    tensors = {
        "weight": (codes[::2] << 4 | codes[1::2]).to(torch.uint8)[:, None],
        "weight.absmax": absmax, "weight.quant_map": torch.tensor(NF4), "weight.nested_absmax": nested,
        "weight.nested_quant_map": maps,
        "weight.quant_state.bitsandbytes__nf4": torch.frombuffer(
            bytearray(json.dumps(state).encode()), dtype=torch.uint8
        ),
    }  # fmt: skip
    scales = maps[absmax.long()] * nested.repeat_interleave(256)[:count] + torch.tensor(0.04)
    weight = torch.tensor(NF4)[codes] * scales.repeat_interleave(64)
    return tensors, weight.reshape(outputs, inputs)


def _scb(rng: Rng, outputs: int, inputs: int) -> tuple[Tensors, torch.Tensor]:
    codes = torch.from_numpy(rng.integers(-127, 128, (outputs, inputs)).astype(np.int8))
    scb = torch.from_numpy(rng.uniform(1, 2, outputs).astype(np.float32))
    tensors = {"weight": codes, "SCB": scb, "weight_format": torch.tensor(0, dtype=torch.uint8)}
    return tensors, codes * scb[:, None] * 7.874015718698502e-3


def _bitnet(
    *, divides: bool, unpacked: bool = False
) -> Callable[[Rng, int, int], tuple[Tensors, torch.Tensor]]:
    def store(rng: Rng, outputs: int, inputs: int) -> tuple[Tensors, torch.Tensor]:
        ternary = torch.from_numpy(rng.integers(-1, 2, (outputs, inputs)))
        scale = torch.from_numpy(rng.uniform(20, 40, 1) if divides else rng.uniform(0.02, 0.04, 1)).bfloat16()
        step = 1 / scale.float() if divides else scale.float()
        a, b, c, d = (ternary + 1).chunk(4)
        packed = (a | b << 2 | c << 4 | d << 6).to(torch.uint8)
        weight = ternary.bfloat16() if unpacked else packed
        return {"weight": weight, "weight_scale": scale}, ternary.float() * step

    return store


def _trained(rng: Rng, outputs: int, inputs: int) -> tuple[Tensors, torch.Tensor]:
    weight = torch.from_numpy(rng.standard_normal((outputs, inputs)) / 8).float()
    mean = weight.abs().double().mean().float()
    inverse = 1 / mean
    return {"weight": weight}, (weight * inverse).round().clamp(-1, 1) * (1 / inverse)


BITNET = {"quant_method": "bitnet", "linear_class": "autobitlinear"}
DYNAMIC = {"quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3"}
FORMATS = {
    "gptq4": gptq(4, 32), "gptq4-v2": gptq(4, 16, v2=True), "gptq4-order": gptq(4, 32, ordered=True),
    "gptq2": gptq(2, 32), "gptq3": gptq(3, 32), "gptq8-whole": gptq(8, -1), "awq": awq(32),
    "fp8-block": fp8(
        DYNAMIC | {"weight_block_size": [40, 40]}, lambda f, d: (-(-f // 40), -(-d // 40)), "weight_scale_inv"
    ),
    "fp8-tensor": fp8(DYNAMIC | {"activation_scheme": "static"}, lambda f, d: (), "weight_scale"),
    "fbgemm": fp8(
        {"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0}, lambda f, d: (f, 1), "weight_scale"
    ),
    "pack4": packed_integers(4, 32, symmetric=True),
    "pack8-asymmetric": packed_integers(8, 32, symmetric=False),
    "int8": compressed(
        "int-quantized", {"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": True}, _int8,
        {"num_bits": 8, "type": "int", "strategy": "token", "dynamic": True},
    ),
    "nf4": Format({"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, _nf4),
    "llm-int8": Format({"load_in_8bit": True, "llm_int8_threshold": 6.0}, _scb),
    "mxfp4": compressed(
        "mxfp4-pack-quantized", {"num_bits": 4, "type": "float", "strategy": "group", "group_size": 32},
        _mxfp4,
    ),
    "nvfp4": compressed(
        "nvfp4-pack-quantized",
        {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16},
        nvfp4("weight_packed", "weight_global_scale", divides=True),
    ),
    "bitnet": Format({"quant_method": "bitnet", "modules_to_not_convert": None}, _bitnet(divides=True)),
    "bitnet-auto": Format(BITNET | {"quantization_mode": "offline"}, _bitnet(divides=False)),
    "bitnet-unpacked": Format(BITNET, _bitnet(divides=False, unpacked=True)),
    "bitnet-online": Format(BITNET | {"quantization_mode": "online"}, _trained),
    "modelopt-fp8": fp8({"quant_method": "modelopt", "quant_algo": "FP8"}, lambda f, d: (), "weight_scale"),
    "modelopt": Format(
        {"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": ["lm_head"]},
        nvfp4("weight", "weight_scale_2", divides=False),
    ),
}  # fmt: skip


def tensors_of(form: Format, seed: int = 0) -> tuple[Tensors, Tensors]:
    """A Llama's tensors as the format stores them, and as floats."""
    rng = np.random.default_rng(seed)
    floats: Tensors = {
        name: torch.from_numpy((rng.standard_normal(shape) / 8).astype(np.float32))
        for name, shape in (("model.embed_tokens", (97, 64)), ("lm_head", (97, 64)))
    }
    norms = [
        "model.norm",
        *(f"model.layers.{i}.{n}" for i in range(2) for n in ("input_layernorm", "post_attention_layernorm")),
    ]
    floats = {f"{name}.weight": tensor for name, tensor in floats.items()}
    floats |= {
        f"{name}.weight": torch.from_numpy(rng.uniform(0.5, 1.5, 64).astype(np.float32)) for name in norms
    }
    stored = dict(floats)
    for i in range(2):
        for name, shape in SIZES.items():
            module = f"model.layers.{i}.{name}"
            tensors, weight = form.store(rng, *shape)
            stored |= {f"{module}.{part}": tensor for part, tensor in tensors.items()}
            floats[f"{module}.weight"] = weight.float()
    return stored, floats


def write(directory: Path, form: Format, seed: int = 0) -> Path:
    """A model directory in the format, and one beside it with the same numbers as floats."""
    stored, floats = tensors_of(form, seed)
    for folder, tensors, config in (
        ("stored", stored, CONFIG | {"quantization_config": form.config}),
        ("floats", floats, CONFIG),
    ):
        path = directory / folder
        path.mkdir()
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path / "model.safetensors")
        (path / "config.json").write_text(json.dumps(config))
    return directory

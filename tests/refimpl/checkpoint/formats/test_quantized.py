"""Quantized weights as the libraries that write them read them: recorded files, and transformers' own code.

`quantized.safetensors.xz` holds weights that each library quantized, packed and dequantized itself, and the
quantization_config that it writes: auto-gptq 0.7.1 (QuantLinear of qlinear_cuda: `pack`, and its product with
the unit matrix), autoawq 0.2.5 (WQLinear_GEMM.from_linear, dequantize_gemm), bitsandbytes 0.50.2
(quantize_4bit, QuantState.as_dict(packed=True), dequantize_4bit, int8_vectorwise_quant and _dequant),
compressed-tensors 0.20.0 (compress and decompress of each packing), nvidia-modelopt 0.47.0
(NVFP4QTensor.quantize, dequantize) and auto-round 0.16.1 (`pack` of its QuantLinear with and without an
offset of zero points, and the product with the unit matrix; WQLinear_GEMM, dequantize_gemm), from normal
weights of 8 to 32 rows. Names are FORMAT:TENSOR, the library's result is FORMAT:expected, in the type that it
computes in; `configs` is JSON.
"""

from __future__ import annotations

import importlib
import json
import lzma
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.refused import refused
from safetensors.torch import load, save_file
from tfm.refimpl.checkpoint.config_readers.keys import Keys
from tfm.refimpl.checkpoint.config_readers.quantization import read_quantization
from tfm.refimpl.checkpoint.formats import small_floats
from tfm.refimpl.checkpoint.formats.quantized import packed
from tfm.refimpl.checkpoint.formats.quantized.source import Quantized
from tfm.refimpl.checkpoint.formats.quantized.weight import Quantization
from tfm.refimpl.checkpoint.formats.safetensors import SafeTensors
from tfm.refimpl.errors import CheckpointError, ConfigError
from tfm.refimpl.ops.quant import dequantize, linear_blocks, transpose
from transformers.integrations.finegrained_fp8 import Fp8Dequantize
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

FILE = Path(__file__).with_name("quantized.safetensors.xz")


@cache
def recorded() -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, torch.Tensor]]]:
    """Each format's quantization_config, and its tensors."""
    stored = load(lzma.decompress(FILE.read_bytes()))
    configs = json.loads(stored.pop("configs").numpy().tobytes())
    tensors: dict[str, dict[str, torch.Tensor]] = {name: {} for name in configs}
    for name, tensor in stored.items():
        form, _, part = name.partition(":")
        tensors[form][part] = tensor
    return configs, tensors


def opened(directory: Path, config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Quantized:
    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()}, directory / "model.safetensors"
    )
    quantization = read_quantization(Keys({"quantization_config": config}, "config.json"))
    assert quantization is not None
    return Quantized(SafeTensors(directory / "model.safetensors"), quantization)


@pytest.mark.parametrize("name", recorded()[0])
def test_a_librarys_file_is_read_as_the_library_reads_it(name, tmp_path):
    config, tensors = recorded()[0][name], dict(recorded()[1][name])
    expected = tensors.pop("expected")
    source = opened(tmp_path, config, tensors)
    assert source.names == ("m.weight",)
    weight = source.load("m.weight")
    assert weight.dtype == np.float32
    assert weight.shape == source.shape("m.weight") == tuple(expected.shape)
    assert torch.equal(torch.from_numpy(weight).to(expected.dtype), expected)
    blocks = source.native("m.weight")
    assert (blocks is None) == name.startswith(("gptq4-order", "gptq3", "bnb-nf4", "bnb-fp4", "ct-fp8"))
    if blocks is not None:
        kept = dequantize(blocks)
        np.testing.assert_allclose(kept, weight, rtol=2e-7 if name == "bnb-int8" else 0)
        assert blocks.codes.max() < 2**blocks.bits


def test_every_small_float_is_torchs():
    codes = torch.arange(256, dtype=torch.uint8)
    for table, dtype in (
        (small_floats.E4M3, torch.float8_e4m3fn),
        (small_floats.E5M2, torch.float8_e5m2),
        (small_floats.E8M0, torch.float8_e8m0fnu),
    ):
        np.testing.assert_array_equal(table, codes.view(dtype).float().numpy())
    np.testing.assert_array_equal(small_floats.E2M1, np.array(Fp8Dequantize._FP4_E2M1_LUT, np.float32))


@pytest.mark.parametrize("seed", range(4))
def test_fp8_is_transformers(seed, tmp_path):
    rng = np.random.default_rng(seed)
    rows, columns = rng.integers(1, 4, 2)
    block = rng.integers(1, 40, 2).tolist()
    codes = torch.from_numpy(rng.integers(0, 256, (rows * block[0], columns * block[1])).astype(np.uint8))
    codes[(codes & 127) == 127] = 0  # NaN
    weight = codes.view(torch.float8_e4m3fn)
    scale = torch.from_numpy(rng.uniform(1e-5, 2, (rows, columns)).astype(np.float32))
    config = {"quant_method": "fp8", "weight_block_size": block, "activation_scheme": "dynamic"}
    got = opened(tmp_path, config, {"m.weight": weight, "m.weight_scale_inv": scale}).load("m.weight")
    expected = Fp8Dequantize(None)._dequantize_one(weight, scale, torch.float32)
    assert torch.equal(torch.from_numpy(got), expected)


@pytest.fixture
def bitnet(monkeypatch) -> Any:
    """transformers' BitNet, imported without the compiler that its functions are decorated with."""
    monkeypatch.setattr(torch, "compile", lambda function: function)
    return importlib.import_module("transformers.integrations.bitnet")


@pytest.mark.parametrize("linear_class", ["bitlinear", "autobitlinear"])
def test_bitnet_is_transformers(linear_class, bitnet, tmp_path):
    """Weights that transformers packed, and the product that it computes: of inputs rounded by row."""
    rng = np.random.default_rng(0)
    ternary = torch.from_numpy(rng.integers(-1, 2, (24, 40))).float()
    tensors = {"m.weight": bitnet.pack_weights(ternary.clone()), "m.weight_scale": torch.tensor([3.7])}
    config = {"quant_method": "bitnet", "linear_class": linear_class}
    native = opened(tmp_path, config, tensors).native("m.weight")
    assert native is not None
    rows = transpose(replace(native, scale=native.scale[:, :1], block=40, activations="row"))
    if linear_class == "bitlinear":
        module: torch.nn.Module = bitnet.BitLinear(40, 24, bias=False, dtype=torch.float32)
        module.load_state_dict({"weight": tensors["m.weight"], "weight_scale": tensors["m.weight_scale"]})
    else:
        module = bitnet.AutoBitLinear(40, 24, bias=False)
        module.load_state_dict({"weight": ternary, "weight_scale": tensors["m.weight_scale"]})
    x = rng.standard_normal((2, 5, 40)).astype(np.float32)
    with torch.no_grad():
        assert torch.equal(bitnet.unpack_weights(tensors["m.weight"], torch.float32), ternary)
        expected = module(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(
        linear_blocks(x, rows), expected, rtol=2e-6, atol=2e-6 * np.abs(expected).max()
    )


def test_bitnets_trained_weights_are_transformers(bitnet, tmp_path):
    weight = torch.from_numpy(np.random.default_rng(0).standard_normal((24, 40)).astype(np.float32))
    config = {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "online"}
    source = opened(tmp_path, config, {"m.q_proj.weight": weight, "lm_head.weight": weight.clone()})
    expected = bitnet.WeightQuant.apply(weight).numpy()
    np.testing.assert_allclose(source.load("m.q_proj.weight"), expected, rtol=3e-7)
    np.testing.assert_array_equal(source.load("lm_head.weight"), weight)
    with refused(CheckpointError, "BitNet", "'m.c_attn.weight'"):
        opened(tmp_path, config, {"m.c_attn.weight": weight})


def test_gpt_oss_experts_are_transformers(tmp_path):
    rng = np.random.default_rng(0)
    blocks = torch.from_numpy(rng.integers(0, 256, (3, 6, 2, 16)).astype(np.uint8))
    scales = torch.from_numpy(rng.integers(100, 150, (3, 6, 2)).astype(np.uint8))
    source = opened(tmp_path, {"quant_method": "mxfp4"}, {"e.up_blocks": blocks, "e.up_scales": scales})
    expected = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)
    assert source.names == ("e.up",)
    assert source.shape("e.up") == tuple(expected.shape)
    assert torch.equal(torch.from_numpy(source.load("e.up")), expected)
    assert torch.equal(torch.from_numpy(source.load("e.up", 1).copy()), expected[1])


@pytest.mark.parametrize("bits", range(1, 9))
def test_codes_of_any_width_are_unpacked(bits):
    codes = np.random.default_rng(bits).integers(0, 2**bits, (5, 37))
    whole = [sum(int(code) << (bits * i) for i, code in enumerate(row)) for row in codes]
    size = 4 * -(-37 * bits // 32)
    words = np.array([np.frombuffer(one.to_bytes(size, "little"), np.int32) for one in whole])
    np.testing.assert_array_equal(packed.unpack(words, bits, 37), codes)


def of_auto_round(**keys: Any) -> Quantization | None:
    config = {**recorded()[0]["auto-round-gptq4"], **keys}
    return read_quantization(Keys({"quantization_config": config}, "config.json"))


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"packing_format": "auto_round:fp8"}, "packing_format auto_round"),
        ({"packing_format": "auto_round:auto_awq", "bits": 8}, "bits 4 auto_round:auto_awq 8"),
        ({"data_type": "mx_fp"}, 'data_type "int"'),
        ({"act_bits": 8}, "act_bits 16 32 null 8"),
        ({"extra_config": {"x": {"bits": 5}}}, "bits 2 3 4 8 5"),
        ({"extra_config": {".*x": {"bits": 8}}}, "settings"),
        (
            {"packing_format": "auto_round:auto_awq", "extra_config": {"x": {"group_size": 32}}},
            "extra_config auto_round:auto_awq",
        ),
        ({"extra_config": {"x": {"data_type": "fp"}}}, 'data_type "int" null'),
        ({"extra_config": {"x": {"unheard_of": 1}}}, "'unheard_of'"),
        ({"extra_config": {"x": 16}}, "extra_config"),
    ],
)
def test_a_setting_of_auto_round_that_changes_numbers_is_refused(keys, words):
    with refused(ConfigError, *words.split()):
        of_auto_round(**keys)


def test_modules_that_auto_round_names_with_the_settings_of_all_or_as_floats():
    named = {"lm_head": {"bits": 16, "data_type": "fp"}, ".*x": {"bits": 4, "group_size": 16, "sym": False}}
    assert of_auto_round(extra_config=named) == of_auto_round()


def parts(names: dict[str, str]) -> dict[str, torch.Tensor]:
    """The tensors of one file whose modules are in these recorded formats."""
    return {
        name.replace("m.", f"{module}.", 1): tensor.clone()
        for module, form in names.items()
        for name, tensor in recorded()[1][form].items()
        if name != "expected"
    }


def same_as_recorded(source: Quantized, names: dict[str, str]) -> None:
    for module, form in names.items():
        expected = recorded()[1][form]["expected"]
        got = torch.from_numpy(source.load(f"{module}.weight"))
        assert source.kind(f"{module}.weight") == form.removeprefix("auto-round-").upper()
        assert torch.equal(got.to(expected.dtype), expected)


def test_auto_rounds_modules_with_settings_of_their_own(tmp_path):
    names = {"a.0": "auto-round-gptq4", "a.1": "auto-round-gptq2", "a.1.b": "auto-round-gptq4"}
    extra = {"a.1": {"bits": 2, "group_size": -1}, "lm_head": {"bits": 16}}
    config = {**recorded()[0]["auto-round-gptq4"], "extra_config": extra}
    same_as_recorded(opened(tmp_path, config, parts(names)), names)


def test_gptqs_modules_with_settings_of_their_own_by_the_first_pattern_that_begins_to_match(tmp_path):
    """As GPTQModel's dynamic_get finds them; each module is one that a library wrote with these settings."""
    names = {"a.0.up": "gptq4", "a.0.down": "gptq8", "a.1.down": "gptq2", "lm_head": "gptq3"}
    dynamic = {
        "-:a.2": {},
        "+:.*\\.1\\.": {"bits": 2},
        "a.*down": {"bits": 8, "group_size": -1, "sym": True},
        "+:a.0.d": {"bits": 3},
        "lm_": {"bits": 3, "desc_act": True, "mse": 2.4},
        "a.0.u": {},
    }
    config = {**recorded()[0]["gptq4"], "dynamic": dynamic}
    same_as_recorded(opened(tmp_path, config, parts(names)), names)


@pytest.mark.parametrize(
    ("dynamic", "words"),
    [
        ({"+:a": {"bits": 5}}, "bits 2 3 4 8 5"),
        ({"a": {"group_size": 0}}, "group_size -1 1 0"),
        ({"a": {"adapter": {"rank": 8}}}, "'adapter'"),
        ({"a": 8}, "dynamic"),
        ({"a(?=b)": {}}, "dynamic"),
    ],
)
def test_gptqs_settings_of_some_modules_that_are_refused(dynamic, words):
    config = {**recorded()[0]["gptq4"], "dynamic": dynamic}
    with refused(ConfigError, *words.split()):
        read_quantization(Keys({"quantization_config": config}, "config.json"))

"""Models that quantizing libraries wrote: opened, they are the float models of the same numbers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from helpers import quantized_writer
from helpers.quantized_writer import FORMATS, Format
from helpers.refused import pattern, refused
from safetensors.torch import load_file, save_file
from tfm.refimpl.checkpoint.open import open_checkpoint
from tfm.refimpl.engine.numpy_engine import NumpyEngine
from tfm.refimpl.errors import CheckpointError, ConfigError, NumericError
from tfm.refimpl.ops.quant import dequantize
from transformers.integrations.mxfp4 import convert_moe_packed_tensors
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

Q = "model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize("name", FORMATS)
def test_the_leaves_are_those_of_the_float_model(name, tmp_path):
    quantized_writer.write(tmp_path, FORMATS[name])
    stored, floats = (open_checkpoint(tmp_path / folder) for folder in ("stored", "floats"))
    assert stored.config == floats.config
    assert stored.leaves.names == floats.leaves.names
    for leaf in floats.leaves.names:
        np.testing.assert_array_equal(stored.leaf(leaf), floats.leaf(leaf), err_msg=leaf)
        if (blocks := stored.native(leaf)) is not None:
            tolerance = 2e-7 if name == "llm-int8" else 0
            np.testing.assert_allclose(dequantize(blocks), floats.leaf(leaf), rtol=tolerance, err_msg=leaf)
    kinds = stored.stored
    assert kinds.pop("F32") == 2 * 97 * 64 + 5 * 64
    assert list(kinds.values()) == [2 * sum(f * d for f, d in quantized_writer.SIZES.values())]


def test_the_logits_are_those_of_the_float_model(tmp_path):
    quantized_writer.write(tmp_path, FORMATS["gptq4"])
    tokens = np.arange(7)[None]
    stored, floats = (
        NumpyEngine(opened.config, opened.params).step(
            tokens, NumpyEngine(opened.config, opened.params).start(1)
        )
        for opened in (open_checkpoint(tmp_path / folder) for folder in ("stored", "floats"))
    )
    np.testing.assert_array_equal(stored[0], floats[0])


def test_rounded_inputs_have_a_note(tmp_path):
    quantized_writer.write(tmp_path, FORMATS["int8"])
    [note] = open_checkpoint(tmp_path / "stored").notes
    assert re.search(pattern("inputs", "8-bit integers", "inputs", "floats"), note)


def changed(directory: Path, form: Format, config: dict[str, Any] | None = None, **tensors: Any) -> Path:
    """The model in the format with other keys of quantization_config, and other tensors of one module."""
    quantized_writer.write(directory, form)
    path = directory / "stored"
    every = load_file(path / "model.safetensors")
    for part, tensor in tensors.items():
        name = f"{Q}.{part}"
        every[name] = tensor(every.get(name))
        if every[name] is None:
            del every[name]
    save_file({name: tensor.contiguous() for name, tensor in every.items()}, path / "model.safetensors")
    stated = json.loads((path / "config.json").read_text())
    stated["quantization_config"] |= config or {}
    (path / "config.json").write_text(json.dumps(stated))
    return path


def without(tensor: torch.Tensor) -> None:
    return None


def first(value: float) -> Any:
    """A change of a tensor's first number."""

    def change(tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.clone()
        tensor.view(-1)[0] = value
        return tensor

    return change


def stated(**values: Any) -> Any:
    """A change of the JSON object that a tensor's bytes hold."""

    def change(tensor: torch.Tensor) -> torch.Tensor:
        text = json.dumps(json.loads(tensor.numpy().tobytes()) | values)
        return torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)

    return change


HOSTILE = [
    ("gptq4", {"qzeros": without}, "qzeros' missing quantized weight"),
    ("gptq4", {"qzeros": lambda t: t[:1]}, "qzeros' shape 2 8 1 8"),
    ("gptq4", {"scales": lambda t: t.int()}, "scales' type F32 F16 BF16 I32"),
    ("gptq4", {"qweight": lambda t: t[:, 0].contiguous()}, "qweight' matrix shape [8]"),
    ("gptq4", {"qweight": lambda t: t[:, :7]}, "qweight' contain whole words 4-bit integers"),
    ("gptq4", {"g_idx": first(2)}, "g_idx[0] group 0 1 2"),
    ("gptq4", {"g_idx": first(-1)}, "g_idx[0] group 0 1 -1"),
    ("gptq4", {"weight": lambda _: torch.zeros(64, 64)}, "weight' stored twice"),
    ("gptq4", {"bias": lambda t: t + 1}, "1 use first q_proj.bias"),
    ("awq", {"qzeros": lambda t: t[:, :4]}, "qzeros' shape 2 8 2 4"),
    ("fp8-block", {"weight_scale_inv": without}, "weight_scale' missing"),
    ("fp8-block", {"weight_scale_inv": lambda t: t[:1]}, "shape 2 2 1 2"),
    ("pack4", {"weight_shape": first(65)}, "contain 4-bit integers weight_shape 65 64"),
    ("int8", {"weight_scale": lambda t: t[:3]}, "weight_scale' shape 64 1 3 1"),
    ("nf4", {"weight.quant_map": first(0.5)}, "quant_map' table NF4 differ"),
    ("nf4", {"weight.absmax": lambda t: t[1:]}, "absmax' shape [64] [63]"),
    ("nf4", {"weight.quant_state.bitsandbytes__nf4": first(0x5D)}, "JSON"),
    (
        "nf4",
        {"weight.quant_state.bitsandbytes__nf4": stated(nested_offset=10**400)},
        "number float32 1000000000000000000000000000000000000000",
    ),
    ("nf4", {"weight.quant_state.bitsandbytes__nf4": stated(blocksize=2**40)}, "blocksize even number"),
    (
        "nf4",
        {"weight.quant_state.bitsandbytes__nf4": stated(shape=[2**30, 2**30])},
        "shape [576460752303423488, 1]",
    ),
    ("nf4", {"weight.quant_state.bitsandbytes__nf4": stated(quant_type="af4")}, "quant_type nf4 fp4 'af4'"),
    ("llm-int8", {"weight_format": lambda t: t + 1}, "weight_format' 0 rows 1"),
    ("bitnet", {"weight": lambda t: t.float()}, "weight' type U8 F32"),
    ("bitnet-auto", {"weight_scale": lambda t: t.repeat(2)}, "weight_scale' shape [1] [2]"),
    ("bitnet-auto", {"weight": lambda t: t[1:]}, "shape 64 64"),
    (
        "nvfp4",
        {"weight_global_scale": lambda t: t.repeat(2)},
        "'model.layers.0.self_attn.q_proj.weight_global_scale' shape [] [2]",
    ),
]


@pytest.mark.parametrize(("name", "tensors", "words"), HOSTILE)
def test_a_damaged_weight_is_refused(name, tensors, words, tmp_path):
    path = changed(tmp_path, FORMATS[name], **tensors)
    with refused(CheckpointError, *words.split()):
        open_checkpoint(path).leaf("decoder.layers.0.attn.wq")


@pytest.mark.parametrize(
    "name",
    ["gptq4", "awq", "fp8-block", "pack4", "llm-int8", "nvfp4", "modelopt", "bitnet", "bitnet-unpacked"],
)
def test_a_scale_that_is_no_number_is_refused(name, tmp_path):
    scales = {"gptq4": "scales", "awq": "scales", "fp8-block": "weight_scale_inv", "llm-int8": "SCB"}
    path = changed(tmp_path, FORMATS[name], **{scales.get(name, "weight_scale"): first(float("nan"))})
    with refused(NumericError, "attn.wq", "finite"):
        open_checkpoint(path).leaf("decoder.layers.0.attn.wq")


@pytest.mark.parametrize(
    ("name", "keys", "words"),
    [
        ("gptq4", {"quant_method": "hqq"}, "quant_method.*'hqq'"),
        ("bitnet", {"linear_class": "bitnet"}, "linear_class"),
        ("bitnet", {"use_rms_norm": True}, "use_rms_norm.*false.*True"),
        ("bitnet", {"quantization_mode": "online"}, 'linear_class.*"autobitlinear"'),
        ("bitnet-online", {"modules_to_not_convert": []}, r'modules_to_not_convert.*null.*\["lm_head"\]'),
        ("gptq4", {"bits": 5}, "bits.*2.*3.*4.*8.*5"),
        ("gptq4", {"group_size": 0}, "group_size.*-1.*1.*0"),
        ("gptq4", {"checkpoint_format": "marlin"}, "checkpoint_format.*gptq_v2.*'marlin'"),
        ("gptq4", {"rotation": "hadamard"}, "rotation.*null.*'hadamard'"),
        ("gptq4", {"unheard_of": 1}, "quantization_config.*'unheard_of'"),
        ("awq", {"version": "gemv"}, "version"),
        ("awq", {"zero_point": False}, "zero_point.*true.*False"),
        ("fp8-block", {"weight_block_size": [0, 128]}, "weight_block_size.*null"),
        ("pack4", {"format": "marlin-24"}, "format.*4-bit.*'marlin-24'"),
        ("pack4", {"quantization_status": "initialized"}, 'quantization_status.*"compressed".*"frozen"'),
        ("pack4", {"sparsity_config": {"format": "sparse-24-bitmask"}}, "sparsity_config.*null"),
        ("pack4", {"transform_config": {"config_groups": {}}}, "transform_config.*null.*{}"),
        ("nf4", {"bnb_4bit_quant_storage": "bfloat16"}, 'bnb_4bit_quant_storage.*"uint8"'),
        ("modelopt", {"quant_algo": "W4A8_AWQ"}, "quant_algo.*NVFP4.*FP8"),
    ],
)
def test_a_setting_that_is_not_known_is_refused(name, keys, words, tmp_path):
    path = changed(tmp_path, FORMATS[name], keys)
    with pytest.raises(ConfigError, match=words):
        open_checkpoint(path)


def test_blocks_longer_than_a_weight_take_no_more_memory(tmp_path):
    quantized_writer.write(tmp_path, FORMATS["nf4"])
    longest = 2**31 - 2
    path = tmp_path / "stored" / "model.safetensors"
    every = load_file(path)
    state, absmax, nested = (
        f"{Q}.weight.{part}" for part in ("quant_state.bitsandbytes__nf4", "absmax", "nested_absmax")
    )
    every[state] = stated(blocksize=longest, nested_blocksize=longest)(every[state])
    every[absmax], every[nested] = every[absmax][:1].clone(), every[nested][:1].clone()
    save_file(every, path)
    opened, floats = (open_checkpoint(tmp_path / folder) for folder in ("stored", "floats"))
    got, want = (one.leaf("decoder.layers.0.attn.wq").T for one in (opened, floats))
    np.testing.assert_array_equal(got[0], want[0])  # its first block alone is the whole's


def test_a_list_of_floats_that_the_file_contradicts_is_refused(tmp_path):
    path = changed(tmp_path, FORMATS["awq"], {"modules_to_not_convert": ["self_attn"]})
    with refused(CheckpointError, "k_proj.weight'", "config.json"):
        open_checkpoint(path)


def test_a_model_of_floats_that_claims_to_be_quantized_is_refused(tmp_path):
    quantized_writer.write(tmp_path, FORMATS["awq"])
    (tmp_path / "stored" / "config.json").rename(tmp_path / "floats" / "config.json")
    with refused(CheckpointError, "quantization_config", "no weight"):
        open_checkpoint(tmp_path / "floats")


def test_an_adapter_is_merged_into_what_the_numbers_stand_for(tmp_path):
    """As one is that was trained over a quantized model (Dettmers et al. 2023, QLoRA)."""
    quantized_writer.write(tmp_path, FORMATS["nf4"])
    path, named = tmp_path / "adapter", f"base_model.model.{Q}"
    path.mkdir()
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "bias": "none"}
    (path / "adapter_config.json").write_text(json.dumps(settings))
    rng = np.random.default_rng(0)
    tensors = {
        f"{named.replace('.0.', f'.{i}.')}.lora_{part}.weight": torch.from_numpy(
            rng.random(shape).astype(np.float32)
        )
        for i in range(2)
        for part, shape in (("A", (2, 64)), ("B", (64, 2)))
    }
    save_file(tensors, path / "adapter_model.safetensors")
    merged, expected = (open_checkpoint(tmp_path / folder, path) for folder in ("stored", "floats"))
    for leaf in ("decoder.layers.0.attn.wq", "decoder.layers.1.attn.wq", "decoder.layers.0.attn.wk"):
        np.testing.assert_array_equal(merged.leaf(leaf), expected.leaf(leaf), err_msg=leaf)
    assert not np.array_equal(
        merged.leaf("decoder.layers.0.attn.wq"),
        open_checkpoint(tmp_path / "stored").leaf("decoder.layers.0.attn.wq"),
    )


def test_what_older_files_of_modelopt_say_is_beside_the_config(tmp_path):
    quantized_writer.write(tmp_path, FORMATS["modelopt"])
    path = tmp_path / "stored"
    config = json.loads((path / "config.json").read_text())
    stated = config.pop("quantization_config") | {"kv_cache_quant_algo": "FP8", "group_size": 16}
    del stated["quant_method"]
    (path / "config.json").write_text(json.dumps(config))
    with refused(CheckpointError, "q_proj.weight'", "type", "U8"):
        open_checkpoint(path)
    beside = path / "hf_quant_config.json"
    beside.write_text(json.dumps({"producer": {"name": "modelopt"}, "quantization": stated}))
    opened, floats = (open_checkpoint(tmp_path / folder) for folder in ("stored", "floats"))
    np.testing.assert_array_equal(*(one.leaf("decoder.layers.0.attn.wq") for one in (opened, floats)))
    assert len(opened.notes) == 2
    beside.write_text(json.dumps({"quantization": stated, "unheard_of": 1}))
    with refused(ConfigError, "hf_quant_config.json", "'unheard_of'"):
        open_checkpoint(path)


SMALL = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 1, "vocab_size": 40}
WITH_MLP = SMALL | {"intermediate_size": 48, "max_position_embeddings": 32}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("BertForMaskedLM", WITH_MLP),
    "falcon": ("FalconForCausalLM", SMALL | {"new_decoder_architecture": True, "num_kv_heads": 2}),
    "gpt_neox": ("GPTNeoXForCausalLM", WITH_MLP),
    "mixtral": ("MixtralForCausalLM", WITH_MLP | {"num_key_value_heads": 2, "num_local_experts": 3}),
    "phi3": ("Phi3ForCausalLM", WITH_MLP | {"num_key_value_heads": 2}),
    "t5": (
        "T5ForConditionalGeneration",
        {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_heads": 4, "num_layers": 1, "vocab_size": 40},
    ),
}


@pytest.mark.parametrize("model_type", FAMILIES)
def test_families_read_them_as_they_read_floats(model_type, tmp_path):
    """Fused, grouped and permuted ones, and experts: all matrices in int8, with a scale for each row."""
    name, keys = FAMILIES[model_type]
    described = CONFIG_MAPPING[model_type](**keys, bos_token_id=1, eos_token_id=2, pad_token_id=0)
    getattr(transformers, name)(described).save_pretrained(tmp_path / "floats")
    floats = load_file(tmp_path / "floats" / "model.safetensors")
    stored = dict(floats)
    for tensor, weight in floats.items():
        if weight.ndim == 2 and tensor.endswith(".weight"):
            scale = torch.full((len(weight), 1), 2.0**-9)
            codes = (weight / scale).round().clamp(-128, 127)
            floats[tensor] = codes * scale
            stored |= {tensor: codes.to(torch.int8), f"{tensor}_scale": scale}
    assert len(stored) >= len(floats) + 5
    save_file(floats, tmp_path / "floats" / "model.safetensors")
    (tmp_path / "stored").mkdir()
    save_file(stored, tmp_path / "stored" / "model.safetensors")
    config = json.loads((tmp_path / "floats" / "config.json").read_text())
    config["quantization_config"] = FORMATS["int8"].config | {"ignore": []}
    (tmp_path / "stored" / "config.json").write_text(json.dumps(config))
    opened, expected = (open_checkpoint(tmp_path / folder) for folder in ("stored", "floats"))
    kept = 0
    for leaf in expected.leaves.names:
        np.testing.assert_array_equal(opened.leaf(leaf), expected.leaf(leaf), err_msg=leaf)
        if (blocks := opened.native(leaf)) is not None:
            np.testing.assert_array_equal(dequantize(blocks), expected.leaf(leaf), err_msg=leaf)
            kept += 1
    assert kept > 5


def test_matrices_that_are_stored_inputs_first_are_not_guessed(tmp_path):
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "gpt2", "quantization_config": FORMATS["gptq4"].config})
    )
    with refused(ConfigError, "gpt2", "matrices"):
        open_checkpoint(tmp_path)


def test_a_zero_point_beyond_the_codes_is_read_and_not_kept(tmp_path):
    """Version 1 stores zero − 1, so 15 is the zero point 16, which no block of 4 bits can have."""
    path = changed(tmp_path, FORMATS["gptq4"], qzeros=lambda t: torch.full_like(t, -1))
    opened = open_checkpoint(path)
    assert opened.native("decoder.layers.0.attn.wq") is None
    assert opened.native("decoder.layers.0.attn.wk") is not None
    scales = load_file(path / "model.safetensors")[f"{Q}.scales"].float().numpy().repeat(32, 0)
    steps = opened.leaf("decoder.layers.0.attn.wq") / scales
    assert set(steps.round().ravel()) == set(range(-16, 0))


def test_groups_of_modules_have_schemes_of_their_own(tmp_path):
    """The most exact name counts: a module, then a pattern, then all linear maps."""
    four, eight = FORMATS["pack4"], FORMATS["pack8-asymmetric"]
    quantized_writer.write(tmp_path, four)
    (tmp_path / "eight").mkdir()
    quantized_writer.write(tmp_path / "eight", eight)
    every = load_file(tmp_path / "stored" / "model.safetensors")
    others = load_file(tmp_path / "eight" / "stored" / "model.safetensors")
    down = {name: tensor for name, tensor in others.items() if "layers.1.mlp.down_proj" in name or Q in name}
    save_file(
        {n: t for n, t in every.items() if Q not in n and "1.mlp.down_proj" not in n} | down,
        tmp_path / "stored" / "model.safetensors",
    )
    [of_four], [of_eight] = (list(form.config["config_groups"].values()) for form in (four, eight))
    groups = {"a": of_four, "b": of_eight | {"targets": [r"re:.*1\.mlp\.down_proj$", Q]}}
    config = quantized_writer.CONFIG | {"quantization_config": four.config | {"config_groups": groups}}
    (tmp_path / "stored" / "config.json").write_text(json.dumps(config))
    opened = open_checkpoint(tmp_path / "stored")
    of_eight_bits = [name for name in opened.leaves.names if opened.leaves.kind(name) == "INT8"]
    assert of_eight_bits == ["decoder.layers.0.attn.wq", "decoder.layers.1.mlp.down"]
    reference = open_checkpoint(tmp_path / "eight" / "floats")
    for name in of_eight_bits:
        np.testing.assert_array_equal(opened.leaf(name), reference.leaf(name))


def test_gpt_oss_has_its_experts_in_mxfp4(tmp_path):
    """Gate and up stay apart though their rows are stored in turn, also where the codes are kept."""
    sizes = {"hidden_size": 64, "intermediate_size": 32, "head_dim": 16, "num_attention_heads": 4}
    config = transformers.GptOssConfig(
        vocab_size=50,
        num_hidden_layers=1,
        num_key_value_heads=2,
        num_local_experts=3,
        num_experts_per_tok=2,
        **sizes,
    )
    model = transformers.GptOssForCausalLM(config)
    rng, stored = np.random.default_rng(0), {}
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(torch.from_numpy(rng.standard_normal(tuple(weight.shape))))
            if name.endswith(("gate_up_proj", "down_proj")):
                experts, inputs, outputs = weight.shape
                blocks = rng.integers(0, 256, (experts, outputs, inputs // 32, 16)).astype(np.uint8)
                scales = rng.integers(120, 128, blocks.shape[:3]).astype(np.uint8)
                stored |= {
                    f"{name}_blocks": torch.from_numpy(blocks),
                    f"{name}_scales": torch.from_numpy(scales),
                }
                weight.copy_(convert_moe_packed_tensors(*[*stored.values()][-2:], dtype=torch.float32))
    for folder in ("floats", "stored"):
        model.save_pretrained(tmp_path / folder)
    file = tmp_path / "stored" / "model.safetensors"
    tensors = {n: a for n, a in load_file(file).items() if f"{n}_blocks" not in stored}
    save_file(tensors | stored, file)
    path = tmp_path / "stored" / "config.json"
    path.write_text(
        json.dumps(json.loads(path.read_text()) | {"quantization_config": {"quant_method": "mxfp4"}})
    )
    floats, packed = open_checkpoint(tmp_path / "floats"), open_checkpoint(tmp_path / "stored")
    assert packed.config == floats.config
    kept = 0
    for leaf in floats.leaves.names:
        np.testing.assert_array_equal(packed.leaf(leaf), floats.leaf(leaf), err_msg=leaf)
        if (blocks := packed.native(leaf)) is not None:
            np.testing.assert_array_equal(dequantize(blocks), floats.leaf(leaf), err_msg=leaf)
            kept += 1
    assert kept == 3 * 3

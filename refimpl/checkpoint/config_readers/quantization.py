"""Read quantization_config of a config.json: the format in which weights are stored. Unknown keys are
refused.

In tfm, inputs and the cache stay floats, even if a checkpoint's own kernels would round them. Keys and
tensors about such rounding are read, and a note tells the user.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ...errors import ConfigError
from ..formats.adapters.name_patterns import NamePattern
from ..formats.quantized.awq import Awq
from ..formats.quantized.bitnet import BitNet
from ..formats.quantized.bitsandbytes import Bitsandbytes
from ..formats.quantized.compressed_tensors import CompressedTensors, Scheme
from ..formats.quantized.float4 import ModeloptNvfp4, Mxfp4Experts
from ..formats.quantized.float8 import Float8
from ..formats.quantized.gptq import Gptq, Settings
from ..formats.quantized.weight import Quantization
from .keys import ANY, Keys

ADVICE = "use a .gguf file of the model, or the original checkpoint with quant=int4 or quant=int8"
# What compressed-tensors' packings hold, and what may share a scale in them.
PACKINGS = {
    "pack-quantized": (("int", 4), ("int", 8)),
    "int-quantized": (("int", 8),),
    "float-quantized": (("float", 8),),
    "mxfp4-pack-quantized": (("float", 4),),
    "nvfp4-pack-quantized": (("float", 4),),
}
STRATEGIES = {
    "pack-quantized": ("channel", "group"),
    "int-quantized": ("tensor", "channel", "group"),
    "float-quantized": ("tensor", "channel", "block"),
    "mxfp4-pack-quantized": ("group",),
    "nvfp4-pack-quantized": ("tensor_group",),
}
FLOAT_CACHE = (
    "the model was quantized for keys and values in few bits, but tfm keeps keys and values as floats"
)
FLOAT_INPUTS = (
    "the model was quantized for products that round their inputs to {}, but tfm keeps these inputs as floats"
)
# Scales of inputs and caches, by the last parts of their names.
INPUT_SCALES = frozenset({"input_scale", "activation_scale", "input_scale_ub"})
CACHE_SCALES = frozenset({"k_scale", "v_scale"})


def read_quantization(keys: Keys) -> Quantization | None:
    """Return the quantization that a config.json states for its weights. Return None if the weights are
    floats.

    Raises ConfigError for a method or a setting that tfm doesn't support.
    """
    stated = keys.get("quantization_config", dict, None)
    if stated is None:
        return None
    if stated.keys() & {"load_in_4bit", "load_in_8bit"}:  # older files name no method
        stated = {"quant_method": "bitsandbytes", **stated}
    inner = Keys(stated, f"{keys.where}: quantization_config")
    try:
        quantization = inner.choice("quant_method", METHODS)(inner)
        inner.finish({"quant_method": ANY})
    except ConfigError as error:
        raise ConfigError(f"{error}; {ADVICE}") from None
    return quantization


def with_modelopt(values: dict[str, Any], beside: dict[str, Any] | None, where: str) -> dict[str, Any]:
    """Return a config.json that includes the quantization settings of hf_quant_config.json (`beside`), where
    modelopt's older files state them.
    """
    if beside is None or values.get("quantization_config") is not None:
        return values
    keys = Keys(beside, where)
    keys.unused("producer")
    stated = keys.get("quantization", dict)
    keys.finish({})
    return values | {"quantization_config": {**stated, "quant_method": "modelopt"}}


def _gptq(keys: Keys) -> Quantization:
    # Of the search for codes, of who made them, and of kernels.
    keys.unused("damp_percent", "damp_auto_increment", "true_sequential", "static_groups", "mse", "meta")
    keys.unused("dataset", "tokenizer", "batch_size", "cache_block_outputs", "model_seqlen", "pad_token_id")
    keys.unused("block_name_to_quantize", "module_name_preceding_first_block", "modules_in_block_to_quantize")
    keys.unused(
        "model_name_or_path", "model_file_base_name", "max_input_length", "act_group_aware", "backend"
    )
    keys.unused("use_cuda_fp16", "use_exllama", "disable_exllama", "exllama_config", "quantizer")
    # What g_idx, zero points and the tensors' names say.
    keys.harmless(desc_act=(bool,), sym=(bool,), lm_head=(bool,), v2=(bool,))
    # Other packings, rotated inputs, settings of some modules alone.
    keys.harmless(is_marlin_format=(False,), pack_dtype=("int32",), rotation=(None,), adapter=(None, {}))
    offsets = {"gptq": 1, "gptq_v2": 0}
    offset = keys.choice(keys.spelled("checkpoint_format", "format"), offsets, "gptq")
    settings = _gptq_settings(keys)
    return Quantization(Gptq(settings, offset, tuple(_gptq_overrides(keys))), floats=_floats(keys))


def _gptq_settings(keys: Keys) -> Settings:
    bits = keys.get("bits", int)
    if bits not in (2, 3, 4, 8):
        raise keys.fail("bits", "2, 3, 4 or 8")
    return Settings(bits, _group_size(keys))


def _gptq_overrides(keys: Keys) -> Iterator[tuple[NamePattern, Settings]]:
    """Yield the settings of modules that differ from the other modules' settings. A pattern names the modules
    by the beginnings of their names, as in GPTQModel.

    Patterns that begin with -: are ignored, because such a pattern names modules that are left as floats, and
    the tensors' names say the same.
    """
    dynamic = keys.get("dynamic", dict, None) or {}
    for stated in dynamic:
        if stated.startswith("-:"):
            continue
        inner = _inner(keys, "dynamic", dynamic, stated)
        pattern = NamePattern(f"(?:{stated.removeprefix('+:')}).*", inner.where)
        inner.unused("damp_percent", "damp_auto_increment", "true_sequential", "static_groups", "mse")
        inner.harmless(desc_act=(bool,), sym=(bool,))
        own = _gptq_settings(inner.replaced({**_of_all(keys), **inner.values}))
        inner.finish({})
        yield pattern, own


def _awq(keys: Keys) -> Quantization:
    # Of kernels.
    keys.unused("backend", "do_fuse", "fuse_max_seq_len", "modules_to_fuse", "exllama_config")
    keys.harmless(zero_point=(True,))
    keys.choice("version", {"gemm": None, "GEMM": None}, "gemm")
    bits = keys.spelled("bits", "w_bit")
    if keys.get(bits, int, 4) != 4:
        raise keys.fail(bits, "4")
    return Quantization(
        Awq(_group_size(keys, keys.spelled("group_size", "q_group_size"), 128)), floats=_floats(keys)
    )


def _auto_round(keys: Keys) -> Quantization:
    """Read the settings of AutoRound, which stores weights in GPTQ's or AWQ's packing (Cheng et al. 2023,
    arXiv:2309.05516).
    """
    # Of the search for codes, of who made them, and of kernels.
    keys.unused(
        "amp", "autoround_version", "backend", "batch_size", "dataset", "provider", "seqlen", "nsamples"
    )
    keys.unused("enable_minmax_tuning", "enable_norm_bias_tuning", "enable_quanted_input", "iters", "lr")
    keys.unused(
        "gradient_accumulate_steps", "low_gpu_mem_usage", "minmax_lr", "scale_dtype", "supported_types"
    )
    keys.unused("block_name_to_quantize", "quant_block_list", "to_quant_block_names")
    # What zero points say; codes that aren't integers, rounded inputs and caches, rotated inputs.
    keys.harmless(sym=(bool,), data_type=("int",), act_bits=(16, 32, None), act_data_type=(str, None))
    keys.harmless(act_group_size=(int, None), act_sym=(bool, None), act_dynamic=(bool, None))
    keys.harmless(**dict.fromkeys(("static_attention_dtype", "static_kv_dtype"), (None,)))
    keys.harmless(**dict.fromkeys(("static_attention_granularity", "static_kv_granularity"), (str,)))
    keys.harmless(super_bits=(None,), super_group_size=(None,), rotation_configs=(None, []))
    offsets = {
        "auto_round": 0,
        "auto_round:gptqmodel": 0,
        "auto_round:auto_gptq": 1,
        "auto_round:auto_awq": None,
    }
    offset, settings = keys.choice("packing_format", offsets), _gptq_settings(keys)
    overrides = tuple(_auto_round_overrides(keys, settings))
    if offset is not None:
        return Quantization(Gptq(settings, offset, overrides), floats=_floats(keys))
    if settings.bits != 4:
        raise keys.fail("bits", "4 for auto_round:auto_awq")
    if overrides:
        raise keys.fail(
            "extra_config",
            "absent, or without other bits and groups, because packing_format is auto_round:auto_awq",
        )
    return Quantization(Awq(settings.group_size), floats=_floats(keys))


def _auto_round_overrides(keys: Keys, settings: Settings) -> Iterator[tuple[NamePattern, Settings]]:
    """Yield the settings of modules that differ from `settings`. The file must name such a module in full.

    Modules of 16 bits are ignored: these modules are left as floats, and the tensors' names say the same."""
    stated = keys.get("extra_config", dict, None) or {}
    for name in stated:
        inner = _inner(keys, "extra_config", stated, name)
        if (inner.get("bits", int, None) or 0) >= 16:
            continue
        inner.unused("sym", "act_group_size", "act_sym", "act_data_type", "act_dynamic")
        inner.harmless(data_type=("int", None), act_bits=(16, 32, None), super_bits=(None,))
        inner.harmless(super_group_size=(None,), rotation_config=(None,))
        own = _gptq_settings(inner.replaced({**_of_all(keys), **inner.values}))
        inner.finish({})
        if own == settings:
            continue
        if re.fullmatch(r"[\w.-]+", name, re.ASCII) is None:
            raise ConfigError(
                f"{inner.where}: the name of a module with its own settings must not be a pattern, got "
                f"{name!r:.80}"
            )
        yield NamePattern(name.replace(".", r"\."), inner.where), own


def _of_all(keys: Keys) -> dict[str, Any]:
    """Return the settings for all modules that a single module may override."""
    return {key: keys.values[key] for key in ("bits", "group_size")}


def _fp8(keys: Keys) -> Quantization:
    keys.choice("fmt", dict.fromkeys(("e4m3", "float8_e4m3fn")), "e4m3")
    keys.harmless(dequantize=(bool,), scale_fmt=("ue8m0", "float", None), modules_to_convert=(None, []))
    keys.choice("activation_scheme", dict.fromkeys(("dynamic", "static")), "dynamic")
    return Quantization(
        Float8(_block(keys, "weight_block_size")),
        unused=INPUT_SCALES | CACHE_SCALES,
        floats=_floats(keys, "ignored_layers"),
        notes=(FLOAT_INPUTS.format("8-bit floats"),),
    )


def _fbgemm_fp8(keys: Keys) -> Quantization:
    keys.unused("activation_scale_ub")
    return Quantization(
        Float8(),
        unused=INPUT_SCALES,
        floats=_floats(keys),
        notes=(FLOAT_INPUTS.format("8-bit floats"),),
    )


def _bitsandbytes(keys: Keys) -> Quantization:
    # The tensors beside a weight tell which numbers it is made of; other keys are of kernels and memory.
    keys.harmless(load_in_4bit=(bool,), load_in_8bit=(bool,), _load_in_4bit=(bool,), _load_in_8bit=(bool,))
    keys.harmless(bnb_4bit_quant_type=("nf4", "fp4"), bnb_4bit_use_double_quant=(bool,))
    keys.harmless(bnb_4bit_quant_storage=("uint8",), llm_int8_has_fp16_weight=(False,))
    keys.harmless(llm_int8_enable_fp32_cpu_offload=(bool,), llm_int8_threshold=(float,))
    keys.unused("bnb_4bit_compute_dtype")
    floats = _floats(keys, "llm_int8_skip_modules")
    notes = (FLOAT_INPUTS.format("8-bit integers"),) if keys.values.get("load_in_8bit") else ()
    return Quantization(Bitsandbytes(), floats=floats, notes=notes)


def _bitnet(keys: Keys) -> Quantization:
    keys.unused("rms_norm_eps")
    keys.harmless(use_rms_norm=(False,))  # norms before every product
    divides = keys.choice("linear_class", {"bitlinear": True, "autobitlinear": False}, "bitlinear")
    online = keys.choice("quantization_mode", {"offline": False, "online": True}, "offline")
    if online and divides:
        raise keys.fail("linear_class", '"autobitlinear" if quantization_mode is "online"')
    floats = _floats(keys)
    # A list replaces transformers' own, which has the output matrix.
    if online and keys.values.get("modules_to_not_convert") is not None and floats != ("lm_head",):
        raise keys.fail("modules_to_not_convert", 'null or ["lm_head"] if quantization_mode is "online"')
    notes = (FLOAT_INPUTS.format("8-bit integers"),)
    return Quantization(BitNet(divides, online), floats=floats, notes=notes)


def _mxfp4(keys: Keys) -> Quantization:
    keys.harmless(dequantize=(bool,))
    # Its names are patterns, `model.layers.*.self_attn`; the tensors' names say the same.
    _floats(keys)
    return Quantization(Mxfp4Experts())


def _modelopt(keys: Keys) -> Quantization:
    keys.unused("producer", "config_groups")
    form = keys.choice("quant_algo", {"NVFP4": ModeloptNvfp4(), "FP8": Float8()})
    keys.harmless(group_size=(16, None))
    floats = _floats(keys, "ignore", "exclude_modules")
    inputs = "4-bit floats" if keys.values["quant_algo"] == "NVFP4" else "8-bit floats"
    caches = _cache_notes(keys, "kv_cache_scheme", "kv_cache_quant_algo")
    return Quantization(form, INPUT_SCALES | CACHE_SCALES, floats, (FLOAT_INPUTS.format(inputs), *caches))


def _compressed_tensors(keys: Keys) -> Quantization:
    keys.unused("global_compression_ratio", "version")
    keys.harmless(
        quantization_status=("compressed", "frozen"), sparsity_config=(None, {}), transform_config=(None, {}),
        moe_sparsity_config=(None,),
    )  # fmt: skip
    packing, stated = keys.get("format", str), keys.get("config_groups", dict)
    notes: list[str] = []
    schemes = [_scheme(_inner(keys, "config_groups", stated, name), packing, notes) for name in stated]
    if not schemes:
        raise keys.fail("config_groups", "an object with at least one group")
    # Patterns among them are left to the tensors' names, which say the same.
    floats = tuple(name for name in _floats(keys, "ignore") if not name.startswith("re:"))
    unused = INPUT_SCALES | CACHE_SCALES | {"input_zero_point", "input_global_scale"}
    notes += _cache_notes(keys, "kv_cache_scheme")
    return Quantization(CompressedTensors(tuple(schemes)), unused, floats, tuple(dict.fromkeys(notes)))


def _inner(keys: Keys, key: str, values: Mapping[str, Any], name: str) -> Keys:
    """Return the keys of the object `name` inside `values`, which is the value of `key`."""
    if not isinstance(values[name], dict):
        raise keys.fail(key, "an object of objects")
    return Keys(values[name], f"{keys.where}: {key}: {name:.80}")


def _scheme(keys: Keys, packing: str, notes: list[str]) -> Scheme:
    """Read one config group of compressed-tensors. If the group's inputs are quantized, add a note to
    `notes`.
    """
    keys.harmless(output_activations=(None,))
    targets = keys.get("targets", list)
    if not all(isinstance(target, str) for target in targets):
        raise keys.fail("targets", "a list of texts")
    inputs = keys.get("input_activations", dict, None)
    if inputs is not None:
        kind = {"int": "integers", "float": "floats"}.get(str(inputs.get("type")), "numbers")
        notes.append(FLOAT_INPUTS.format(f"{inputs.get('num_bits')!s:.10}-bit {kind}"))
    weights = _inner(keys, "weights", {"weights": keys.get("weights", dict)}, "weights")
    kind, bits = weights.get("type", str, "int"), weights.get("num_bits", int, 8)
    named = keys.get("format", str, None) or packing
    if named == "naive-quantized":
        named = f"{kind}-quantized"
    if (kind, bits) not in PACKINGS.get(named, ()):
        known = ", ".join(f"{name} of {b}-bit {k}s" for name, forms in PACKINGS.items() for k, b in forms)
        raise ConfigError(
            f"{keys.where}: format must be one of {known}, got {named!r:.40} with {bits}-bit {kind}s"
        )
    group_size, block = _scale_sharing(weights, named)
    symmetric = weights.get("symmetric", bool, True)
    if kind == "float" and not symmetric:
        raise weights.fail("symmetric", "true for floats")
    # How scales were found, and types that the tensors state.
    weights.unused("observer", "observer_kwargs", "scale_dtype", "zp_dtype", "actorder")
    weights.harmless(dynamic=(False,))
    weights.finish({})
    keys.finish({})
    patterns = tuple(
        NamePattern(f"(?:{target.removeprefix('re:')}).*", f"{keys.where}: targets")
        for target in targets
        if target.startswith("re:")
    )
    return Scheme(named, bits, symmetric, group_size, block, frozenset(targets), patterns)


def _scale_sharing(keys: Keys, packing: str) -> tuple[int | None, tuple[int, int] | None]:
    """Return how many inputs share a scale, and the size of a block of 8-bit floats that shares a scale.

    The first is None if all inputs of an output share a scale. The second is None if the weights have no such
    blocks.
    """
    size = _group_size(keys, default=-1) if keys.values.get("group_size") is not None else None
    keys.unused("group_size")
    implied = "channel" if keys.values.get("group_size") == -1 else "tensor" if size is None else "group"
    strategy = keys.get("strategy", str, None) or implied
    if strategy not in STRATEGIES[packing]:
        raise keys.fail("strategy", f"one of {', '.join(STRATEGIES[packing])}")
    block = _block(keys, "block_structure") if strategy == "block" else None
    keys.harmless(block_structure=(None,) if block is None else (list,))
    fixed = {"nvfp4-pack-quantized": 16, "mxfp4-pack-quantized": 32}.get(packing)
    if fixed is not None and size != fixed:
        raise keys.fail("group_size", f"{fixed}")
    if strategy == "group" and size is None:
        raise keys.fail("group_size", "at least 1 for the strategy group")
    return size if strategy == "group" else None, block


def _cache_notes(keys: Keys, *names: str) -> tuple[str, ...]:
    """Return a note if one of these keys says that keys and values are quantized too."""
    keys.unused(*names)
    return (FLOAT_CACHE,) if any(keys.values.get(name) is not None for name in names) else ()


def _group_size(keys: Keys, key: str = "group_size", default: int | None = None) -> int | None:
    """Return how many inputs share a scale. Return None if all inputs share one."""
    size = keys.get(key, int) if default is None else keys.get(key, int, default)
    if size != -1 and not 1 <= size < 2**31:
        raise keys.fail(key, "-1, or at least 1")
    return None if size == -1 else size


def _block(keys: Keys, key: str) -> tuple[int, int] | None:
    """Return the numbers of rows and columns in a block that shares a scale. Return None if the key is
    missing.
    """
    size = keys.get(key, list, None)
    if size is None:
        return None
    if len(size) != 2 or not all(type(s) is int and 0 < s < 2**31 for s in size):
        raise keys.fail(key, "null, or two whole numbers of at least 1")
    return size[0], size[1]


def _floats(keys: Keys, *others: str) -> tuple[str, ...]:
    """Return the names of the modules that aren't quantized. Config files list these modules under
    modules_to_not_convert or the keys `others`, since libraries use different keys.
    """
    names: list[str] = []
    for key in ("modules_to_not_convert", *others):
        listed = keys.get(key, list, None) or []
        if not all(isinstance(name, str) for name in listed):
            raise keys.fail(key, "a list of texts")
        names += listed
    return tuple(names)


METHODS: dict[str, Callable[[Keys], Quantization]] = {
    "gptq": _gptq,
    "awq": _awq,
    "auto-round": _auto_round,
    "fp8": _fp8,
    "fbgemm_fp8": _fbgemm_fp8,
    "compressed-tensors": _compressed_tensors,
    "bitnet": _bitnet,
    "bitsandbytes": _bitsandbytes,
    "mxfp4": _mxfp4,
    "modelopt": _modelopt,
}

"""The plan cell by cell, and leaves in their schemes."""

import re
from dataclasses import dataclass, field, replace
from typing import get_args

import numpy as np
import pytest
from helpers import tiny_models
from helpers.refused import refused
from hypothesis import given
from hypothesis import strategies as st
from tfm.export.quantization import plan
from tfm.refimpl.calibrate.least_error import least_error
from tfm.refimpl.config import Config, Encoder, SmoothingSite, Tag
from tfm.refimpl.errors import ExportError, NumericError
from tfm.refimpl.ops import quant
from tfm.refimpl.ops.quant import Blocks
from tfm.refimpl.params.parameter_shapes import ParameterShapes
from tfm.refimpl.params.shapes import parameter_shapes
from tfm.refimpl.params.tree import flatten
from tfm.runtime.bundle import operator_limits, rounding, schemes, targets
from tfm.runtime.bundle.schemes import SCHEMES
from tfm.runtime.bundle.targets import TARGETS
from tfm.runtime.bundle.weight_formats import WeightFormat

CONFIG = tiny_models.llama(layers=1, bias=True, tied=False)
TWO = tiny_models.llama(layers=2)


@dataclass
class Leaves:
    """A checkpoint's leaves: arrays, and blocks for those that a GGUF file would have them for."""

    config: Config = CONFIG
    blocks: dict[str, Blocks] = field(default_factory=dict)
    changed: dict[str, np.ndarray] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.arrays = dict(flatten(tiny_models.weights(self.config))) | self.changed

    @property
    def shapes(self) -> ParameterShapes:
        return ParameterShapes(self.config)

    def leaf(self, name: str) -> np.ndarray:
        return self.arrays[name]

    def native(self, name: str) -> Blocks | None:
        return self.blocks.get(name)

    def kind(self, name: str) -> str:
        return self.kinds.get(name, "F32")


def q4_1(shape: tuple[int, int], axis: int = 0, seed: int = 0) -> Blocks:
    """Random weights in blocks as llama.cpp makes Q4_1: scale (max − min) / 15, float16, zero point 0."""
    rng = np.random.default_rng(seed)
    weight = np.moveaxis(rng.standard_normal(shape), axis, -1)
    parts = weight.reshape(*weight.shape[:-1], -1, 16)
    half = lambda a: a.astype(np.float16).astype(np.float32)  # noqa: E731
    low, high = half(parts.min(-1)), parts.max(-1)
    scale = half((high - low) / 15)
    codes = np.clip(np.rint((parts - low[..., None]) / scale[..., None]), 0, 15).astype(np.uint8)
    back = lambda a: np.moveaxis(a, -1, axis)  # noqa: E731
    codes, scale, low = back(codes.reshape(weight.shape)), back(scale), back(low)
    return Blocks(codes, scale, np.zeros(scale.shape, np.uint8), low, 4, 16, axis, "block")


def q8_0(shape: tuple[int, ...]) -> Blocks:
    """Random weights in blocks of 32, 8 bits each."""
    return quant.quantize(
        np.random.default_rng(0).standard_normal(shape).astype(np.float32), bits=8, block=32
    )


DOWN = "decoder.layers.0.mlp.down"
EIGHT = {
    "ort-cpu": WeightFormat(8, 32, "block", symmetric=False, halves=True),
    "ort-cuda": WeightFormat(8, 32, "none", halves=True),
    "ort-web": WeightFormat(8, 32, "block", symmetric=False, halves=True),
    "standard": WeightFormat(8, 32, "none", symmetric=False),
}


def smoothed(checkpoint, quant: str, target: str) -> tuple[SmoothingSite, ...]:
    scheme = schemes.find(quant)
    return plan.smoothed_sites(scheme, plan.plan(checkpoint, scheme, targets.find(target)))


def planned(checkpoint, quant: str, target: str, **options) -> dict[str, WeightFormat | None]:
    """Each leaf's format, or None where it stays float."""
    made = plan.plan(checkpoint, schemes.find(quant), targets.find(target), **options)
    return {name: made.formats.get(name) for name in made.shapes}


CELLS = {
    ("fp32", "ort-cpu"): "float",
    ("fp32", "ort-cuda"): "float32",
    ("fp32", "standard"): "float",
    ("fp16", "ort-cpu"): "slower",
    ("fp16", "ort-cuda"): "float",
    ("fp16", "standard"): "float",
    ("int8", "ort-cpu"): "eight",
    ("int8", "ort-cuda"): "eight",
    ("int8", "standard"): "eight",
    ("int8-dynamic", "ort-cpu"): "row",
    ("int8-dynamic", "ort-cuda"): "CPU",
    ("int8-dynamic", "standard"): "row",
    ("int8-static", "ort-cpu"): "row scale",
    ("int8-static", "ort-cuda"): "CPU",
    ("int8-static", "standard"): "static",
    ("int4", "ort-cpu"): "four",
    ("int4", "ort-cuda"): "four",
    ("int4", "standard"): "four",
    ("auto", "ort-cpu"): "largest",
    ("auto", "ort-cuda"): "largest",
    ("auto", "standard"): "largest",
    ("auto", "ort-web"): "blocks floats",
    ("keep", "ort-cpu"): "keep",
    ("keep", "ort-cuda"): "keep",
    ("keep", "standard"): "keep",
    ("fp32", "ort-web"): "float",
    ("fp16", "ort-web"): "products float16",
    ("int8", "ort-web"): "blocks floats",
    ("int8-dynamic", "ort-web"): "row",
    ("int8-static", "ort-web"): "row scale",
    ("int4", "ort-web"): "blocks floats",
    ("keep", "ort-web"): "blocks floats",
    ("w8a16", "ort-cpu"): "row scale",
    ("w8a16", "ort-cuda"): "CPU",
    ("w8a16", "standard"): "static 16",
    ("w8a16", "ort-web"): "row scale",
}


def test_every_cell_is_listed():
    assert set(CELLS) == {(q, t) for q in SCHEMES for t in TARGETS}
    assert set(get_args(schemes.SchemeName)) == set(SCHEMES)
    assert set(get_args(targets.TargetName)) == set(TARGETS)
    assert all(set(scheme.refused) <= set(TARGETS) for scheme in SCHEMES.values())


@pytest.mark.parametrize(("name", "target"), CELLS)
def test_cell(name, target):
    want = CELLS[name, target]
    checkpoint = Leaves(blocks={"decoder.layers.0.mlp.down": q4_1((80, 48))})
    if want not in ("float", "eight", "row", "static", "static 16", "four", "keep", "largest"):
        with refused(ExportError, *want.split()):
            planned(checkpoint, name, target)
        return
    if want == "largest":  # before a budget has chosen
        made, scheme = TARGETS[target], SCHEMES[name]
        every = plan.each(checkpoint, scheme, made)
        assert plan.plan(checkpoint, scheme, made).size == max(one.size for one in every) > every[0].size
        assert [one.formats["decoder.layers.0.mlp.down"].native for one in every] == [False] * 6 + [True]
        return
    formats = planned(checkpoint, name, target)
    shapes = parameter_shapes(CONFIG)
    assert list(formats) == list(shapes)
    eight = EIGHT[target]
    for leaf, scheme in formats.items():
        if want == "float" or len(shapes[leaf]) == 1:
            assert scheme is None, leaf
        elif want == "row" and not leaf.endswith(".table"):
            assert scheme == WeightFormat(8, shapes[leaf][0], "row"), leaf
        elif want == "row" and target == "ort-web" and leaf == "head.table":
            assert scheme == WeightFormat(8, shapes[leaf][1], "row"), "products of blocks are of floats there"
        elif want.startswith("static") and leaf != "embedding.table":
            length = shapes[leaf][int(leaf.endswith(".table"))]
            bits = {"activation_bits": 16, "rounds_output": True} if want == "static 16" else {}
            assert scheme == WeightFormat(8, length, "static", **bits), leaf
        elif want in ("four", "keep") and leaf == "decoder.layers.0.mlp.down":
            assert scheme == WeightFormat(4, 16, eight.activations, minimum=True, native=True), leaf
        elif want == "four" and not leaf.endswith(".table"):
            block = 32 if target == "ort-cuda" else 64 if ".attn." in leaf else 128
            assert scheme == replace(eight, bits=4, block=block), leaf
        else:
            long = name == "int8" and target == "ort-cpu" and not leaf.endswith(".table")
            assert scheme == replace(eight, block=64 if long else 32), leaf


def test_queries_without_a_norm_before_them_have_blocks():
    """Without a norm before them they can't be smoothed, and one scale a row would have to cover large
    channels."""
    first, second = TWO.layers
    bare = replace(first, attention=replace(first.attention, pre=None))
    config = replace(TWO, stack=replace(TWO.stack, layers=(bare, second)))
    formats = planned(Leaves(config), "int8-dynamic", "ort-cpu")
    for leaf in ("wq", "wk", "wv"):
        assert formats[f"decoder.layers.0.attn.{leaf}"] == EIGHT["ort-cpu"]
        assert formats[f"decoder.layers.1.attn.{leaf}"].activations == "row"


def test_products_divide_a_post_norm_stream_themselves():
    """Where the next sum reads a norm's output, the products divide by the factors, which are powers of
    two: in floating point they are unchanged."""
    config = tiny_models.encoder(layers=1, width=64)
    checkpoint, at = Leaves(config), "encoder.layers.0."
    formats = planned(checkpoint, "int8-dynamic", "ort-cpu")
    names = {f"{at}attn.wq", f"{at}attn.wk", f"{at}attn.wv", f"{at}mlp.up"}
    assert {n for n, scheme in formats.items() if scheme and scheme.activations == "smoothed"} == names
    assert formats[f"{at}attn.wo"].activations == formats[f"{at}mlp.down"].activations == "row"
    places = smoothed(checkpoint, "int8-dynamic", "ort-cpu")
    assert {name for place in places if not place.producers for name in place.consumers} == names
    assert all(site.producers for site in smoothed(checkpoint, "int8", "ort-cpu"))
    s = np.exp2(np.random.default_rng(0).integers(-3, 4, 64)).astype(np.float32)
    chosen = plan.CalibrationResult({}, {place: s for place in places if not place.producers})
    leaf = plan.leaf(checkpoint, f"{at}mlp.up", formats[f"{at}mlp.up"], "float32", chosen)
    assert (leaf.input_factor == 1 / s).all()
    want = plan.leaf(
        Leaves(config, changed={f"{at}mlp.up": checkpoint.leaf(f"{at}mlp.up") * s[:, None]}),
        f"{at}mlp.up",
        WeightFormat(8, 64, "row"),
        "float32",
    )
    assert (leaf.codes == want.codes).all()
    assert (leaf.scale == want.scale).all()


@pytest.mark.parametrize(
    ("quant", "target", "own", "lost"),
    [
        ("int8", "ort-cpu", (), ()),
        ("int8", "ort-cuda", (), None),
        ("int8-dynamic", "standard", (), ()),
        ("int8", "standard", (), None),
        ("int4", "ort-cpu", (), None),
        ("fp32", "ort-cpu", (), None),
        ("int8", "ort-cpu", ("mlp.down",), ("mlp.down",)),
        ("int8", "ort-cpu", ("attn.wk",), ("attn.wq", "attn.wk", "attn.wv")),
    ],
)
def test_smoothed_sites(quant, target, own, lost):
    """All sites whose inputs are rounded, except those with leaves that keep a file's blocks."""
    blocks = {
        f"decoder.layers.0.{leaf}": q8_0(parameter_shapes(TWO)[f"decoder.layers.0.{leaf}"]) for leaf in own
    }
    found = {name for site in smoothed(Leaves(TWO, blocks), quant, target) for name in site.consumers}
    every = {name for place in ParameterShapes(TWO).smoothing_sites for name in place.consumers}
    if lost is None:
        assert not found
    else:
        assert every - found == {f"decoder.layers.0.{leaf}" for leaf in lost}


@pytest.mark.parametrize("target", TARGETS)
def test_the_default_is_never_refused(target):
    for config in (CONFIG, tiny_models.encoder_decoder(), tiny_models.encoder()):
        planned(Leaves(config), schemes.default(config, TARGETS[target]).name, target)
    assert schemes.default(tiny_models.encoder(), TARGETS["ort-cpu"]).name == "int8-dynamic"


@pytest.mark.parametrize("target", [name for name in TARGETS if name not in SCHEMES["int4"].refused])
def test_table_of_four_bits(target):
    formats = planned(Leaves(), "int4", target, table_bits=4)
    assert formats["head.table"] == replace(EIGHT[target], bits=4)


@pytest.mark.parametrize(
    ("quant", "target", "options", "match"),
    [
        ("int9", "ort-cpu", {}, "quant fp32"),
        ("int8", "tpu", {}, "'tpu'"),
        ("int4", "ort-cpu", {"table_bits": 2}, "table_bits 4 8 2"),
        ("int8", "ort-cpu", {"table_bits": 4}, "table_bits=4 quant=int4"),
        ("int8", "ort-cpu", {"strict": True}, "strict=True quant=keep"),
        ("auto", "ort-cpu", {"strict": True}, "strict=True quant=keep"),
        ("keep", "ort-cpu", {}, "blocks"),
        ("keep", "ort-cpu", {"strict": True}, "strict=True embedding.table"),
    ],
)
def test_impossible_options_say_why(quant, target, options, match):
    with refused(ExportError, *match.split()):
        planned(Leaves(), quant, target, **options)


@pytest.mark.parametrize(
    ("quant", "target", "match"),
    [
        ("int8", "ort-cuda", "target=ort-cuda"),
        ("fp16", "standard", "target=standard float16"),
    ],
)
def test_recurrences_are_kept_in_float32_on_a_cpu(quant, target, match):
    with refused(ExportError, *match.split()):
        planned(Leaves(tiny_models.recurrent()), quant, target)


def test_the_products_around_recurrences_are_quantized():
    """The gates of an LSTM alone aren't: ONNX's operator takes floats."""
    config, target = tiny_models.recurrent(), TARGETS["ort-cpu"]
    formats = planned(Leaves(config), "int8", "ort-cpu")
    matrices = (name for name, shape in parameter_shapes(config).items() if len(shape) == 2)
    floats = {name for name in matrices if formats[name] is None}
    assert floats == {"decoder.positions", "decoder.layers.1.attn.wx", "decoder.layers.1.attn.wh"}
    assert operator_limits.cache(target, config) == "shared"
    assert operator_limits.refusals(target, config) == ()


def test_the_products_around_convolutions_are_quantized():
    """Kernels stay floats, the tail may have 16 bits, and attention beside it is fused; never captured."""
    config, target = tiny_models.convolutions(), TARGETS["ort-cpu"]
    formats = planned(Leaves(config), "int8", "ort-cpu")
    matrices = (name for name, shape in parameter_shapes(config).items() if len(shape) == 2)
    floats = {name for name in matrices if formats[name] is None}
    assert floats == {"decoder.layers.0.attn.conv", "decoder.layers.2.attn.conv"}
    assert operator_limits.cache(target, config) == "shared"
    assert operator_limits.refusals(target, config) == ()
    assert planned(Leaves(config), "fp16", "standard")
    assert planned(Leaves(config), "fp16", "ort-cuda")
    [reason] = operator_limits.refusals(TARGETS["ort-cuda"], config)
    assert "state" in reason


def test_the_products_around_gated_delta_networks_are_quantized():
    """Rates and kernels stay floats, and so does the state: never in 16 bits, nor on a GPU."""
    config, target = tiny_models.kimi(), TARGETS["ort-cpu"]
    formats = planned(Leaves(config), "int8", "ort-cpu")
    floats = {name for name in formats if name.startswith("decoder.layers.0.attn.w") and not formats[name]}
    assert floats == {f"decoder.layers.0.attn.{name}" for name in ("wa", "wa_a", "wb")}
    config = tiny_models.gated_deltas()
    formats = planned(Leaves(config), "int8", "ort-cpu")
    matrices = (name for name, shape in parameter_shapes(config).items() if len(shape) == 2)
    floats = {name for name in matrices if formats[name] is None}
    assert floats == {f"decoder.layers.{i}.attn.{name}" for i in (0, 2) for name in ("conv", "wa", "wb")}
    assert operator_limits.cache(target, config) == "shared"
    assert operator_limits.refusals(target, config) == ()
    for name in ("standard", "ort-cuda"):
        with refused(ExportError, "recurrence", "float16"):
            planned(Leaves(config), "fp16", name)


@pytest.mark.parametrize(
    ("config", "leaves"), [(tiny_models.indexed(), 3), (tiny_models.indexed_blocks(), 4)]
)
def test_what_chooses_tokens_is_exact(config: Config, leaves: int):
    """An indexer's maps stay floats, and float16 is refused: a choice has no small error."""
    for scheme, target in (("int8", "ort-cpu"), ("int8-dynamic", "standard"), ("int4", "standard")):
        formats = planned(Leaves(config), scheme, target)
        index = {name for name in formats if "_index" in name}
        assert len(index) == 2 * leaves
        assert {formats[name] for name in index} == {None}
        assert formats["decoder.layers.0.attn.wq"] is not None
    with refused(ExportError, "fp16", "target=standard", "indexer's"):
        planned(Leaves(config), "fp16", "standard")


def test_the_products_around_latents_are_quantized():
    """A latent's maps to keys and values stay floats, its cache is copied."""
    config, target = tiny_models.latents(), TARGETS["ort-cpu"]
    formats = planned(Leaves(config), "int8", "ort-cpu")
    matrices = (name for name, shape in parameter_shapes(config).items() if len(shape) == 2)
    floats = {name for name in matrices if formats[name] is None}
    maps = {f"decoder.layers.{i}.attn.{leaf}" for i in range(2) for leaf in ("wk_b", "wv_b")}
    assert floats == maps | {"decoder.layers.1.mlp.router"}
    assert operator_limits.cache(target, config) == "copied"
    [reason] = operator_limits.refusals(target, config)
    assert reason.startswith("GroupQueryAttention in layer 0: latent attention ")
    assert planned(Leaves(config), "fp16", "standard")
    assert planned(Leaves(config), "fp16", "ort-cuda")
    reading = Encoder(config.embedding, replace(config.stack, causal=True), Tag(3), config.context)
    assert planned(Leaves(reading), "fp16", "standard")
    assert planned(Leaves(reading), "fp16", "ort-cuda")


SCANNED = {
    "state_spaces": {
        f"{mixer}.{leaf}" for mixer in ("0.attn", "1.beside", "2.attn") for leaf in ("conv", "wdt")
    },
    "selective_scans": {
        f"{i}.attn.{leaf}" for i in (0, 2) for leaf in ("conv", "wdt_a", "wdt", "wb", "wc", "a_log")
    },
}


@pytest.mark.parametrize("name", SCANNED)
def test_the_products_around_scans_are_quantized(name: str):
    """Steps, kernels, rates and what makes keys and queries stay floats, and so does the state."""
    config, target = getattr(tiny_models, name)(), TARGETS["ort-cpu"]
    formats = planned(Leaves(config), "int8", "ort-cpu")
    matrices = (name for name, shape in parameter_shapes(config).items() if len(shape) == 2)
    floats = {name for name in matrices if formats[name] is None}
    assert floats == {f"decoder.layers.{leaf}" for leaf in SCANNED[name]}
    assert operator_limits.cache(target, config) == "shared"
    assert operator_limits.refusals(target, config) == ()


def test_a_model_with_states_is_not_exported_in_float16():
    with refused(ExportError, "recurrence", "float16"):
        planned(Leaves(tiny_models.state_spaces()), "fp16", "standard")


def test_sinks_are_for_a_decoder():
    """Where a whole text is read, the fused operator has no sinks."""
    config = tiny_models.sinks()
    assert operator_limits.refusals(TARGETS["ort-cpu"], config) == ()
    assert planned(Leaves(config), "fp16", "ort-cuda")
    reads = Encoder(config.embedding, replace(config.stack, causal=True), Tag(3), config.context)
    reason = "MultiHeadAttention in encoder layer 0: sinks need standard ONNX operators"
    assert operator_limits.refusals(TARGETS["ort-cpu"], reads) == (reason,)


def test_why_a_step_cannot_be_captured_on_a_gpu_is_stated():
    target = TARGETS["ort-cuda"]
    assert operator_limits.refusals(target, tiny_models.mixed_windows()) == ()
    assert operator_limits.refusals(target, tiny_models.encoder()) == (), "an encoder has no steps"
    [reason] = operator_limits.refusals(target, tiny_models.mixture())
    assert re.match("CUDA graph .*expert", reason)
    *_, reason = operator_limits.refusals(target, tiny_models.encoder_decoder())
    assert re.match("CUDA graph .*copied", reason)
    for name in ("ort-cpu", "standard"):
        assert operator_limits.refusals(TARGETS[name], tiny_models.mixture()) == ()


def test_strict_accepts_a_file_that_has_blocks_for_all():
    shapes = parameter_shapes(CONFIG)
    blocks = {n: q4_1(s, int(n.endswith(".table"))) for n, s in shapes.items() if len(s) == 2}
    formats = planned(Leaves(blocks=blocks), "keep", "ort-cpu", strict=True)
    assert all(scheme is None or scheme.native for scheme in formats.values())


@pytest.mark.parametrize("name", ["embedding.table", "decoder.layers.0.mlp.down"])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("halves", [True, False])
def test_leaf_equals_the_specification_of_the_whole_matrix(name, bits, symmetric, halves, monkeypatch):
    monkeypatch.setattr(rounding, "CHUNK", 500)  # several pieces, the last one short
    checkpoint = Leaves()
    weight = checkpoint.leaf(name)
    axis = int(name.endswith("table"))
    want = quant.quantize(weight, bits=bits, block=32, axis=axis, symmetric=symmetric, halves=halves)
    got = plan.leaf(checkpoint, name, WeightFormat(bits, 32, "block", symmetric, halves=halves), "float32")
    assert np.array_equal(got.scale, got.scale.astype(np.float16)) == halves
    np.testing.assert_array_equal(got.codes, want.codes)
    np.testing.assert_array_equal(got.scale, want.scale)
    assert (got.axis, got.block, got.bits, got.activations) == (want.axis, 32, bits, "block")
    assert got.minimum is None
    if symmetric:
        assert got.zero is None
    else:
        np.testing.assert_array_equal(got.zero, want.zero)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("name", ["embedding.table", "decoder.layers.0.mlp.down"])
def test_an_importance_chooses_scales(name, symmetric, monkeypatch):
    """Row by row as for the whole matrix, in both orientations; without an importance it is rounding to
    nearest."""
    monkeypatch.setattr(rounding, "CHUNK", 500)
    weight, table = Leaves().leaf(name), name.endswith(".table")
    columns = weight.T if table else weight
    importance = np.random.default_rng(0).random(len(columns)) ** 4
    chosen = plan.CalibrationResult({}, {}, {name: importance})
    weight_format = WeightFormat(4, 32, "block", symmetric=symmetric, halves=table)
    got = plan.leaf(Leaves(), name, weight_format, "float32", chosen)
    want = least_error(columns, importance, bits=4, block=32, symmetric=symmetric, halves=table)
    parts = [(got.codes, want.codes), (got.scale, want.scale)]
    if symmetric:
        assert got.zero is want.zero is None
    else:
        parts.append((got.zero, want.zero))
    for array, said in parts:
        np.testing.assert_array_equal(array, said.T if table else said)
    rounded = plan.leaf(Leaves(), name, weight_format, "float32")
    assert (rounded.codes != got.codes).any()


@pytest.mark.parametrize("name", ["int8", "int8-dynamic", "int4"])
def test_eight_bit_blocks_of_a_file_are_not_rounded_again(name):
    shapes = parameter_shapes(CONFIG)
    blocks = {
        leaf: quant.quantize(Leaves().leaf(leaf), bits=8, block=32, axis=int(leaf.endswith(".table")))
        for leaf, shape in shapes.items()
        if len(shape) == 2
    }
    formats = planned(Leaves(blocks=blocks), name, "ort-cpu")
    assert formats["embedding.table"] == WeightFormat(8, 32, "block", native=True)
    assert (
        formats[DOWN]
        == {
            "int8": WeightFormat(8, 32, "block", native=True),
            "int8-dynamic": WeightFormat(8, 80, "row"),
            "int4": WeightFormat(4, 128, "block", symmetric=False, halves=True),
        }[name]
    )


@pytest.mark.parametrize(
    ("kind", "bits", "keepers"),
    [
        ("Q8_0", 8, "int8 keep"),
        ("Q5_0", 8, "keep"),  # five bits: in eight its blocks of 32 are no smaller than int8's own of 64
        ("Q4_K", 4, "int4 keep"),
        ("GPTQ4", 4, "int4 keep"),
        ("Q3_K", 4, "keep"),
        *((kind, 8, "int4 keep") for kind in ("IQ4_NL", "IQ4_XS", "MXFP4", "NVFP4")),
        ("IQ3_S", 8, "keep"),
    ],
)
def test_blocks_of_other_bits_stay_only_with_keep(kind, bits, keepers):
    checkpoint = Leaves(blocks={DOWN: quant.quantize(Leaves().leaf(DOWN), bits=bits, block=32)})
    checkpoint.kinds[DOWN] = kind
    for scheme in ("int8", "int4", "keep"):
        formats, stays = planned(checkpoint, scheme, "ort-cpu"), scheme in keepers
        assert (formats[DOWN].native, formats[DOWN].source) == (stays, kind if stays else ""), scheme
        other = formats["embedding.table"]
        assert (other.native, other.source) == (False, "F32" if stays else ""), scheme


@pytest.mark.parametrize("target", ["ort-cuda", "standard"])
def test_codes_of_a_table_are_rounded_where_no_kernel_looks_them_up(target):
    """They would take twice the bytes."""
    checkpoint = Leaves(blocks={DOWN: quant.quantize(Leaves().leaf(DOWN), bits=8, block=32)})
    checkpoint.kinds[DOWN] = "IQ4_NL"
    one = planned(checkpoint, "int4", target)[DOWN]
    assert (one.native, one.bits) == (False, 4)


@pytest.mark.parametrize(("four", "of_four"), [("Q4_K", 4), ("IQ4_XS", 8)])
@pytest.mark.parametrize(("others", "bits"), [("Q6_K", 8), ("Q3_K", 4)])
@pytest.mark.parametrize("one_more", [False, True])
def test_all_matrices_of_a_file_that_is_mostly_in_four_bits_stay(four, of_four, others, bits, one_more):
    """That is, where more than half of their numbers are; a table has the bits that were asked for."""
    checkpoint = Leaves(TWO)
    for name, shape in parameter_shapes(TWO).items():
        if len(shape) == 2:
            is_four = ".layers.0." in name or (one_more and name == "decoder.layers.1.attn.wk")
            checkpoint.kinds[name] = four if is_four else others
            width, axis = of_four if is_four else bits, int(name.endswith(".table"))
            checkpoint.blocks[name] = quant.quantize(checkpoint.leaf(name), bits=width, block=16, axis=axis)
    formats = planned(checkpoint, "int4", "ort-cpu", table_bits=4)
    assert formats.pop("embedding.table") == replace(EIGHT["ort-cpu"], bits=4)
    for name, one in formats.items():
        assert one is None or one.native == (one_more or ".layers.0." in name), name


@pytest.mark.parametrize(
    ("kind", "bits", "takers"),
    [("Q8_0", 8, {8}), ("Q5_0", 8, set()), ("Q4_0", 4, {4, 8}), ("Q3_K", 4, set()), ("IQ4_NL", 8, {4, 8})],
)
def test_a_table_with_few_bits_stays_beside_four_bit_matrices(kind, bits, takers):
    table = "embedding.table"
    checkpoint = Leaves(blocks={table: quant.quantize(Leaves().leaf(table), bits=bits, block=32, axis=1)})
    checkpoint.kinds[table] = kind
    for table_bits in (4, 8):
        one = planned(checkpoint, "int4", "ort-cpu", table_bits=table_bits)[table]
        assert (one.native, one.bits) == (table_bits in takers, bits if table_bits in takers else table_bits)


def test_blocks_whose_scale_float16_would_round_do_not_stay_there():
    whole = quant.quantize(Leaves().leaf(DOWN), bits=8, block=32)
    fits = replace(whole, scale=whole.scale.astype(np.float16).astype(np.float32))
    up = "decoder.layers.0.mlp.up"
    checkpoint = Leaves(blocks={DOWN: replace(fits, scale=fits.scale / 3), up: quant.transpose(fits)})
    for target, stays in (("ort-cpu", True), ("standard", True), ("ort-cuda", False)):
        formats = planned(checkpoint, "keep", target)
        assert (formats[DOWN].native, formats[up].native) == (stays, True)


def test_row_scheme_has_one_block_a_column():
    got = plan.leaf(Leaves(), "decoder.layers.0.mlp.down", WeightFormat(8, 80, "row"), "float32")
    assert got.scale.shape == (1, 48)


def kept(blocks: Blocks, dtype: str = "float32") -> Blocks:
    checkpoint = Leaves(blocks={DOWN: blocks})
    scheme = planned(checkpoint, "keep", "ort-cpu")[DOWN]
    got = plan.leaf(checkpoint, DOWN, scheme, dtype)
    assert isinstance(got, Blocks)
    assert got.zero is None
    assert got.scale.dtype == dtype
    return replace(got, scale=got.scale.astype(np.float32))


@given(st.integers(0, 2**32))
def test_keep_changes_no_weight(seed):
    file_blocks = q4_1((80, 48), seed=seed)
    for dtype in ("float32", "float16"):
        np.testing.assert_array_equal(
            quant.dequantize(kept(file_blocks, dtype)), quant.dequantize(file_blocks), err_msg=dtype
        )


@given(st.integers(0, 2**32))
def test_keep_rounds_at_most_the_last_bit_whatever_a_file_holds(seed):
    rng = np.random.default_rng(seed)
    bits = lambda: rng.integers(0, 0x7C00, (5, 48), np.uint16).view(np.float16)  # noqa: E731  any finite half
    d, m = bits().astype(np.float32), -bits().astype(np.float32)
    file_blocks = replace(q4_1((80, 48)), scale=d, minimum=m)
    want = quant.dequantize(replace(file_blocks, scale=d.astype(np.float64), minimum=m.astype(np.float64)))
    got = quant.dequantize(kept(file_blocks)).astype(np.float64)
    limit = 2.0**-23 * np.repeat(np.abs(m) + 16 * np.abs(d), 16, axis=0)
    assert (np.abs(got - want) <= limit).all()


@pytest.mark.parametrize("bits", [4, 8])
def test_keep_takes_symmetric_blocks_as_they_are(bits):
    file_blocks = quant.quantize(Leaves().leaf(DOWN), bits=bits, block=32)
    scheme = planned(Leaves(blocks={DOWN: file_blocks}), "keep", "standard")[DOWN]
    assert scheme == WeightFormat(bits, 32, "none", native=True)
    got = plan.leaf(Leaves(blocks={DOWN: file_blocks}), DOWN, scheme, "float32")
    np.testing.assert_array_equal(got.codes, file_blocks.codes)
    np.testing.assert_array_equal(got.scale, file_blocks.scale)
    assert got.activations == "none"


def test_a_number_beyond_float16_is_named():
    weight = np.ones(48, np.float32)
    weight[5] = 1e5
    checkpoint = Leaves(changed={"decoder.norm.weight": weight})
    assert plan.leaf(checkpoint, "decoder.norm.weight", None, "float32") is weight
    with refused(NumericError, "decoder.norm.weight[5]", "float16"):
        plan.leaf(checkpoint, "decoder.norm.weight", None, "float16")


def test_float_types():
    assert {(q, t) for q, t in CELLS if schemes.float_type(SCHEMES[q], TARGETS[t]) == "float16"} == {
        cell for cell in CELLS if cell[0] == "fp16" or cell[1] == "ort-cuda"
    }

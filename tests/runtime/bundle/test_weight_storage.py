"""Stored tensors: `restore` undoes `store` exactly, and ONNX Runtime reads them as the specification does."""

import dataclasses
import math

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from helpers import tiny_models
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper
from tfm.refimpl.ops import quant
from tfm.refimpl.ops.quant import Blocks
from tfm.refimpl.params.shapes import parameter_shapes
from tfm.runtime.bundle import weight_storage
from tfm.runtime.bundle.targets import TARGETS
from tfm.runtime.bundle.weight_formats import WeightFormat
from tfm.runtime.bundle.weight_storage import Group
from tfm.runtime.ort import session


def random_blocks(
    rng, weight_format: WeightFormat, shape: tuple[int, int], axis: int, dtype=np.float32
) -> Blocks:
    """Codes that use all values, scales of both signs."""
    count = -(-shape[axis] // weight_format.block)
    per_block = (shape[0], count) if axis == 1 else (count, shape[1])
    ints = lambda size: rng.integers(0, 2**weight_format.bits, size, np.uint8)  # noqa: E731
    floats = lambda: rng.standard_normal(per_block).astype(dtype)  # noqa: E731
    return Blocks(
        codes=ints(shape),
        scale=floats() * dtype(0.05),
        zero=None if weight_format.symmetric else ints(per_block),
        minimum=floats().astype(np.float32) if weight_format.minimum else None,
        bits=weight_format.bits,
        block=weight_format.block,
        axis=axis,
        activations=weight_format.activations,
        # Matrices that are stored together read one input.
        input_factor=np.exp2(np.arange(shape[0]) % 5 - 2).astype(dtype)
        if weight_format.activations == "smoothed"
        else None,
        **static_scales(rng, weight_format, dtype),
    )


def static_scales(rng, weight_format: WeightFormat, dtype) -> dict[str, np.ndarray]:
    """A scale and a zero point for the input of a product, and for its output."""
    sides = ["input", "output"] if weight_format.rounds_output else ["input"]
    sides = sides if weight_format.activations == "static" else []
    top, codes = 2**weight_format.activation_bits, f"uint{weight_format.activation_bits}"
    scales = {f"{side}_scale": np.array(rng.random(), dtype) for side in sides}
    return scales | {f"{side}_zero": np.array(rng.integers(top), codes) for side in sides}


@st.composite
def groups(draw) -> tuple[Group, dict, np.dtype]:
    """A group of any kind, its leaves, and the type of its floats."""
    kind = draw(st.sampled_from(["float", "nbits", "row", "blocked", "static"]), label="kind")
    table = draw(st.booleans(), label="table")
    length = draw(st.integers(1, 70), label="length")
    most = 1 if table or kind == "static" else 3
    widths = draw(st.lists(st.integers(1, 9), min_size=1, max_size=most), label="widths")
    dtype = np.dtype(draw(st.sampled_from(["float32", "float16"]), label="dtype"))
    rng = np.random.default_rng(draw(st.integers(0, 2**32), label="seed"))
    shapes = tuple((width, length) if table else (length, width) for width in widths)
    name = "x.table" if table else "x"
    leaves = (name,) if table else tuple(f"leaf{i}" for i in range(len(widths)))
    if kind == "float":
        arrays = {leaf: rng.standard_normal(s).astype(dtype) for leaf, s in zip(leaves, shapes, strict=True)}
        return Group(name, leaves, shapes, kind, None), arrays, dtype
    if kind == "row":
        weight_format = WeightFormat(
            8, length, draw(st.sampled_from(["row"] if table else ["row", "smoothed"]), label="activations")
        )
    elif kind == "static":
        bits, rounds_output = draw(st.sampled_from([(8, False), (16, True)]), label="activations")
        weight_format = WeightFormat(8, length, kind, activation_bits=bits, rounds_output=rounds_output)
    else:
        weight_format = WeightFormat(
            bits=draw(st.sampled_from([4, 8]), label="bits"),
            block=draw(st.sampled_from([16, 32, 64]), label="block"),
            activations=draw(st.sampled_from(["none", "block"]), label="activations"),
            symmetric=draw(st.booleans(), label="symmetric"),
            minimum=draw(st.booleans(), label="minimum"),
        )
    arrays = {
        leaf: random_blocks(rng, weight_format, s, int(table), dtype.type)
        for leaf, s in zip(leaves, shapes, strict=True)
    }
    return Group(name, leaves, shapes, kind, weight_format), arrays, dtype


def assert_same(got, want, name: str) -> None:
    if isinstance(want, np.ndarray):
        assert (got.dtype, got.shape) == (want.dtype, want.shape), name
        np.testing.assert_array_equal(got, want, err_msg=name)
        return
    for field in dataclasses.fields(Blocks):
        a, b = getattr(got, field.name), getattr(want, field.name)
        if isinstance(b, np.ndarray):
            assert_same(a, b, f"{name}.{field.name}")
        else:
            assert a == b, f"{name}.{field.name}: got {a}, expected {b}"


@given(groups())
def test_restore_undoes_store(drawn):
    group, leaves, _ = drawn
    back = weight_storage.restore(group, weight_storage.store(group, leaves))
    assert list(back) == list(group.leaves)
    for name, leaf in leaves.items():
        assert_same(back[name], leaf, name)


@given(groups())
def test_specs_describe_what_store_gives(drawn):
    group, leaves, dtype = drawn
    tensors, expected = weight_storage.store(group, leaves), weight_storage.specs(group, dtype.name)
    assert set(tensors) == set(expected)
    for name, tensor in tensors.items():
        spec = expected[name]
        assert tensor.flags.c_contiguous, name
        assert tensor.nbytes == spec.length, name
        if spec.dtype not in ("int4", "uint4"):
            assert (tensor.dtype, tensor.shape) == (spec.dtype, spec.shape), name


@pytest.mark.parametrize("symmetric", [True, False])
def test_a_short_last_block_is_filled_with_its_zero_point(symmetric):
    _, leaf, stored = one(WeightFormat(8, 32, "block", symmetric), (40, 3), "nbits")
    assert (leaf.zero is None) == symmetric
    filler = 128 if leaf.zero is None else leaf.zero[-1][:, None]
    np.testing.assert_array_equal(stored["packed"][:, 1, 8:], np.broadcast_to(filler, (3, 24)))


def run(
    nodes, inputs: dict, weights: dict, output: str = "y", integer4: dict | None = None, folds: bool = False
) -> np.ndarray:
    """A graph over stored tensors on ONNX Runtime, which folds constants if asked to; `integer4` gives type
    and shape of 4-bit tensors."""
    kind = lambda a: helper.np_dtype_to_tensor_dtype(a.dtype)  # noqa: E731
    initializers = [
        onnx.numpy_helper.from_array(a, n) for n, a in weights.items() if n not in (integer4 or {})
    ]
    for name, (dtype, shape) in (integer4 or {}).items():
        initializers.append(helper.make_tensor(name, dtype, shape, weights[name].tobytes(), raw=True))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(n, kind(a), a.shape) for n, a in inputs.items()],
        [helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, None)],
        initializers,
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = session.options(1)
    # Folded constants are packed: without, MatMulNBits would compute in float.
    if not folds:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    opened = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.asarray(opened.run(None, inputs)[0])


def one(weight_format: WeightFormat, shape: tuple[int, int], kind, table: bool = False):
    """A group of one random leaf: (group, leaf, stored tensors by their last name)."""
    name = "x.table" if table else "x"
    group = Group(name, (name,), (shape,), kind, weight_format)
    leaf = random_blocks(np.random.default_rng(7), weight_format, shape, group.axis)
    stored = weight_storage.store(group, {name: leaf})
    return group, leaf, {full.rsplit(".", 1)[-1]: tensor for full, tensor in stored.items()}


@pytest.mark.parametrize("length", [64, 80, 33])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
def test_matmul_nbits_reads_packed_matrices(length, bits, symmetric):
    _, leaf, stored = one(WeightFormat(bits, 32, "block", symmetric), (length, 24), "nbits")
    x = np.random.default_rng(1).standard_normal((3, length)).astype(np.float32)
    got = run([matmul_nbits(length, 24, bits, 32, symmetric)], {"x": x}, stored)
    want = quant.linear_blocks(x[None], leaf)[0]
    np.testing.assert_allclose(got, want, rtol=2e-6, atol=4e-6 * float(np.abs(want).max()))


def matmul_nbits(length: int, width: int, bits: int, block: int, symmetric: bool, packed: str = "packed"):
    names = ["x", packed, "scale"] + ([] if symmetric else ["zero"])
    return helper.make_node(
        "MatMulNBits", names, ["y"], domain="com.microsoft",
        K=length, N=width, bits=bits, block_size=block, accuracy_level=4,
    )  # fmt: skip


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("length", [64, 48])
def test_one_table_serves_embedding_and_output(bits, symmetric, length):
    _, leaf, stored = one(WeightFormat(bits, 32, "block", symmetric), (50, length), "nbits", table=True)
    ids = np.array([[0, 49, 7], [3, 3, 21]])
    names = ["packed", "ids", "scale"] + ([] if symmetric else ["zero"])
    gather = helper.make_node(
        "GatherBlockQuantized", names, ["y"], domain="com.microsoft",
        bits=bits, block_size=32, gather_axis=0, quantize_axis=1,
    )  # fmt: skip
    got = run([gather], {"ids": ids}, stored)[..., :length]
    np.testing.assert_array_equal(got, quant.rows(leaf, ids))
    x = np.random.default_rng(1).standard_normal((3, length)).astype(np.float32)
    shape = np.array([50, stored["scale"].shape[1], -1])
    nodes = [
        helper.make_node("Reshape", ["packed", "shape"], ["matrix"]),
        matmul_nbits(length, 50, bits, 32, symmetric, "matrix"),
    ]
    got = run(nodes, {"x": x}, stored | {"shape": shape})
    want = quant.linear_blocks(x[None], quant.transpose(leaf))[0]
    np.testing.assert_allclose(got, want, rtol=2e-6, atol=4e-6 * float(np.abs(want).max()))


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("shape", "table"), [((48, 5), False), ((5, 48), True), ((7, 33), True)])
def test_dequantize_linear_reads_blocked_matrices(bits, symmetric, shape, table):
    group, leaf, stored = one(WeightFormat(bits, 32, "none", symmetric), shape, "blocked", table)
    specs = weight_storage.specs(group, "float32")
    four = {
        name.rsplit(".", 1)[-1]: (onnx.TensorProto.DataType.Value(spec.dtype.upper()), spec.shape)
        for name, spec in specs.items()
        if spec.dtype in ("int4", "uint4")
    }
    names = ["codes", "scale"] + ([] if symmetric else ["zero"])
    node = helper.make_node("DequantizeLinear", names, ["y"], axis=group.axis, block_size=32)
    got = run([node], {}, stored, integer4=four)
    np.testing.assert_array_equal(got, quant.dequantize(leaf))


def test_matmul_integer_reads_row_codes():
    _, leaf, stored = one(WeightFormat(8, 40, "row"), (40, 6), "row")
    x = np.random.default_rng(1).integers(0, 256, (3, 40), np.uint8)
    node = [
        helper.make_node("MatMulInteger", ["x", "codes", "middle"], ["dots"]),
        helper.make_node("Cast", ["dots"], ["y"], to=onnx.TensorProto.FLOAT),
    ]
    constants = {"codes": stored["codes"], "middle": np.uint8(128)}
    got = run(node, {"x": x}, constants, folds=True)  # without VNNI signed codes are folded to unsigned ones
    want = (x.astype(np.int32) - 128) @ (leaf.codes.astype(np.int32) - 128)
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(stored["scale"], leaf.scale[0])


def names(config, target, **given_formats):
    shapes = parameter_shapes(config)
    formats = {n: form for n in shapes if (form := given_formats.get(n.rsplit(".", 1)[-1]))}
    return weight_storage.stored(shapes, formats, TARGETS[target])


def test_matrices_of_one_input_are_joined_on_fused_targets():
    eight, four = WeightFormat(8, 32, "block"), WeightFormat(4, 32, "block")
    config = tiny_models.llama(layers=1, bias=True)
    stored_groups = names(config, "ort-cpu", wq=eight, wk=eight, wv=eight, gate=four, up=four)
    at = "decoder.layers.0."
    assert stored_groups[f"{at}attn.wqkv"].leaves == tuple(f"{at}attn.{w}" for w in ("wq", "wk", "wv"))
    assert stored_groups[f"{at}attn.bqkv"].leaves == tuple(f"{at}attn.{b}" for b in ("bq", "bk", "bv"))
    assert stored_groups[f"{at}mlp.gate_up"].shape == (48, 160)
    assert stored_groups[f"{at}mlp.bgate_up"].shape == (160,)
    assert stored_groups[f"{at}mlp.gate_up"].kind == "nbits"
    assert f"{at}attn.wq" not in stored_groups


def test_unequal_schemes_stay_apart_with_their_biases():
    eight, four = WeightFormat(8, 32, "block"), WeightFormat(4, 32, "block")
    stored_groups = names(tiny_models.llama(layers=1, bias=True), "ort-cpu", wq=eight, wk=eight, wv=four)
    assert {"wq", "wk", "wv", "bq", "bk", "bv"} <= {n.rsplit(".", 1)[-1] for n in stored_groups}
    assert "decoder.layers.0.mlp.gate_up" in stored_groups


def test_standard_joins_nothing():
    config = tiny_models.llama(bias=True, tied=False)
    stored_groups = names(config, "standard")
    assert list(stored_groups) == list(parameter_shapes(config))
    assert all(group.leaves == (name,) for name, group in stored_groups.items())


def test_every_leaf_is_stored_once():
    for config in (
        tiny_models.llama(bias=True, tied=False),
        tiny_models.llama(plain=True),
        tiny_models.llama(qk_norm=True),
    ):
        for target in TARGETS:
            leaves = [leaf for group in names(config, target).values() for leaf in group.leaves]
            assert sorted(leaves) == sorted(parameter_shapes(config)), target


def test_bytes_of_four_bit_tensors_round_up():
    assert weight_storage.Spec("int4", (3, 5)).length == math.ceil(15 / 2)
    assert weight_storage.Spec("uint4", ()).length == 1
    assert weight_storage.Spec("float16", (3, 5)).length == 30

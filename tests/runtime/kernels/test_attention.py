"""The attention kernel: what `refimpl` specifies, with the same bits however tokens are computed together."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from helpers import onnx_nodes
from helpers.attention_kernel import (
    DONE,
    MISFIT,
    POINTERS,
    SIZES,
    STRIDES,
    TOO_LARGE,
    AttentionCall,
    Call,
    attempt,
    run,
    specified,
)
from helpers.kernels import Kernels, bits_of, guarded, in_order, in_threads, pool_of
from helpers.refused import refused
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy import ndarray as Array
from numpy.typing import DTypeLike
from onnx import helper
from tfm.refimpl.error_budget import TRIES, ULP, error_terms, largest_difference, moved
from tfm.refimpl.ops.dispatch import use
from tfm.runtime.kernels.specification import KERNEL_OPS


@pytest.fixture(scope="session")
def kernels(instruction_sets: list[Kernels]) -> Kernels:
    return instruction_sets[0]


def backwards(task: Callable[[int], None], count: int) -> None:
    for index in reversed(range(count)):
        task(index)


CACHES = (np.float32, np.float16, np.int8, np.uint8)  # the last one has codes of 4 bits


def drawn_codes(rng: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype) -> Array:
    """A cache of so many codes."""
    if dtype == np.int8:
        return rng.integers(-128, 128, shape).astype(dtype)
    return rng.integers(0, 256, (*shape[:-1], shape[-1] // 2)).astype(dtype)


@st.composite
def calls(draw: st.DrawFn, window: bool = False) -> Call:
    """Any call, or one with a window and dropped tokens; its cache is NaN where nothing was written."""
    batch, groups = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    ratio, eighths = (
        draw(st.sampled_from([1, 2, 3, 5, 7, 13])),
        draw(st.sampled_from([1, 2, 3, 4, 8, 9, 10, 17])),
    )
    tokens = draw(st.sampled_from([1, 2, 3, 5, 17, 70, 130]) if ratio < 7 else st.sampled_from([1, 3, 19]))
    size = 8 * eighths
    past = np.array([draw(st.sampled_from([0, 1, 40, 63, 64, 200, 511, 600, 1100])) for _ in range(batch)])
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    normal = lambda *shape: rng.standard_normal(shape).astype(np.float32)  # noqa: E731
    capacity = int(past.max()) + tokens + draw(st.integers(0, 3))
    options = {}
    cache = np.dtype(draw(st.sampled_from(CACHES)))
    keys, values = (normal(batch, groups, capacity, size) for _ in range(2))
    if cache.kind in "iu":
        keys, values = (drawn_codes(rng, keys.shape, cache) for _ in range(2))
        # Some numbers are clipped, and a channel may have scale 0.
        steps = [0, 0.01, 0.02, 0.03] if cache == np.int8 else [0, 0.1, 0.3, 0.5]
        scales = rng.choice(steps, (2, groups, size)).astype(np.float32)
        options["k_scale"], options["v_scale"] = scales
    else:
        keys, values = keys.astype(cache), values.astype(cache)
        unwritten = np.arange(capacity)[None, :] >= past[:, None]
        keys[np.broadcast_to(unwritten[:, None], keys.shape[:3])] = np.nan
        values[np.broadcast_to(unwritten[:, None], values.shape[:3])] = np.nan
    if window or draw(st.booleans()):
        options["window"] = draw(st.sampled_from([1, 2, 5, 64, 100, 513]))
    dropped = np.array([draw(st.integers(0, 700)) for _ in range(batch)])
    if window or draw(st.booleans()):
        options["dropped"] = dropped
    if pairs := draw(st.sampled_from([0, size // 8, size // 2])):
        angles = rng.uniform(-3, 3, (capacity + 700, pairs)).astype(np.float32)
        options |= {"cos": np.cos(angles), "sin": np.sin(angles), "interleaved": draw(st.booleans())}
    if draw(st.booleans()):
        options["sinks"] = normal(groups * ratio) * 3
    if draw(st.booleans()):
        options["softcap"] = draw(st.sampled_from([1.5, 30.0]))
    return Call(
        normal(batch, tokens, groups * ratio, size) * np.float32(draw(st.sampled_from([1, 8]))),
        normal(batch, tokens, groups, size),
        normal(batch, tokens, groups, size),
        keys,
        values,
        past,
        scale=draw(st.sampled_from([size**-0.5, 0.25])),
        joined=draw(st.booleans()),
        **options,
    )


def same_bits(results: tuple[Array, ...], others: tuple[Array, ...]) -> None:
    """Two results are one, but for what isn't a number."""
    for result, other in zip(results, others, strict=True):
        assert np.array_equal(bits_of(result), bits_of(other))


@settings(max_examples=(settings.default.max_examples or 0) // 3)
@given(call=calls())
def test_attention_is_what_refimpl_specifies(kernels, call):
    """A third of the examples: this costs ten passes each, and the next test is to the bit."""
    y, keys, values = run(kernels, call)
    exact = specified(call.converted(lambda a: a.astype(np.float64)))[0]
    rounded, new_keys, new_values = specified(call)
    rng = np.random.default_rng(0)
    wiggled = (
        specified(call.converted(lambda a: moved(a.astype(np.float64), ULP, rng)))[0] for _ in range(TRIES)
    )
    budget = error_terms(exact, rounded, wiggled).budget
    assert largest_difference(y, exact) <= budget
    same_bits((keys, values), (new_keys, new_values))


@given(call=calls())
def test_attention_has_the_bits_of_the_kernels_own_specification(instruction_sets, call):
    call = replace(call, dropped=None)  # blocks of keys begin at places of the text
    with use(KERNEL_OPS):
        expected = specified(call)
    for kernels in instruction_sets:
        same_bits(run(kernels, call), expected)


@given(call=calls(), data=st.data())
def test_a_token_has_the_same_bits_wherever_a_text_is_cut(kernels, call, data):
    whole = run(kernels, call)
    tokens = call.q.shape[1]
    chunk = data.draw(st.sampled_from([1, 2, 3, 16, 50]))
    parts = []
    for start in range(0, tokens, chunk):
        y, keys, values = run(kernels, call.tokens(start, start + chunk))
        call = replace(call, keys=keys, values=values)
        parts.append(y)
    same_bits((np.concatenate(parts, axis=1), call.keys, call.values), whole)


@given(call=calls())
def test_a_row_has_the_same_bits_in_every_batch_and_order_of_work(kernels, call):
    whole = run(kernels, call)
    alone = [run(kernels, call.row(b)) for b in range(len(call.past))]
    same_bits(tuple(np.concatenate(parts) for parts in zip(*alone, strict=True)), whole)
    same_bits(run(kernels, call, backwards), whole)
    same_bits(run(kernels, call, in_threads), whole)


@given(call=calls())
def test_all_instruction_sets_give_the_same_bits(instruction_sets, call):
    first, *others = (run(kernels, call) for kernels in instruction_sets)
    for other in others:
        same_bits(other, first)


@given(call=calls(window=True))
def test_bits_stay_where_a_cache_drops_tokens_that_its_window_has_left(kernels, call):
    assert call.window is not None
    assert call.dropped is not None
    y, keys, _ = run(kernels, call)
    left = np.maximum(call.past + 1 - call.window, 0)
    shorter = replace(call, past=call.past - left, dropped=call.dropped + left)
    capacity = keys.shape[2]
    places = np.minimum(np.arange(capacity)[None] + left[:, None], capacity - 1)
    moved_up = {
        name: np.take_along_axis(getattr(call, name), places[:, None, :, None], axis=2)
        for name in ("keys", "values")
    }
    same_bits(run(kernels, replace(shorter, **moved_up))[:1], (y,))


@given(call=calls())
def test_what_a_token_does_not_see_may_be_anything(kernels, call):
    y = run(kernels, call)[0]
    tokens = call.q.shape[1]
    new = {name: np.array(getattr(call, name)) for name in ("q", "k", "v")}
    codes = call.keys.dtype.kind in "iu"  # which what isn't a number has none of
    for name, array in new.items():
        array[:, -1] = 9 if codes and name != "q" else np.nan
    window = call.window or call.past.max() + tokens
    left = np.arange(call.keys.shape[2])[None, :] <= (call.past - window)[:, None]
    unseen = call.keys.dtype.type(77 if codes else np.nan)
    cache = {
        name: np.where(left[:, None, :, None], unseen, getattr(call, name)) for name in ("keys", "values")
    }
    others = run(kernels, replace(call, **new, **cache))[0]
    same_bits((others[:, :-1],), (y[:, :-1],))
    assert np.isnan(others[:, -1]).all()


def test_exp_is_within_two_ulp(kernels):
    """Of two keys the first has score 0 and value 0, the second score x and value 1: y = e^x / (1 + e^x)."""
    x = np.concatenate([np.linspace(-87.3, 0, 20000), -np.logspace(-9, 1, 5000)]).astype(np.float32)
    rows = len(x)
    q, ones = np.zeros((rows, 1, 1, 8), np.float32), np.ones((rows, 1, 1, 8), np.float32)
    q[..., 0] = x[:, None, None]
    cache = np.zeros((rows, 1, 2, 8), np.float32)
    call = Call(q, ones, ones, cache, np.zeros_like(cache), np.ones(rows, int))
    y = run(kernels, call)[0][:, 0, 0, 0]
    exact = np.exp(x.astype(np.float64))
    ulp = np.spacing(exact.astype(np.float32))
    assert (y > 0).all()
    small = exact < 2**-25  # then 1 + e^x is 1
    assert (np.abs(y - exact)[small] <= 2 * ulp[small]).all()
    assert (np.abs(y - exact / (1 + exact))[~small] <= 4 * ulp[~small]).all()
    assert not run(kernels, replace(call, q=q - 100))[0].any()


def written(kernels: Kernels, k: Array, v: Array) -> tuple[Array, Array, int]:
    """Keys and values [M, 8 or 24] as a cache of float16 holds them, and what the kernel says of them."""
    k, v = k[:, None, None], v[:, None, None]
    cache = np.zeros_like(k, np.float16)
    (_, keys, values), attended = attempt(kernels, Call(k, k, v, cache, cache, np.zeros(len(k), int)))
    return keys[:, 0, 0], values[:, 0, 0], attended


def test_numbers_are_rounded_to_the_nearest_of_float16(instruction_sets):
    """All of float16, the numbers halfway between two, and those just beside."""
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    middles = (halves + np.append(halves[1:], np.float32(65536))) / 2
    below, above = np.nextafter(middles, np.float32(0)), np.nextafter(middles[:-1], np.float32(np.inf))
    numbers = np.concatenate([halves, middles[:-1], below, above])
    numbers = np.concatenate([numbers, -numbers, np.zeros(-2 * len(numbers) % 24, np.float32)]).reshape(
        -1, 24
    )
    expected = numbers.astype(np.float16)
    for kernels in instruction_sets:
        keys, values, attended = written(kernels, numbers, numbers[::-1])
        assert attended == DONE
        same_bits((keys, values), (expected, expected[::-1]))


@pytest.mark.parametrize("size", [8, 16, 24])
def test_what_float16_can_not_hold_is_refused(instruction_sets, size):
    """Only what would become infinite: what isn't finite before stays as it is, as in a cache of float32."""
    for kernels, place in itertools.product(instruction_sets, range(size)):
        for number, fits in (
            (65519.99, True),
            (65520, False),
            (-3e38, False),
            (np.inf, True),
            (np.nan, True),
        ):
            large, small = np.ones((2, size), np.float32), np.ones((2, size), np.float32)
            large[1, place] = number
            for k, v in ((large, small), (small, large)):
                assert written(kernels, k, v)[2] == (DONE if fits else TOO_LARGE)


@pytest.mark.parametrize("number", [np.inf, -np.inf, np.nan, 3e38])
def test_what_is_not_finite_has_no_code(instruction_sets, number):
    for kernels, place in itertools.product(instruction_sets, range(24)):
        k, v = np.zeros((2, 2, 1, 1, 24), np.float32)
        v[1, ..., place] = number
        cache, scale = np.zeros_like(k, np.int8), np.ones((1, 24), np.float32)
        call = Call(k, k, v, cache, cache, np.zeros(2, int), k_scale=scale, v_scale=scale)
        (_, _, values), attended = attempt(kernels, call)
        assert attended == (DONE if np.isfinite(number) else TOO_LARGE)
        assert attended == TOO_LARGE or values[1, 0, 0].tolist() == [127 * (i == place) for i in range(24)]


WRONG = {
    "cache": 4,
    "heads": 5,
    "kv_heads": 0,
    "head_size": 12,
    "pairs": 9,
    "table": 4,
    "capacity": 4,
    "window": -1,
    "tokens": -1,
    "batch": -1,
}


@pytest.mark.parametrize("name", [*WRONG, "last", "positions"])
def test_sizes_that_do_not_fit_are_refused(kernels, name):
    arrays = {n: np.zeros(2 * 5 * 6 * 16 * 2, np.float32) for n in POINTERS}
    arrays["last"] = np.array([4, 1 if name == "last" else 3], np.int32)
    arrays["positions"] = np.array([[2, 3, 4], [1, 2, 4 if name == "positions" else 3]])
    c = AttentionCall(
        **{n: a.ctypes.data for n, a in arrays.items() if n not in ("lengths", "bias")},
        **dict(zip(STRIDES, (64, 32, 32, 0, 0), strict=True)),
        **dict(zip(SIZES, (2, 3, 4, 2, 16, 5, 5, 8, 0), strict=True)),
    )
    at, memory = ctypes.addressof(c), guarded(1 << 20)
    accepts = lambda: kernels.attention(at, memory.ctypes.data, pool_of(in_order))  # noqa: E731
    if name in WRONG:
        assert accepts() == DONE
        setattr(c, name, WRONG[name])
    assert accepts() == MISFIT
    assert kernels.attention_scratch(at) == 0


INPUTS = (
    "q", "keys", "values", "last", "k", "v", "cos", "sin", "positions", "sinks", "k_scale", "v_scale",
)  # fmt: skip


def example(joined: bool, cache: DTypeLike = np.float32) -> Call:
    """One call with everything but positions of its own."""
    rng = np.random.default_rng(int(joined))
    normal = lambda *shape: rng.standard_normal(shape).astype(np.float32)  # noqa: E731
    past = np.array([7, 130])
    keys, values = (normal(2, 2, 200, 24) for _ in range(2))
    of = np.dtype(cache)
    keys, values = (drawn_codes(rng, a.shape, of) if of == np.uint8 else a.astype(of) for a in (keys, values))
    q, k, v = normal(2, 65, 6, 24), normal(2, 65, 2, 24), normal(2, 65, 2, 24)
    options = {"cos": normal(400, 8), "sin": normal(400, 8), "sinks": normal(6), "interleaved": True}
    if of.kind in "iu":
        scales = np.abs(normal(2, 2, 24)) / (30 if of == np.int8 else 2)
        options |= {"k_scale": scales[0], "v_scale": scales[1]}
    return Call(q, k, v, keys, values, past, window=99, softcap=2.0, joined=joined, **options)


def node_inputs(call: Call) -> dict[str, Array]:
    """What the operator takes, heads side by side; without `k` and `v` where they are joined to `q`."""
    flat = {name: getattr(call, name).reshape(*call.q.shape[:2], -1) for name in ("q", "k", "v")}
    if call.joined:
        flat = {"q": np.concatenate(list(flat.values()), axis=-1)}
    arrays = flat | {"keys": call.keys, "values": call.values, "last": (call.past + 64).astype(np.int32)}
    optional = {name: getattr(call, name) for name in ("cos", "sin", "sinks", "k_scale", "v_scale")}
    if call.dropped is not None:
        optional["positions"] = (call.past + call.dropped)[:, None] + np.arange(65)[None]
    return arrays | {name: array for name, array in optional.items() if array is not None}


def node(call: Call, arrays: dict[str, Array]) -> onnx.NodeProto:
    return helper.make_node(
        "Attention",
        [name if name in arrays else "" for name in INPUTS],
        ["y", "new_keys", "new_values"],
        domain="tfm",
        num_heads=call.q.shape[2],
        kv_num_heads=call.k.shape[2],
        local_window_size=call.window or -1,
        rotary_interleaved=int(call.interleaved),
        scale=call.scale,
        softcap=call.softcap or 0.0,
    )


@pytest.mark.parametrize("positions", [False, True])
@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize("cache", CACHES)
def test_the_operator_has_the_same_bits(kernels_library, kernels, cache, joined, positions):
    call = example(joined, cache)
    if positions:
        call = replace(call, dropped=np.array([90, 200]))
    arrays = node_inputs(call)
    y, keys, values = onnx_nodes.graph(
        [node(call, arrays)], arrays, {}, ["y", "new_keys", "new_values"], kernels_library
    )
    same_bits((y.reshape(call.q.shape), keys, values), run(kernels, call))
    assert np.array_equal(arrays["keys"], call.keys)  # a cache that isn't bound as output stays as it is


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("threads", [1, 2])
def test_the_operator_writes_a_bound_cache_in_place(kernels_library, kernels, threads, cache):
    call = example(True, cache)
    arrays = node_inputs(call)
    declared = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for name, a in arrays.items()
    ]
    outputs = [onnx.ValueInfoProto(name=name) for name in ("y", "new_keys", "new_values")]
    graph = helper.make_graph([node(call, arrays)], "g", declared, outputs)
    sets = [helper.make_opsetid("", 21), helper.make_opsetid("tfm", 1)]
    model = helper.make_model(graph, opset_imports=sets, ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.register_custom_ops_library(str(kernels_library))
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    binding = session.io_binding()
    bound = {name: onnxruntime.OrtValue.ortvalue_from_numpy(a) for name, a in arrays.items()}
    for name, value in bound.items():
        binding.bind_ortvalue_input(name, value)
    binding.bind_output("y")
    binding.bind_ortvalue_output("new_keys", bound["keys"])
    binding.bind_ortvalue_output("new_values", bound["values"])
    session.run_with_iobinding(binding)
    y = binding.get_outputs()[0].numpy().reshape(call.q.shape)
    same_bits((y, bound["keys"].numpy(), bound["values"].numpy()), run(kernels, call))


@pytest.mark.parametrize("positions", [False, True])
@pytest.mark.parametrize("cache", [np.float32, np.float16])
def test_reading_what_was_written_has_the_same_bits(kernels_library, kernels, cache, positions):
    """The operator of a layer without keys and values, over what an Attention with its queries has left."""
    call = example(False, cache)
    if positions:
        call = replace(call, dropped=np.array([90, 200]))
    y, keys, values = run(kernels, call)
    arrays = node_inputs(call) | {"keys": keys, "values": values}
    read = [name for name in INPUTS if name not in ("k", "v", "k_scale", "v_scale")]
    one = node(call, arrays)
    del one.input[:], one.output[1:]
    one.op_type = "SharedAttention"
    one.input.extend(name if name in arrays else "" for name in read)
    inputs = {name: array for name, array in arrays.items() if name in read}
    (got,) = onnx_nodes.graph([one], inputs, {}, ["y"], kernels_library)
    same_bits((got.reshape(call.q.shape),), (y,))
    inputs["q"] = np.zeros((2, 65, 143), np.float32)
    with refused(onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument, "q"):
        onnx_nodes.graph([one], inputs, {}, ["y"], kernels_library)


@pytest.mark.parametrize(
    ("name", "shape", "says"),
    [
        ("q", (2, 65, 239), "q"),
        ("q", (2, 2, 65, 240), "q 3 axes"),
        ("keys", (2, 2, 201, 24), "values"),
        ("keys", (2, 3, 200, 24), "values"),
        ("k", (2, 65, 47), "k v"),
        ("v", (2, 64, 48), "k v"),
        ("last", (3,), "last"),
        ("sin", (400, 7), "sin"),
        ("positions", (2, 64), "positions"),
        ("sinks", (5,), "sinks"),
        ("cos", (194, 8), "fit"),
        ("v_scale", (2, 23), "k_scale v_scale"),
        ("k_scale", (2, 12), "k_scale v_scale"),
    ],
)
def test_the_operator_refuses_other_shapes(kernels_library, name, shape, says):
    call = example(name == "q", {"v_scale": np.int8, "k_scale": np.uint8}.get(name, np.float32))
    arrays = node_inputs(call)
    integers = {"last": np.int32, "positions": np.int64}
    arrays[name] = np.zeros(shape, integers.get(name, np.float32))
    if name == "cos":
        arrays["sin"] = arrays["cos"]
    with refused(onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument, *says.split()):
        onnx_nodes.graph([node(call, arrays)], arrays, {}, ["y", "new_keys", "new_values"], kernels_library)

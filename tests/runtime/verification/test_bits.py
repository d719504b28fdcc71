"""Kernels compute what is specified to the bit where they promise the same bits; another graph doesn't."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from helpers import tiny_models
from helpers.exported import export_once, rehash
from tfm.refimpl.config import (
    LM,
    XIELU,
    Activation,
    Config,
    Decoder,
    FirstToken,
    FullAttention,
    Gated,
    Learned,
    Plain,
    Pool,
    RelativeBias,
    RMSNorm,
    Sinusoidal,
    SparseMixer,
    Stack,
    Window,
)  # fmt: skip
from tfm.runtime.bundle.bundle import Bundle, open_bundle
from tfm.runtime.kernels.specification import KernelReference
from tfm.runtime.verification.checks import bits, kernels
from tfm.runtime.verification.checks.context import VerifyContext
from tfm.runtime.verification.report import NOT_REACHED, Row


def functions() -> Config:
    """A layer with each function of numbers, gates of what attention gives, and a cap of the logits."""
    base = tiny_models.llama(bias=True)
    attention = replace(base.layers[0].attention, output_gate=True)
    kinds: list[Activation | XIELU] = ["gelu", "gelu_tanh", "tanh", "quick_gelu", "silu", "mish", XIELU()]
    mlps = [Plain(70, kind, bias=True, pre=RMSNorm(1e-5)) for kind in kinds] + [Gated(70, "gelu_tanh")]
    layers = (replace(base.layers[0], attention=attention, mlp=mlp) for mlp in mlps)
    return replace(tiny_models.of_layers(base, layers), head=LM(tied=True, softcap=3.0))


def means() -> Config:
    """Means of texts, of length 1, in layers with windows, and with positions that are added to scores."""
    base = tiny_models.encoder(head=Pool("mean", unit=True), heads=6)
    first, second = (layer.attention for layer in base.stack.layers)
    mixers = (replace(first, position=RelativeBias(8, 20)), replace(second, mask=Window(5)))
    layers = (replace(layer, attention=mixer) for layer, mixer in zip(base.stack.layers, mixers, strict=True))
    return replace(base, stack=replace(base.stack, layers=tuple(layers)))


def routed() -> Config:
    """Mixtures with each kind of router."""
    base = tiny_models.mixture()
    mlp = replace(base.layers[0].mlp, experts=5, score=SparseMixer(0.5), renormalize=False)
    return tiny_models.of_layers(base, (*base.layers, replace(base.layers[0], mlp=mlp)))


def capped(stack: Stack) -> Stack:
    """A stack whose attentions have sinks and a soft cap of scores, the first one in a window."""
    of_all = {"softcap": 2.0, "sink_logits": True}
    masks = (Window(5), *(FullAttention(),) * len(stack.layers[1:]))
    attentions = (
        replace(one.attention, mask=mask, **of_all) for one, mask in zip(stack.layers, masks, strict=True)
    )
    layers = (replace(one, attention=a) for one, a in zip(stack.layers, attentions, strict=True))
    return replace(stack, layers=tuple(layers))


def written_out() -> Config:
    """Attention to whole texts that no operator computes, and kernels of a token's own."""
    base, near = tiny_models.encoder(heads=6), tiny_models.near_and_far().stack.layers
    stack = capped(base.stack)
    return replace(base, stack=replace(stack, layers=(*stack.layers, *near), positions=Sinusoidal(offset=2)))


def capped_pair() -> Config:
    """An encoder and a decoder of T5Gemma's form, with fewer keys than queries."""
    base = tiny_models.rotary_encoder_decoder()
    cross = [replace(layer.cross, softcap=3.0, heads=4, kv_heads=2) for layer in base.decoder.layers]
    layers = (replace(layer, cross=one) for layer, one in zip(base.decoder.layers, cross, strict=True))
    return replace(base, encoder=capped(base.encoder), decoder=replace(base.decoder, layers=tuple(layers)))


CONFIGS: dict[str, Config] = {
    "biases": tiny_models.llama(bias=True, qk_norm=True, vocabulary=101, mlp=79, context=700),
    "windows": tiny_models.mixed_windows(context=700),
    "convolutions": tiny_models.convolutions(),
    "an output matrix of its own": tiny_models.llama(tied=False, context=40),
    "a window": tiny_models.llama(window=7),
    "codes": tiny_models.llama(context=700).with_kv("int8"),
    "outputs with norms": tiny_models.normed_outputs(),
    "sparse": tiny_models.block_sparse(),
    "heads by layer": tiny_models.heads_by_layer(),
    "keys of other layers": tiny_models.shared_kv(),
    "clusters": tiny_models.adaptive(),
    "gated deltas": tiny_models.gated_deltas(),
    "state spaces": tiny_models.state_spaces(),
    "scans": tiny_models.selective_scans(),
    "latents": tiny_models.latents(context=700),
    "added positions": tiny_models.added_positions(),
    "a mixture": routed(),
    "sinks": tiny_models.sinks(),
    "plain": tiny_models.llama(plain=True, kind="gelu"),
    "functions": functions(),
    "an encoder": tiny_models.encoder(),
    "a long encoder": replace(tiny_models.encoder(positions=Learned(90)), context=90),
    "an encoder and a decoder": tiny_models.encoder_decoder(),
    "a sound": tiny_models.hearing(),
    "means": means(),
    "written out": written_out(),
    "blocks and ends": tiny_models.in_blocks(),
    "distances": tiny_models.distant(),
    "distances by other matrices": tiny_models.distant(shared=False, log_until=None),
    "a window on both sides": tiny_models.windowed(),
    "a window and the first token": tiny_models.windowed(spread=FirstToken()),
    "narrow vectors": tiny_models.narrow(),
    "latents of a whole text": tiny_models.reading_latents(),
    "caps of an encoder and a decoder": capped_pair(),
    "streams": tiny_models.altup(),
}
PROMISED = (
    "biases", "windows", "convolutions", "an output matrix of its own", "a window", "codes",
    "outputs with norms", "plain", "functions", "heads by layer", "keys of other layers",
    "a mixture", "sinks", "gated deltas", "state spaces", "scans",
    "latents", "added positions", "sparse", "an encoder and a decoder", "a sound",
    "caps of an encoder and a decoder",
)  # fmt: skip
# By operators that have no kernels: logarithms of softmax, and means.
UNPROMISED = ("clusters", "streams")
RARE = [(name, "int8") for name in (*PROMISED[1:], *UNPROMISED)]
RARE += [(name, quant) for name in ("biases", "functions") for quant in ("int4", "int8-dynamic")]
CASES = [("biases", "int8"), *(pytest.param(*case, marks=pytest.mark.long) for case in RARE)]

# Encoders whose attention has an op of its own, which the graph writes out or gives a bias.
OWN_ATTENTION = (
    "distances", "distances by other matrices", "a window on both sides", "a window and the first token",
    "narrow vectors", "latents of a whole text",
)  # fmt: skip

pytestmark = pytest.mark.usefixtures("kernels_on")


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str, str], Bundle]:
    return export_once(tmp_path_factory.mktemp("bits"), CONFIGS)


def quick(bundle: Bundle) -> list[Row]:
    """The rows of the quick check over kernels."""
    return [*kernels.check_kernels(context_of(bundle))]


def context_of(bundle: Bundle, until: float = float("inf")) -> VerifyContext:
    return VerifyContext(bundle, None, None, until, "cpu", 1)


@pytest.mark.parametrize(("name", "quant"), CASES)
def test_kernels_are_equal_to_the_bit_where_it_is_promised(bundles, name: str, quant: str) -> None:
    bundle = bundles(name, "ort-cpu", quant)
    rows = quick(bundle)
    assert not [row for row in rows if row.ok is False]
    promised = name in PROMISED
    assert any(row.figure == "not promised" for row in rows) == (not promised)
    if promised:
        longest = bundle.config.context
        count, past = (
            sum(min(length, longest) for length in bits.ROWS),
            min(bits.PAST, bundle.config.context - 1),
        )
        ends = {(row.name.partition(": ")[2], row.figure, row.of, row.ok) for row in rows}
        over, after = f"over {count} tokens", f"after {past} drawn tokens"
        expected = {(f"{bits.EQUAL} {over}", count, count, True)}
        if isinstance(bundle.config, Decoder):
            expected.add((f"{bits.EQUAL} {after}", 1, 1, True))
        assert ends == expected
    else:
        assert rows[0].note.endswith("of ONNX Runtime")


@pytest.mark.parametrize(
    ("name", "quant"),
    [
        ("means", "int8-dynamic"),
        ("written out", "int8"),
        ("blocks and ends", "int8"),
        *(
            pytest.param("an encoder", quant, marks=pytest.mark.long)
            for quant in ("int8-dynamic", "int8", "int4")
        ),
        *(pytest.param(name, "int8", marks=pytest.mark.long) for name in OWN_ATTENTION),
    ],
)
def test_a_text_that_is_encoded_has_the_same_bits_beside_others(bundles, name: str, quant: str) -> None:
    bundle = bundles(name, "ort-cpu", quant)
    found = kernels.on_kernels(context_of(bundle))
    assert isinstance(found, kernels.OnKernels)
    assert found.engine.same_bits
    count = sum(min(length, bundle.config.context) for length in bits.ROWS)
    found_rows = {(row.name.partition(": ")[2], row.figure, row.ok) for row in quick(bundle)}
    assert found_rows == {(f"{bits.EQUAL} over {count} tokens", count, True)}
    ids, lengths = np.random.default_rng(0).integers(0, 97, (3, 30)), np.array([30, 23, 7])
    together = found.engine.predict(ids, lengths)
    for row, length in enumerate(lengths):
        alone = found.engine.predict(ids[row : row + 1, :length])
        pooled = isinstance(bundle.config.head, Pool)
        part = together[row] if pooled else together[row, :length]
        assert np.array_equal(alone[0].view(np.int32), part.view(np.int32))


@pytest.mark.long
@pytest.mark.parametrize("name", ["biases", "windows", "convolutions", "codes", "keys of other layers"])
def test_a_long_text_is_equal_to_the_bit(bundles, name: str) -> None:
    """Past a segment of keys and the windows, in chunks that end anywhere."""
    bundle = bundles(name, "ort-cpu", "int8")
    rows = [*kernels.check_text_to_the_bit(context_of(bundle))]
    count = min(*bits.TEXT, bundle.config.context)
    assert rows
    assert {(row.figure, row.of, row.ok, row.note) for row in rows} == {(count, count, True, "")}


def attribute(
    operator: str, name: str, change: Callable[[float], float]
) -> Callable[[onnx.ModelProto], None]:
    """Change a number of the last node of an operator."""

    def plant(model: onnx.ModelProto) -> None:
        node = [node for node in model.graph.node if node.op_type == operator][-1]
        (found,) = (a for a in node.attribute if a.name == name)
        value = change(onnx.helper.get_attribute_value(found))
        node.attribute.remove(found)
        node.attribute.append(onnx.helper.make_attribute(name, value))

    return plant


def swapped(model: onnx.ModelProto) -> None:
    """The last sum of a layer and a norm takes its two numbers from one place."""
    node = [node for node in model.graph.node if node.op_type == "AddRMSNorm"][-1]
    node.input[1] = node.input[0]


PLANTS = {
    "a window": attribute("Attention", "local_window_size", lambda _: 60),
    "a scale": attribute(
        "Attention", "scale", lambda scale: float(np.nextafter(np.float32(scale), np.float32(9)))
    ),
    "a cap": attribute("Attention", "softcap", lambda _: 50.0),
    "an eps": attribute("RMSNorm", "epsilon", lambda _: 2e-5),
    "an edge": swapped,
}


@pytest.mark.parametrize("plant", PLANTS)
def test_another_graph_has_other_bits(bundles, tmp_path: Path, plant: str) -> None:
    path = shutil.copytree(bundles("biases", "ort-cpu", "int8").path, tmp_path / "bundle")
    model = onnx.load(path / "kernels.onnx", load_external_data=False)
    PLANTS[plant](model)
    onnx.save(model, path / "kernels.onnx")
    rehash(path)
    assert [row for row in quick(open_bundle(path)) if row.ok is False]


def test_a_long_text_of_an_encoder_shows_what_64_tokens_do_not(bundles, tmp_path: Path) -> None:
    """A graph that looks up the position 40 for all later positions."""
    bundle = bundles("a long encoder", "ort-cpu", "int8")
    rows = [*kernels.check_text_to_the_bit(context_of(bundle))]
    assert rows
    assert {(row.figure, row.of, row.ok) for row in rows} == {(90, 90, True)}

    path = shutil.copytree(bundle.path, tmp_path / "bundle")
    model = onnx.load(path / "kernels.onnx", load_external_data=False)
    (clip,) = (node for node in model.graph.node if node.op_type == "Clip")
    (last,) = (value for value in model.graph.initializer if value.name == clip.input[2])
    last.CopyFrom(onnx.numpy_helper.from_array(np.int64(40), last.name))
    onnx.save(model, path / "kernels.onnx")
    rehash(path)
    wrong = open_bundle(path)
    assert {row.ok for row in quick(wrong)} == {True}
    assert {row.ok for row in kernels.check_text_to_the_bit(context_of(wrong))} == {False}


def test_a_row_says_where_the_first_other_bits_are(bundles, monkeypatch: pytest.MonkeyPatch) -> None:
    """The specification over other weights of the second layer."""
    bundle = bundles("biases", "ort-cpu", "int8")

    def other(context: VerifyContext) -> KernelReference:
        reference = KernelReference(context.bundle.config, context.bundle.params(), halved="cache")
        layers = [dict(layer) for layer in reference.params["decoder"]["layers"]]
        layers[1]["attn"] = dict(layers[1]["attn"]) | {"bk": layers[1]["attn"]["bk"] + np.float32(0.01)}
        decoder = dict(reference.params["decoder"]) | {"layers": layers}
        return KernelReference(
            context.bundle.config, dict(reference.params) | {"decoder": decoder}, halved="cache"
        )

    monkeypatch.setattr(bits, "_reference", other)
    rows = quick(bundle)  # of each instruction set: over tokens, and behind what is drawn
    over_tokens, after_drawn = rows[0], rows[len(rows) // 2]
    assert (over_tokens.ok, over_tokens.of, after_drawn.ok, after_drawn.of) == (False, 64, False, 1)
    assert re.match("first at token 1 of text 1; layer 1 [^;]* k;", over_tokens.note)
    assert re.match("first at token 600; layer 1 [^;]* k;", after_drawn.note)


def test_what_time_leaves_out_is_said(bundles) -> None:
    context = context_of(bundles("biases", "ort-cpu", "int8"), until=0)
    (row,) = kernels.check_text_to_the_bit(context)
    assert (row.figure, row.ok, row.missing) == (None, None, NOT_REACHED)

"""Bugs planted in a graph are found in their part and in no other."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from helpers import tiny_models
from helpers.exported import export_once, rehash
from helpers.refused import refused
from tfm.cli.commands.verify import divergence
from tfm.export.diagnose.locate import Part, first, locate
from tfm.refimpl.config import Decoder
from tfm.refimpl.errors import BundleError
from tfm.runtime.bundle.bundle import Bundle, open_bundle


def sandwich() -> Decoder:
    """Norms on both sides of each sublayer, as in Gemma 2."""
    config, norm = tiny_models.llama(), tiny_models.RMSNorm(1e-5)
    layers = (
        replace(layer, attention=replace(layer.attention, post=norm), mlp=replace(layer.mlp, post=norm))
        for layer in config.layers
    )
    return tiny_models.of_layers(config, layers)


def gated_and_parallel() -> Decoder:
    """A gate of each head's output, and an mlp beside the attention with its own norm (GPT-NeoX)."""
    config = tiny_models.llama()
    gated = replace(config.layers[0].attention, output_gate=True)
    return tiny_models.of_layers(config, [replace(config.layers[0], attention=gated, parallel=True)] * 2)


TOKENS = np.random.default_rng(5).integers(0, 97, (2, 7))
CONFIGS = {
    "llama": tiny_models.llama(),
    "everything": tiny_models.llama(tied=False, bias=True, qk_norm=True, window=3),
    "plain": tiny_models.llama(plain=True, kind="gelu", head_size=12),
    "added": tiny_models.added_positions(),
    "mixture": tiny_models.mixture(),
    "rare": tiny_models.rare(),
    "sandwich": sandwich(),
    "gated and parallel": gated_and_parallel(),
    "states": tiny_models.state_spaces(),
    "streams": tiny_models.altup(),
    "codes": tiny_models.llama(qk_norm=True).with_kv("int8"),
}
MADE = [
    ("llama", "ort-cpu", "int8"),
    ("llama", "standard", "fp16"),
]
CODES = ("codes", "ort-cpu", "int8")
RARER = [
    ("plain", "ort-cpu", "fp32"),
    CODES,
    ("everything", "ort-cpu", "int8-dynamic"),
    ("plain", "standard", "int8"),
    ("added", "ort-cpu", "int8"),
    ("sandwich", "standard", "fp32"),
]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory) -> Callable[[str, str, str], Bundle]:
    return export_once(tmp_path_factory.mktemp("locate"), CONFIGS)


def nodes(graph: onnx.GraphProto, kind: str) -> list[onnx.NodeProto]:
    return [node for node in graph.node if node.op_type == kind]


def attribute(node: onnx.NodeProto, name: str) -> onnx.AttributeProto:
    return next(a for a in node.attribute if a.name == name)


def plant(source: Path, out: Path, bug: Callable[[onnx.GraphProto], None]) -> Path:
    """A copy of the bundle with a bug in its graph, hashes renewed."""
    shutil.copytree(source, out)
    model = onnx.load(out / "model.onnx", load_external_data=False)
    bug(model.graph)
    onnx.save(model, out / "model.onnx")
    rehash(out)
    return out


@pytest.mark.parametrize(
    "made", [*MADE, *(pytest.param(made, marks=pytest.mark.long) for made in RARER)], ids="-".join
)
def test_every_part_of_a_correct_graph_is_within_budget(bundles, made):
    layers = len(CONFIGS[made[0]].layers)
    parts = locate(bundles(*made), TOKENS)
    assert [part.name for part in parts[:3]] == [
        "embedding",
        "layer 0, attention, input",
        "layer 0, attention, heads",
    ]
    assert [part.name for part in parts[-3:]] == [f"layer {layers - 1}, output", "head, input", "logits"]
    assert len(parts) == 1 + layers * 6 + 2
    assert first(parts) is None, first(parts)
    assert any(part.error > 0 for part in parts)


def names(parts: list[Part]) -> list[str]:
    return [part.name for part in parts]


def layer(i: int, *kinds: str) -> list[str]:
    return [f"layer {i}, {kind}" for kind in kinds]


ATTENTION = ("attention, input", "attention, heads")


def test_a_mixture_is_one_part(bundles):
    """It has no single hidden value."""
    parts = locate(bundles("mixture", "ort-cpu", "int8"), TOKENS)
    each = (*ATTENTION, "attention, output", "mlp, input", "output")
    assert names(parts) == ["embedding", *layer(0, *each), *layer(1, *each), "head, input", "logits"]
    assert first(parts) is None, first(parts)


def test_a_parallel_layer_has_no_value_between_its_sublayers(bundles):
    parts = locate(bundles("gated and parallel", "ort-cpu", "fp32"), TOKENS)
    each = (*ATTENTION, "mlp, input", "mlp, hidden", "output")
    assert names(parts) == ["embedding", *layer(0, *each), *layer(1, *each), "head, input", "logits"]
    assert first(parts) is None, first(parts)


@pytest.mark.long
@pytest.mark.parametrize("made", [("rare", "int8"), ("states", "int8"), ("streams", "fp32")], ids="-".join)
def test_every_kind_of_layer_is_taken_apart(bundles, made):
    """Residuals at the norm, recurrences without heads, several streams of a token."""
    name, quant = made
    parts = locate(bundles(name, "ort-cpu", quant), TOKENS)
    for i in range(len(CONFIGS[name].layers)):
        assert f"layer {i}, attention, input" in names(parts)
    assert names(parts)[-1] == "logits"
    assert first(parts) is None, first(parts)


def wrong_eps(graph: onnx.GraphProto) -> None:
    attribute(nodes(graph, "RMSNormalization")[2], "epsilon").f = 1e-3


def wrong_scale(graph: onnx.GraphProto, layer: int = 1) -> None:
    attribute(nodes(graph, "GroupQueryAttention")[layer], "scale").f *= 1.01


def swapped_gate(graph: onnx.GraphProto) -> None:
    outputs = nodes(graph, "Split")[0].output
    outputs[0], outputs[1] = outputs[1], outputs[0]


def lost_residual(graph: onnx.GraphProto) -> None:
    """The mlp's sum takes the stream from before the attention."""
    sums = [node for node in nodes(graph, "Add") if node.name.startswith("decoder.layers")]
    sums[1].input[0] = sums[0].input[0]


def wrong_head(graph: onnx.GraphProto) -> None:
    attribute(nodes(graph, "RMSNormalization")[-1], "epsilon").f = 1e-2


@pytest.mark.parametrize(
    ("bug", "place"),
    [
        (wrong_eps, "layer 1, attention, input"),
        (wrong_scale, "layer 1, attention, heads"),
        (swapped_gate, "layer 0, mlp, hidden"),
        (lost_residual, "layer 0, output"),
        (wrong_head, "head, input"),
    ],
)
def test_a_planted_bug_is_named(bundles, tmp_path, bug, place):
    path = plant(bundles("llama", "ort-cpu", "int8").path, tmp_path / "out", bug)
    parts = locate(open_bundle(path), TOKENS)
    assert [part.name for part in parts if not part.ok] == [place]
    found = first(parts)
    assert found is not None
    assert ("fused operator" in found.note) == (bug is wrong_scale)


def swapped_experts(graph: onnx.GraphProto) -> None:
    """Expert 1 of layer 1 takes the tokens of expert 0."""
    equal = [node for node in nodes(graph, "Equal") if node.name.startswith("decoder.layers.1.mlp")]
    asked = [node for node in equal if node.input[1].startswith("expert.")]
    asked[1].input[1] = asked[0].input[1]


def wrong_gate(graph: onnx.GraphProto) -> None:
    """The gate of layer 0 is a tanh."""
    nodes(graph, "Sigmoid")[0].op_type = "Tanh"


def lost_mlp(graph: onnx.GraphProto) -> None:
    """The last sum of layer 0 takes what the attention gave twice."""
    sums = [node for node in nodes(graph, "Add") if node.output[0].startswith("decoder.layers.0.")]
    sums[-1].input[1] = sums[-1].input[0]


@pytest.mark.parametrize(
    ("made", "bug", "place"),
    [
        (("mixture", "int8"), swapped_experts, "layer 1, output"),
        (("gated and parallel", "fp32"), wrong_gate, "layer 0, attention, heads"),
        (("gated and parallel", "fp32"), lost_mlp, "layer 0, output"),
    ],
)
def test_a_bug_is_named_beside_a_mixture_a_gate_or_a_parallel_mlp(bundles, tmp_path, made, bug, place):
    name, quant = made
    parts = locate(open_bundle(plant(bundles(name, "ort-cpu", quant).path, tmp_path / "out", bug)), TOKENS)
    assert [part.name for part in parts if not part.ok] == [place]


def test_a_wrong_attention_over_codes_is_named(bundles, tmp_path):
    """In layer 0: a key of layer 1 lies so near the edge between two codes that a budget has room for
    both."""
    planted = plant(bundles(*CODES).path, tmp_path / "out", partial(wrong_scale, layer=0))
    bad_part = first(locate(open_bundle(planted), TOKENS))
    assert bad_part is not None
    assert bad_part.name == "layer 0, attention, heads"
    assert "fused operator" in bad_part.note


def test_a_graph_of_other_weights_is_refused(bundles, tmp_path):
    def rename(graph: onnx.GraphProto) -> None:
        for value in graph.initializer:
            value.name = value.name.replace("mlp.down", "mlp.other")

    path = plant(bundles("llama", "ort-cpu", "int8").path, tmp_path / "out", rename)
    with refused(BundleError, "decoder.layers.0.mlp.down"):
        locate(open_bundle(path), TOKENS)


def test_the_command_names_the_first_divergence(bundles, tmp_path):
    honest = bundles("llama", "ort-cpu", "int8").path
    path = plant(honest, tmp_path / "out", swapped_gate)
    assert ": layer 0, mlp, hidden, error " in divergence(path)
    assert divergence(honest) == ""
    (path / "model.onnx").write_bytes(b"damaged")
    assert divergence(path) == ""

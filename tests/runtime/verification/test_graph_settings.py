"""Settings of graphs are compared with the Config: sound bundles pass, each wrong setting is told."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from shutil import copytree

import numpy as np
import onnx
import pytest
from helpers import tiny_models
from helpers.exported import export_once, rehash
from helpers.refused import pattern
from tfm.refimpl.config import (
    Classify,
    Config,
    Dense,
    Gated,
    LayerNorm,
    MoE,
    NeighbourConv,
    PerLayerInput,
    Plain,
    QuestionTokens,
    Tag,
    TokenDropout,
)
from tfm.runtime.bundle.bundle import Bundle, open_bundle
from tfm.runtime.verification import graph_settings
from tfm.runtime.verification.checks.context import VerifyContext
from tfm.runtime.verification.checks.graphs import check_graphs
from tfm.runtime.verification.config_numbers import distance_tables, numbers
from tfm.runtime.verification.report import Row
from tfm.runtime.verification.verify import verify

Model = onnx.ModelProto
Plant = Callable[[Model], None]
BOTH = ("model.onnx", "kernels.onnx")
ATTENTIONS = ("GroupQueryAttention", "Attention")
NORMS = ("RMSNormalization", "RMSNorm", "AddRMSNorm")


def mixed() -> Config:
    """Windows of two sizes, a soft cap, two rotary settings and a layer without; eps and scales differ."""
    base = tiny_models.mixed_windows()
    first, second, third, fourth = (layer.attention for layer in base.layers)
    attentions = (
        first,
        replace(second, scale=0.3),
        replace(third, softcap=2.5, pre=replace(third.pre, eps=1e-6)),
        fourth,
    )
    pairs = zip(base.layers, attentions, strict=True)
    layers = tuple(replace(layer, attention=attention) for layer, attention in pairs)
    return replace(base, stack=replace(base.stack, layers=layers))


def encoder() -> Config:
    """Of BERT's form, with its activation."""
    base = tiny_models.encoder()
    layers = tuple(replace(layer, mlp=replace(layer.mlp, activation="gelu")) for layer in base.stack.layers)
    return replace(base, stack=replace(base.stack, layers=layers))


def reader() -> Config:
    """Of a decoder's layers over a whole text, some with the keys and values of earlier ones."""
    return tiny_models.reader(tiny_models.shared_kv())


def comparing() -> Config:
    """Whose graph compares tokens with a mask, with the end of a question and of a text, and with experts."""
    base = tiny_models.windowed(head=Classify(3, "last", end=7), spread=QuestionTokens(5))
    first, second = base.stack.layers
    experts = replace(second, mlp=MoE(3, 2, 24, "silu", after=LayerNorm(1e-5)))
    embedding = replace(base.embedding, token_dropout=TokenDropout(80))
    return replace(base, embedding=embedding, stack=replace(base.stack, layers=(first, experts)))


CONFIGS: dict[str, Config] = {
    "mixed": mixed(), "encoder": encoder(), "reader": reader(), "narrow": tiny_models.narrow(),
    "merging": tiny_models.merging(), "comparing": comparing(),
}  # fmt: skip


@pytest.fixture(scope="module")
def bundles(tmp_path_factory) -> Callable[[str, str, str], Bundle]:
    return export_once(tmp_path_factory.mktemp("exported"), CONFIGS)


def rows(path: Path) -> dict[str, Row]:
    """What the check says of each graph, by its file."""
    found = check_graphs(VerifyContext(open_bundle(path), None, None, float("inf"), "cpu", 1))
    return {row.name.split(":")[0]: row for row in found}


def planted(bundle: Path, folder: Path, file: str, plant: Plant) -> Path:
    """A copy of a bundle with another graph, and the hashes that it then has."""
    path = Path(copytree(bundle, folder / "planted"))
    model = onnx.load(path / file, load_external_data=False)
    before = model.SerializeToString(deterministic=True)
    plant(model)
    assert model.SerializeToString(deterministic=True) != before, "the plant found its place"
    onnx.save(model, path / file)
    rehash(path)
    (path / "certificate.json").unlink()
    return path


def nodes(model: Model, operators: tuple[str, ...]) -> list[onnx.NodeProto]:
    found = [node for node in model.graph.node if node.op_type in operators]
    assert found
    return found


def stated(node: onnx.NodeProto, name: str, value: object) -> None:
    """Give a node an attribute, in the place of the one that it has."""
    kept = [attribute for attribute in node.attribute if attribute.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, onnx.helper.make_attribute(name, value)])


def setting(operators: tuple[str, ...], name: str, value: object, which: slice = slice(None)) -> Plant:
    def plant(model: Model) -> None:
        for node in nodes(model, operators)[which]:
            stated(node, name, value)

    return plant


def other_input(operators: tuple[str, ...], names: dict[str, str], which: slice = slice(None)) -> Plant:
    """Nodes read other inputs of the graph."""

    def plant(model: Model) -> None:
        for node in nodes(model, operators)[which]:
            for i, name in enumerate(node.input):
                node.input[i] = names.get(name, name)

    return plant


def other_operator(operators: tuple[str, ...], operator: str) -> Plant:
    """The first of some nodes is another operator of the same inputs."""

    def plant(model: Model) -> None:
        node = nodes(model, operators)[0]
        node.op_type, node.domain = operator, ""
        del node.attribute[:]

    return plant


def scales_of_another_layer(model: Model) -> None:
    """Two layers' outputs of attention have each other's scales."""
    products = [
        node
        for node in nodes(model, ("MatMulNBits", "BlockLinear"))
        if any(name.endswith("attn.wo.scale") for name in node.input)
    ]
    places = [next(i for i, name in enumerate(node.input) if "wo.scale" in name) for node in products[:2]]
    (one, i), (other, j) = zip(products, places, strict=False)
    one.input[i], other.input[j] = other.input[j], one.input[i]


FIRST, THIRD, LAST = slice(0, 1), slice(2, 3), slice(-1, None)
PLANTS: dict[str, Plant] = {
    "window 64 in all": setting(ATTENTIONS, "local_window_size", 64),
    "window 600 in one": setting(ATTENTIONS, "local_window_size", 600, LAST),
    "a window left out": setting(ATTENTIONS, "local_window_size", -1, FIRST),
    "eps of one norm": setting(NORMS, "epsilon", 1e-6, FIRST),
    "eps of the last norm": setting(NORMS, "epsilon", 1e-6, LAST),
    "eps of all norms": setting(NORMS, "epsilon", 1e-6),
    "scale in one layer": setting(ATTENTIONS, "scale", 0.126, slice(1, 2)),
    "scale in the last layer": setting(ATTENTIONS, "scale", 0.1255, LAST),
    "interleaved": setting(ATTENTIONS, "rotary_interleaved", 1, FIRST),
    "not interleaved": setting(ATTENTIONS, "rotary_interleaved", 0, THIRD),
    "soft cap": setting(ATTENTIONS, "softcap", 2.0, THIRD),
    "another soft cap": setting(ATTENTIONS, "softcap", 30.0, FIRST),
    "heads": setting(ATTENTIONS, "num_heads", 3, FIRST),
    "heads of keys": setting(ATTENTIONS, "kv_num_heads", 3, FIRST),
    "cosines of another setting": other_input(ATTENTIONS, {"cos.0": "cos.1", "sin.0": "sin.1"}),
    "no rotation": other_input(ATTENTIONS, {"cos.0": "", "sin.0": ""}, FIRST),
    "keys of another layer": other_input(ATTENTIONS, {"k.0": "k.1", "k.1": "k.0"}),
    "scales of another layer": scales_of_another_layer,
    "a norm left out": other_operator(("RMSNormalization", "RMSNorm"), "Mul"),
    "bits": setting(("MatMulNBits", "BlockLinear"), "bits", 4, FIRST),
}


@pytest.mark.parametrize("file", BOTH)
@pytest.mark.parametrize("plant", PLANTS)
def test_a_wrong_setting_is_told(bundles, tmp_path, plant, file):
    found = rows(planted(bundles("mixed", "ort-cpu", "int8").path, tmp_path, file, PLANTS[plant]))
    assert {name: row.ok for name, row in found.items()} == {name: name != file for name in BOTH}


OPERATORS: dict[str, Plant] = {
    "rotation switched off": setting(ATTENTIONS, "do_rotary", 0, FIRST),
    "not causal": setting(ATTENTIONS, "causal", 0),
    "inputs of products in float": setting(("MatMulNBits",), "accuracy_level", 0, LAST),
    "a number in any attribute": setting(("Sigmoid",), "alpha", 0.3, LAST),
    "another activation": other_operator(("Sigmoid",), "Tanh"),
    "no activation": other_operator(("Sigmoid",), "Abs"),
}


@pytest.mark.parametrize("plant", OPERATORS)
def test_a_wrong_setting_of_onnx_runtimes_operators_is_told(bundles, tmp_path, plant):
    found = rows(planted(bundles("mixed", "ort-cpu", "int8").path, tmp_path, "model.onnx", OPERATORS[plant]))
    assert {name: row.ok for name, row in found.items()} == {"model.onnx": False, "kernels.onnx": True}


def test_places_in_a_cache_for_positions_are_told(bundles, tmp_path):
    """In a layer with a window and without rotation, because an older tfm wrote the graph."""

    def plant(model: Model) -> None:
        nodes(model, ("Attention",))[-1].input[8] = ""

    found = rows(planted(bundles("mixed", "ort-cpu", "int8").path, tmp_path, "kernels.onnx", plant))
    assert {name: row.ok for name, row in found.items()} == {"model.onnx": True, "kernels.onnx": False}
    assert re.search(pattern("decoder.layers.3", "no positions", "export"), found["kernels.onnx"].note)


def other_number(old: float, new: float, which: slice = slice(None), *, operator: str = "") -> Plant:
    """Nodes, or those of an operator, compute with another number of the graph's own."""

    def plant(model: Model) -> None:
        inside = [value for value in model.graph.initializer if not value.external_data]
        held = {value.name: onnx.numpy_helper.to_array(value) for value in inside}
        kind = "f" if isinstance(old, float) else "i"
        single = {name: value for name, value in held.items() if value.size == 1 and value.dtype.kind == kind}
        old_names = {name for name, value in single.items() if value == value.dtype.type(old)}
        of = [node for node in model.graph.node if operator in ("", node.op_type)]
        readers = [node for node in of if old_names & {*node.input}]
        assert readers
        for node in readers[which]:
            i, name = next((i, name) for i, name in enumerate(node.input) if name in old_names)
            changed = np.full_like(held[name], new)
            if f"{name}.new" not in {value.name for value in model.graph.initializer}:
                model.graph.initializer.append(onnx.numpy_helper.from_array(changed, f"{name}.new"))
            node.input[i] = f"{name}.new"

    return plant


WRITTEN_OUT: dict[str, Plant] = {
    "eps of one norm": other_number(1e-5, 1e-6, FIRST),
    "eps of the other one": other_number(1e-6, 1e-5, LAST),
    "eps of all norms": other_number(1e-5, 1e-4),
    "scale in one layer": other_number(0.25, 0.126, FIRST),
    "window 64": other_number(5, 64),
    "scale that is another layer's soft cap": other_number(0.25, 2.5, FIRST),
    "soft cap": other_number(2.5, 2.7),
}


@pytest.mark.parametrize("plant", WRITTEN_OUT)
def test_a_wrong_number_of_a_plain_graph_is_told(bundles, tmp_path, plant):
    path = planted(bundles("mixed", "standard", "fp32").path, tmp_path, "model.onnx", WRITTEN_OUT[plant])
    assert {name: row.ok for name, row in rows(path).items()} == {"model.onnx": False}


@pytest.mark.parametrize("other", ["Tanh", "Abs"])
def test_another_activation_of_an_mlp_in_a_bottleneck_is_told(bundles, tmp_path, other):
    bundle = bundles("narrow", "standard", "fp32").path
    assert [row.ok for row in rows(bundle).values()] == [True]
    path = planted(bundle, tmp_path, "model.onnx", other_operator(("Relu",), other))
    assert [row.ok for row in rows(path).values()] == [False]


MERGED: dict[str, tuple[str, Plant]] = {
    "eps of the other text's keys": ("encoder.onnx", setting(NORMS, "epsilon", 1e-5)),
    "later positions of a window": ("encoder.onnx", other_number(4, 65)),
    "a window of the decoder": ("model.onnx", other_number(3, 65)),
    "a token apart": ("encoder.onnx", other_number(5, 6, operator="Equal")),
    "a token apart in the decoder": ("model.onnx", other_number(5, 0, operator="Equal")),
}


def places_swapped(model: Model) -> None:
    """A chosen expert isn't the one that is left out of the next choice."""
    held = {value.name: value for value in model.graph.initializer}
    (name, *_) = (
        name for node in nodes(model, ("Equal",)) for name in node.input if name in held and held[name].dims
    )
    value = held[name]
    value.CopyFrom(onnx.numpy_helper.from_array(np.roll(onnx.numpy_helper.to_array(value), 1), name))


COMPARED: dict[str, Plant] = {
    "a mask": other_number(80, 81, operator="Equal"),
    "the end of a question": other_number(5, 4, operator="Equal"),
    "the end of a text": other_number(7, 0, operator="Equal"),
    "an expert": other_number(2, 1, operator="Equal"),
    "experts that were chosen": places_swapped,
}


@pytest.mark.parametrize("plant", COMPARED)
def test_what_a_graph_compares_with_is_the_configs(bundles, tmp_path, plant):
    bundle = bundles("comparing", "standard", "fp32").path
    assert [row.ok for row in rows(bundle).values()] == [True]
    path = planted(bundle, tmp_path, "model.onnx", COMPARED[plant])
    assert [row.ok for row in rows(path).values()] == [False]


@pytest.mark.parametrize("plant", MERGED)
def test_a_wrong_setting_of_merged_attention_is_told(bundles, tmp_path, plant):
    file, change = MERGED[plant]
    bundle = bundles("merging", "ort-cpu", "fp32").path
    assert all(row.ok for row in rows(bundle).values())
    found = rows(planted(bundle, tmp_path, file, change))
    assert {name for name, row in found.items() if not row.ok} == {file}


def test_norms_in_float32_of_a_bundle_in_float16(bundles, tmp_path):
    bundle = bundles("encoder", "standard", "fp16").path
    plant = setting(("LayerNormalization",), "epsilon", 1e-6)
    assert [row.ok for row in rows(bundle).values()] == [True]
    assert [row.ok for row in rows(planted(bundle, tmp_path, "model.onnx", plant)).values()] == [False]


def looked_up(rows: list[int], largest: int) -> Plant:
    """Distances up to the largest have these rows, as T5's buckets in a graph."""

    def plant(model: Model) -> None:
        values = {"rows": np.array(rows), "largest": np.array(largest), "last": np.array([-1])}
        held = [onnx.numpy_helper.from_array(value, name) for name, value in values.items()]
        model.graph.initializer.extend(held)
        model.graph.node.extend([
            onnx.helper.make_node("Clip", ["lengths", "", "largest"], ["distance"]),
            onnx.helper.make_node("Unsqueeze", ["distance", "last"], ["index"]),
            onnx.helper.make_node("GatherND", ["rows", "index"], ["buckets"]),
        ])  # fmt: skip

    return plant


ROWS = [0, 1, 2, *[3] * 30]  # of distances up to the context, which a graph may compute with


@pytest.mark.parametrize(
    ("found", "largest", "ok"),
    [
        (ROWS, 32, True),
        (ROWS, 31, False),
        (ROWS, 33, False),
        ([*ROWS[:-1], 2], 32, False),
        ([*ROWS, 3], 33, False),
    ],
)
def test_rows_of_distances_beyond_the_golden_tokens_are_compared(
    bundles, tmp_path, monkeypatch, found, largest, ok
):
    monkeypatch.setattr(graph_settings, "distance_tables", lambda _: [tuple(ROWS)])
    plant = looked_up(found, largest)
    path = planted(bundles("encoder", "ort-cpu", "int8-dynamic").path, tmp_path, "model.onnx", plant)
    assert rows(path)["model.onnx"].ok is ok


def test_distances_that_share_rows():
    """As `distance_rows` and `relative_buckets` show it."""
    (table,) = distance_tables(tiny_models.distant())
    assert table == (0, 1, 2, 3, 4, 5, 5, *[6] * 5, *[7] * 8, 8)
    assert (0, 1, *[2] * 5, *[3] * 14) in distance_tables(tiny_models.encoder_decoder())


TEXT_ATTENTION = ("MultiHeadAttention", "TextAttention")
ENCODER: dict[str, tuple[str, Plant]] = {
    "scale": ("model.onnx", setting(TEXT_ATTENTION, "scale", 0.35, LAST)),
    "scale over kernels": ("kernels.onnx", setting(TEXT_ATTENTION, "scale", 0.35, LAST)),
    "heads": ("model.onnx", setting(TEXT_ATTENTION, "num_heads", 3, FIRST)),
    "heads over kernels": ("kernels.onnx", setting(TEXT_ATTENTION, "num_heads", 3, FIRST)),
    "padding": ("model.onnx", setting(TEXT_ATTENTION, "mask_filter_value", -1.0, FIRST)),
    "causal": ("model.onnx", setting(TEXT_ATTENTION, "unidirectional", 1)),
    "activation": ("model.onnx", setting(("Gelu",), "approximate", "tanh", FIRST)),
    "eps": ("model.onnx", setting(("LayerNormalization",), "epsilon", 1e-12, LAST)),
    "eps over kernels": ("kernels.onnx", setting(("LayerNorm", "AddLayerNorm"), "epsilon", 1e-12, FIRST)),
}


@pytest.mark.parametrize("plant", ENCODER)
def test_a_wrong_setting_of_an_encoder_is_told(bundles, tmp_path, plant):
    file, change = ENCODER[plant]
    found = rows(planted(bundles("encoder", "ort-cpu", "int8-dynamic").path, tmp_path, file, change))
    assert {name: row.ok for name, row in found.items()} == {name: name != file for name in BOTH}


def keys_of_another(model: Model) -> None:
    """The last attention reads the keys and values that the first has made."""
    first, *_, last = nodes(model, ("GroupQueryAttention",))
    last.input[3], last.input[4] = first.output[1], first.output[2]


@pytest.mark.parametrize("file", BOTH)
def test_keys_of_another_layer_are_told_where_the_graph_makes_them(bundles, tmp_path, file):
    bundle = bundles("reader", "ort-cpu", "int8").path
    assert all(row.ok for row in rows(bundle).values())
    found = rows(planted(bundle, tmp_path, file, keys_of_another))
    assert {name: row.ok for name, row in found.items()} == {name: name != file for name in BOTH}


LONG = setting(ATTENTIONS, "local_window_size", 600, slice(1, 2))  # of a model that reads 128 tokens


@pytest.mark.usefixtures("kernels_on")
@pytest.mark.parametrize("file", BOTH)
def test_the_quick_checks_refuse_it(bundles, tmp_path, file):
    """A graph that an exporter's bug could write: all hashes are right, and outputs within their budgets."""
    path = planted(bundles("mixed", "ort-cpu", "int8").path, tmp_path, file, LONG)
    assert [row.name.split(":")[0] for row in verify(path).failed] == [file]


ACTIVATED = (
    Gated(4, "quick_gelu"), Gated(4, "quick_gelu", sparsity=0.5), Plain(4, "quick_gelu"),
    MoE(4, 2, 8, "quick_gelu"), PerLayerInput(4, "quick_gelu"),
    Tag(3, Dense("quick_gelu")), NeighbourConv(1, "quick_gelu", LayerNorm(1e-5)),
)  # fmt: skip


@pytest.mark.parametrize("part", ACTIVATED, ids=lambda part: type(part).__name__)
def test_an_activations_number_is_stated_wherever_it_is_computed(part):
    """1.702 of quick GELU."""
    assert 1.702 in set(numbers(part))

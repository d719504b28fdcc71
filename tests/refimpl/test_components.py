"""Components: their settings, leaves and bounds, asked of each without knowing which there are."""

from __future__ import annotations

import json
import pkgutil
import subprocess
import sys
from dataclasses import fields, replace
from importlib import import_module
from typing import Any, NotRequired, TypedDict

import numpy as np
import pytest
from helpers import tiny_models
from helpers.refused import refused
from jaxtyping import Float
from numpy import ndarray as Array
from tfm.refimpl import ops
from tfm.refimpl.components import MODULES, from_json, mixers
from tfm.refimpl.config import Attention, Config, Indexer, LayerNorm, MoE, SharedIndexer, TokenMixer, to_json
from tfm.refimpl.config.bounds import LIMITS
from tfm.refimpl.engine.numpy_engine import NumpyEngine
from tfm.refimpl.errors import ConfigError
from tfm.refimpl.ops.dispatch import body, use
from tfm.refimpl.ops.latent_attention import latent_attention
from tfm.refimpl.ops.longformer import LongformerAttention
from tfm.refimpl.ops.quant import Blocks
from tfm.refimpl.params.annotations import annotated
from tfm.refimpl.params.shapes import parameter_shapes
from tfm.refimpl.params.smoothing_sites import smoothing_sites

MODELS = (
    tiny_models.convolutions, tiny_models.gated_deltas, tiny_models.kimi, tiny_models.ling,
    tiny_models.selective_scans, tiny_models.state_spaces, tiny_models.linear_units, tiny_models.recurrent,
    tiny_models.indexed, tiny_models.indexed_blocks, tiny_models.distant, tiny_models.windowed,
    tiny_models.summarized, tiny_models.relative, tiny_models.mixture, tiny_models.near_and_far,
    tiny_models.narrow, tiny_models.shared_blocks, tiny_models.time_mixes,
    tiny_models.hyper_connected,
)  # fmt: skip


def configs() -> list[Config]:
    return [model() for model in MODELS]


def used() -> list[TokenMixer]:
    """A mixer of each kind at least."""
    found = {layer.attention for one in configs() for s in one.stacks.values() for layer in s.layers}
    assert {type(mixer) for mixer in found} == set(mixers())
    return sorted(found, key=repr)


def test_every_module_with_a_mixer_is_listed_and_gives_it_its_name():
    for module in pkgutil.iter_modules(ops.__path__):
        import_module(f"{ops.__name__}.{module.name}")
    there = {kind.__module__.rpartition(".")[2]: kind for kind in mixers() if kind is not Attention}
    assert sorted(there) == sorted(MODULES)
    for module, kind in there.items():
        assert kind.__name__.lower().startswith(module.replace("_", ""))


@pytest.mark.parametrize("model", [tiny_models.convolutions, tiny_models.distant])
def test_reading_a_config_imports_the_mixers_that_it_names(model):
    code = (
        "import json, sys; from tfm.refimpl.components import from_json; "
        "from_json(json.load(sys.stdin)); print(*sys.modules)"
    )
    value = json.dumps(to_json(model()))
    done = subprocess.run(
        [sys.executable, "-c", code], input=value, capture_output=True, text=True, check=True
    )
    mixer = model().stacks.popitem()[1].layers[0].attention
    loaded = {one.removeprefix("tfm.refimpl.ops.") for one in done.stdout.split()} & set(MODULES)
    assert loaded == {type(mixer).__module__.rpartition(".")[2]}


def test_an_unknown_mixer_is_refused_with_the_names_of_all():
    """Also in a process that has imported none."""
    code = (
        "import json, sys; from tfm.refimpl.components import from_json, mixers; "
        "from tfm.refimpl.errors import ConfigError\n"
        "try: from_json(json.load(sys.stdin))\n"
        "except ConfigError as error: print(error, *(kind.__name__ for kind in mixers()), sep=chr(10))"
    )
    value = to_json(tiny_models.convolutions())
    value["stack"]["layers"][0]["attention"]["type"] = "LSTMs"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, input=json.dumps(value), capture_output=True, text=True, check=True)
    error, *names = done.stdout.splitlines()
    assert len(names) == len(mixers())
    assert all(f"'{name}'" in error for name in names)


def test_a_value_of_any_depth_is_refused():
    nested: Any = {"type": "Deeper"}
    for _ in range(10_000):
        nested = [nested]
    with refused(ConfigError, "config.a"):
        from_json({"type": "Decoder", "a": nested})


def test_leaves_that_settings_name_have_shapes():
    """A name that is misspelled would be a leaf less, without an error."""
    for config in configs():
        shapes = parameter_shapes(config)
        for name, stack in config.stacks.items():
            for i, layer in enumerate(stack.layers):
                at, leaves = f"{name}.layers.{i}.", set(layer.mlp.leaves()) - {"shared"}
                assert {f"{at}attn.{leaf}" for leaf in layer.attention.leaves()} <= set(shapes)
                assert {f"{at}mlp.{leaf}" for leaf in leaves} <= set(shapes)


def test_smoothing_names_leaves_that_are_there():
    for config in configs():
        shapes = parameter_shapes(config)
        for name, stack in config.stacks.items():
            for i, layer in enumerate(stack.layers):
                at = f"{name}.layers.{i}."
                sites = layer.attention.smoothing(read_later=False)
                named = {leaf for site in sites for leaf in site.producers + site.consumers}
                assert {f"{at}attn.{leaf}" for leaf in named | set(layer.attention.readers())} <= set(shapes)
                assert {f"{at}mlp.{leaf}" for leaf in layer.mlp.readers()} <= set(shapes)


def test_every_norm_inside_of_a_mixer_has_its_eps():
    """Else the check of a graph wouldn't compare it."""
    for config in (*configs(), tiny_models.normed_outputs()):
        shapes = parameter_shapes(config)
        for name, stack in config.stacks.items():
            for i, layer in enumerate(stack.layers):
                at, mixer = f"{name}.layers.{i}.attn.", layer.attention
                norms = {leaf.removeprefix(at).split(".")[0] for leaf in shapes if leaf.startswith(at)}
                without = {leaf for leaf, norm in mixer.inner_norms().items() if norm.eps is None}
                assert {leaf for leaf in norms if "norm" in leaf} - without <= mixer.epsilons().keys(), mixer


def test_a_map_is_smoothed_together_with_its_bias():
    for mixer in used():
        for site in mixer.smoothing(read_later=False):
            biases = {f"b{leaf[1:]}" for leaf in site.producers if leaf.startswith("w")}
            there = {"bv", "bv_global"} if type(mixer) is LongformerAttention else set(mixer.leaves())
            assert biases & there <= set(site.producers), mixer


def test_a_norm_is_not_divided_where_its_output_is_also_a_distance():
    """Shared maps read distances too, so only the product could divide."""
    for shared in (True, False):
        config = tiny_models.distant(log_until=None, shared=shared)
        norm = LayerNorm(1e-5)
        mixer = replace(config.stack.layers[0].attention, pre=norm, after=None)
        layer = replace(config.stack.layers[0], attention=mixer)
        sites = smoothing_sites(replace(config, stack=replace(config.stack, layers=(layer,))))
        assert any("attn_pre.weight" in site.producers[0] for site in sites if site.producers) is not shared


def test_segments_are_leaves_where_they_are_compared():
    mixer = tiny_models.relative().stack.layers[0].attention
    assert set(mixer.leaves()) - set(replace(mixer, segments=False).leaves()) == {"segment_bias", "segments"}


def test_a_shared_indexer_has_the_choice_of_the_nearest_indexer():
    """A layer of latent attention without one in between hands that on."""
    config = tiny_models.indexed()
    own = next(m for m in config.stack.mixers if isinstance(m.indexer, Indexer))
    layer = config.stack.layers[0]
    kinds = (own, replace(own, indexer=None), replace(own, indexer=SharedIndexer(own.indexer.topk)))
    layers = tuple(replace(layer, attention=mixer) for mixer in kinds)
    changed = replace(config, stack=replace(config.stack, layers=layers))
    engine = NumpyEngine(changed, tiny_models.weights(changed))
    given: list[Any] = []

    def noted(*arguments: Any, **settings: Any) -> Any:
        given.append(arguments[5])
        return body(latent_attention)(*arguments, **settings)

    with use({"latent_attention": noted}):
        engine.step(np.arange(24)[None], engine.start(1))
    assert given[0] is None
    assert given[1].sum(-1).max() == own.indexer.topk
    np.testing.assert_array_equal(given[2], given[1])


def test_each_bound_is_held():
    """One more than a limit, or one less than the least, is refused by the field's name."""
    count = 0
    for mixer in used():
        for one in (f for f in fields(mixer) if "bound" in f.metadata):
            limit, name, least = one.metadata["bound"]
            if getattr(mixer, one.name) is None:
                continue
            for value in (LIMITS[limit] + 1, least - 1, True):
                with refused(ConfigError, name or one.name, least):
                    replace(mixer, **{one.name: value}).check("at ")
                count += 1
        mixer.check("at ")
    assert count > 100


def test_shapes_of_annotations():
    class Inner(TypedDict):
        up: Float[Array, "D F"] | Blocks

    class Weights(TypedDict):
        first: Float[Array, "D 2*G*K+H*V"]
        parts: list[Inner]
        one: NotRequired[Float[Array, " K"] | Float[Array, "H K"] | Float[Array, "2 H*K"]]
        rest: NotRequired[Float[Array, " D"]]

    sizes = {"D": 3, "G": 2, "K": 5, "H": 4, "V": 7, "J": 1.5}
    inner = {"parts": annotated(Inner, {"D": 3, "F": 4})}
    shapes = annotated(Weights, sizes, ("one",), {"first": 0, "one": 2}.__getitem__, inner)
    assert list(shapes.items()) == [
        ("first", ((3, 48), False)), ("parts.up", ((3, 4), True)), ("one", ((2, 20), False)),
    ]  # fmt: skip


def test_experts_of_a_latent_have_its_width():
    mlp = MoE(2, 1, 6, "silu", shared=7, latent=5, shared_bias=True, gated=False)
    config = tiny_models.mixture()
    layer = replace(config.stack.layers[0], mlp=mlp)
    shapes = parameter_shapes(replace(config, stack=replace(config.stack, layers=(layer,))))
    found = {n.partition(".mlp.")[2]: shape for n, shape in shapes.items() if ".mlp." in n}
    d = config.embedding.width
    assert found["experts.1.up"] == (5, 6)
    assert found["shared.bup"] == (7,)
    assert found["latent_up"] == (5, d)
    assert "experts.0.gate" not in found

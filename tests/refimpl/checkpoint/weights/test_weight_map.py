"""The notation of weight maps: what it refuses, and how maps are composed."""

import numpy as np
import pytest
from helpers import tiny_models
from tfm.refimpl.checkpoint.weights import steps
from tfm.refimpl.checkpoint.weights.weight_map import weight_map
from tfm.refimpl.config import Attention, Rope
from tfm.refimpl.ops.gated_delta import GatedDelta
from tfm.refimpl.ops.latent_attention import LatentAttention
from tfm.refimpl.ops.mamba2 import Mamba2

TEXT = """
    embedding.table <- (shared|embed).weight
    decoder.layers.{i}.attn.wq, wk <- layer.{i}.qk.weight : transpose
    for LM:
    head.table == embed.weight
"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a <- b : transpsoe", "step.*'transpsoe'"),
        ("a <- b : transpose sideways", "got 'sideways'"),
        ("a b", "line.*<-.*=="),
        ("a <- b[{e}].weight", "come.*last"),
        ("{a,b} <- {c,d,e}", "{c,d,e}.*groups"),
        ("for Answer:", r"head.*'Classify'.*'LM'.*\['Answer'\]"),
    ],
)
def test_what_is_not_of_the_notation_is_an_error(text: str, message: str):
    """A misspelt step on a square matrix would load it as it stands."""
    with pytest.raises(ValueError, match=message):
        weight_map(text)


def test_a_line_with_groups_is_a_line_for_each_name():
    short = weight_map("attn.{wq,wk} <- {i}.{q,k}.(a|b).weight : transpose\n nothing <- pooler.{weight,bias}")
    assert short == weight_map("""
        attn.wq <- {i}.q.(a|b).weight : transpose
        attn.wk <- {i}.k.(a|b).weight : transpose
        nothing <- pooler.weight
        nothing <- pooler.bias
    """)


def test_maps_are_composed_as_values():
    first, other = weight_map(TEXT), weight_map("decoder.norm.weight <- norm.weight")
    both = first + other
    assert both.lines == (*first.lines, *other.lines)
    assert other.lines[0].heads is None, "a head's lines end with their map"
    assert first.has("decoder")
    assert not first.renamed({"decoder.": "encoder."}).has("decoder")
    assert both.without("embedding.table").lines == both.lines[1:]
    added = both.then("plus_one", lambda tensor: tensor.startswith("norm"))
    assert [line.steps for line in added.lines] == [(), (steps.Transpose(),), (), (steps.PlusOne(),)]


def test_rules_are_written_out_for_each_layer():
    config = tiny_models.llama(layers=2)
    table, first, second, compared = weight_map(TEXT).rules(config)
    assert table.choices == (("shared.weight",), ("embed.weight",))
    assert first.leaves == ("decoder.layers.0.attn.wq", "decoder.layers.0.attn.wk")
    assert second.tensors == ("layer.1.qk.weight",)
    assert (first.use, compared.use) == ("read", "compare")
    encoder = tiny_models.encoder()
    assert [rule.use for rule in weight_map(TEXT).rules(encoder)][-1] == "unused"


LATENT = LatentAttention(4, 24, key_size=5, value_size=7, position=Rope(10_000.0, 6))
MIXERS = {
    "values_by_key_head": ("attn.wi", GatedDelta(6, 2, key_size=6, value_size=4)),
    "by_key_head": ("wi", GatedDelta(4, 2, key_size=4, value_size=4)),
    "keys_values": ("wkv_b", LATENT),
    "by_head": ("wk_b", LATENT),
    "flatten": ("attn.norm", Mamba2(4, 2, 5, 12)),
}


@pytest.mark.parametrize("word", steps.STEPS)
def test_a_step_makes_the_shape_that_it_was_asked_for(word: str):
    """Of each shape that it says may be stored."""
    leaf, mixer = MIXERS.get(word, ("wq", Attention(4, 2, 6)))
    step = steps.STEPS[word].bound(leaf, mixer)
    others = {
        "row": (48,),
        "column": (48, 1),
        "table": (1, 48),
        "kernel": (144, 48),
        "zeros_after": (48,),
        "flatten": (48,),
    }
    result = others.get(word, (24, 48))
    usual, *others = step.shapes(result)
    assert step.settled(True).apply(np.zeros(usual, np.float32)).shape == result
    for shape in others:
        assert step.settled(False).apply(np.zeros(shape, np.float32)).shape == result
    assert steps.stored_shapes([step, steps.Transpose()], result[::-1]) == [*step.shapes(result)]

"""Nested parameters and their dotted names."""

from hypothesis import given
from hypothesis import strategies as st
from tfm.refimpl.params.lazy import lazily
from tfm.refimpl.params.tree import flatten, map_leaves, unflatten

TREE = {
    "embedding": {"table": 1},
    "decoder": {"layers": [{"attn": {"wq": 2}}, {"mlp": {"up": 3}}], "norm": {}},
}


def test_names_are_the_path_to_a_leaf():
    named = {"embedding.table": 1, "decoder.layers.0.attn.wq": 2, "decoder.layers.1.mlp.up": 3}
    assert dict(flatten(TREE)) == named
    assert dict(flatten(TREE["decoder"]["layers"], "here.")) == {"here.0.attn.wq": 2, "here.1.mlp.up": 3}


@given(st.recursive(st.integers(), lambda inner: st.dictionaries(st.sampled_from("ab0"), inner, min_size=1)))
def test_unflatten_undoes_flatten(tree):
    """But for levels whose keys are 0, 1, …, which are lists."""
    tree = {"root": tree}

    def listed(item):
        if not isinstance(item, dict):
            return item
        level = {key: listed(value) for key, value in item.items()}
        return list(level.values()) if list(level) == ["0"] else level

    assert unflatten(dict(flatten(tree))) == listed(tree)


def test_mapping_keeps_the_form():
    """Empty levels too; a tree that loads its leaves becomes one that holds them."""
    assert map_leaves(lambda name, leaf: f"{name}={leaf}", TREE) == {
        "embedding": {"table": "embedding.table=1"},
        "decoder": {
            "layers": [
                {"attn": {"wq": "decoder.layers.0.attn.wq=2"}},
                {"mlp": {"up": "decoder.layers.1.mlp.up=3"}},
            ],
            "norm": {},
        },
    }
    lazy = lazily(["a.0.b", "a.1.b"], str.upper)
    assert map_leaves(lambda _, leaf: leaf, lazy) == {"a": [{"b": "A.0.B"}, {"b": "A.1.B"}]}

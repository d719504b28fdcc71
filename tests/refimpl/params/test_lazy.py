"""Trees that load a leaf when it is asked for."""

import numpy as np
import pytest
from tfm.refimpl.params.lazy import Lazy, lazily, materialize

NAMES = ("embedding.table", "decoder.layers.0.wq", "decoder.layers.1.wq")


class Loader:
    """Loads arrays that know their name's length, and notes what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, name: str) -> np.ndarray:
        self.asked.append(name)
        return np.array(len(name))


def test_a_leaf_is_loaded_each_time_it_is_asked_for_and_no_other():
    load = Loader()
    tree = lazily(NAMES, load)
    layer = tree["decoder"]["layers"][1]
    assert load.asked == []
    assert [layer["wq"], layer["wq"]] == [19, 19]
    assert load.asked == ["decoder.layers.1.wq"] * 2
    assert layer.get("bq") is None
    with pytest.raises(KeyError):
        layer["bq"]


def test_looking_at_names_loads_nothing():
    load = Loader()
    tree = lazily(NAMES, load)
    assert list(tree) == ["embedding", "decoder"]
    assert (len(tree), len(tree["decoder"])) == (2, 1)
    assert "table" in tree["embedding"]
    assert "layers" not in tree["embedding"]
    assert load.asked == []


def test_materializing_loads_every_leaf_once():
    load = Loader()
    tree = materialize(lazily(NAMES, load))
    assert tree == {"embedding": {"table": 15}, "decoder": {"layers": [{"wq": 19}, {"wq": 19}]}}
    assert load.asked == list(NAMES)
    assert not isinstance(tree["decoder"], Lazy)

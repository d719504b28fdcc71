"""What `inspect` says of models of each shape: parts that add up, and positions by their names."""

import json
import math

import pytest
import tiny
from tfm.cli import inspect
from tfm.refimpl.config import to_json
from tfm.refimpl.params import shapes

MODELS = {
    "rotary 10000": tiny.llama(),
    "32 learned positions": tiny.encoder(),
    "sinusoidal positions": tiny.encoder(positions=tiny.Sinusoidal()),
    "no positions": tiny.encoder(positions=None),
    "relative bias of 8 buckets": tiny.pair(),
    "ALiBi": tiny.added(),
}


@pytest.mark.parametrize("position", MODELS)
def test_a_model_is_described_and_counted(tfm, tmp_path, position):
    config = MODELS[position]
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": "tfm", "config": to_json(config)}))
    told = tfm("inspect", path, "--json").json
    assert told["parameters"]["total"] == sum(math.prod(s) for s in shapes(config).values())
    assert position in (text := inspect.describe(config))
    assert [name for name in ("encoder", "decoder") if f"{name}, " in text] == [
        name for name in ("encoder", "decoder") if getattr(config, name) is not None
    ]


def test_parts_have_what_belongs_to_them():
    config = tiny.encoder(layers=1)
    parts = inspect.parameters(config)
    assert parts["embedding"] == (97 + 2 + 32) * 48
    assert parts["output"] == 48 * 48 + 48 + 2 * 48 + 97
    assert parts["norms"] == 3 * 2 * 48
    cross, own = (inspect.parameters(tiny.pair(layers=1))["attention"] - 2 * 8 * 6, 4 * 48 * 48)
    assert cross == (2 + 1 + 1) * own  # two layers of the encoder, one of the decoder with two attentions


def test_an_encoder_keeps_no_cache():
    config = tiny.encoder()
    assert inspect.cache_bytes(config, 100, 4) == 0
    assert inspect.need(config, 5000, 10**9)["longest_context"] == config.context
    assert inspect.cache_bytes(tiny.pair(), 10, 4) == 2 * 2 * 6 * 8 * 10 * 4

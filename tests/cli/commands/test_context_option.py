"""A context past the trained one: who can have it is told so, and commands that write texts take it."""

import json
import shutil
from dataclasses import replace

import pytest
from helpers import tiny_models
from tfm.refimpl.config import DynamicNTK, LongRope, Rope, Stack, Yarn, to_json

HALF = 8  # pairs of a head
TRAINED = 40
LONG = "x" * 60
SCALINGS = {
    "LongRoPE": LongRope((1.0,) * HALF, (4.0,) * HALF, TRAINED),
    "dynamic NTK": DynamicNTK(4.0, TRAINED),
    "": Yarn(4.0, TRAINED // 4),
}


def config(scaling):
    plain = tiny_models.llama(vocabulary=258, width=64, context=TRAINED)
    layers = tuple(
        replace(one, attention=replace(one.attention, position=Rope(10_000.0, 2 * HALF, scaling=scaling)))
        for one in plain.stack.layers
    )
    return replace(plain, stack=Stack(layers, plain.stack.final_norm))


@pytest.mark.parametrize("name", SCALINGS)
def test_longer_texts_are_one_option_away(tfm, checkpoint, tmp_path, name):
    stated = json.dumps({"model_type": "tfm", "config": to_json(config(SCALINGS[name]))})
    shutil.copytree(checkpoint, tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text(stated)
    model = ("--model", tmp_path / "model", "--engine", "numpy")
    asked = {
        "generate": lambda *more: tfm("generate", LONG, "-n", 2, *model, *more),
        "batch": lambda *more: tfm("generate", LONG, "--batch", 1, "-n", 2, *model, *more),
        "chat": lambda *more: tfm("chat", "-n", 2, *model, *more, stdin=LONG.encode()),
    }
    for ask in asked.values():
        refused = ask()
        assert refused.code == 9
        assert "40 tokens" in refused.err
        assert (f"--context N, as its {name} allows" in refused.err) == bool(name)
        assert ask("--context", 128).code == 0
    inspect = ("inspect", tmp_path / "model" / "config.json")
    assert ("--context N" in tfm(*inspect).out) == bool(name)
    assert "--context" not in tfm(*inspect, "--context", 128).out

"""`tfm-cli attention`: the printed weights are the model's, and words are found in tokens."""

from __future__ import annotations

import re

import numpy as np
import pytest
from helpers import tiny_models
from tfm.refimpl.checkpoint.open import open_checkpoint, save_checkpoint
from tfm.refimpl.engine.attention_maps import attention_maps

TEXT = "The cat saw it run"


@pytest.fixture(scope="session")
def encoder(checkpoint, tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "encoder"
    config = tiny_models.encoder(vocabulary=258, width=48)
    save_checkpoint(path, config, tiny_models.weights(config), open_checkpoint(checkpoint).tokenizer)
    return path


def maps(path, told):
    opened = open_checkpoint(path)
    ids = np.array([token["id"] for token in told["tokens"]])
    found: dict[int, np.ndarray] = {}
    attention_maps(opened.config, opened.params, ids, found.__setitem__)
    return np.stack([*found.values()])


@pytest.mark.parametrize("options", [(), ("--layer", 1), ("--head", 4), ("--layer", 0, "--head", 5)])
@pytest.mark.parametrize("kind", ["checkpoint", "encoder"])
def test_weights_of_a_layer_and_head(tfm, request, kind, options):
    path = request.getfixturevalue(kind)
    told = tfm("attention", TEXT, "-m", path, *options, "--json").json
    every = maps(path, told)
    chosen = dict(zip(options[::2], options[1::2], strict=True))
    layers = [chosen["--layer"]] if "--layer" in chosen else [0, 1]
    heads = [chosen["--head"]] if "--head" in chosen else range(6)
    expected = every[layers][:, heads].mean((0, 1))
    assert np.allclose(told["weights"], expected, atol=1e-7)
    assert np.allclose(np.sum(told["weights"], 1), 1, atol=1e-5)
    assert told["word"] == "it"
    row = expected[12:14].mean(0)  # a token is a byte
    shares = {word["word"]: word for word in told["looks_at"]}
    assert shares["cat"]["share"] == pytest.approx(row[4:7].sum(), abs=1e-6)
    assert told["itself"] == pytest.approx(row[12:14].sum(), abs=1e-6)
    assert ("The" in shares, "run" in shares) == ((False, False) if kind == "checkpoint" else (True, True))
    order = [word["share"] for word in told["looks_at"]]
    assert order == sorted(order, reverse=True)
    seen = every[layers][:, heads][:, :, 12:14, 4:7].sum(3).mean(2)
    at = np.unravel_index(seen.argmax(), seen.shape)
    most = {"layer": layers[at[0]], "head": [*heads][at[1]], "share": pytest.approx(seen.max(), abs=1e-6)}
    assert shares["cat"]["strongest"] == most


def test_the_first_token_stands_apart_and_each_word_has_its_head(tfm, checkpoint):
    told = tfm("attention", TEXT, "-m", checkpoint, "--layer", 1, "--json").json
    title, _, head, *lines = tfm("attention", TEXT, "-m", checkpoint, "--layer", 1).out.splitlines()
    assert title == f"Attention of {checkpoint}, layer 1, mean of 6 heads: “{TEXT}”"
    assert head.split() == ["%", "0", "|", *map(str, range(1, 18))]
    row = [f"{100 * weight:.0f}" for weight in told["weights"][12][:13]]  # later tokens aren't visible
    assert lines[12].split() == ["12", "i", row[0], "|", *row[1:]]
    sink = np.mean([weights[0] for weights in told["weights"][1:]])
    assert f" {sink:.0%} " in lines[20]
    assert lines[22].split("  ")[0] == "“it” LOOKS AT"
    for line, seen in zip(lines[23:], told["looks_at"], strict=False):
        strongest = seen["strongest"]
        named = f"layer {strongest['layer']}, head {strongest['head']}, {strongest['share']:.1%}"
        assert (line.split()[0], line.split("  ")[-1]) == (seen["word"], named)
    assert re.findall("“(.*?)”", lines[-1])[:2] == ["it", told["looks_at"][0]["word"]]


@pytest.mark.parametrize(
    ("options", "which"),
    [
        ((), "mean of 12 heads in 2 layers"),
        (("--head", 4), "head 4, mean of 2 layers"),
        (("--layer", 0, "--head", 5), "layer 0, head 5"),
    ],
)
def test_the_title_says_which_heads(tfm, checkpoint, options, which):
    assert tfm("attention", "a b", "-m", checkpoint, *options).out.startswith(
        f"Attention of {checkpoint}, {which}: “a b”\n"
    )


def test_the_default_text_is_the_animal_and_the_street(tfm, checkpoint):
    ran = tfm("attention", "-m", checkpoint)
    assert "%  " not in ran.out.splitlines()[2], "a table of 60 columns is left out"
    assert re.search(" 59 .*--plot", ran.err)
    shown = {line.split()[0] for line in ran.out.splitlines()[3:-2]}
    assert shown == {"animal", "didn't", "cross", "the", "street", "because"}


def test_a_bundle_and_a_named_word(tfm, bundle):
    told = tfm("attention", "one two One", "-m", bundle, "--word", "one", "--json").json
    assert told["word"] == "One", "the last of that name"
    assert tfm("attention", "one two", "-m", bundle, "--json").json["word"] == "two"
    [title, *_, last] = tfm("attention", "it", "-m", bundle).out.splitlines()
    assert ("“it”" in title, last.startswith("“it”"), "LOOKS AT" in last) == (True, True, False)


def test_the_picture(tfm, checkpoint, tmp_path):
    path = tmp_path / "map.svg"
    assert tfm("attention", "a $1 $2 中", "-m", checkpoint, "--plot", path).code == 0
    assert path.read_bytes().startswith(b"<?xml")


def test_what_is_refused(tfm, checkpoint, tmp_path):
    tfm("attention", "a", "-m", checkpoint, "--layer", 2).failed(2, "--layer", "2")
    tfm("attention", "a", "-m", checkpoint, "--head", 6).failed(2, "--head", "6")
    tfm("attention", "a", "-m", checkpoint, "--word", "b").failed(2, "'b'")
    tfm("attention", "", "-m", checkpoint).failed(9, "1024", "tokens", "0")
    tfm("attention", "a" * 1025, "-m", checkpoint).failed(9, "1024", "tokens", "1025")
    config = tiny_models.llama()
    save_checkpoint(tmp_path / "mute", config, tiny_models.weights(config))
    tfm("attention", "a", "-m", tmp_path / "mute").failed(3, "tokenizer")
    tfm("attention", "a", "-m", "llama-3-70b").failed(3, "'llama-3-70b'")


@pytest.mark.real
def test_minilm_attends_to_the_animal(tfm, minilm):
    told = tfm("attention", "-m", minilm, "--layer", 5, "--head", 11, "--json").json
    assert told["looks_at"][0]["word"] == "animal"
    assert told["looks_at"][0]["share"] > 0.5

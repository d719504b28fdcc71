"""`tfm-cli context`: perplexities are the engine's, and each way stretches as its name says."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from helpers import tiny_models
from tfm.refimpl.checkpoint.open import materialize, open_checkpoint, save_checkpoint
from tfm.refimpl.config import Decoder
from tfm.refimpl.engine.numpy_engine import NumpyEngine
from tfm.runtime.analysis import perplexity

WAYS = ["none", "linear", "dynamic-ntk", "yarn", "llama3"]
CONTEXT = 24


@pytest.fixture(scope="session")
def short(checkpoint, tmp_path_factory):
    """A model that was trained on 24 tokens."""
    path = tmp_path_factory.mktemp("models") / "short"
    config = tiny_models.llama(vocabulary=258, context=CONTEXT)
    save_checkpoint(path, config, tiny_models.weights(config), open_checkpoint(checkpoint).tokenizer)
    return path


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes(bytes(np.random.default_rng(0).integers(32, 127, 300).tolist()))
    return path


def by_hand(path, config, ids) -> np.ndarray:
    """−log p of each next token, in one pass."""
    engine = NumpyEngine(config, materialize(open_checkpoint(path).params))
    logits, _ = engine.step(ids[None], engine.start(), at=np.arange(len(ids))[None])
    p = np.exp(logits[0].astype(np.float64))
    return -np.log(p / p.sum(-1, keepdims=True))[np.arange(len(ids) - 1), ids[1:]]


def test_perplexity_by_position(tfm, short, text, monkeypatch):
    monkeypatch.setattr(perplexity, "CHUNK", 7)
    options = ("--length", 50, "--stride", 30, "--windows", 3)
    told = tfm("context", short, "--text", text, *options, "--json").json
    assert (told["trained"], told["length"], told["factor"], told["windows"]) == (24, 50, 50 / 24, 3)
    assert list(told["perplexity"]) == WAYS
    from tfm.cli.model_loading import specified

    ids = np.array(specified(str(short))[2].encode(text.read_text()).ids)
    config = open_checkpoint(short).config
    for name, changed in perplexity.ways(config, 50, 50 / 24).items():
        lost = np.stack([by_hand(short, changed, ids[s : s + 50]) for s in (0, 30, 60)])
        expected = [
            np.exp(lost[:, a:b].mean()) for a, b in zip(told["edges"], told["edges"][1:], strict=False)
        ]
        assert np.allclose(told["perplexity"][name], expected, rtol=1e-4), name
        assert told["past"][name] == pytest.approx(np.exp(lost[:, 24:].mean()), rel=1e-4)
        assert told["within"][name] == pytest.approx(np.exp(lost[:, :24].mean()), rel=1e-4)
    assert len(set(told["past"].values())) == 5, "each way gives numbers of its own"
    assert told["edges"][0] == 0
    assert told["edges"][-1] == 49
    assert 24 in told["edges"]


def test_other_positions_go_on_by_themselves(tfm, checkpoint, text, tmp_path):
    tokenizer = open_checkpoint(checkpoint).tokenizer
    for name in ("alibi", "learned", "encoder"):
        config = (
            tiny_models.encoder(vocabulary=258) if name == "encoder" else tiny_models.added_positions(CONTEXT)
        )
        if name == "alibi":
            assert isinstance(config, Decoder)
            config = replace(config, stack=replace(config.stack, positions=None, norm_before_positions=False))
        config = replace(config, embedding=replace(config.embedding, vocabulary=258))
        save_checkpoint(tmp_path / name, config, tiny_models.weights(config), tokenizer)
    told = tfm("context", tmp_path / "alibi", "--text", text, "--json").json
    assert list(told["perplexity"]) == ["none"]
    assert told["length"] == 48
    tfm("context", tmp_path / "learned", "--text", text).failed(4, "positions", "48")
    tfm("context", tmp_path / "encoder", "--text", text).failed(4, "decoder")


def test_a_table_and_a_picture(tfm, short, text, tmp_path):
    options = ("--way", "none", "--way", "yarn", "--plot", tmp_path / "made.png")
    ran = tfm("context", short, "--text", text, *options)
    lines = ran.out.splitlines()
    assert lines[0].split() == ["PERPLEXITY", "AT", "NONE", "YARN"]
    assert [line.endswith("past") for line in lines[1:-1]] == [False] * 8 + [True] * 8
    assert re.match("trained for 24 .* x 2; .* (none|yarn)", lines[-1])
    assert (tmp_path / "made.png").read_bytes().startswith(b"\x89PNG")


def test_what_stretches_nothing_is_computed_once(tfm, short, text, monkeypatch):
    """Within the trained length a way without a factor, and dynamic NTK with one, are the model as it is."""
    computed = []
    losses = perplexity.losses
    monkeypatch.setattr(perplexity, "losses", lambda *given: computed.append(given) or losses(*given))
    options = ("context", short, "--text", text, "--length", 20)
    ran = tfm(*options, *(word for way in WAYS for word in ("--way", way)), "--json")
    assert len(computed) == 1
    assert ran.json["same_as"] == dict.fromkeys(WAYS[1:], "none")
    assert list(ran.json["within"]) == WAYS
    assert len(set(ran.json["within"].values())) == 1
    assert set(ran.json["past"].values()) == {None}
    assert re.search("nothing .* 24", ran.err)
    assert re.search(rf"20 tokens .*: {re.escape(', '.join(WAYS[1:]))}", ran.err)
    ran = tfm(*options, "--factor", 4, "--json")
    assert len(computed) == 5
    assert ran.json["same_as"] == {"dynamic-ntk": "none"}
    assert len(set(ran.json["within"].values())) == 4, "with a factor the others rotate otherwise"
    ran = tfm(*options, "--way", "yarn", "--way", "linear")
    assert ran.out.splitlines()[0].split() == ["PERPLEXITY", "AT", "LINEAR"]
    assert "best" not in ran.out


def test_each_window_begins_as_the_tokenizer_begins(tfm, tmp_path, text):
    from helpers import text_strategies

    library_tokenizer = text_strategies.byte_level()
    config = tiny_models.llama(vocabulary=library_tokenizer.get_vocab_size(), context=CONTEXT)
    save_checkpoint(tmp_path / "m", config, tiny_models.weights(config), library_tokenizer.to_str())
    from tfm.cli.model_loading import specified

    tokenizer = specified(str(tmp_path / "m"))[2]
    begin = perplexity.before_text(tokenizer)
    assert begin == [library_tokenizer.token_to_id("<s>")]
    text.write_text("the cat sat" * 30)
    ids = tokenizer.encode(text.read_text(), add_special_tokens=False).ids
    told = tfm("context", tmp_path / "m", "--text", text, "--length", 12, "--way", "none", "--json").json
    expected = by_hand(tmp_path / "m", config, np.array([*begin, *ids[:11]]))
    assert told["within"]["none"] == pytest.approx(np.exp(expected.mean()), rel=1e-4)


def test_what_is_refused(tfm, short, tmp_path, text):
    ran = tfm("context", short, "--text", text, "--way", "alibi")
    ran.failed(2, "none", "linear", "dynamic-ntk", "yarn", "llama3", "'alibi'")
    alike = tfm("context", short, "--text", text, "--length", 20)
    alike.failed(9, "20", "--text", "--length", "24")
    text.write_bytes(b"caf\xe9")
    tfm("context", short, "--text", text).failed(9, "UTF-8")
    text.write_text("a")
    ran = tfm("context", short, "--text", text, "--factor", 1)
    ran.failed(9, "2", "tokens", "1")

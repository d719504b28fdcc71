"""`tfm-cli tokenizer`: what it writes, what it prints, and that a failure leaves nothing behind."""

from __future__ import annotations

import json

import numpy as np
import pytest
from helpers import text_strategies
from matplotlib.figure import Figure
from tfm.cli.commands import tokenizer
from tfm.runtime.analysis.vocabularies import Vocabulary
from tokenizers import Tokenizer as Library

LINES = [f"the {animal} sat on the {place}, and didn't {verb}\n"
         for animal in ("cat", "dog", "cow") for place in ("mat", "naïve rug", "hill")
         for verb in ("sleep", "eat", "go")]  # fmt: skip


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text("".join(LINES), encoding="utf-8")
    return path


@pytest.mark.parametrize(("method", "size"), [("bpe", 290), ("unigram", 60)])
def test_train_then_encode(tfm, corpus, tmp_path, method, size):
    path = tmp_path / "tokenizer.json"
    options = ("--out", path, "--method", method, "--size", size, "--special", "<s>", "--json")
    told = tfm("tokenizer", "train", corpus, *options).json
    assert told["vocabulary"] <= size
    library = Library.from_file(str(path))
    text = "<s>the cat didn't eat"
    got = tfm("tokenizer", "encode", text, "-m", path, "--json").json
    want = library.encode(text)
    assert [t["id"] for t in got["tokens"]] == want.ids
    assert [(t["start"], t["end"]) for t in got["tokens"]] == want.offsets
    assert [t["piece"] for t in got["tokens"]] == want.tokens
    table = tfm("tokenizer", "encode", text, "-m", path)
    assert table.out.splitlines()[0].split() == ["ID", "PIECE", "FROM", "TO", "TEXT"]
    assert table.out.endswith(f"{len(want.ids)} tokens of {len(text)} characters\n")


def test_train_in_words(tfm, corpus, tmp_path):
    ran = tfm("tokenizer", "train", corpus, "--out", tmp_path / "t.json", "--size", 300)
    assert ran.code == 0
    assert "different words" in ran.out


def test_encode_with_a_models_tokenizer(tfm, checkpoint, bundle):
    for model in (checkpoint, bundle):
        got = tfm("tokenizer", "encode", "é<|im_end|>", "-m", model, "--json").json
        assert [(t["start"], t["end"]) for t in got["tokens"]] == [(0, 1), (0, 1), (1, 11)]
        assert got["decoded"] == "é"


def test_bytes_of_tokens_are_written(tfm, bundle, tmp_path):
    ran = tfm("tokenizer", "bytes", tmp_path / "token_bytes", "-m", bundle)
    data = (tmp_path / "token_bytes").read_bytes()
    assert ran.out == f"{tmp_path / 'token_bytes'}: {len(data)} bytes\n"
    ids = [t["id"] for t in tfm("tokenizer", "encode", "né", "-m", bundle, "--json").json["tokens"]]
    offsets = np.frombuffer(data[: int.from_bytes(data[:4], "little")], "<i4")
    assert b"".join(data[offsets[id] : offsets[id + 1]] for id in ids).decode() == "né"


def test_encode_with_the_settings_beside_the_file(tfm, tmp_path):
    """BERT's class lowercases unless the directory says otherwise; no weights are needed."""
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "tokenizer.json").write_text(text_strategies.wordpiece().to_str(), encoding="utf-8")
    for lower, want in ((True, ["[CLS]", "the", "[SEP]"]), (False, ["[CLS]", "[UNK]", "[SEP]"])):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": lower}))
        tokens = tfm("tokenizer", "encode", "The", "-m", tmp_path, "--json").json["tokens"]
        assert [token["piece"] for token in tokens] == want


def test_bare_leaves_out_special_tokens(tfm, tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(text_strategies.byte_level().to_str(), encoding="utf-8")
    full = tfm("tokenizer", "encode", "cat", "-m", path, "--json").json["tokens"]
    bare = tfm("tokenizer", "encode", "cat", "-m", path, "--json", "--bare").json["tokens"]
    assert full[0]["piece"] == "<s>"
    assert full[1:] == bare


@pytest.mark.parametrize("method", ["bpe", "unigram"])
def test_compare(tfm, corpus, tmp_path, method):
    held_out = tmp_path / "held.txt"
    held_out.write_text("the cat sat 中\n", encoding="utf-8")
    sizes = ("--size", 260, "--size", 270, "--size", 5000, "--size", 9000)
    options = (corpus, "--held-out", held_out, "--method", method, "--width", 10, *sizes)
    rows = tfm("tokenizer", "compare", *options, "--json").json["rows"]
    assert rows[0]["name"] == "characters"
    assert rows[0]["tokens"] == len("the cat sat 中\n")
    assert rows[0]["unknown"] == 1
    assert rows[0]["vocabulary"] == len({c for line in LINES for c in line}) + 1
    assert all(row["embedding_parameters"] == 10 * row["vocabulary"] for row in rows)
    assert all(row["tokens_per_word"] == row["tokens"] / 4 for row in rows)
    assert rows[-1]["vocabulary"] < 5000, "the text carries no more, so no larger size is tried"
    assert [r["name"] for r in rows][-1] in ("260", "5,000")
    assert {row["unknown"] for row in rows[1:]} == {0 if method == "bpe" else 1}
    counts = [row["tokens"] for row in rows]
    assert counts == sorted(counts, reverse=True)
    table = tfm("tokenizer", "compare", *options)
    assert table.out.splitlines()[0].endswith("EMBEDDING AT 10")
    assert len(table.out.splitlines()) == 1 + len(rows)


def test_compare_draws_sizes_against_tokens_a_word(tfm, corpus, tmp_path):
    path, sizes = tmp_path / "made.png", ("--size", 260, "--size", 280)
    rows = tfm("tokenizer", "compare", corpus, *sizes, "--plot", path, "--json").json["rows"]
    assert path.read_bytes().startswith(b"\x89PNG")
    figure = Figure()
    fields = Vocabulary.__dataclass_fields__
    tokenizer.picture(figure, [Vocabulary(**{name: row[name] for name in fields}) for row in rows])
    (axes,) = figure.axes
    line, letters = axes.lines
    assert line.get_xydata().tolist() == [[row["vocabulary"], row["tokens_per_word"]] for row in rows[1:]]
    assert set(letters.get_ydata()) == {rows[0]["tokens_per_word"]}


def test_every_tenth_line_is_held_out(tfm, corpus):
    rows = tfm("tokenizer", "compare", corpus, "--size", 260, "--json").json["rows"]
    assert rows[0]["words"] == sum(len(line.split()) for line in LINES[::10])


def test_failures_are_a_line_and_leave_nothing(tfm, corpus, tmp_path, monkeypatch):
    broken = tmp_path / "broken.json"
    plan = json.loads(text_strategies.byte_level().to_str())
    plan["model"]["dropout"] = 0.5
    broken.write_text(json.dumps(plan))
    tfm("tokenizer", "encode", "a", "-m", broken).failed(3, "model.dropout", "null")
    latin = tmp_path / "latin.txt"
    latin.write_bytes(b"caf\xe9")
    tfm("tokenizer", "train", latin, "--out", tmp_path / "x.json").failed(3, "UTF-8", "byte", "3")
    named = tfm("tokenizer", "train", corpus, tmp_path / "t.json", "--out", tmp_path / "x.json")
    named.failed(2, "t.json", "--out")
    empty = tmp_path / "empty.txt"
    empty.write_text("")
    tfm("tokenizer", "compare", corpus, "--held-out", empty).failed(9, "word")
    kept = tmp_path / "kept.json"
    kept.write_text("old")

    def full(*_: object) -> None:
        raise OSError(28, "no space")

    monkeypatch.setattr("os.fsync", full)
    tfm("tokenizer", "train", corpus, "--out", kept, "--size", 260).failed(7, "disk")
    assert kept.read_text() == "old"
    assert not list(tmp_path.glob(".kept*"))

"""classify, tag, fill, embed and answer on tiny models: what they print and refuse, and where they read."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import task_models, tiny_models
from tfm.refimpl.checkpoint.open import save_checkpoint
from tfm.refimpl.config import Classify, Dense, Head, MaskedLM, Pool, QuestionAnswering, Tag
from tfm.runtime.bundle.bundle import open_bundle
from tfm.runtime.verification.golden import load
from tfm.runtime.verification.metrics import row_cosines

LABELS = ("O", "B-X", "I-X")
HEADS: dict[str, Head] = {
    "classify": Classify(3),
    "tag": Tag(3),
    "fill": MaskedLM(tied=True),
    "embed": Pool("mean", unit=True, projections=(Dense("tanh", width=20), Dense(None, width=12))),
    "answer": QuestionAnswering(),
}


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint for each task, in a folder of its name."""
    folder = tmp_path_factory.mktemp("tasks")
    for name, head in HEADS.items():
        config = task_models.config(head)
        labels = LABELS if name in ("classify", "tag") else ()
        tokenizer = task_models.WORDS.to_str()
        save_checkpoint(
            folder / name, config, tiny_models.weights(config, 5), tokenizer, labels=labels, mask="[MASK]"
        )
    return folder


@pytest.fixture
def run(tfm, models):
    """Runs a command on the model of its task, by the specification."""
    return lambda name, *given, **more: tfm(
        name, *given, "--model", models / name, "--engine", "numpy", **more
    )


def test_classify(run) -> None:
    told = run("classify", "the cat", "is", "--json").json
    assert [one["text"] for one in told] == ["the cat", "is"]
    want = task_models.tiny_reader(HEADS["classify"], LABELS).classify(["the cat", "is"])
    assert [[tuple(label.values()) for label in one["labels"]] for one in told] == [
        [(label.label, pytest.approx(label.score, rel=1e-4)) for label in labels] for labels in want
    ]
    lines = run("classify", "the cat", "is", "--top", 1).out.splitlines()
    assert lines[0].split() == ["TEXT", "LABEL", "SCORE"]
    assert [line.split()[-2:] for line in lines[1:]] == [
        [labels[0].label, f"{labels[0].score:.4f}"] for labels in want
    ]
    pair = run("classify", "the cat", "--pair", "is", "--json").json
    assert pair[0]["labels"] != told[0]["labels"]


def test_a_table_shortens_a_text_that_is_long(run) -> None:
    text = "cat " * 20
    lines = run("classify", text, "--top", 1).out.splitlines()
    assert lines[1].startswith(text[:59] + "…  ")
    assert run("classify", text, "--json").json[0]["text"] == text


def test_texts_come_from_arguments_a_file_or_stdin(run, tmp_path) -> None:
    (tmp_path / "texts").write_bytes(b"the cat\r\nis\n")
    want = run("classify", "the cat", "is", "--json").json
    assert run("classify", "--file", tmp_path / "texts", "--json").json == want
    assert run("classify", "--json", stdin=b"the cat\nis").json == want
    run("classify", "x", "--file", tmp_path / "texts").failed(2, "both")
    run("classify", stdin=b"the\n \nis\n").failed(2, "text", "2", "'[^[:space:]]'")
    run("classify", stdin=b"").failed(2, "text")
    assert len(run("classify", "a", "b", "c", "--batch", 2, "--top", 1).out.splitlines()) == 4
    run("classify", "--file", tmp_path / "none").failed(2, "exist")
    run("classify", stdin=b"\xff").failed(2, "UTF-8")


def test_tag(run) -> None:
    text = "the cat is catting"
    [told] = run("tag", text, "--json", "--aggregation", "none", "--outside", "nothing").json
    assert [text[e["start"] : e["end"]] for e in told["entities"]] == ["the", "cat", "is", "cat", "t", "ing"]
    assert {e["label"] for e in told["entities"]} <= set(LABELS)
    for strategy in ("simple", "first", "average", "max"):
        entities = task_models.tiny_reader(HEADS["tag"], LABELS).tag(text, aggregation=strategy)[0]
        lines = run("tag", text, "--aggregation", strategy).out.splitlines()[1:]
        assert [line.split()[-4:-2] for line in lines] == [[f"{e.score:.4f}", str(e.start)] for e in entities]


def test_fill(run) -> None:
    [told] = run("fill", "the [MASK] [MASK]", "--top", 3, "--json").json
    assert [len(mask) for mask in told["masks"]] == [3, 3]
    assert set(told["masks"][0][0]) == {"token", "text", "score"}
    lines = run("fill", "the [MASK] [MASK]", "--top", 3).out.splitlines()[1:]
    assert [line.split()[-2:] for line in lines] == [["1", "1"]] * 3 + [["2", "1"]] * 3
    run("fill", "the cat").failed(9, "mask", "[MASK]")


@pytest.mark.parametrize(
    ("command", "other"),
    [
        ("fill", "embed"), ("classify", "tag"), ("tag", "classify"), ("embed", "fill"), ("answer", "fill"),
        ("generate", "embed"), ("chat", "embed"), ("translate", "fill"), ("summarize", "fill"),
    ],
)  # fmt: skip
def test_a_task_is_checked_before_an_export(tfm, models, command, other) -> None:
    """One line of stderr: nothing was exported."""
    texts = {"answer": ("q", "context"), "chat": ()}.get(command, ("the cat",))
    stdin = b"" if texts else b"hi"
    named = "encoder decoder" if command in ("translate", "summarize") else f"use {other}"
    tfm(command, *texts, "--model", models / other, stdin=stdin).failed(4, other, *named.split())


@pytest.mark.parametrize(
    ("file", "words"),
    [("tokenizer.json", "tokenizer.json"), ("tokenizer_config.json", "mask token")],
)
def test_files_of_a_task_are_checked_before_an_export(tfm, models, tmp_path, file, words) -> None:
    model = Path(shutil.copytree(models / "fill", tmp_path / "model"))
    (model / file).unlink()
    for engine in ("onnx", "numpy"):
        tfm("fill", "the [MASK]", "--model", model, "--engine", engine).failed(3, str(model), *words.split())


def test_embed(run, tmp_path, monkeypatch) -> None:
    texts = ["the cat", "is", "catting"]
    vectors = np.array(run("embed", *texts, "--json").json["vectors"])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    plain = [[float(x) for x in line.split()] for line in run("embed", *texts).out.splitlines()]
    np.testing.assert_allclose(plain, vectors, rtol=1e-4)
    assert run("embed", *texts, "--npy", tmp_path / "v").out == ""
    np.testing.assert_allclose(np.load(tmp_path / "v"), vectors, rtol=1e-5)
    cosines = vectors @ vectors.T
    assert float(run("embed", *texts[:2], "--similarity").out) == pytest.approx(cosines[0, 1], abs=1e-4)
    rows = [line.split()[-3:] for line in run("embed", *texts, "--similarity").out.splitlines()[1:]]
    np.testing.assert_allclose(np.array(rows, float), cosines, atol=1e-3)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    shown = run("embed", *texts)
    assert shown.out.splitlines()[0].split() == ["TEXT", "DIMENSION", "NORM", "FIRST", "NUMBERS"]
    first = [f"{x:.4f}" for x in vectors[0][:6]]
    assert shown.out.splitlines()[1].split() == ["the", "cat", str(vectors.shape[1]), "1", *first, "…"]
    assert "--json, --npy FILE" in shown.err
    run("embed", "x", "--similarity").failed(2, "two", "texts")
    run("embed", "x", "--npy", tmp_path / "w", "--json").failed(2, "both")
    run("embed", "x", "--npy", tmp_path / "none" / "w").failed(2, "none", "directory")


def test_an_export_says_how_near_embeddings_stay(tfm, models, tmp_path) -> None:
    ran = tfm("export", models / "embed", tmp_path / "out", "--quant", "int4")
    assert (ran.code, ran.out) == (0, f"{tmp_path / 'out'}\n")
    golden = load(open_bundle(tmp_path / "out"))
    cosine = row_cosines(golden.own.logits, golden.floats.astype(np.float64)).mean()
    expected = r"int4 for ort-cpu, PASSED the quick checks, the embeddings' mean cosine with .* is "
    assert re.search(f"{expected}{re.escape(f'{cosine:.3f}')}", ran.err.splitlines()[-1])


def test_answer(run, tmp_path) -> None:
    context = "the cat is catting " * 9
    (tmp_path / "context").write_text(context)
    (tmp_path / "questions").write_text("the\nis\n")
    [told] = run("answer", "the", context, "--json", "--top", 2).json
    assert told["question"] == "the"
    assert all(context[a["start"] : a["end"]] == a["text"] for a in told["answers"])
    same = ("--top", 2, "--json")
    assert run("answer", "the", "--file", tmp_path / "context", *same).json == [told]
    assert run("answer", "the", *same, stdin=context.encode()).json == [told]
    both = run("answer", "--questions", tmp_path / "questions", context, *same).json
    assert both[0]["answers"][0]["text"] == told["answers"][0]["text"]
    lines = run("answer", "the", "cat", "--may-be-none", "--top", 2).out.splitlines()
    assert {line.split()[0] for line in lines[1:]} == {"cat", "(none)"}
    run("answer").failed(2, "question")
    run("answer", "a", "b", "--questions", tmp_path / "questions").failed(2, "both")
    run("answer", "a", "b", "--file", tmp_path / "context").failed(2, "both")
    run("answer", "a", stdin=b" ").failed(2, "text", "empty", "--file")
    run("answer", "the", context, "--window", 8, "--stride", 5).failed(9, "4", "window", "8")


@pytest.mark.parametrize("name", HEADS)
def test_a_command_that_the_model_is_not_for_names_the_right_one(tfm, models, name) -> None:
    other = "tag" if name != "tag" else "fill"
    ran = tfm(other, "the [MASK]", "--model", models / name, "--engine", "numpy")
    ran.failed(4, name, other)
    tfm("generate", "x", "--model", models / name, "--engine", "numpy").failed(4, name, "generate")


def test_translate_and_summarize(tfm, tmp_path) -> None:
    tokenizer = task_models.WORDS
    config = tiny_models.encoder_decoder(layers=1, vocabulary=task_models.SIZE)
    rules = {"decoder_start_token_id": 2, "eos_token_id": 3, "max_new_tokens": 4}
    save_checkpoint(
        tmp_path / "pair", config, tiny_models.weights(config, 5), tokenizer.to_str(), generation=rules
    )
    options = ("--model", tmp_path / "pair", "--engine", "numpy")
    told = tfm("generate", "the cat", *options, "--json").json
    assert len(told["tokens"]) <= 4
    for name in ("translate", "summarize"):
        assert tfm(name, "the cat", *options, "--json").json["tokens"] == told["tokens"]
        assert tfm(name, *options, stdin=b"the cat\n").out == told["text"] + "\n"
        tfm(name, *options, stdin=b"").failed(2, "empty")
    for name in ("generate", "summarize"):
        tfm(name, "the cat", *options, "--length-penalty", 2).failed(9, "length_penalty", "beams")
        search = ("--beams", 3, "--length-penalty", 2)
        assert tfm(name, "the cat", *options, *search, "--json").code == 0
    tfm("translate", "the cat", *options, "--to", "de").failed(9, "language", "'de'")


def test_a_batch_says_how_many_answers_are_clipped(tfm, tmp_path) -> None:
    config = tiny_models.llama(layers=1, vocabulary=task_models.SIZE, context=12)
    save_checkpoint(tmp_path / "short", config, tiny_models.weights(config, 5), task_models.WORDS.to_str())
    options = ("--model", tmp_path / "short", "--engine", "numpy", "--max-new-tokens", 6)
    ran = tfm("generate", "--batch", 2, *options, stdin=b"cat\n" + b"cat " * 6)
    clipped = (
        "clipped 1 of 2 answers, because the prompts leave fewer than 6 tokens of the context of 12 tokens\n"
    )
    more = ran.err.removeprefix(clipped)
    assert more.startswith("1 of 2 answers ")
    assert more.count("\n") == 1
    assert "6 tokens: raise --max-new-tokens" in more
    assert ran.out.count("\n") == 2
    assert tfm("generate", "--batch", 2, *options, "--json", stdin=b"cat\n" + b"cat " * 6).err == clipped
    assert tfm("generate", "--batch", 2, *options, "--json", stdin=b"cat\ncat").err == ""

"""A report in plain words: units, what is allowed, how much of it is used, and what is open."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from tfm.runtime.verification.checks.backends import KL as BACKEND_KL
from tfm.runtime.verification.checks.bits import EQUAL
from tfm.runtime.verification.checks.logits import COSINE
from tfm.runtime.verification.checks.text import AGREEMENT, KL, PERPLEXITY, REFERENCE_PERPLEXITY
from tfm.runtime.verification.report import NOT_REACHED, NOT_YET, CheckResult, Report, Row, judged
from tfm.runtime.verification.verdict import (
    figure,
    found,
    prediction_cost,
    sentence,
    summary,
    used,
    vector_cost,
    verdict,
)

DATE = "2026-11-26T05:00:00+00:00"
TITLE = "m.gguf in int8 for ort-cpu, 26 November 2026: "
WHOLE = judged("whole: largest error", 0.117, 0.52, "logits")
COUNT = Row("greedy tokens", 30, unit="tokens", ok=True, of=32)


def report(*rows: Row, notes: tuple[str, ...] = (), date: str = DATE) -> Report:
    return Report(
        (CheckResult("one", rows, date=date),), 1.0, "cpu", 1, "m.gguf", "int8", "ort-cpu", notes, DATE
    )


@pytest.mark.parametrize(
    ("row", "shown"),
    [
        (WHOLE, ("0.117 logits", "0.52 logits", "22%", "ok")),
        (COUNT, ("30 of 32 tokens", "", "", "ok")),
        (judged("x", 1.5, 0.1, "logits"), ("1.5 logits", "0.1 logits", "15 times", "FAILED")),
        (judged("x", float("nan"), 0.1), ("nan", "0.1", "nan times", "FAILED")),
        (Row("x", 0.953, unit="of positions"), ("95.3% of positions", "", "", "measured")),
        (Row("x", missing=NOT_REACHED), ("", "", "", "not reached")),
        (Row("x", 3, unit="weights", of=9, missing=NOT_REACHED), ("3 of 9 weights", "", "", "not reached")),
        (Row("x", missing=NOT_YET), ("", "", "", "not checked yet")),
        (Row("x", note="no source"), ("", "", "", "not checked")),
        (judged("x", 0.0, 0.0), ("0", "0", "", "ok")),
    ],
)
def test_a_row_reads_without_knowing_the_code(row, shown):
    assert (found(row), figure(row.budget, row.unit), used(row), row.result) == shown


def test_what_is_equal_to_the_bit_is_told_of_each_path():
    rows = [
        Row(f"kernels ({name}): {EQUAL} {what}", count, unit="tokens", ok=ok, of=of)
        for name, ok in (("avx2", True), ("amx", True), ("neon", False))
        for what, count, of in (("over 64 tokens", 64 if ok else 63, 64), ("after 600 drawn tokens", 1, 1))
    ]
    assert f"{EQUAL.capitalize()} over 64 tokens: kernels (avx2), kernels (amx)." in verdict(report(*rows))
    assert summary(report(*rows)).endswith(f"; {EQUAL} over 64 tokens: kernels (avx2), kernels (amx)")
    assert EQUAL not in summary(report(WHOLE))


def test_embeddings_that_lost_much_are_told_with_a_remedy():
    assert vector_cost(report(WHOLE)) == ""
    near = vector_cost(report(Row(COSINE, 0.9991)))
    assert re.search(r"embeddings.* cosine .*checkpoint's weights as they are stored.* 0\.999$", near)
    assert re.search(r" 0\.961; int8 .*nearer", vector_cost(report(Row(COSINE, 0.9607))))
    assert any(line.endswith(f" {near}.") for line in verdict(report(Row(COSINE, 0.9991))))


def test_what_quantization_costs_is_told_with_a_remedy():
    """The worst of the paths that ran counts; nothing is told where none rounds."""
    figures = {"kernels": 0.0311, "floats": 0.012, "cuda": None}
    paths = [Row(f"{name}{BACKEND_KL}", kl) for name, kl in figures.items()]
    told = prediction_cost(report(*paths))
    assert re.search("predictions .* 0.0311 nats .*checkpoint's weights as they are stored$", told)
    assert any(line.endswith(f" {told}.") for line in verdict(report(*paths)))
    assert prediction_cost(report(WHOLE)) == ""
    much = Row(f"kernels{BACKEND_KL}", 0.2)
    assert re.search("; keep .*int8 .*less", prediction_cost(replace(report(*paths, much), quant="int4")))
    assert ";" not in prediction_cost(report(*paths, much)), "int8 has no better one"


def test_a_verdict_that_passed():
    rows = (
        WHOLE,
        COUNT,
        Row(KL, 0.0031, unit="nats a token"),
        Row(AGREEMENT, 0.97, unit="of positions"),
        Row(PERPLEXITY, 21.46),
        Row(REFERENCE_PERPLEXITY, 21.39),
        Row("weights", note="no source given"),
        Row("text", note="full=True checks it", missing=NOT_YET),
        Row("source", note="source=MODEL checks it", missing=NOT_YET),
        Row("texts", note="full=True checks it", missing=NOT_YET),
        Row("cache", note="in 5 s", missing=NOT_REACHED),
    )
    assert verdict(report(*rows, notes=("the repository's own code was not run",))) == [
        f"{TITLE}PASSED the checks that were reached. These checks found no difference from the "
        "specification beyond rounding.",
        f"Nearest to its limit: {WHOLE.name}, 0.117 logits of the 0.52 logits that are allowed (22%).",
        "Over a text: perplexity 21.46 (the specification's is 21.39), KL divergence 0.0031 nats a token, "
        "the same best token at 97.0% of positions.",
        "Not checked: weights (no source given); text, texts (full=True checks it); source (source=MODEL "
        "checks it); cache (not reached in 5 s).",
        "Note: the repository's own code was not run.",
    ]
    assert verdict(report(WHOLE))[0].startswith(f"{TITLE}PASSED all checks. ")


def test_a_verdict_that_failed():
    worse = [judged(f"x{i}", 3.0, 0.1, "logits", "row 7") for i in range(5)]
    lines = verdict(report(WHOLE, *worse))
    assert lines[0].startswith(f"{TITLE}FAILED. ")
    assert "PASSED" not in lines[0]
    assert re.fullmatch(r"Failed: x0: 3 logits, .* 0\.1 logits \(30 times\) \(row 7\)\.", lines[1])
    assert lines[5] == "Failed: 1 more figures."
    assert len(lines) == 6
    assert sentence(Row("hashes", note="other bytes", ok=False)) == "hashes: other bytes"
    assert verdict(Report((), 0.0, "cpu", 1, date=DATE))[0].startswith("The bundle, 26 November 2026: ")


def test_what_an_earlier_run_found_is_said():
    (line,) = [x for x in verdict(report(WHOLE, date="2026-11-25T05:00:00+00:00")) if "earlier" in x]
    assert line.endswith(f" 25 November 2026: {WHOLE.name}.")
    nothing = report(Row("weights", note="no source given"), date="2026-11-25T05:00:00+00:00")
    assert not any("earlier" in line for line in verdict(nothing))
    assert "earlier" not in " ".join(verdict(report(WHOLE)))


def test_a_certificate_in_a_line():
    assert summary(None) == "no"
    assert summary(report(WHOLE)) == "26 November 2026: PASSED all checks"
    not_run = report(WHOLE, Row("weights", note="no source given"))
    assert re.fullmatch("26 November 2026: PASSED .* could .*", summary(not_run))
    later = report(WHOLE, Row("greedy texts", missing=NOT_YET))
    assert re.fullmatch(f"26 November 2026: PASSED .*quick.*; {NOT_YET}: greedy texts", summary(later))

"""What long work shows on stderr: a line rewritten in place at a terminal, else few lines."""

from __future__ import annotations

import sys

import pytest
from tfm.cli import console
from tfm.runtime.progress import InBytes


@pytest.fixture
def seconds(monkeypatch) -> list[float]:
    """The clock: a list whose only item is the time."""
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    return now


def pretend_terminal(monkeypatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "60")


def test_without_a_terminal_a_stage_is_a_line_and_then_one_in_ten_seconds(capsys, seconds) -> None:
    show = console.progress()
    show("measuring", 0, 4)
    show("measuring", 1, 4)
    assert capsys.readouterr().err == "measuring\n"
    for seconds[0], done in ((9, 1), (20, 2), (25, 3), (60, 4)):
        show("measuring", done, 4)
    assert capsys.readouterr().err == "measuring: 50 %, 20 s, 20 s left\n"
    show("building", 0, 0)
    seconds[0] = 185
    show("building", 1200, 0)
    assert capsys.readouterr().err == "building\nbuilding: 1,200, 2 min 5 s\n"


def test_a_stage_in_bytes_has_a_rate(capsys, seconds) -> None:
    show = console.progress()
    for seconds[0], done in ((0, 0), (20, 50_000_000), (25, 90_000_000)):
        show(InBytes("fetching"), done, 100_000_000)
    assert capsys.readouterr().err == "fetching\nfetching: 50 %, 20 s, 2.5 MB/s, 20 s left\n"


def test_work_that_takes_no_time_shows_nothing(capsys, seconds, monkeypatch) -> None:
    pretend_terminal(monkeypatch)
    console.progress()("reading texts", 3, 3)
    assert capsys.readouterr().err == ""


def test_work_that_is_first_reported_late_took_time_before(capsys, seconds) -> None:
    show = console.progress()
    for seconds[0], done in ((30, 1), (60, 2)):
        show("reading texts", done, 4)
    assert (
        capsys.readouterr().err
        == "reading texts: 25 %, 30 s, 1 min 30 s left\nreading texts: 50 %, 1 min 0 s, 1 min 0 s left\n"
    )


def test_at_a_terminal_a_stage_is_one_line(capsys, seconds, monkeypatch) -> None:
    pretend_terminal(monkeypatch)
    show = console.progress()
    for seconds[0], done in ((0, 0), (0.05, 1), (4, 2), (8, 4)):
        show("writing", done, 4)
    show("again", 0, 4)
    show("writing", 0, 4)
    begin, half, end = "writing: 0 %, 0 s", "writing: 50 %, 4 s, 4 s left", "writing: 100 %, 8 s"
    line = f"\r{begin}\r{half}\r{end:{len(half)}}\n"
    assert capsys.readouterr().err == f"{line}\ragain: 0 %, 0 s\n\r{begin}"
    console.say("note")
    console.say("note")
    assert capsys.readouterr().err == "\nnote\nnote\n"


def test_a_line_is_cut_to_the_terminal_and_ends_before_the_result(capsys, seconds, monkeypatch) -> None:
    pretend_terminal(monkeypatch)
    console.progress()("x\x1b" + 100 * "y", 0, 4)
    console.out("result")
    shown = capsys.readouterr()
    assert shown.err == "\rx\\x1b" + 54 * "y" + "\n"
    assert shown.out == "result\n"


def test_work_is_one_line_and_its_stages_with_verbose(capsys, seconds, monkeypatch) -> None:
    def work() -> str:
        show = console.work_in_one_line("exporting tiny")
        for seconds[0], stage, done in (
            (0, "tracing", 0),
            (1, "rounding", 0),
            (12, "rounding", 1),
            (13, "w", 0),
        ):
            show(stage, done, 4)
        return capsys.readouterr().err

    assert work() == "exporting tiny\nexporting tiny: rounding, 25 %\n"
    monkeypatch.setattr(console.DETAIL, "verbose", True)
    assert work().splitlines() == ["tracing", "rounding", "rounding: 25 %, 11 s, 33 s left", "w"]


@pytest.mark.parametrize("shows", ["terminal", "notebook"])
def test_work_is_one_line_that_is_rewritten(shows, capsys, seconds, monkeypatch) -> None:
    if shows == "terminal":
        pretend_terminal(monkeypatch)
    else:
        monkeypatch.setattr(type(sys.stderr), "__module__", "ipykernel.iostream", raising=False)
    show = console.work_in_one_line("exporting tiny")
    for seconds[0], stage, done in (
        (0, "tracing", 0),
        (1, "rounding", 0),
        (1.01, "rounding", 1),
        (2, "rounding", 2),
    ):
        show(stage, done, 4)
    console.say("done")
    first, second, third = (f"exporting tiny: {rest}" for rest in ("tracing", "rounding", "rounding, 50 %"))
    assert capsys.readouterr().err == f"\r{first}\r{second}\r{third}\ndone\n"

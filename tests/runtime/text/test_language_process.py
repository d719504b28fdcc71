"""Child processes that follow languages: hostile ones are errors, and the next language is followed."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import text_strategies
from helpers.hostile_languages import STEPS, WIDE, drawn
from helpers.refused import refused
from helpers.serving import wait_until
from tfm.refimpl.errors import ArgumentError, CheckpointError, LimitError, TfmError
from tfm.runtime.text import bounded_program, language_process
from tfm.runtime.text.constraints import Constraints, Language, check
from tfm.runtime.text.language_process import Limits
from tfm.runtime.text.tokenizer import Tokenizer

LIBRARY = text_strategies.byte_level()
TOKENIZER = Tokenizer(LIBRARY.to_str(), LIBRARY.get_vocab_size())
STOP = LIBRARY.get_vocab()["<|im_end|>"]
SHORT = Limits(compile_s=0.15, step_s=0.15, memory=2**40)  # time alone ends them


@pytest.fixture(scope="module")
def made() -> Constraints:
    return Constraints(TOKENIZER, [STOP], SHORT)


def follow(made: Constraints, language: Language, steps: int = 20) -> None:
    """Draw a text of a language."""
    one, tokens = made.constraint(language), []
    rng = np.random.default_rng(len(language.text))
    for _ in range(steps):
        tokens = [*tokens, int(rng.choice(np.flatnonzero(one.allowed(tokens))))]
        if tokens[-1] == STOP or one.is_complete(tokens):
            return


def serves(made: Constraints) -> bool:
    one = made.constraint(Language("regex", "(yes|no)"))
    return one.allowed([])[TOKENIZER.encode("y")[0]] and one.is_complete(TOKENIZER.encode("yes"))


def children(of: str = "self") -> set[str]:
    """The processes that a process started, by any of its threads."""
    return {
        child
        for task in Path(f"/proc/{of}/task").iterdir()
        for child in (task / "children").read_text().split()
    }


def test_drawn_bombs_are_errors_and_the_next_language_is_followed(made: Constraints) -> None:
    rng = random.Random(5)
    ended = 0
    for _ in range(50):
        bomb = Language(*drawn(rng))
        begin = time.process_time()
        try:
            follow(made, bomb)
        except (ArgumentError, LimitError) as error:
            ended += "takes more than" in str(error) or "takes too long" in str(error)
        assert time.process_time() - begin < 2, "the work is the children's"
        assert serves(made)
    assert ended >= 10  # the others have a limit of the library's own, or none


def test_a_step_that_takes_too_long_ends_its_text_alone(made: Constraints) -> None:
    other = made.constraint(Language("regex", "[a-z]{90}"))
    before = other.allowed([])
    with refused(LimitError, "complex", "step"):
        made.constraint(Language(*STEPS)).allowed(TOKENIZER.encode('"' + "0" * 12))
    assert np.array_equal(other.allowed([]), before)


def test_a_bomb_is_refused_before_a_model_is_loaded() -> None:
    with refused(ArgumentError, "2", "s", "256", "MB"):
        check(Language(*WIDE))


def test_memory_is_limited() -> None:
    small = Constraints(TOKENIZER, [STOP], Limits(compile_s=60, memory=2**24))
    with refused(ArgumentError, "memory"):
        small.constraint(Language(*WIDE))
    assert serves(small)


def test_processes_end_with_what_asks_them() -> None:
    before = children()
    made = Constraints(TOKENIZER, [STOP], SHORT)
    (first,) = children() - before
    one = made.constraint(Language("regex", "[a-z]+"))
    assert one.allowed([]).any()
    (language,) = children(first)
    (text,) = children(language)
    del one
    wait_until(lambda: not children(language))
    assert text != language
    del made
    wait_until(lambda: children() == before)


def test_a_process_that_was_killed_is_replaced() -> None:
    before = children()
    made = Constraints(TOKENIZER, [STOP], SHORT)
    (first,) = children() - before
    os.kill(int(first), signal.SIGKILL)
    wait_until(lambda: " Z " in Path(f"/proc/{first}/stat").read_text())
    assert serves(made)


@pytest.mark.parametrize(
    ("module", "name", "value", "reason"),
    [
        (bounded_program, "POSIX", False, "limit"),
        (language_process, "PROGRAM", "/nowhere", "ended"),
        (sys, "executable", "/nowhere", "file"),
    ],
)
def test_where_no_process_can_run(
    monkeypatch: pytest.MonkeyPatch, module: object, name: str, value: object, reason: str
) -> None:
    monkeypatch.setattr(module, name, value)
    with refused(TfmError, "child", "process", reason):
        Constraints(TOKENIZER, [STOP])


def test_without_its_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded_program.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ModuleNotFoundError) as caught:
        check(Language("regex", "a"))
    assert caught.value.name == "llguidance"
    with refused(CheckpointError, "llguidance", "'tfm-cli[serve]'"):
        Constraints(TOKENIZER, [STOP])

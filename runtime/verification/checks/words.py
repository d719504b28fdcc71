"""Count the words of a spoken sentence that a speech model's bundle transcribes wrongly."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from ....refimpl.decoding.speech import Limits
from ....refimpl.errors import CheckpointError, LimitError
from ..golden_sound import SENTENCE, spoken
from ..report import Row
from .context import VerifyContext
from .kernels import all_backends

SUBJECT = "words of a spoken sentence written wrongly"


def check_words(context: VerifyContext) -> Iterator[Row]:
    """Yield a row with the number of wrong words in the transcription of SENTENCE, on the backend that runs
    by default.

    The text is decoded greedily. There is no limit, because the count depends on what the model learned.
    """
    from ...tasks.model import Model  # with all tasks, which other checks don't need

    bundle = context.bundle
    if bundle.tokenizer is None:
        yield Row(SUBJECT, note="the bundle has no tokenizer")
        return
    *_, (engine, _) = all_backends(context).values()
    languages = {} if bundle.generation.speech is None else bundle.generation.speech.languages
    model, wanted = Model(engine, bundle), words_of(SENTENCE)
    asked: dict[str, Any] = {"language": "en"} if "en" in languages else {}
    if bundle.generation.speech is not None:
        asked |= {"limits": Limits(), "temperatures": (0.0,)}
    try:
        text = " ".join(one.text.strip() for one in model.transcribe(spoken(), **asked))
    except (CheckpointError, LimitError) as error:
        yield Row(SUBJECT, note=str(error))
        return
    wrong = changes(wanted, words_of(text))
    yield Row(SUBJECT, wrong, unit="words", of=len(wanted), note=f"“{text:.200}”")


def words_of(text: str) -> list[str]:
    """Return the words of a text in lower case and without punctuation."""
    return re.findall(r"[\w']+", text.lower())


def changes(before: Sequence[str], after: Sequence[str]) -> int:
    """Return how many words must be changed, added or left out to turn one list of words into the other
    (Levenshtein).
    """
    row = [*range(len(after) + 1)]
    for i, one in enumerate(before, 1):
        aslant, row[0] = row[0], i
        for j, other in enumerate(after, 1):
            aslant, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, aslant + (one != other))
    return row[-1]

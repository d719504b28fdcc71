"""Languages by their tokens, as tokenizers of mBART, mBART-50, M2M100, NLLB and Marian have them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from helpers import tiny_models
from tfm.refimpl.checkpoint.generation_config import Generation
from tfm.refimpl.checkpoint.languages import Languages, read_languages
from tfm.refimpl.checkpoint.translation import directed
from tfm.refimpl.errors import LimitError

PAIR = tiny_models.encoder_decoder()
CODES = {"en_XX": 90, "ro_RO": 91, "pt_XX": 92, "pt_BR": 93}


def plan(vocabulary: Any, **added: int) -> str:
    tokens = [{"content": name, "id": number} for name, number in added.items()]
    return json.dumps({"model": {"vocab": vocabulary}, "added_tokens": tokens})


def test_where_the_tokens_are():
    mbart = plan([["<s>", 0.0], ["de_DE", -1.0]], **CODES, **{"<mask>": 94, "xx_YY": 97})
    assert read_languages(mbart, 2, PAIR) == Languages(CODES, "first")
    assert read_languages(mbart, 91, PAIR) == Languages(CODES, "start")
    marian = plan({"a": 0, ">>fra<<": 1, ">>por_BR<<": 2, ">>far<<": 97})
    assert read_languages(marian, 2, PAIR) == Languages({"fra": 1, "por_BR": 2}, "text")
    nllb = {"ron_Latn": 3, "zho_Hans": 4, "zho_Hant": 5}
    assert read_languages(plan([["ace_Arab", 0.0]], **nllb), 2, PAIR) == Languages(nllb, "first")
    m2m = plan({"__fr__": 1}, __ro__=3, __ceb__=4, __madeupword0__=5)
    assert read_languages(m2m, 2, PAIR) == Languages({"ro": 3, "ceb": 4}, "first")
    listed = plan([["a", 0.0], [">>fra<<", -1.0]])
    assert read_languages(listed, 2, PAIR) == Languages({"fra": 1}, "text")
    for without in ("[]", "{}", plan(None), plan({"a": 0}), plan([1, [], [2]])):
        assert read_languages(without, 2, PAIR) is None
    assert read_languages(None, 2, PAIR) is None
    assert read_languages(mbart, 2, tiny_models.llama()) is None


def test_mbart_50_writes_the_language_first():
    found = Generation(start=2, defaults={"min_new_tokens": 1}, languages=Languages(CODES, "first"))
    made, ids = directed(found, [90, 5, 6, 2], "ro_RO", "pt_BR")
    assert ids == [91, 5, 6, 2]
    assert made.defaults == {"min_new_tokens": 1, "forced_tokens": [93]}
    assert (made.start, found.defaults) == (2, {"min_new_tokens": 1})
    assert directed(found, [90, 5], None, None) == (found, [90, 5])
    assert directed(found, [5, 90], "ro")[1] == [5, 91]


def test_mbart_begins_with_the_language():
    found = Generation(start=91, languages=Languages(CODES, "start"))
    made, ids = directed(found, [5, 6, 2, 90], None, "en")
    assert (made.start, made.defaults, ids) == (90, {}, [5, 6, 2, 90])


def test_marian_is_told_before_the_text():
    found = Generation(start=2, languages=Languages({"fra": 1}, "text"))
    assert directed(found, [5, 0], None, "fra") == (found, [1, 5, 0])


@pytest.mark.parametrize(
    ("languages", "ids", "pair", "message"),
    [
        (Languages(CODES, "first"), [90], ("en", "pt"), "en_XX.*pt_BR.*pt_XX.*ro_RO.*'pt'"),
        (Languages(CODES, "first"), [90], ("xx", None), "language.*'xx'"),
        (Languages(CODES, "first"), [5], ("en", None), "'(en|fra)'"),
        (Languages({"fra": 1}, "text"), [1], ("fra", None), "'(en|fra)'"),
        (None, [1], (None, "fra"), "'fra'"),
        (None, [1], ("deu", None), "language 'deu'"),
    ],
)
def test_refused(languages: Languages | None, ids: list[int], pair: tuple[Any, Any], message: str):
    with pytest.raises(LimitError, match=message):
        directed(Generation(languages=languages), ids, *pair)

"""JSON that Python's parser lets pass and ours doesn't."""

import pytest
from helpers.refused import refused
from tfm.refimpl.checkpoint.formats.strict_json import DEPTH, parse
from tfm.refimpl.errors import BundleError, CheckpointError


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": 1, "b": 2, "a": 3}', "'a'"),
        ("[NaN]", "finite NaN"),
        ("[-Infinity]", "finite -Infinity"),
        ("[1e999]", "finite 1e999"),
        ("[" * 100_000, "nested"),
        ("[" * (DEPTH + 1) + "]" * (DEPTH + 1), "nested 32"),
        ("9" * 5000, "JSON"),
        ("{", "JSON"),
        (b"\xff", "JSON UTF-8"),
    ],
)
def test_refused(text, words):
    with refused(CheckpointError, *words.split()) as caught:
        parse(text, "x.json")
    assert str(caught.value).startswith("x.json: ")


def test_read():
    assert parse(b'{"a": [1, 2.5, null, true, "\\u00e9"]}', "x.json") == {"a": [1, 2.5, None, True, "é"]}
    assert parse("[" * DEPTH + "]" * DEPTH, "x.json")
    with pytest.raises(BundleError):
        parse("", "x.json", BundleError)


def test_infinity_of_a_config_is_read_as_transformers_tags_it():
    """It is no float, so that nobody computes with it unawares; a number too large isn't one either way."""
    assert parse('{"limit": [0.0, Infinity]}', "x.json", tagged=True) == {
        "limit": [0.0, {"__float__": "Infinity"}]
    }
    for text in ("1e999", "-Infinity"):
        with refused(CheckpointError, "numbers", "finite"):
            parse(text, "x.json", tagged=True)

"""A JSON value as a type: what is read, and the path, the rule and the value of what isn't."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from tfm.refimpl.config.typed_json import read
from tfm.refimpl.errors import ConfigError


@dataclass(frozen=True)
class Part:
    size: int
    name: str = field(default="", metadata={"optional": True})
    kind: Literal[1, "a"] | None = None
    parts: tuple[Part, ...] = field(default=(), metadata={"optional": True})


INNER = {"size": 1, "kind": "a"}


@pytest.mark.parametrize(
    ("value", "kind", "made"),
    [
        (3, float, 3.0),
        (None, float | None, None),
        (True, bool, True),
        ([1, 2], tuple[int, ...] | None, (1, 2)),
        ({"a": [1.5]}, dict[str, tuple[float, ...]], {"a": (1.5,)}),
        ({"size": 2, "kind": 1}, Part, Part(2, kind=1)),
        (
            {"size": 2, "kind": None, "parts": [{"size": 1, "kind": "a"}]},
            Part,
            Part(2, parts=(Part(1, "", "a"),)),
        ),
        ([{"x": 1}], Any, [{"x": 1}]),
    ],
)
def test_a_value_is_read_as_its_type(value: Any, kind: Any, made: object) -> None:
    assert read(value, kind, "it") == made


@pytest.mark.parametrize(
    ("value", "kind", "path", "got"),
    [
        (True, int, "it", "True"),
        (1.0, int, "it", "1.0"),
        (True, float, "it", "True"),
        (float("nan"), float, "it", "nan"),
        (2.0**200, float, "it", "1.6"),
        (2**128, float, "it", "34028236692093846346"),
        (None, str, "it", "None"),
        ([1, "x"], tuple[int, ...], "it[1]", "'x'"),
        ({"a": {"b": 1}}, dict[str, dict[str, str]], "it.a.b", "1"),
        ({"size": 2, "kind": True}, Part, "it.kind", "True"),
        ({"size": 2, "kind": 1, "parts": [{"size": "1", "kind": "a"}]}, Part, "it.parts[0].size", "'1'"),
        ([], Part, "it", "[]"),
    ],
)
def test_another_value_is_named(value: Any, kind: Any, path: str, got: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read(value, kind, "it")
    assert str(refused.value).startswith(f"{path} must be ")
    assert f", got {got}" in str(refused.value)


@pytest.mark.parametrize(
    ("value", "words"),
    [({"kind": 1}, "it.size is missing"), ({"size": 1, "kind": 1, "x": 0}, "it.x is an unknown field")],
)
def test_an_object_has_its_fields_and_no_others(value: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=f"^{words}$"):
        read(value, Part, "it")

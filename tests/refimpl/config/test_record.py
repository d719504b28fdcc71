"""A part of a Config behaves as `dataclass(frozen=True)` makes a class behave."""

from __future__ import annotations

import copy
import itertools
from dataclasses import FrozenInstanceError, asdict, dataclass, fields, replace
from typing import Any

import pytest
from tfm.refimpl.config import Decoder, RMSNorm, Window
from tfm.refimpl.config.record import Record, kinds


class Own(Record):
    size: int
    part: Any = None


class OwnLonger(Own):
    more: float = 0.5

    def __post_init__(self) -> None:
        if self.more < 0:
            raise ValueError("negative")


@dataclass(frozen=True)
class Standard:
    size: int
    part: Any = None


@dataclass(frozen=True)
class StandardLonger(Standard):
    more: float = 0.5


ARGUMENTS = ((1,), (1, (2,)), (2,), (1, "a"), (1, None))
CHANGES = {
    "set a field": lambda one: setattr(one, "size", 3),
    "set another attribute": lambda one: setattr(one, "other", 3),
    "delete a field": lambda one: delattr(one, "size"),
    "delete another attribute": lambda one: delattr(one, "other"),
}


@pytest.mark.parametrize(("own", "standard"), [(Own, Standard), (OwnLonger, StandardLonger)])
def test_it_is_a_frozen_dataclass(own: Any, standard: Any) -> None:
    assert [f.name for f in fields(own)] == [f.name for f in fields(standard)]
    assert own.__match_args__ == standard.__match_args__
    for arguments, others in itertools.product(ARGUMENTS, repeat=2):
        a, b, c, d = own(*arguments), own(*others), standard(*arguments), standard(*others)
        assert (a == b, a != b, hash(a) == hash(b)) == (c == d, c != d, hash(c) == hash(d))
        assert repr(a).removeprefix("Own") == repr(c).removeprefix("Standard")
        assert asdict(a) == asdict(c)
        assert asdict(replace(a, part=b)) == asdict(replace(c, part=d))
        assert copy.deepcopy(a) == a == copy.copy(a)
    for wrong in ({}, {"size": 1, "other": 2}):
        for kind in (own, standard):
            with pytest.raises(TypeError):
                kind(**wrong)


@pytest.mark.parametrize("what", CHANGES)
@pytest.mark.parametrize("kind", [Own, OwnLonger, Standard])
def test_it_is_never_changed(kind: Any, what: str) -> None:
    one = kind(1)
    with pytest.raises(FrozenInstanceError):
        CHANGES[what](one)
    assert one == kind(1)
    assert not hasattr(one, "other")


def test_a_subclass_is_another_kind() -> None:
    assert Own(1) != OwnLonger(1)
    assert {Own(1): 1, OwnLonger(1): 2, Own(1, None): 3} == {Own(1): 3, OwnLonger(1): 2}
    assert Own(1) != (Own, 1, None)
    with pytest.raises(ValueError, match="negative"):
        OwnLonger(1, None, -1.0)


def test_all_parts_of_a_config_are_records() -> None:
    assert {Decoder, Window, RMSNorm} < set(kinds(Record))
    assert Window(3) != RMSNorm(3)
    match Window(3):
        case Window(size):
            assert size == 3
    assert Decoder.__match_args__ == ("embedding", "stack", "head", "context", "mtp")

"""What the parts of a Config are: frozen dataclasses that share their methods."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING, Field, FrozenInstanceError, dataclass, field, fields
from operator import attrgetter
from typing import Any, ClassVar, NamedTuple, TypeVar, dataclass_transform

Kind = TypeVar("Kind")


def bounded(limit: str, name: str = "", *, least: int = 1, default: Any = MISSING) -> Any:
    """A field that is `least` to `LIMITS[limit]` (`config.bounds`), or None; errors call it `name`."""
    return field(default=default, metadata={"bound": (limit, name, least)})


@dataclass_transform(frozen_default=True, field_specifiers=(field, bounded))
class Record:
    """A subclass is a frozen dataclass: equal where class and fields are, hashable, and never changed.

    `dataclass(frozen=True)` does the same, and compiles six methods for each class whenever it is imported.
    Here it compiles one, `__init__`, and the others are inherited: a Config has so many kinds of parts that a
    start is 20 ms shorter.
    """

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]
    _identity: ClassVar[Any]  # an attrgetter of the class and the fields

    def __init_subclass__(cls) -> None:
        dataclass(eq=False, repr=False)(cls)
        cls._identity = attrgetter("__class__", *(f.name for f in fields(cls)))

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in self.__dataclass_fields__ or name in self.__dict__:
            raise FrozenInstanceError(f"cannot assign to field {name!r}")
        self.__dict__[name] = value  # from __init__

    def __delattr__(self, name: str) -> None:
        raise FrozenInstanceError(f"cannot delete field {name!r}")

    def __eq__(self, other: object) -> bool:
        if other.__class__ is not self.__class__:
            return NotImplemented
        return self._identity(self) == self._identity(other)

    def __hash__(self) -> int:
        return hash(self._identity(self))

    def __repr__(self) -> str:
        stated = ", ".join(f"{f.name}={getattr(self, f.name)!r}" for f in fields(self))
        return f"{type(self).__qualname__}({stated})"

    def numbers(self) -> Iterator[float]:
        """The numbers that it computes with and that aren't among its settings, for the check of a graph."""
        yield from ()

    def integers(self) -> Iterator[int]:
        """The integers that follow from its settings, for the same check."""
        yield from ()


def kinds(base: type[Kind]) -> tuple[type[Kind], ...]:
    """The classes that a value of `base` may have: those below it that have none below themselves, or itself.

    A class is one of them from when its module is imported.
    """
    below = base.__subclasses__()
    return tuple(kind for one in below for kind in kinds(one)) if below else (base,)


class SmoothingSite(NamedTuple):
    """An activation that can be smoothed: the leaves that produce it and the matrices that consume it.

    Producers are divided along their last axis, consumers multiplied along their first. Without producers the
    matrix product divides its own input. Where query heads share a value head, `repeats` blocks of
    `head_size` channels share their factors.
    """

    producers: tuple[str, ...]
    consumers: tuple[str, ...]
    repeats: int = 1
    head_size: int = 1

    @property
    def leaves(self) -> tuple[str, ...]:
        return (*self.producers, *self.consumers)

"""The base class of all parts of a Config: frozen dataclasses that share their methods."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING, Field, FrozenInstanceError, dataclass, field, fields
from operator import attrgetter
from typing import Any, ClassVar, NamedTuple, TypeVar, dataclass_transform

Kind = TypeVar("Kind")


def bounded(limit: str, name: str = "", *, least: int = 1, default: Any = MISSING) -> Any:
    """Return a dataclass field whose value is None or from `least` to `LIMITS[limit]` (`config.bounds`).

    Error messages call the field `name`.
    """
    return field(default=default, metadata={"bound": (limit, name, least)})


@dataclass_transform(frozen_default=True, field_specifiers=(field, bounded))
class Record:
    """The base of a Config's frozen dataclasses: hashable, immutable, equal if class and fields are equal.

    `dataclass(frozen=True)` does the same, but it compiles six methods for each class at import. Here only
    `__init__` is compiled and the other methods are inherited. A Config has so many classes that this
    shortens the start by 20 ms.
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
        """The numbers with which this part computes and that aren't among its settings. The check of a graph
        uses these numbers.
        """
        yield from ()

    def integers(self) -> Iterator[int]:
        """The integers that are computed from the record's settings. The check of a graph uses these integers
        too.
        """
        yield from ()


def kinds(base: type[Kind]) -> tuple[type[Kind], ...]:
    """Return the classes that a value of type `base` may have: its subclasses without subclasses, or itself.

    The result includes a class only after the class's module has been imported.
    """
    below = base.__subclasses__()
    return tuple(kind for one in below for kind in kinds(one)) if below else (base,)


class SmoothingSite(NamedTuple):
    """An activation that can be smoothed: the parameters that produce it and the matrices that consume it.

    Producers are divided along their last axis; consumers are multiplied along their first axis. Without
    producers, the matrix product divides its own input. If several query heads share a value head, `repeats`
    blocks of `head_size` channels share the same factors.
    """

    producers: tuple[str, ...]
    consumers: tuple[str, ...]
    repeats: int = 1
    head_size: int = 1

    @property
    def leaves(self) -> tuple[str, ...]:
        return (*self.producers, *self.consumers)

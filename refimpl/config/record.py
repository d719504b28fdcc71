"""The base class of all parts of a Config: frozen dataclasses that share their methods."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING, Field, FrozenInstanceError, dataclass, field, fields
from operator import attrgetter
from typing import Any, ClassVar, NamedTuple, TypeVar, dataclass_transform

Kind = TypeVar("Kind")


def bounded(limit: str, name: str = "", *, least: int = 1, default: Any = MISSING) -> Any:
    """Define a dataclass field that must be None or an integer from `least` to `LIMITS[limit]`
    (`config.bounds`).

    Error messages call the field `name`, or by its own name if `name` is empty.
    """
    return field(default=default, metadata={"bound": (limit, name, least)})


@dataclass_transform(frozen_default=True, field_specifiers=(field, bounded))
class Record:
    """The base class of all parts of a Config: immutable, hashable dataclasses.

    Two records are equal if their class and all their fields are equal. `dataclass(frozen=True)` would do the
    same, but compiles six methods for each class at import. A Record compiles only `__init__` and inherits
    the other methods, so the program starts 20 ms faster.
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
        """Yield the constants that this part computes with, apart from its settings.

        `verify` allows these numbers in a bundle's graph.
        """
        yield from ()

    def integers(self) -> Iterator[int]:
        """Yield the integers that this part derives from its settings.

        `verify` allows these integers in a bundle's graph.
        """
        yield from ()


def kinds(base: type[Kind]) -> tuple[type[Kind], ...]:
    """Return the concrete classes below `base`: all its subclasses that have no subclasses, or `base` itself.

    A class is found only after its module has been imported.
    """
    below = base.__subclasses__()
    return tuple(kind for one in below for kind in kinds(one)) if below else (base,)


class SmoothingSite(NamedTuple):
    """An activation that can be smoothed before quantization: the parameters that produce the activation, and
    the matrices that consume it.

    Smoothing divides the producers along their last axis and multiplies the consumers along their first axis,
    so the product is unchanged. If there are no producers, the activation itself is divided before the matrix
    product. If several query heads share a value head, the consumer's channels form `repeats` blocks of
    `head_size` that use the same factors.
    """

    producers: tuple[str, ...]
    consumers: tuple[str, ...]
    repeats: int = 1
    head_size: int = 1

    @property
    def leaves(self) -> tuple[str, ...]:
        return (*self.producers, *self.consumers)

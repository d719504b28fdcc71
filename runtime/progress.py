"""How long work says what it is doing and how far it is; who calls it decides how that is shown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

# Called with the stage in plain words, how much of it is done and how much there is, in any unit that grows
# with time. The first call with 0 done announces a stage. A total of 0: nobody knows how much there is.
Progress = Callable[[str, int, int], None]
T = TypeVar("T")


class InBytes(str):
    """A stage whose amounts are bytes: how many a second can be shown."""

    __slots__ = ()


def silent(stage: str, done: int, total: int) -> None:
    """A Progress that shows nothing."""


def tracked(items: Iterable[T], total: int, stage: str, progress: Progress) -> Iterator[T]:
    """The same items, `total` of them; each is reported once its user asks for the next."""
    for done, item in enumerate(items, 1):
        yield item
        progress(stage, done, total)

"""Report the stage and progress of long work. The caller decides how the progress is shown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

# Called with the stage in plain words, how much of it is done and how much there is, in any unit that grows
# with time. The first call with 0 done announces a stage. A total of 0: nobody knows how much there is.
Progress = Callable[[str, int, int], None]
T = TypeVar("T")


class InBytes(str):
    """The name of a stage of work that is measured in bytes, so that bytes per second can be shown."""

    __slots__ = ()


def silent(stage: str, done: int, total: int) -> None:
    """Ignore a progress report. This is the default for arguments of the type Progress."""


def tracked(items: Iterable[T], total: int, stage: str, progress: Progress) -> Iterator[T]:
    """Yield the `total` items unchanged, and report progress: an item is done when the next one is
    requested.
    """
    for done, item in enumerate(items, 1):
        yield item
        progress(stage, done, total)

"""Report the stage and the progress of long work. The caller decides how progress is shown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

# Called with the stage in plain words, how much of it is done and how much there is, in any unit that grows
# with time. The first call with 0 done announces a stage. A total of 0: nobody knows how much there is.
Progress = Callable[[str, int, int], None]
T = TypeVar("T")


class InBytes(str):
    """A stage whose amounts are bytes, so that bytes per second can be shown."""

    __slots__ = ()


def silent(stage: str, done: int, total: int) -> None:
    """Show nothing; this is the default Progress."""


def tracked(items: Iterable[T], total: int, stage: str, progress: Progress) -> Iterator[T]:
    """Yield the `total` items unchanged, and report each item as done when the next one is requested."""
    for done, item in enumerate(items, 1):
        yield item
        progress(stage, done, total)

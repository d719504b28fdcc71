"""The settings of a LoRA adapter: which modules the adapter changes, with which rank and scale."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from .name_patterns import NamePattern, Work

Task = Literal["lm", "classify", "tag", "answer", "pool"]
Numbers = tuple[tuple[NamePattern, float], ...]
ALL_LINEAR = "all-linear"


@dataclass(frozen=True)
class ModuleNames:
    """Module names as peft states them: either endings of names, which begin after a dot, or one pattern for
    whole names.
    """

    endings: frozenset[str] = frozenset()
    pattern: NamePattern | None = None

    def have(self, module: str, work: Work) -> bool:
        if self.pattern is not None:
            return self.pattern.matches(module, work, suffix=False)
        parts = module.split(".")
        return any(".".join(parts[i:]) in self.endings for i in range(len(parts)))


@dataclass(frozen=True)
class LoraSettings:
    """The settings in adapter_config.json that change numbers.

    `task` is the task of the adapted model, or None for the task of its base model. If `targets` is None, any
    module may be adapted. `saved` are endings of the names of modules that are stored whole. `layers` are the
    indices of the adapted layers, or None for all layers. `layer_lists` are the names of the lists that
    contain these layers. If `layer_lists` is empty, any list may contain them.
    """

    base: str | None
    task: Task | None
    rank: int
    alpha: float
    ranks: Numbers = ()
    alphas: Numbers = ()
    rank_stabilized: bool = False
    dora: bool = False
    keeps_ties: bool = False
    targets: ModuleNames | None = None
    excluded: ModuleNames = field(default_factory=ModuleNames)
    saved: tuple[str, ...] = ()
    layers: frozenset[int] | None = None
    layer_lists: tuple[str, ...] = ()

    def rank_of(self, module: str, work: Work) -> int:
        return int(_first(self.ranks, module, work, self.rank))

    def scale_of(self, module: str, work: Work) -> float:
        """Return the factor by which a module's update is multiplied.

        The factor is alpha / r (Hu et al. 2021, arXiv:2106.09685, section 4.1), or alpha / sqrt(r) if the
        adapter is rank-stabilized (Kalajdzievski 2023, arXiv:2312.03732).
        """
        rank = self.rank_of(module, work)
        alpha = _first(self.alphas, module, work, self.alpha)
        return alpha / (math.sqrt(rank) if self.rank_stabilized else rank)

    def adapts(self, module: str, work: Work) -> bool:
        """Return whether the settings say that the module has a low-rank update."""
        whole = any(f".{name}." in f".{module}." for name in self.saved)
        if whole or self.excluded.have(module, work):
            return False
        if self.targets is None:
            return True
        if not self.targets.have(module, work):
            return False
        # As in peft, a whole name among the endings is taken whatever its layer is.
        if self.layers is None or module in self.targets.endings:
            return True
        return _layer(module, self.layer_lists) in self.layers

    def saves(self, module: str) -> bool:
        """Return whether the module is stored whole. As in peft, the endings of names in `saved` needn't
        begin after a dot.
        """
        return any(module.endswith(ending) for ending in self.saved)


def _first(numbers: Numbers, module: str, work: Work, default: float) -> float:
    """Return the number of the first pattern that matches the module's name, or the part of the name after
    some dot. If no pattern matches, return `default`.
    """
    return next((n for pattern, n in numbers if pattern.matches(module, work, suffix=True)), default)


def _layer(module: str, lists: tuple[str, ...]) -> int | None:
    """Return the number of the module's layer: the first number in the module's name that follows the name of
    a list of layers.

    If `lists` is empty, any list is accepted, but as in peft something must come before the list.
    """
    parts = module.split(".")
    for name in lists or (None,):
        for before, part in zip(parts[0 if name else 1 :], parts[1 if name else 2 : -1], strict=False):
            if name in (None, before) and part.isascii() and part.isdigit():
                return int(part)
    return None

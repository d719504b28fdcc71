"""A registry of all components of a model, and the modules of `ops` that define them.

A class becomes a component when its module is imported. Since a run needs few components, reading a Config
imports only the modules of the components that the Config names.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from importlib import import_module
from typing import Any

from .config import Config, TokenMixer, json_form
from .config.record import Record, kinds

# The name of a mixer begins with that of its module, in one word.
MODULES = (
    "channel_mix", "convbert", "disentangled", "gated_delta", "indexed_attention", "latent_attention",
    "lightning", "linear_attention", "longformer", "longt5", "lstm", "mamba", "mamba2", "mobilebert",
    "ngram_memory", "pooled_attention", "rg_lru", "shared_block", "short_conv", "time_mix", "xlnet",
)  # fmt: skip


def mixers() -> tuple[type[TokenMixer], ...]:
    """Import and return all token mixer classes."""
    _load(MODULES)
    return kinds(TokenMixer)


def from_json(value: Any) -> Config:
    """Convert the output of `to_json` back to a Config; raise ConfigError for any other value."""
    named = {name.lower() for name in _types(value)}
    _load([one for one in MODULES if any(name.startswith(one.replace("_", "")) for name in named)])
    if named - {kind.__name__.lower() for kind in kinds(Record)}:
        _load(MODULES)  # so that the error names what there is
    return json_form.from_json(value)


def _load(modules: Collection[str]) -> None:
    for module in modules:
        import_module(f".ops.{module}", __package__)


def _types(value: Any) -> Iterator[str]:
    """Yield the names of all classes in a JSON value, however deeply it is nested."""
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, dict):
            if isinstance(name := one.get("type"), str):
                yield name
            left += one.values()
        elif isinstance(one, list):
            left += one

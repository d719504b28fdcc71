"""Read rotary positions from GGUF. Metadata state the numbers, and tensors contain divisors of
frequencies.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...errors import ConfigError
from ..formats.tensor_source import TensorSource
from . import rope
from .keys import ABSENT, Keys

SCALING_TYPES = {kind: kind for kind in ("none", "linear", "yarn", "longrope")}
ORIGINAL = "rope.scaling.original_context_length"
SECTIONS = "rope.dimension_sections"
SHORT, LONG, DIVISORS = "rope_factors_short.weight", "rope_factors_long.weight", "rope_freqs.weight"


def rope_scaling(keys: Keys, source: TensorSource, head_size: int) -> Any:
    """Return the scaling of rotary positions in config.json's form.

    LongRoPE and Llama 3.1 store the scaling as tensors with a divisor for each pair. Other scalings are
    numbers in the metadata.
    """
    keys.get("rope.scaling.finetuned", bool, True)
    kind = keys.choice("rope.scaling.type", SCALING_TYPES, "linear")  # llama.cpp's default with a factor
    factor, context = keys.positive("rope.scaling.factor", 1.0), keys.size("context_length")
    pairs = keys.size("rope.dimension_count", head_size) // 2
    divided = [name for name in (SHORT, LONG, DIVISORS) if name in source.names]
    if divided and factor != 1:
        raise keys.fail("rope.scaling.factor", f"1, because the file has the tensor {divided[0]}")
    if DIVISORS in divided:
        # The converter keeps only the divisors: the largest is the factor, the other numbers are Llama 3's.
        factor, trained = max(divisors(keys, source, DIVISORS, pairs)), keys.size(ORIGINAL, 8192)
        own = {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
        return {"rope_type": "llama3", "factor": factor, rope.ORIGINAL: trained, **own}
    original = {rope.ORIGINAL: keys.size(ORIGINAL, context)}
    if divided or kind == "longrope":
        short, long = ([*divisors(keys, source, name, pairs)] for name in (SHORT, LONG))
        magnitude = keys.positive("rope.scaling.attn_factor", 1.0)
        factors = {"short_factor": short, "long_factor": long, "attention_factor": magnitude}
        return {"rope_type": "longrope", **original, **factors}
    if kind == "yarn":
        for name in ("attn_factor", "yarn_attn_factor", "yarn_ext_factor"):
            if keys.get(f"rope.scaling.{name}", float, 1.0) != 1:
                raise keys.fail(f"rope.scaling.{name}", "1")
        bounds = {key: f"rope.scaling.yarn_{key}" for key in ("beta_fast", "beta_slow")}
        stated = {key: keys.positive(name) for key, name in bounds.items() if name in keys}
        return {"rope_type": "yarn", "factor": factor, **original, **stated}
    if kind == "none" or factor == 1:
        return {"rope_type": "default"}
    return {"rope_type": "linear", "factor": factor}


def share_of_dims(keys: Keys, head_size: int, *, partial: bool, key: str = "rope.dimension_count") -> Any:
    """Return which share of each head is rotated, computed from the number of rotated elements. Without
    `partial`, the share must be 1.
    """
    dims = keys.size(key, head_size)
    if dims > head_size or (dims < head_size and not partial):
        raise keys.fail(key, f"{'at most ' if partial else ''}the head's size ({head_size})")
    if dims % 2 and dims != head_size:
        raise keys.fail(key, "even")
    # Whoever rounds a product with the size down gets the dims back: half of one more doesn't count.
    if dims == head_size:
        return 1.0 if partial else ABSENT
    return (dims + 0.5) / head_size


def check_sections(keys: Keys) -> Any:
    """Check that M-RoPE's sections of a head's pairs are valid. The sections are for time, height, width and
    a fourth one that texts don't use.

    The tokens of a text have three equal coordinates, so the sections don't change the result.
    """
    sections = keys.get(SECTIONS, list)
    if not 3 <= len(sections) <= 4 or any(type(n) is not int or n < 0 for n in sections) or any(sections[3:]):
        raise keys.fail(SECTIONS, "a list of three whole numbers, or of four with a last 0")
    return ABSENT


def divisors(keys: Keys, source: TensorSource, name: str, pairs: int) -> tuple[float, ...]:
    """Return the divisor of each pair's frequency from the tensor `name`, which must be present."""
    found = source.load(name) if name in source.names else np.zeros(0)
    if not pairs or found.shape != (pairs,) or not np.isfinite(found).all() or not found.min() > 0:
        raise ConfigError(
            f"{keys.where}: tensor {name} must have the shape ({pairs},) and only positive, finite "
            f"numbers, got shape {found.shape}"
        )
    return tuple(map(float, found))

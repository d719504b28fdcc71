"""All components of a model. A class is one from when its module is imported, and this imports every module.

So a Config that is read from JSON may have any of them.
"""

from __future__ import annotations

from .config import TokenMixer
from .config.json_form import from_json
from .config.record import kinds
from .ops import (
    disentangled,
    gated_delta,
    latent_attention,
    linear_attention,
    longformer,
    longt5,
    lstm,
    mamba,
    mamba2,
    short_conv,
    xlnet,
)

_MODULES = (
    disentangled, gated_delta, latent_attention, linear_attention, longformer, longt5, lstm, mamba, mamba2,
    short_conv, xlnet,
)  # fmt: skip

__all__ = ["from_json", "mixers"]


def mixers() -> tuple[type[TokenMixer], ...]:
    """All token mixers."""
    return kinds(TokenMixer)

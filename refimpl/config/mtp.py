"""A module that predicts the token after the next, beside a decoder."""

from __future__ import annotations

from .layers import Layer
from .norms import RMSNorm
from .record import Record


class MTP(Record):
    """One module of multi-token prediction (`ops.mtp`): a linear map, then a layer of the decoder's kind.

    The module has three norms: of the token's vector, of the decoder's vector, and of the layer's output. All
    three have the settings `norm`.
    """

    layer: Layer
    norm: RMSNorm

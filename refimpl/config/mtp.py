"""A module that predicts the token after the next, beside a decoder."""

from __future__ import annotations

from .layers import Layer
from .norms import RMSNorm
from .record import Record


class MTP(Record):
    """One module of multi-token prediction (`ops.mtp`): a layer of the decoder's kind, behind a linear map.

    `norm` is the kind of its three norms: of the token's vector, of the decoder's, and after the layer.
    """

    layer: Layer
    norm: RMSNorm

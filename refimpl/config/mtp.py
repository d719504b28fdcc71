"""A module that predicts the token after the next, beside a decoder."""

from __future__ import annotations

from .layers import Layer
from .norms import RMSNorm
from .record import Record


class MTP(Record):
    """One module of multi-token prediction (`ops.mtp`): a linear map, then a layer of the decoder's kind.

    All three norms of the module are like `norm`: those of the token's vector, of the decoder's vector, and
    of the layer's output.
    """

    layer: Layer
    norm: RMSNorm

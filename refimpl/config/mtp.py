"""The settings of a module that drafts tokens for a decoder by multi-token prediction (MTP)."""

from __future__ import annotations

from .layers import Layer
from .norms import RMSNorm
from .record import Record


class MTP(Record):
    """A multi-token prediction module: a linear map, then one layer like the decoder's layers (`ops.mtp`).

    The module has three norms with the settings `norm`. They normalize the token's vector, the decoder's
    hidden state, and the layer's output.
    """

    layer: Layer
    norm: RMSNorm

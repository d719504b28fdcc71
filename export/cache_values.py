"""The mirror's value of each kind of cache: its first fields are the kind's arrays."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..refimpl.engine.cache_kinds import (
    CacheKind,
    ChannelStates,
    ConvTail,
    HybridStates,
    KeysValues,
    Latents,
    LinearSums,
    LstmStates,
    MatrixStates,
    NothingKept,
)
from .ops.block import MixerCache
from .ops.cache import KVCache
from .ops.latent_attention import LatentCache
from .ops.linear_attention import LinearState
from .ops.lstm import LstmState
from .ops.mamba import ChannelState
from .ops.mamba2 import HybridCache
from .ops.shared_attention import SharedKV
from .ops.short_conv import ConvState, MatrixState

VALUES: dict[type[CacheKind], type[MixerCache]] = {
    KeysValues: KVCache,
    NothingKept: SharedKV,
    LinearSums: LinearState,
    LstmStates: LstmState,
    ConvTail: ConvState,
    MatrixStates: MatrixState,
    ChannelStates: ChannelState,
    Latents: LatentCache,
    HybridStates: HybridCache,
}


def cache_value(
    kind: CacheKind, arrays: Sequence[torch.Tensor], lengths: torch.Tensor | None = None
) -> MixerCache:
    """The value over a kind's arrays, for a step of whose tokens `lengths` [B] are real, None for all."""
    return kind.with_lengths(VALUES[type(kind)](*arrays), lengths)

"""Window attention in banded form: only scores of queries and keys in the same window are computed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .attention import softmax
from .dispatch import op

if TYPE_CHECKING:
    from ..axes import Array, Bool, Float


@op
def banded_attend(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B T G K"],
    v: Float[Array, "B T G V"],
    keys: Bool[Array, "B T"] | None = None,
    *,
    band: tuple[int, int],
    sinks: int = 0,
    scale: float | None = None,
    softcap: float | None = None,
) -> Float[Array, "B T H V"]:
    """Compute attention within a window: each query sees the band[0] keys that end at its own position,
    and the band[1] keys after its position.

    Beltagy et al. 2020, §3.1. Every query also sees the first `sinks` keys of the text, unless they come
    after the query (Xiao et al. 2023, attention sinks). `keys` says which keys are real. The result equals
    the result of `attend` with the same mask, but only T · (width + sinks) scores are computed instead of
    T · T.

                 keys, band (3, 1)
        queries  x x . . . .
                 x x x . . .
                 x x x x . .
                 . x x x x .
                 . . x x x x
                 . . . x x x

    Conventions: band[0] counts the query's own key, as a mask's `window` does. Queries and keys belong to
    the same tokens. The function takes no cache: a layer with a window caches only the window's keys, so
    `attend` computes few scores anyway. The output of a query that sees no key is 0.
    """
    b, t, h, size = q.shape
    g = k.shape[2]
    before, after = band
    real = np.ones((b, t), bool) if keys is None else keys
    # Key s of query t is key t − before + 1 + s of the sequence: windows over the padded sequence.
    around = ((0, 0), (before - 1, after))

    def windows(a: Array) -> Array:
        return np.lib.stride_tricks.sliding_window_view(a, before + after, axis=1)

    near_k, near_v = (windows(np.pad(a, (*around, (0, 0), (0, 0)))) for a in (k, v))
    near = windows(np.pad(real, around))
    # A sink inside the window is one key, not two.
    first = np.arange(t)[:, None] - before + 1
    sink = np.arange(min(sinks, t))
    apart = (sink < first)[None] & real[:, None, sink]

    grouped = q.reshape(b, t, g, h // g, size)
    scores = np.concatenate(
        [
            np.einsum("btgrk,btgks->btgrs", grouped, near_k),
            np.einsum("btgrk,bsgk->btgrs", grouped, k[:, sink]),
        ],
        axis=-1,
    )
    scores = scores * (size**-0.5 if scale is None else scale)
    if softcap is not None:
        scores = softcap * np.tanh(scores / softcap)
    seen = np.concatenate([near, apart], axis=-1)
    weights = softmax(scores, seen[:, :, None, None])
    inside, outside = weights[..., : before + after], weights[..., before + after :]
    out = np.einsum("btgrs,btgvs->btgrv", inside, near_v)
    out = out + np.einsum("btgrs,bsgv->btgrv", outside, v[:, sink])
    return out.reshape(b, t, h, v.shape[3])

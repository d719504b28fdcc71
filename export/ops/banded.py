"""Implement window attention in PyTorch, in banded form: only the scores inside the window are computed."""

from __future__ import annotations

import torch
from torch import Tensor

from ...refimpl.ops.attention import softmax
from ..scan import last_index, tiles
from ..torch_bodies import torch_body


@torch_body
def banded_attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    keys: Tensor | None = None,
    *,
    band: tuple[int, int],
    sinks: int = 0,
    scale: float | None = None,
    softcap: float | None = None,
) -> Tensor:
    """Compute attention within a window. The queries are split into chunks of band[0] tokens. For each chunk,
    the keys and values around the chunk are gathered by their positions.
    """
    t, size, g = q.shape[1], q.shape[3], k.shape[2]
    before, after = band
    at, _ = tiles(t, before, q.device)
    end = last_index(t, q.device)
    near = at[:, :1] + torch.arange(1 - before, before + after, device=q.device)
    sink = torch.arange(sinks, device=q.device).expand(near.shape[0], -1)
    behind = at[:, :, None] - near[:, None]
    inside = (behind < before) & (behind >= -after) & (near >= 0)[:, None]
    # A sink inside the window is one key, not two.
    seen = torch.cat([inside, at[:, :, None] - sink[:, None] >= before], -1)
    places = torch.cat([near, sink], -1)
    seen = seen & (places <= end)[:, None]
    pick = lambda a, places: a[:, torch.minimum(places.clamp(min=0), end)]  # noqa: E731
    if keys is not None:
        seen = seen & pick(keys, places).unsqueeze(2)

    # [B · n, G, R · chunk, K] and [B · n, G, keys, K]: one axis of batches, or the exporter asks
    # what divides n.
    grouped = pick(q, at).flatten(0, 1).unflatten(2, (g, -1)).permute(0, 2, 3, 1, 4).flatten(2, 3)
    some_k, some_v = (pick(a, places).flatten(0, 1).transpose(1, 2) for a in (k, v))
    scores = grouped @ some_k.transpose(-1, -2) * (size**-0.5 if scale is None else scale)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    seen = seen.expand(q.shape[0], -1, -1, -1).flatten(0, 1)
    weights = softmax(scores.unflatten(2, (-1, before)), seen[:, None, None])
    out = (weights.flatten(2, 3) @ some_v).unflatten(2, (-1, before))
    padded = out.permute(0, 3, 1, 2, 4).flatten(2, 3).unflatten(0, (q.shape[0], at.shape[0])).flatten(1, 2)
    return padded.index_select(1, torch.arange(t, device=q.device))

"""MobileBERT's bottleneck against transformers' layer."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from helpers.float64 import in_float64, randomize
from helpers.tolerances import equal
from hypothesis import given
from hypothesis import strategies as st
from tfm.refimpl.config import Affine, LayerNorm, Plain
from tfm.refimpl.ops.mobilebert import MobileBertBottleneck, mobilebert_bottleneck
from transformers import MobileBertConfig
from transformers.models.mobilebert.modeling_mobilebert import MobileBertLayer


@given(st.integers(0, 2**32 - 1), st.booleans(), st.booleans(), st.integers(1, 3))
def test_mobilebert_is_transformers(seed: int, shared: bool, plain: bool, mlps: int):
    """The layer's last sum and norm, which aren't the bottleneck's, are undone."""
    config = MobileBertConfig(
        hidden_size=10, intra_bottleneck_size=6, num_attention_heads=3, intermediate_size=7,
        num_feedforward_networks=mlps, use_bottleneck_attention=not shared, hidden_act="tanh",
        normalization_type="no_norm" if plain else "layer_norm", layer_norm_eps=1e-5,
    )  # fmt: skip
    layer, rng = randomize(MobileBertLayer(config), seed), np.random.default_rng(seed)
    x, lengths = rng.standard_normal((2, 5, 10)), np.array([5, rng.integers(1, 6)])
    layer.output.bottleneck.LayerNorm = torch.nn.Identity()

    def maps(linear: Any, name: str) -> dict[str, Any]:
        return {f"w{name}": linear.weight.detach().numpy().T, f"b{name}": linear.bias.detach().numpy()}

    def norm(module: Any) -> dict[str, Any]:
        return {"weight": module.weight.detach().numpy(), "bias": module.bias.detach().numpy()}

    def mlp(first: Any, last: Any) -> dict[str, Any]:
        both = {**maps(first.dense, "up"), **maps(last.dense, "down")}
        return {name.removeprefix("w"): leaf for name, leaf in both.items()} | {"after": norm(last.LayerNorm)}

    around, attention = layer.bottleneck, layer.attention
    leaves: Any = {
        **maps(around.input.dense, "_narrow"), "narrow_norm": norm(around.input.LayerNorm),
        **maps(attention.self.query, "_query"), **maps(attention.self.key, "_key"),
        **maps(attention.self.value, "_value"), **maps(attention.output.dense, "o"),
        "out_norm": norm(attention.output.LayerNorm), **maps(layer.output.bottleneck.dense, "_wide"),
        "mlps": [mlp(one.intermediate, one.output) for one in getattr(layer, "ffn", ())]
        + [mlp(layer.intermediate, layer.output)],
    }  # fmt: skip
    if shared:
        leaves |= maps(around.attention.dense, "_shared")
        leaves |= {"shared_norm": norm(around.attention.LayerNorm)}
    kind = Affine() if plain else LayerNorm(1e-5)
    settings = MobileBertBottleneck(3, 2, (Plain(7, "tanh", after=kind),) * mlps, kind, shared, shared)
    got = mobilebert_bottleneck(x, lengths, leaves, settings=settings)
    for row, length in enumerate(lengths):
        alone = torch.from_numpy(x[row : row + 1, :length])
        want = in_float64(layer, alone) - alone
        equal(got[row, :length], want.detach().numpy()[0])

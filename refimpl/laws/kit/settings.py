"""What declarations leave open: the values of settings, which parameters go together, which weights.

A new static setting gets its values by one line in `SETTINGS`; `bool` and `Literal` have theirs. A
letter stands for the size that was drawn for it.
"""

from __future__ import annotations

from typing import Any, Literal

SETTINGS: dict[str, tuple[Any, ...]] = {
    "eps": (1e-5, 0.1),
    "norm_eps": (1e-6, 0.1),
    "clip": (None, 0.5),
    "window": (None, 1, 3),
    "scale": (None, 0.7),
    "softcap": (None, 2.0),
    "theta": (10_000.0, 50.0),
    "factor": (8.0,),
    "low_freq_factor": (1.0,),
    "high_freq_factor": (4.0,),
    "original_context": (16,),
    "context": (8, 16, 40),
    "beta_fast": (32.0, 2.0),
    "beta_slow": (1.0, 0.5),
    "magnitude": (1.0, 1.25),
    "max_bias": (8.0, 4.0),
    "buckets": (8, 32),
    "max_distance": (20, 128),
    "offset": (0, 2),
    "sinks": (0, 2),
    "slack": (0, 1),
    "head_size": ("K",),
    "top": ("I",),
    "capacity": (None, 70, 125),
    "bits": (8, 4),
    "block": (4, 16),
    "axis": (0, 1),
    "tile": (2, 7),
    "chunk": (2, 7),
    "band": (1, 3),
    "reach": (1, 2),
    "first": (1, 2),
}
# Parameters that stand side by side, or none of them.
TOGETHER = {
    "sin": "cos",
    "k_norm": "q_norm",
    "v_scale": "k_scale",
    "bk": "bq",
    "bv": "bq",
    "c0": "h0",
    "bias_back": "bias",
    "peephole_back": "peephole",
}
# Blocks that are drawn: (bits, has zero points, has minima, activations). Where a product may read
# another one's output, only `PASSIVE` is: one activation code flipped by an ulp would hide all else.
SCHEMES: dict[str, tuple[int, bool, bool, Literal["none", "block", "row", "smoothed", "static"]]] = {
    "8": (8, False, False, "block"),
    "4 zero": (4, True, False, "block"),
    "4 minimum": (4, False, True, "block"),
    "8 row": (8, False, False, "row"),
    "8 smoothed": (8, False, False, "smoothed"),
    "8 static": (8, False, False, "static"),
    "8 plain": (8, True, False, "none"),
    "4 plain minimum": (4, True, True, "none"),
}
PASSIVE = "4 plain minimum"
BLOCK = 4
# What may have no element, and what is never empty.
EMPTY = frozenset("OUP")
# Functions whose kernels approximate, see `budget.APPROXIMATE`.
ACTIVATIONS = frozenset({"sigmoid", "silu", "gelu", "gelu_tanh", "quick_gelu", "mish", "activation"})
MLPS = frozenset({"plain_mlp", "gated_mlp", "mixture", "moe"})
GATED = frozenset({"bidirectional_lstm", "lstm", "lstm_cell"})
# Functions of a whole tree: an annotation can't say which one, so tests/export/ops/test_model.py feeds them.
HAND = frozenset(
    {
        "block.block", "block.encoder_block", "block.normalize",
        "encoder.encode", "encoder.memory", "encoder.predict",
        "model.embed", "model.lm_logits", "model.model", "model.position_tables", "model.score_biases",
    }
)  # fmt: skip

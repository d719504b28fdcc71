"""Multi-token prediction: a small module beside a model, which predicts the token after the next
(DeepSeek-V3 2024, arXiv 2412.19437, section 2.2).

The model has read the tokens t_0 … t_i, and its vector h_i after the last norm gives the next one, t_{i+1}.
With that token known the module predicts the one after it, t_{i+2}, from two vectors: h_i, which knows the
text so far, and the embedding of t_{i+1}:

        h_i ── norm ───────────┐
                               [ e ; h ] ── M ── layer ── norm ── h'_i ── the model's output table ── t_{i+2}
    t_{i+1} ── table ── norm ──┘                  │
                                                  keys and values of the pairs before

    h'_i = norm(layer(M [norm(Emb(t_{i+1})); norm(h_i)]))              equations 21 to 23
    P(t_{i+2}) = softmax(head(h'_i))                                   equation 24

It is trained beside the model, by the same text one token later (equation 25). Table and head are the model's
own (the report's "shared embedding layer" and "shared output head"), so a module costs one layer and M. The
layer attends to the pairs before it, so it has a cache of its own: pair i stands at position i, and of a text
of L tokens there are L − 1 pairs.

What it predicts is a draft: the model checks it, and the text stays the same (`decoding.mtp`). For a second
draft the module is applied once more, to its own h'_i and its own token, as if h'_i were the model's
h_{i+1}. The report has a module of its own for each depth k, trained on the vectors of the module before it.
DeepSeek-V3 was published with one, which vLLM and SGLang apply again and again, and so it is here.

Gloeckle et al. 2024 (arXiv 2404.19737) predict several tokens in parallel: n heads, a layer each, read the
same h_i, and none of them knows which tokens the others chose. DeepSeek's modules keep the causal chain: each
reads the token before the one that it predicts.

Conventions, where implementations differ:
- M reads the token first: [norm(Emb); norm(h)], as `eh_proj` of DeepSeek and GLM and `mtp.fc` of Qwen store
  it. Equation 21 has [norm(h); norm(Emb)].
- h_i is taken after the model's last norm, as transformers, vLLM and SGLang take it, and is normalized again.
  h'_i that is handed on is taken after the module's norm too, so the first and the second draft read alike
  (transformers and SGLang; vLLM hands DeepSeek's on before that norm).
- The pair of position 0 is as any other; vLLM makes the embedding in it zeros.
By another convention drafts are worse, and the text is the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

from .arrays import concatenate
from .dispatch import op
from .linear import linear
from .norm import rms_norm
from .quant import Blocks

if TYPE_CHECKING:
    from typing import Any as Array

    from jaxtyping import Float

__all__ = ["MTPInputWeights", "mtp_input"]


class MTPInputWeights(TypedDict):
    """The leaves that join two vectors: a norm of each, and the map M from both."""

    token_norm: Float[Array, " D"]
    hidden_norm: Float[Array, " D"]
    project: Float[Array, "2*D D"] | Blocks


@op
def mtp_input(
    x: Float[Array, "B T D"],
    hidden: Float[Array, "B T D"],
    weights: MTPInputWeights,
    *,
    eps: float,
) -> Float[Array, "B T D"]:
    """M [norm(x); norm(h)]: what the module's layer reads, of the vectors x of tokens and the model's vectors
    h of the tokens before them (equation 21, its halves in the order of the checkpoints)."""
    both = (rms_norm(x, weights["token_norm"], eps=eps), rms_norm(hidden, weights["hidden_norm"], eps=eps))
    return linear(concatenate(both, axis=-1), weights["project"])

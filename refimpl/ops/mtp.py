"""Multi-token prediction: a small module beside a model, which predicts the token after the next
(DeepSeek-V3 2024, arXiv 2412.19437, section 2.2).

After the model has read the tokens t_0 … t_i, its vector h_i after the last norm gives the next token,
t_{i+1}. When that token is known, the module predicts the token after it, t_{i+2}, from two vectors: h_i,
which contains the text so far, and the embedding of t_{i+1}:

        h_i ── norm ───────────┐
                               [ e ; h ] ── M ── layer ── norm ── h'_i ── the model's output table ── t_{i+2}
    t_{i+1} ── table ── norm ──┘                  │
                                                  keys and values of the pairs before

    h'_i = norm(layer(M [norm(Emb(t_{i+1})); norm(h_i)]))              equations 21 to 23
    P(t_{i+2}) = softmax(head(h'_i))                                   equation 24

The module is trained together with the model, on the same text shifted by one token (equation 25). Table and
head are the model's own (the report's "shared embedding layer" and "shared output head"), so a module costs
only one layer and M. The layer attends to the earlier pairs, so it has a cache of its own. Pair i has
position i, and a text of L tokens has L − 1 pairs.

The module's prediction is a draft: the model checks it, and the text stays the same (`decoding.mtp`). For a
second draft the module is applied once more, to its own h'_i and its own token, as if h'_i were the model's
h_{i+1}. The report has a separate module for each depth k, trained on the vectors of the module before it.
DeepSeek-V3 was published with one module. vLLM, SGLang and tfm apply it repeatedly.

Gloeckle et al. 2024 (arXiv 2404.19737) predict several tokens in parallel: n heads of one layer each read the
same h_i, and none of them knows which tokens the others chose. DeepSeek's modules keep the causal chain: each
module reads the token before the one that it predicts.

Conventions, where implementations differ:
- M reads the token first: [norm(Emb); norm(h)], as `eh_proj` of DeepSeek and GLM and `mtp.fc` of Qwen store
  it. Equation 21 has [norm(h); norm(Emb)].
- h_i is taken after the model's last norm, as in transformers, vLLM and SGLang, and is normalized again. The
  h'_i for the next draft is also taken after the module's norm, so the first and the second draft read the
  same kind of vector (transformers and SGLang; vLLM takes DeepSeek's before that norm).
- The pair at position 0 is treated like any other pair. vLLM sets its embedding to zeros. If a convention is
  wrong for a checkpoint, its drafts are worse, but the text is the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

from .arrays import concatenate
from .dispatch import op
from .linear import linear
from .norm import rms_norm
from .quant import Blocks

if TYPE_CHECKING:
    from ..axes import Array, Float


class MTPInputWeights(TypedDict):
    """The parameters that join the two vectors of a pair: a norm for each vector, and the projection M of
    both together.
    """

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
    """Return the input of the module's layer: M [norm(x); norm(h)], where x are the embeddings of tokens,
    and h are the model's vectors of the previous tokens.

    This is equation 21, but with the two halves in the order of the checkpoints.
    """
    both = (rms_norm(x, weights["token_norm"], eps=eps), rms_norm(hidden, weights["hidden_norm"], eps=eps))
    return linear(concatenate(both, axis=-1), weights["project"])

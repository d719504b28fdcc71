"""The axis alphabet: one letter for each size, used in all signatures, einsums and graphs of tfm.

A signature such as `Float[Array, "B T D"]` names the axes of an array. A product such as `H*K` in `"D H*K"`
means two axes that are flattened into one. `DERIVED` has rules for letters with a size that follows from
other letters; a rule applies if a signature contains one of these other letters. Ids, lengths and positions
state their upper bound: `Index[Array, "B T", "< N"]`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

LETTERS = {
    "B": "batch: rows that don't see each other",
    "T": "query time: tokens of this call",
    "S": "key time",
    "O": "old: the longest past of a row before this call",
    "L": "capacity of a cache, in tokens; T where no past stands in the signature",
    "D": "width of the residual stream; input of a linear map",
    "F": "hidden width of the mlp; output of a linear map",
    "H": "query heads",
    "G": "key/value heads (groups)",
    "R": "query heads that share one key/value head",
    "K": "size of a query or key head",
    "J": "rotated pairs of a head; half the samples of a window",
    "U": "elements of a head that aren't rotated; experts that a token doesn't choose",
    "V": "size of a value head; words of a cluster",
    "N": "vocabulary",
    "P": "wanted positions",
    "C": "quantization blocks along an axis; numbers of a latent; layers side by side; distances; bands",
    "M": "any number of positions, samples, or pairs of blocks",
    "A": "tokens of a block; earlier tokens that a convolution sees; reach of a window; hop",
    "Y": "blocks of queries",
    "Z": "blocks of keys",
    "I": "what each one chooses: random blocks, experts of a token; key/value heads of a shared block",
    "E": "experts",
    "Q": "features of a kernel, never negative; size of a shared block's head",
    "X": "ranks that share a sequence; heads of an indexer or of a shared block; streams of a token; stride",
    "W": "buckets of distances; elements of an indexer's head that aren't rotated",
}

DERIVED = {"H": "G*R", "L": "O+T", "K": "2*J+U", "E": "I+U"}

# The names in annotations, for readers and type checkers. The laws put an array's real class in their place.
if TYPE_CHECKING:
    from jaxtyping import Bool as Bool
    from jaxtyping import Float as Float
    from jaxtyping import Int as Int
    from jaxtyping import UInt8 as UInt8
    from jaxtyping import UInt16 as UInt16

    Array = Any
    DType = Any
    Index = Annotated

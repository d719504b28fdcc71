"""Biases of scores that depend on the distance between query and key: ALiBi's biases and T5's biases."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .dispatch import op

if TYPE_CHECKING:
    from ..axes import Array, Float, Index, Int


@op
def alibi_slopes(heads: Int[Array, " H"], *, max_bias: float = 8.0) -> Float[Array, " H"]:
    """Return ALiBi's slope of each head: 2^(−max_bias · (h + 1) / P), with P heads in all (Press et al.
    2022, §3).

    `heads` is 0 … H−1; the result is float64. Conventions: this rule is for an H that is a power of two.
    For any other H, let P be the largest power of two below H. The first P heads have the slopes of a
    model with P heads. The remaining heads have every other slope of a model with 2P heads, beginning with
    the first. The authors' code, BLOOM and MPT do the same.
    """
    power = 2 ** (len(heads).bit_length() - 1)
    steps = np.where(heads < power, heads + 1, heads - power + 0.5)
    return 2.0 ** (-max_bias * steps / power)


@op
def alibi_bias(
    slopes: Float[Array, " H"],
    queries: Int[Array, "B T"],
    keys: Int[Array, " S"],
) -> Float[Array, "B H T S"]:
    """Return ALiBi's bias of each score: −slope · |query − key| (Press et al. 2022, eq. in §3). Queries
    and keys are positions in the text.

    Conventions: BLOOM adds slope · key instead. For each query, the two biases differ only by a constant.
    So under a causal mask both give the same softmax. In encoders, keys after the query are penalized by
    their distance in the same way as keys before it.
    """
    distance = np.abs(queries[:, :, None] - keys[None, None, :])
    return -slopes[:, None, None] * distance[:, None].astype(slopes.dtype)


@op
def relative_buckets(
    queries: Int[Array, "B T"],
    keys: Int[Array, " S"],
    *,
    buckets: int,
    max_distance: int,
    bidirectional: bool,
) -> Index[Array, "B T S", "< W"]:
    """Return the bucket of each distance between a query and a key (Raffel et al. 2020, §2.1, and T5's
    code).

    The first half of the buckets contains one distance each: distances 0 … E − 1 have buckets 0 … E − 1.
    In the second half, distance d is in bucket E + ⌊E' ln(d / E) / ln(max_distance / E)⌋, so the buckets
    become wider with larger distances. The last of these E' buckets contains all distances from
    max_distance on.

    With `bidirectional`, keys after the query have buckets of their own, which follow the buckets of keys
    before the query. Conventions: without `bidirectional`, all keys after the query share bucket 0 with
    the query's own position, since these keys are masked.
    """
    behind = queries[:, :, None] - keys[None, None, :]
    count = buckets // 2 if bidirectional else buckets
    distance = np.abs(behind) if bidirectional else np.maximum(behind, 0)
    exact = count // 2
    ratio = np.log(np.maximum(distance, exact) / exact) / np.log(max_distance / exact)
    logarithmic = np.minimum(exact + (ratio * (count - exact)).astype(np.int64), count - 1)
    bucket = np.where(distance < exact, distance, logarithmic)
    return bucket + count * (behind < 0) if bidirectional else bucket


@op
def relative_bias(
    bucket_ids: Index[Array, "B T S", "< W"],
    table: Float[Array, "W H"],
) -> Float[Array, "B H T S"]:
    """Return the bias of each head and score: the table's entry for the head and the score's bucket."""
    return table[bucket_ids].transpose(0, 3, 1, 2)

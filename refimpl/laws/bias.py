"""Laws of biases of scores: ALiBi's slopes and distances, and T5's buckets."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from ..ops.attention import softmax
from ..ops.mask import causal_mask
from . import Draw, Subject, law

shifts = st.integers(0, 1000)


@law("alibi_slopes")
def a_power_of_two_has_a_geometric_row(alibi_slopes: Subject, draw: Draw) -> None:
    """For 2, 4, 8 … heads, ALiBi's slopes are a geometric series: each slope is the previous one times
    2^(−max_bias / H), and the last slope is 2^−max_bias."""
    power = 2 ** draw(st.integers(0, 5))
    call = alibi_slopes.call(np.arange(power), max_bias=draw(st.sampled_from((8.0, 4.0))))
    step = 2.0 ** (-call["max_bias"] / power)
    alibi_slopes.near(alibi_slopes(call), step ** np.arange(1, power + 1), call, times=power)


@law("alibi_slopes")
def heads_beyond_a_power_of_two_take_slopes_in_between(alibi_slopes: Subject, draw: Draw) -> None:
    """Let P be the largest power of two up to the number of heads. Then the heads after the first P take
    every other slope of a model with 2P heads."""
    power = 2 ** draw(st.integers(0, 5))
    heads = draw(st.integers(power, 2 * power - 1))
    call, twice = (alibi_slopes.call(np.arange(n), max_bias=8.0) for n in (heads, 2 * power))
    slopes, twice_as_many = alibi_slopes(call), alibi_slopes(twice)
    expected = np.concatenate([twice_as_many[1::2], twice_as_many[0::2]])[:heads]
    alibi_slopes.near(slopes, expected, call, twice)
    assert len(set(slopes.tolist())) == heads, "two heads have the same slope"


@law("alibi_bias")
def only_the_distance_counts(alibi_bias: Subject, draw: Draw) -> None:
    """ALiBi's bias stays the same if queries and keys are shifted by the same distance, or exchanged."""
    call, shift = draw(alibi_bias.calls()), draw(shifts)
    moved = call.but(queries=call["queries"] + shift, keys=call["keys"] + shift)
    alibi_bias.near(alibi_bias(moved), alibi_bias(call))
    other = call.but(queries=call["keys"][None], keys=call["queries"][0])
    alibi_bias.near(alibi_bias(other)[0], alibi_bias(call)[0].transpose(0, 2, 1))


@law("alibi_bias")
def under_a_causal_mask_a_bias_by_key_is_equivalent(alibi_bias: Subject, draw: Draw) -> None:
    """Under a causal mask, BLOOM's bias slope · key gives the same attention weights as ALiBi's bias,
    because the two biases differ by a constant for each query.
    """
    call = draw(alibi_bias.calls(B=1))
    mask = causal_mask(call["queries"], call["keys"])[:, None]
    other = call["slopes"][:, None, None] * call["keys"].astype(alibi_bias.dtype)
    got, expected = (
        softmax(np.broadcast_to(s, alibi_bias(call).shape), mask) for s in (alibi_bias(call), other)
    )
    alibi_bias.near(got, expected, call, call, times=4)


@law("relative_buckets")
def a_shift_changes_no_bucket(relative_buckets: Subject, draw: Draw) -> None:
    """T5's buckets stay the same if queries and keys are shifted by the same distance."""
    call, shift = draw(relative_buckets.calls()), draw(shifts)
    moved = call.but(queries=call["queries"] + shift, keys=call["keys"] + shift)
    relative_buckets.near(relative_buckets(moved), relative_buckets(call))


@law("relative_buckets")
def buckets_grow_with_the_distance(relative_buckets: Subject, draw: Draw) -> None:
    """A larger distance never has a lower bucket. Bucket 0 is the query's own position, and the last
    bucket is reached at max_distance."""
    buckets, bidirectional = draw(st.sampled_from(((8, 20), (32, 128), (7, 9)))), draw(st.booleans())
    settings = {"buckets": buckets[0], "max_distance": buckets[1], "bidirectional": bidirectional}
    reach = 2 * buckets[1]
    call = relative_buckets.call(np.array([[reach]]), np.arange(2 * reach + 1), **settings)
    bucket_ids = relative_buckets(call)[0, 0]
    behind, ahead = bucket_ids[reach::-1], bucket_ids[reach + 1 :]
    count = buckets[0] // 2 if bidirectional else buckets[0]
    assert behind[: count // 2].tolist() == list(range(count // 2)), (
        f"two near distances share a bucket: {behind}"
    )
    assert (np.diff(behind) >= 0).all(), f"a farther key has a lower bucket: {behind}"
    assert (behind[buckets[1] :] == count - 1).all(), f"far keys aren't in the last bucket: {behind}"
    expected = behind[1:] + count if bidirectional else np.zeros_like(ahead)
    assert (ahead == expected).all(), f"the buckets of later keys are {ahead}, expected {expected}"


@law("relative_bias")
def each_head_reads_its_column(relative_bias: Subject, draw: Draw) -> None:
    """The bias of a head is the entry in the head's column of the table, in the row of the bucket."""
    call = draw(relative_bias.calls())
    expected = np.stack([column[call["bucket_ids"]] for column in call["table"].T], axis=1)
    relative_bias.near(relative_bias(call), expected)

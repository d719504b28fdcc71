"""Laws of linear maps and of the token table."""

from __future__ import annotations

import numpy as np

from . import Draw, Subject, law


@law("linear")
def a_linear_map_is_linear(linear: Subject, draw: Draw) -> None:
    """Without a bias, a linear map f satisfies f(x + 2 y) = f(x) + 2 f(y). With a bias, f(0) is the bias."""
    call = draw(linear.calls(weight=True))
    bias = np.zeros(call["weight"].shape[1]) if call["bias"] is None else call["bias"]
    zero = call.but(x=np.zeros_like(call["x"]))
    linear.near(linear(zero), np.broadcast_to(bias, linear(zero).shape), zero)
    one, two = call.but(bias=None), call.but(x=call["x"][:, ::-1], bias=None)
    both = one.but(x=one["x"] + 2 * two["x"])
    linear.near(linear(both), linear(one) + 2 * linear(two), both, one, two, two)


@law("linear")
def a_unit_vector_reads_a_row_of_the_weight(linear: Subject, draw: Draw) -> None:
    """A unit vector as input gives a row of the weight, because the weight is [input, output]."""
    call = draw(linear.calls(weight=True, bias=None))
    units = np.eye(call["x"].shape[2], dtype=call["x"].dtype)[None]
    linear.near(linear(call.but(x=units))[0], call["weight"], call.but(x=units))


@law("embedding")
def a_token_reads_its_row(embedding: Subject, draw: Draw) -> None:
    """Row n of an embedding is exactly row tokens[n] of the table."""
    call = draw(embedding.calls(table=True))
    embedding.near(embedding(call), call["table"][call["tokens"]])


@law("token_dropout")
def a_text_without_masks_keeps_its_share(token_dropout: Subject, draw: Draw) -> None:
    """If no token of a text is masked, `token_dropout` returns x · (1 − share). The vector of a mask is 0."""
    call = draw(token_dropout.calls())
    whole = call.but(masked=np.zeros_like(call["masked"]))
    token_dropout.near(
        token_dropout(whole)[call["lengths"] > 0],
        (call["x"] * (1 - call["share"]))[call["lengths"] > 0],
        whole,
    )
    assert not np.any(token_dropout(call)[call["masked"]])


@law("unembedding")
def a_row_of_the_table_scores_its_own_square(unembedding: Subject, draw: Draw) -> None:
    """If the table's own rows are the input, the matrix of logits is symmetric, with the rows' squared
    lengths on the diagonal.
    """
    call = draw(unembedding.calls(table=True))
    table_as_input = call.but(x=call["table"][None])
    logits = unembedding(table_as_input)[0]
    unembedding.near(logits, logits.T, table_as_input, table_as_input)
    unembedding.near(np.diagonal(logits), (call["table"].astype(np.float64) ** 2).sum(-1), table_as_input)

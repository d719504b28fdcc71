"""Laws of the LSTM: a layer is its cell repeated, and a text may be split over calls."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..ops.lstm import lstm as layer
from ..ops.lstm import lstm_cell as cell
from . import Call, Draw, Subject, law
from .kit.budget import cast
from .kit.one_pass import in_two


def _exact(call: Call) -> Call:
    return replace(call, arrays=cast(call.arrays, np.float64))


@law("lstm_cell")
def a_closed_input_gate_keeps_the_memory(lstm_cell: Subject, draw: Draw) -> None:
    """With i = 0 and f = 1, the cell c of an LSTM stays the same. With o = 1/2, the output is half of
    tanh(c).
    """
    call = draw(lstm_cell.calls(bias=True, peephole=None))
    units = call["h"].shape[1]
    gates = np.repeat(np.array([-1e4, 1e4, 0, 0]), units).astype(lstm_cell.dtype)
    silent = {n: np.zeros_like(call[n]) for n in ("wx", "wh")}
    kept = call.but(bias=gates, **silent)
    h, c = lstm_cell(kept)
    lstm_cell.near(c, call["c"])
    lstm_cell.near(h, np.tanh(call["c"].astype(np.float64)) / 2, kept)


@law("lstm")
def the_layer_is_its_cell_token_by_token(lstm: Subject, draw: Draw) -> None:
    """`lstm` computes each token's h and c with `lstm_cell`, from the h and c of the previous token."""
    call = draw(lstm.calls(lengths=None, reverse=False))
    exact = _exact(call)
    zeros = np.zeros((call["x"].shape[0], call["wh"].shape[0]))
    h = zeros if exact["h0"] is None else exact["h0"]
    c = zeros if exact["c0"] is None else exact["c0"]
    expected = []
    for t in range(call["x"].shape[1]):
        h, c = cell(exact["x"][:, t], h, c, exact["weights"])
        expected.append(h)
    lstm.near(lstm(call), (np.stack(expected, 1), h, c), call)


@law("lstm")
def any_split_of_the_tokens_is_one_pass(lstm: Subject, draw: Draw) -> None:
    """Several calls over the parts of a text equal one call, if each call starts from the state of the
    previous call.
    """
    call = draw(lstm.calls(lengths=None, reverse=False, T=5))
    in_two(lstm, draw, call, lambda cut, h, c: {"h0": h, "c0": c})


@law("lstm")
def backwards_is_forwards_over_the_reversed_text(lstm: Subject, draw: Draw) -> None:
    """A reversed LSTM equals a forward LSTM over the reversed text. Each output is at the place of its
    token, and the last state belongs to the first token.
    """
    call = draw(lstm.calls(lengths=None, reverse=True))
    turned = lstm.take(call, "T", range(call["x"].shape[1])[::-1]).but(reverse=False)
    y, h, c = lstm(turned)
    lstm.near(lstm(call), (y[:, ::-1], h, c), call, turned)


@law("lstm")
def a_padded_row_is_the_row_alone(lstm: Subject, draw: Draw) -> None:
    """Padding at the end of a row changes neither the row's outputs nor its state."""
    call = draw(lstm.calls(lengths=True))
    y, h, c = lstm(call)
    got, expected = [], []
    for row, n in enumerate(call["lengths"]):
        got += [y[row, :n], h[row : row + 1], c[row : row + 1]]
        alone = lstm(lstm.take(lstm.take(call, "B", [row]), "T", range(n)).but(lengths=None))
        expected += [alone[0][0], *alone[1:]]
    lstm.near(np.concatenate(got), np.concatenate(expected), call, call)


@law("bidirectional_lstm")
def both_directions_are_two_layers(bidirectional_lstm: Subject, draw: Draw) -> None:
    """`bidirectional_lstm` equals one forward LSTM and one reversed LSTM, with their outputs side by side."""
    call = draw(bidirectional_lstm.calls())
    exact = _exact(call)
    ways = []
    for i, weights in enumerate((exact["forward"], exact["backward"])):
        h0, c0 = (None if exact[n] is None else exact[n][i] for n in ("h0", "c0"))
        ways.append(layer(exact["x"], weights, h0, c0, call["lengths"], reverse=bool(i)))
    (y, h, c), (z, last, memory) = ways
    expected = np.concatenate([y, z], -1), np.stack([h, last]), np.stack([c, memory])
    bidirectional_lstm.near(bidirectional_lstm(call), expected, call)

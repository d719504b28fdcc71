"""Laws of per-layer embeddings."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from ..ops.activation import activation
from . import Draw, Subject, law


@law("per_layer_inputs")
def each_layer_has_a_table_a_map_and_the_norm(per_layer_inputs: Subject, draw: Draw) -> None:
    """Each layer reads its own columns of the map, and of the table if there is one. Each layer's vector
    is normalized by itself."""
    call = draw(per_layer_inputs.calls(table=draw(st.sampled_from((True, None))), project=True))
    x, table, project = (
        None if call[n] is None else call[n].astype(np.float64) for n in ("x", "table", "project")
    )
    width, eps = len(call["norm"]), call["eps"]
    assert x is not None
    assert project is not None
    tokens, expected = call["tokens"], []
    for start in range(0, project.shape[1], width):
        columns = slice(start, start + width)
        seen = x @ project[:, columns] / np.sqrt(x.shape[2])
        seen = seen / np.sqrt((seen * seen).mean(-1, keepdims=True) + eps) * call["norm"]
        own = None if table is None else table[tokens][..., columns] * np.sqrt(width)
        expected.append(seen if own is None else (own + seen) / np.sqrt(2))
    per_layer_inputs.near(per_layer_inputs(call), np.stack(expected, 2), call)


@law("per_layer_update")
def the_gate_multiplies_what_was_looked_up(per_layer_update: Subject, draw: Draw) -> None:
    """`per_layer_update` returns (act((x ⊙ scale) · gate) ⊙ e) · project. The law computes this by einsum."""
    call = draw(per_layer_update.calls(gate=True, project=True))
    x, inputs, gate, project = (call[n].astype(np.float64) for n in ("x", "inputs", "gate", "project"))
    x = x if call["scale"] is None else x * call["scale"]
    let = activation(np.einsum("btd,df->btf", x, gate), kind=call["kind"])
    per_layer_update.near(per_layer_update(call), np.einsum("btf,btf,fd->btd", let, inputs, project), call)

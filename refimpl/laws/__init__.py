"""Laws of each component: properties that hold for every input. You can check them for your own kernels
after `pip install 'tfm-cli[laws]'`.

`check` compares your implementation with the function of the same name in `tfm.refimpl.ops`. It generates
random inputs from that function's declaration. Results must be equal within an error budget that is
computed from the specification, and each law of `names()[function]` must be true. For example, this mask
has a window that is one key too wide:

    from tfm.refimpl.laws import check

    def causal_mask(queries, keys, *, window=None):
        back = queries[:, :, None] - keys
        return (back >= 0) if window is None else (back >= 0) & (back <= window)

    def test_causal_mask():
        check("causal_mask", causal_mask)

The test fails with the smallest counterexample that hypothesis finds:

    LawBroken: causal_mask breaks the law "equals the specification": causal_mask out:
      1 of 1 differ, got bool[1, 1, 1] = [[[ True]]], expected bool[1, 1, 1] = [[[False]]]
      Call
        queries: int64[1, 1] = [[5]]
        keys: int64[1] = [4]
        window: 1

A kernel takes arrays by position and settings by name, as the specified function does. Parameters that the
kernel's signature lacks stay at their defaults. The kernel may return anything that NumPy reads as an
array. `arrays` converts each NumPy array to what the kernel takes. For example, a fused attention of torch
without soft cap, with heads of 64:

    check("attend", kernel, arrays=torch.from_numpy, softcap=None, K=64)

Some arguments are structures of arrays. The weights of a sublayer are a dict (`AttentionWeights`: wq, wk,
wv, wo, and optional ones such as bq, q_norm, ...). A cache or the tables of rotary positions are a
NamedTuple (`KVCache`: keys, values; `Rotary`: cos, sin). `settings` is a dataclass of `tfm.refimpl.config`
(`Attention`, `MoE`). If a kernel returns a structure, it may be a plain tuple.

To leave out a feature that a kernel doesn't have, fix the field or setting of this feature by its name.
Here there is no soft cap, no cache in 8 bits, no norm of queries and keys (with weights or bare), no gate
and no sinks, and heads have 64 numbers that are all rotated:

    def attention(x, cache, past, weights, rotary=None, *, settings):
        ...
        return y, (keys, values)

    absent = {"k_scale": None, "q_norm": None, "bare_norm": False, "sink_logits": None}
    absent |= {"wg": None, "w_head_gate": None, "out_norm": None, "value_scale": None}
    check("attention", attention, softcap=None, **absent, J=32, U=0)

A law is a function with two arguments: a `Subject`, which is the kernel in place of the specified
function, and hypothesis's `draw`. The same law works for the specification in float64 and for a kernel in
float32, since `near` knows which error budget applies:

    @law("attend")
    def keys_are_a_set(attend: Subject, draw: Draw) -> None:
        '''Attention doesn't depend on the order of keys.'''
        call = draw(attend.calls(mask=None))
        other = attend.take(call, "S", draw(permutations(call.sizes["S"])))
        attend.near(attend(other), attend(call), other, call)
"""

from __future__ import annotations

from importlib.util import find_spec

if missing := [package for package in ("hypothesis", "jaxtyping") if find_spec(package) is None]:
    raise ImportError(f"tfm.refimpl.laws needs {' and '.join(missing)}: pip install 'tfm-cli[laws]'")

from .kit.call import Call as Call
from .kit.checking import Draw as Draw
from .kit.checking import LawBroken as LawBroken
from .kit.checking import check as check
from .kit.checking import law as law
from .kit.checking import names as names
from .kit.subject import Subject as Subject

"""The laws of each component, for everybody's kernels: `pip install 'tfm-cli[laws]'`.

`check` holds another implementation of a function of `tfm.refimpl.ops` to that function: results are
equal within an error budget that is computed from the specification, over inputs drawn from its
declaration, and each law of `names()[function]` is kept. A mask whose window is one key too wide:

    from tfm.refimpl.laws import check

    def causal_mask(queries, keys, *, window=None):
        back = queries[:, :, None] - keys
        return (back >= 0) if window is None else (back >= 0) & (back <= window)

    def test_causal_mask():
        check("causal_mask", causal_mask)

gives the smallest counterexample that hypothesis finds:

    LawBroken: causal_mask breaks the law "equals the specification": causal_mask out:
      1 of 1 differ, got bool[1, 1, 1] = [[[ True]]], expected bool[1, 1, 1] = [[[False]]]
      Call
        queries: int64[1, 1] = [[5]]
        keys: int64[1] = [4]
        window: 1

A kernel takes arrays by place and settings by name, as the function does; what its signature hasn't,
stays at its default. It may give any array that NumPy reads; `arrays` makes of a NumPy array what it
takes. A fused attention of torch without soft cap, with heads of 64:

    check("attend", mine, arrays=torch.from_numpy, softcap=None, K=64)

A law is a function of a `Subject`, the kernel in the place of the specified function, and of
hypothesis's draw. It holds for the specification in float64 and for a kernel in float32, since `near`
knows which budget counts:

    @law("attend")
    def keys_are_a_set(attend: Subject, draw: Draw) -> None:
        '''Attention doesn't care in which order keys stand.'''
        call = draw(attend.calls(mask=None))
        other = attend.take(call, "S", draw(permutations(call.sizes["S"])))
        attend.near(attend(other), attend(call), other, call)
"""

from __future__ import annotations

from .kit.call import Call as Call
from .kit.checking import Draw as Draw
from .kit.checking import LawBroken as LawBroken
from .kit.checking import check as check
from .kit.checking import law as law
from .kit.checking import names as names
from .kit.subject import Subject as Subject

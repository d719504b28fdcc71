"""Generate random calls of a function from its declaration: sizes, settings, a seed and a scale.

Each axis letter gets a random size, and the sizes of derived letters are computed. A setting takes the
values that settings.py lists for its name. An optional array is present or absent, and a weight is an
array or `Blocks`. Each combination is a variant. A field of a structure is chosen like a parameter, by its
own name; two structures with fields of the same name share the choice. Hypothesis draws the few small
values, and NumPy's generator fills the arrays. So hypothesis shrinks counterexamples well, and generation
is fast.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from ...ops.quant import ROW_SCALED, Blocks
from .call import Call
from .declare import UNFED, Declared, Function, Parameter, Structure, UnfedError, blocked, sizes, value
from .domains import confined
from .lists import items_of, settled
from .settings import BLOCK, DRAWN, EMPTY, NEEDS, NORMED, NOT_WITH, ONLY_WITH, PASSIVE, SCHEMES, TOGETHER

Variant = tuple[tuple[str, Any], ...]


def factors(f: Function) -> dict[str, tuple[Any, ...]]:
    """Return the possible values of each parameter, field, or choice in settings, by its name.

    Each value leads to a different graph.
    """
    products = sum("Blocks" in p.options for p in f.leaves)
    choices: dict[str, tuple[Any, ...]] = {}
    for p in f.leaves:
        if p.setting and p.options[0] in DRAWN:
            choices |= DRAWN[p.options[0]].choices
            continue
        options: list[Any] = []
        for o in p.options:
            if o == "Blocks" and not p.setting:
                options += SCHEMES if products == 1 and f.name not in NORMED else [PASSIVE]
            else:
                options.append(o)
        if choices.setdefault(p.name, tuple(options)) != tuple(options):
            raise UnfedError(f"{f.name} {UNFED}: the function has two fields {p.name!r} of different kinds")
    follow = {k for k, (setting, _) in ONLY_WITH.items() if setting in choices}
    return {k: v for k, v in choices.items() if TOGETHER.get(k) not in choices and k not in follow}


def singly(choices: dict[str, tuple[Any, ...]]) -> list[Variant]:
    """Return a few variants that together contain each possible value of each choice at least once."""
    most = max((len(c) for c in choices.values()), default=1)
    return [tuple((n, c[i % len(c)]) for n, c in choices.items()) for i in range(most)]


def make(
    f: Function, variant: Variant, size: dict[str, int], seed: int, scale: float, halves: bool = False
) -> Call:
    """Return a random call for the given variant, sizes, seed and scale. Floats are float32.

    With `halves` floats are multiples of scale / 2, up to 127, 127.5 or 128 scales. Then many floats are
    exactly halfway between two codes of a quantized row, where rounding rules differ.
    """
    chosen = dict(variant)
    size = settled(f, size, chosen)
    for p in f.leaves:
        if p.name in TOGETHER and p.name not in chosen:
            chosen[p.name] = _alike(f, p, chosen)
        if (only := ONLY_WITH.get(p.name)) and only[0] in chosen:
            chosen[p.name] = p.options[0] if isinstance(chosen[only[0]], only[1]) else None
        if (other := NEEDS.get(p.name)) in chosen and chosen[other] is None:
            chosen[p.name] = None
        if p.name in NOT_WITH and chosen.get(NOT_WITH[p.name]) is not None:
            chosen[p.name] = None
    drawing = _Drawing(chosen, size, np.random.default_rng(seed), scale, halves)
    arrays = {p.name: drawing.argument(p, size) for p in f.parameters if not p.setting}
    settings = {p.name: drawing.setting(p) for p in f.parameters if p.setting}
    return confined(f, Call(f, arrays, settings, size))


def _alike(f: Function, p: Parameter, chosen: dict[str, Any]) -> Any:
    """Return the option of a parameter that matches the option chosen for its companion, with the same
    index. For blocks, this is the same scheme.

    A bias can't be blocks; it is present if its matrix is present.
    """
    options = f.parameter(TOGETHER[p.name]).options
    option = chosen[TOGETHER[p.name]]
    if len(p.options) < len(options):
        return None if option is None else p.options[0]
    alike = p.options[options.index("Blocks" if isinstance(option, str) else option)]
    return option if alike == "Blocks" else alike


@dataclass(frozen=True)
class _Drawing:
    """Generates the arguments for one set of choices and sizes."""

    chosen: dict[str, Any]
    size: dict[str, int]
    rng: np.random.Generator
    scale: float
    halves: bool

    def setting(self, p: Parameter) -> Any:
        if p.options[0] in DRAWN:
            return DRAWN[p.options[0]].make(self.chosen, self.size)
        option = self.chosen[p.name]
        return self.size.get(option, option) if isinstance(option, str) else option

    def argument(self, p: Parameter, size: dict[str, int]) -> Any:
        option = self.chosen[p.name]
        if p.setting:
            return self.setting(p)
        if option is None:
            return None
        if isinstance(option, Structure):
            items = [
                option.of({field.name: self.argument(field, sizes) for field in option.fields})
                for sizes in (items_of(p, size) if option.many else [size])
            ]
            return items if option.many else items[0]
        if isinstance(option, str):
            return _blocks(p, option, size, self.rng, self.scale)
        return _array(option, size, self.rng, self.scale, self.halves)


def _array(
    declared: Declared, size: dict[str, int], rng: np.random.Generator, scale: float, halves: bool
) -> np.ndarray:
    shape = tuple(value(d, size.__getitem__) for d in declared.dims)
    match declared.kind:
        case "Float" if halves:
            end = rng.choice([127.0, 127.5, 128.0])
            steps = np.clip(rng.integers(-320, 321, shape) / 2, -end, end)
            return (steps * scale).astype(np.float32)
        case "Float":
            return (rng.standard_normal(shape) * scale).astype(np.float32)
        case "Int":
            return rng.integers(0, 9, shape)
        case "UInt8":
            return rng.integers(0, 256, shape, np.uint8)
        case "Bool":
            return rng.random(shape) < 0.6
        case "Index":
            return rng.integers(0, value(declared.bound, size.__getitem__), shape)
    raise UnfedError(f"an array of {declared.kind} {UNFED}")


def _blocks(
    p: Parameter, scheme: str, size: dict[str, int], rng: np.random.Generator, scale: float
) -> Blocks:
    bits, zero, minimum, activations, sixteen = SCHEMES[scheme]
    dims, axis = blocked(p)
    shape = [value(d, size.__getitem__) for d in dims]
    block = shape[axis] if activations in ROW_SCALED else BLOCK
    few = list(shape)
    few[axis] = -(-shape[axis] // block)
    codes = lambda s: rng.integers(0, 2**bits, s).astype(np.uint8)  # noqa: E731
    floats = lambda s: (rng.standard_normal(s) * scale / 2 ** (bits - 1)).astype(np.float32)  # noqa: E731
    blocks = Blocks(
        codes=codes(shape),
        scale=floats(few),
        zero=codes(few) if zero else None,
        minimum=floats(few) if minimum else None,
        bits=bits,
        block=block,
        axis=axis,
        activations=activations,
        # About the range of x, some of which is to be cut off.
        input_scale=np.array(scale / 60, np.float32) if activations == "static" else None,
        input_zero=np.array(rng.integers(0, 256), np.uint8) if activations == "static" else None,
        input_factor=np.exp2(rng.integers(-3, 4, shape[axis]), dtype=np.float32)
        if activations == "smoothed"
        else None,
    )
    if not sixteen:
        return blocks
    # Steps that are long beside a sum's rounding, and zero points at either end, so that some are cut off.
    ends = lambda near: np.array(rng.choice([0, 2**16 - near]) + rng.integers(near), np.uint16)  # noqa: E731
    output_scale = np.array(scale**2 / 4, np.float32)
    return replace(blocks, input_zero=ends(256), output_scale=output_scale, output_zero=ends(8))


@st.composite
def calls(
    draw: st.DrawFn,
    f: Function,
    variant: Variant | None = None,
    fixed: dict[str, int] | None = None,
    largest: int = 6,
    choices: dict[str, tuple[Any, ...]] | None = None,
) -> Call:
    """Return a hypothesis strategy for calls of a function. The caller may fix the variant, or its
    choices, and the sizes of some letters.
    """
    if variant is None:
        from_these = factors(f) if choices is None else choices
        variant = tuple((n, draw(st.sampled_from(c), label=n)) for n, c in from_these.items())
    fixed_sizes = fixed or {}

    def size_of(letter: str) -> int:
        if letter in fixed_sizes:
            return fixed_sizes[letter]
        return draw(st.integers(0 if letter in EMPTY else 1, largest), label=letter)

    size = sizes(f.letters, size_of)
    seed = draw(st.integers(0, 2**32 - 1), label="seed")
    scale = draw(st.sampled_from((0.125, 1.0, 8.0)), label="scale")
    return make(f, variant, size, seed, scale, draw(st.sampled_from((False, False, True)), label="halves"))

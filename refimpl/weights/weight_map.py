"""The little language of weight maps: which tensor of a checkpoint is which leaf.

    ours <- theirs                    this tensor is that leaf
    ours, ours <- theirs : step …     a fused tensor, split along its output axis by the leaves' sizes;
                                      leaves after the first are named by their last part
    ours == theirs                    if this tensor exists, it must equal what we have or compute
    nothing <- theirs                 if this tensor exists, it belongs to a head that isn't used
    ours <- the(irs|m)                the first of these names that is there: theirs, else them
    for Classify, Tag:                the lines after it are of these heads; with another head, their
                                      tensors are unused

The lines of a decoder are those of what reads whole texts in its place: the encoder that is causal, or
the reader.

One line a tensor; `{i}` runs over the layers, `{e}` over a layer's experts; `{h}` on the right alone
runs over the heads of ours, whose tensors are stacked. `theirs[{e}]` is a part of a tensor with an axis
of experts. Lines for leaves that a Config doesn't need rest. `* <- *` reads leaves under our own
names. Steps:

    transpose     a linear map stored output-first
    unpermute     GGUF's Llama, whose query and key rows stand as pairs (2j, 2j + 1) for an
                  interleaved rotation
    grouped       queries, keys and values fused group by group, [G, R + 2, K], as GPT-NeoX, BLOOM (R = 1)
                  and Falcon have them; ours come in this order
    plus_one      a norm's weight stored as its difference from one (Gemma)
    table         a matrix that may be stored as a vector where it has one row (GGUF)
    column        a matrix of one column stored as a vector
    row           a vector stored as a matrix of one row (BART)
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from ..config import Config, MoE
from ..params.shapes import shapes


@dataclass(frozen=True)
class Rule:
    """One line of a map, for one layer; `other` are the names that stand where `theirs` don't. Theirs are
    `stacked` to ours, or ours is one `part` of `parts` along their first axis."""

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    steps: tuple[str, ...]
    check: bool
    other: tuple[tuple[str, ...], ...] = ()
    stacked: bool = False
    part: int | None = None
    parts: int = 0


def rules(table: str, config: Config) -> Iterator[Rule]:
    """The lines of a map, `{i}` and `*` written out for a Config."""
    wanted = True
    *_, last = config.stacks
    if config.stacks[last].causal:
        table = re.sub(r"(?m)^(\s*)decoder\.", rf"\1{last}.", table)
    for line in filter(None, (line.strip() for line in table.splitlines())):
        if heads := re.fullmatch(r"for (.+):", line):
            wanted = type(config.head).__name__ in heads[1].split(", ")
            continue
        text, _, steps = line.partition(" : ")
        check = " == " in text
        ours, theirs = text.split(" == " if check else " <- ")
        if text == "* <- *":
            yield from (Rule((name,), (name,), (), False) for name in shapes(config))
            continue
        layers = config.stacks.get(ours.split(".")[0], config.stacks[last]).layers
        for i in range(len(layers)) if "{i}" in text else (0,):
            mlp = layers[i].mlp if "{e}" in text else None
            experts = mlp.experts if isinstance(mlp, MoE) else 0
            for e in range(experts) if "{e}" in text else (0,):
                here = lambda name, i=i, e=e: name.strip().replace("{i}", str(i)).replace("{e}", str(e))  # noqa: E731
                names, count = tuple(map(here, ours.split(","))), 1
                names = (names[0], *(f"{names[0].rpartition('.')[0]}.{name}" for name in names[1:]))
                if "{h}" in theirs:
                    attention = layers[i].attention
                    count = attention.kv_heads if "k_norm" in ours else attention.heads
                whole, _, rest = theirs.partition("[{e}]")
                assert rest == "", f"a part stands last, got {theirs}"
                found = [
                    tuple(here(one).replace("{h}", str(h)) for h in range(count)) for one in _names(whole)
                ]
                part, parts = (e, experts) if whole != theirs else (None, 0)
                if wanted:
                    other, stacked = tuple(found[1:]), "{h}" in theirs
                    yield Rule(names, found[0], tuple(steps.split()), check, other, stacked, part, parts)
                else:
                    yield from (Rule(("nothing",), one, (), False) for one in found)


def _names(theirs: str) -> list[str]:
    """The names that one with a choice stands for, in order: a(b|c)d is abd, then acd."""
    before, _, rest = theirs.partition("(")
    inside, _, after = rest.partition(")")
    return [before + one + after for one in inside.split("|")]

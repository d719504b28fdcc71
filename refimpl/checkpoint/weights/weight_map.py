"""Weight maps say which tensors of a checkpoint make which parameter. They are written in a small notation:

    leaf <- tensor                     this tensor is that leaf
    leaf, leaf <- tensor : step …      a fused tensor, split along its last axis by the leaves' sizes;
                                       parameters after the first are named by their last part
    leaf == tensor                     if this tensor exists, it must equal what we have or compute
    nothing <- tensor                  if this tensor exists, it belongs to a head that isn't used
    left out <- tower.*                the tensors whose names begin so are a part that isn't read
    leaf <- tensor + tensor : step …   several tensors, stored one below the other before the steps
    leaf <- tensor + up @ down : step …  a matrix, and the product of two narrow ones that is added to it
    leaf <- te(nsor|xt)                the first of these names that exists: tensor, else text
    {wq,wk} <- {q,k}_proj              a line for each: wq <- q_proj, wk <- k_proj
    for Classify, Tag:                 the lines after it, to the end of the text, are of these heads; with
                                       another head their tensors are unused
    with mtp:                          the lines after it are of a Config that has a module for drafts;
                                       without one they say nothing

Placeholders in a line stand for numbers:

    {i}        the layers of the parameter's stack, for `nothing` those of the tensor's; if the layers
               share a tensor, only the parameter has it
    {n}        the number of layers; for a parameter of a module for drafts that of its decoder
    {s}        the number of the parameter's sublayer, in checkpoints that count a mixer and an mlp as two
               layers (Nemotron-H); in a line of no layer how many there are
    {l} {half} the layer's number and its half of it, in checkpoints that count two layers as one (LongCat)
    {nth}      the half counted from one (RWKV)
    {e}        the layer's experts, for `nothing` its identities; or the mlps inside of its mixer
    {x}        the streams of a token except the first
    {h}        in the tensor's name alone: the parameter's heads, whose tensors are stacked

`tensor[{e}]` is the part for one expert of a tensor that holds all experts. `tensor[{x}]` is the part for one
stream of a tensor that holds all these streams. If some files store a parameter alone and others store it
fused, there is a line for each form. A line for a parameter that a Config doesn't need is ignored. `* <- *`
reads parameters under tfm's own names.

The steps are those of `refimpl.checkpoint.weights.steps`. They are applied in the order in which they are
written:

    transpose     a linear map stored output first
    either_order  a linear map that some files store output first, some input first
    unpermute     query and key rows stored as pairs for an interleaved rotation (Llama in GGUF)
    grouped       queries, keys and values fused group by group, [G, R + 2, K]
    gate_by_head  queries and a gate stored head by head (Qwen3-Next)
    by_key_head   queries, keys, values and gates, or rates, stored by key head (Qwen3-Next)
    four_parts    three matrices side by side in each of four parts (CodeGen)
    values_by_key_head  value heads stored one of each key head in turn (Qwen 3.5 in GGUF)
    negated_exp   a parameter stored as its exponential, negated
    in_turn       two matrices or biases stored column by column in turn (gpt-oss)
    plus_one      a norm's weight stored as its difference from one (Gemma)
    table         a matrix that may be stored as a vector where it has one row (GGUF)
    column        a matrix of one column stored as a vector
    row           a vector stored as a matrix of one row (BART), or with more axes of one (RWKV)
    flatten       a vector stored as a matrix of one column, or of one row a group (Mamba 2 in GGUF), or with
                  more axes of one (Kimi Linear)
    keys_values   a head's part of a latent's map to keys and to values, head by head (DeepSeek)
    by_head       a map that is stored as one matrix [C, F] for each head
    swap          the last two axes in the other order
    taps          the kernel of a convolution of each channel on its own, [F, 1, length]
    kernel        the kernel of a convolution that mixes channels, [D, D, length]
    one_tap, three_taps  the same of one tap or of three, [F, D, 1] or [F, D, 3]
    four_groups   the kernel of a convolution in four groups, [F, D / 4, 1] (SqueezeBERT)
    by_group      a linear map that may be stored as a matrix for each group of channels (ConvBERT)
    narrow        heads of values that are narrower than those of keys, each followed by zeros (MiMo-V2-Flash)
    zeros_after   a bias, and then one of zeros, of a map that has none (DeBERTa)
    fewer_rows    a table with eight rows after those of the vocabulary (Llama 3.2 Vision)
    zero_first    a row of zeros, or a zero, before what is stored (ELECTRA's discriminator)

Maps are immutable values. `weight_map(text)` makes a map from text, `+` joins two maps, and `renamed`,
`without` and `then` return a changed map. The lines of a decoder are also used for a decoder that doesn't
generate (`DecoderReader`), and for an encoder that is causal or has no lines of its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Literal

from ...config import Attention, Config, Decoder, Head, Layer, MoE, NoMlp
from ...config.record import kinds
from ...params.parameter_shapes import ParameterShapes
from .steps import STEPS, Part, StackRows, Step

NOTHING, LEFT_OUT = "nothing", "left out"
EVERYTHING = ("*",)
EXPERT, STREAM = "{e}", "{x}"
HEAD_NAMES = frozenset(head.__name__ for head in kinds(Head))

Use = Literal["read", "compare", "unused", "left out"]


@dataclass(frozen=True)
class Line:
    """One line of a map, with the placeholders `{i}`, `{e}`, `{x}` and `{h}` not yet filled in.

    `tensors` are names in the order in which they are looked for, or with `joined` the parts of one tensor.
    With `holds_all`, the tensors hold the parts of all experts or of all streams. A `heads` of None means any
    head. Lines with `of_mtp` are for a Config with a module for drafts. With `updated`, the tensors are a
    matrix and the two factors of its update. With `tied`, other lines may read the same tensors.
    """

    leaves: tuple[str, ...]
    tensors: tuple[str, ...]
    steps: tuple[Step, ...] = ()
    use: Use = "read"
    holds_all: bool = False
    heads: frozenset[str] | None = None
    joined: bool = False
    of_mtp: bool = False
    updated: bool = False
    tied: bool = False


@dataclass(frozen=True)
class Rule:
    """One line written out for a layer or an expert. Each of `choices` names tensors that make the
    parameters.

    With `shared`, other parameters are made of the same tensors too. With `joined`, the tensors of a choice
    are parts of one tensor. With `updated`, they are a matrix and the two factors of its update. With `tied`,
    other layers may read them as parameters of their own.
    """

    leaves: tuple[str, ...]
    choices: tuple[tuple[str, ...], ...]
    steps: tuple[Step, ...] = ()
    use: Use = "read"
    shared: bool = False
    joined: bool = False
    updated: bool = False
    tied: bool = False

    @property
    def tensors(self) -> tuple[str, ...]:
        """The tensors of the first choice."""
        return self.choices[0]

    @property
    def stacked(self) -> bool:
        """Whether several tensors become the rows of one parameter."""
        return any(isinstance(step, StackRows) for step in self.steps)

    @property
    def part(self) -> int | None:
        """The part of the tensor that is read, or None for the whole tensor."""
        return next((step.index for step in self.steps if isinstance(step, Part)), None)


@dataclass(frozen=True)
class WeightMap:
    """The lines of a map, in order."""

    lines: tuple[Line, ...]

    def __add__(self, other: WeightMap) -> WeightMap:
        return WeightMap(self.lines + other.lines)

    def renamed(self, names: Mapping[str, str]) -> WeightMap:
        """Return the map with parts of the names of parameters and tensors replaced."""

        def new(name: str) -> str:
            for old, replacement in names.items():
                name = name.replace(old, replacement)
            return name

        return WeightMap(
            tuple(
                replace(line, leaves=tuple(map(new, line.leaves)), tensors=tuple(map(new, line.tensors)))
                for line in self.lines
            )
        )

    def without(self, *leaves: str) -> WeightMap:
        """Return the map without the lines of these parameters."""
        return WeightMap(tuple(line for line in self.lines if line.leaves[0] not in leaves))

    def numbered(self, layers: Sequence[int]) -> WeightMap:
        """Return the map of a decoder of equal layers whose checkpoint gives the layers these numbers."""
        return WeightMap(
            tuple(
                replace(
                    line,
                    leaves=tuple(leaf.replace("{i}", str(i)) for leaf in line.leaves),
                    tensors=tuple(tensor.replace("{i}", str(number)) for tensor in line.tensors),
                )
                for line in self.lines
                for i, number in enumerate(layers if "{i}" in line.tensors[0] else (0,))
            )
        )

    def tied(self) -> WeightMap:
        """Return the map with lines whose tensors other lines may read too."""
        return WeightMap(tuple(replace(line, tied=True) for line in self.lines))

    def then(self, step: str, where: Callable[[str], bool]) -> WeightMap:
        """Return the map with one more step at the end of each line whose tensor's name satisfies `where`."""
        return WeightMap(
            tuple(
                replace(line, steps=(*line.steps, STEPS[step])) if where(line.tensors[0]) else line
                for line in self.lines
            )
        )

    def of_mtp(self, layer: str) -> WeightMap:
        """Return the lines of a decoder's layers for the layer of its module for drafts.

        The names of this layer's tensors begin with `layer`."""
        lines = [line for line in self.lines if line.leaves[0].startswith("decoder.layers.{i}.")]
        names = {"decoder.layers.{i}.": "mtp.layers.0.", "blk.{i}.": layer, "layers.{i}.": layer}
        renamed = WeightMap(tuple(replace(line, of_mtp=True) for line in lines if line.use == "read"))
        return renamed.renamed(names)

    @property
    def is_identity(self) -> bool:
        """Whether the map reads all parameters under tfm's own names."""
        return any(line.leaves == EVERYTHING for line in self.lines)

    def has(self, stack: str) -> bool:
        """Return whether any line makes a parameter of the stack."""
        return any(line.leaves[0].startswith(f"{stack}.") for line in self.lines)

    def rules(self, config: Config) -> Iterator[Rule]:
        """Yield the lines with their placeholders filled in for a Config."""
        *_, last = config.stacks
        reads = config.stacks[last].causal or not self.has(last)
        mtp = config.mtp if isinstance(config, Decoder) else None
        for line in self.lines:
            if line.of_mtp and mtp is None:
                continue
            if line.leaves == EVERYTHING:
                yield from (Rule((name,), ((name,),)) for name in ParameterShapes(config))
                continue
            if reads and line.leaves[0].startswith("decoder."):
                line = replace(line, leaves=tuple(n.replace("decoder.", f"{last}.", 1) for n in line.leaves))
            place = line.tensors[0] if line.leaves[0] == NOTHING else line.leaves[0]
            stack = config.stacks.get(place.split(".")[0], config.stacks[last])
            used = line.heads is None or type(config.head).__name__ in line.heads
            layers = stack.layers
            if mtp is not None and line.leaves[0].startswith("mtp."):
                layers = (mtp.layer,)
            for rule in _written_out(line, layers, len(stack.layers)):
                if used:
                    yield rule
                else:
                    yield from (Rule((NOTHING,), (names,), use="unused") for names in rule.choices)


def weight_map(text: str) -> WeightMap:
    """Return the map that the text states. Raise ValueError for text that isn't in the notation."""
    lines: list[Line] = []
    heads, of_mtp = None, False
    for line in filter(None, map(str.strip, text.splitlines())):
        if match := re.fullmatch("for (.+):", line):
            heads = frozenset(match[1].split(", "))
            if unknown := heads - HEAD_NAMES:
                raise ValueError(
                    f"{line!r}: a head must be one of {sorted(HEAD_NAMES)}, got {sorted(unknown)}"
                )
        elif line == "with mtp:":
            of_mtp = True
        else:
            lines += [replace(_line(each, heads), of_mtp=of_mtp) for each in _each(line)]
    return WeightMap(tuple(lines))


def _each(text: str) -> list[str]:
    """The lines that one with groups stands for: with the first name of each group, the second, and so on."""
    plain, *parts = re.split(r"\{([^{}]*,[^{}]*)\}", text)
    groups = [group.split(",") for group in parts[::2]]
    if len({len(group) for group in groups}) > 1:
        raise ValueError(f"{text!r}: the groups of a line must have as many names")
    rows = zip(*groups, strict=True) if groups else [()]
    return [plain + "".join(chain(*zip(names, parts[1::2], strict=True))) for names in rows]


def _line(text: str, heads: frozenset[str] | None) -> Line:
    stated, _, words = text.partition(" : ")
    match = re.fullmatch("(.+) (<-|==) (.+)", stated)
    if match is None:
        raise ValueError(f"{text!r}: a line must be leaf <- tensor or leaf == tensor")
    steps = words.split()
    if unknown := [word for word in steps if word not in STEPS]:
        raise ValueError(f"{text!r}: a step must be one of {', '.join(STEPS)}, got {unknown[0]!r}")
    first, *others = (leaf.strip() for leaf in match[1].split(","))
    siblings = (f"{first.rpartition('.')[0]}.{other}" for other in others)
    tensor, part, trailing = match[3].partition("[")
    if part and trailing not in (f"{EXPERT}]", f"{STREAM}]"):
        raise ValueError(f"{text!r}: [{EXPERT}] or [{STREAM}] must stand last")
    named: dict[str, Use] = {NOTHING: "unused", LEFT_OUT: "left out"}
    use = "compare" if match[2] == "==" else named.get(first, "read")
    parsed = tuple(STEPS[word] for word in steps)
    updated = " @ " in tensor
    joined = " + " in tensor and not updated
    names = tuple(re.split(" +[+@] +", tensor)) if joined or updated else _choices(tensor)
    return Line((first, *siblings), names, parsed, use, bool(part), heads, joined, updated=updated)


def _choices(tensor: str) -> tuple[str, ...]:
    """The names that one with a choice stands for, in order: a(b|c)d is abd, then acd."""
    before, _, remaining = tensor.partition("(")
    inside, _, after = remaining.partition(")")
    return tuple(before + choice + after for choice in inside.split("|"))


def _written_out(line: Line, layers: tuple[Layer, ...], depth: int) -> Iterator[Rule]:
    """A rule for each layer and expert, or stream, of the line, where a decoder or encoder has `depth`
    layers."""
    names = (*line.leaves, *line.tensors)
    of_layers = any(number in name for name in names for number in ("{i}", "{l}"))
    of_experts = any(EXPERT in name for name in names)
    if any(STREAM in name for name in names):
        altup = layers[0].altup
        count = 0 if altup is None else altup.streams - 1
        for x in range(count):
            part = (Part(x, count),) if line.holds_all else ()
            yield _rule(line, layers[0], {STREAM: x}, part)
        return
    for i in range(len(layers)) if of_layers else (0,):
        layer = layers[i]
        earlier = layers[:i] if of_layers else layers
        before = sum(1 if isinstance(other.mlp, NoMlp) else 2 for other in earlier)
        sublayer = before + (".mlp" in line.leaves[0])
        numbers = {
            "{i}": i,
            "{n}": depth,
            "{s}": sublayer,
            "{l}": i // 2,
            "{half}": i % 2,
            "{nth}": i % 2 + 1,
        }
        if not of_experts:
            yield _rule(line, layer, numbers, ())
        elif mlps := layer.attention.inner_mlps():
            yield from (_rule(line, layer, numbers | {EXPERT: e}, ()) for e in range(len(mlps)))
        elif isinstance(layer.mlp, MoE):
            count = layer.mlp.experts
            unused = range(count, count + layer.mlp.identities)
            for e in unused if line.leaves[0] == NOTHING else range(count):
                part = (Part(e, count),) if line.holds_all else ()
                yield _rule(line, layer, numbers | {EXPERT: e}, part)


def _rule(line: Line, layer: Layer, numbers: Mapping[str, int], first: tuple[Step, ...]) -> Rule:
    def numbered(name: str) -> str:
        for variable, number in numbers.items():
            name = name.replace(variable, str(number))
        return name

    leaves = tuple(map(numbered, line.leaves))
    tensors = tuple(map(numbered, line.tensors))
    whole = line.joined or line.updated
    choices = (tensors,) if whole else tuple((tensor,) for tensor in tensors)
    shared = "{i}" in line.leaves[0] and not any(
        number in tensor for tensor in line.tensors for number in ("{i}", "{s}", "{l}")
    )
    shared = shared or (layer.merged and ".cross." in leaves[0])  # with the layer's attention
    attention = layer.attention
    if isinstance(attention, Attention) and any("{h}" in tensor for tensor in tensors):
        heads = attention.kv_heads if "k_norm" in leaves[0] else attention.heads
        choices = tuple(tuple(tensor.replace("{h}", str(h)) for h in range(heads)) for tensor in tensors)
        first = (*first, StackRows())
    mixer = attention
    if layer.beside is not None and ".beside." in leaves[0]:
        mixer = layer.beside.mixer
    steps = tuple(step.bound(leaves[0], mixer) for step in line.steps)
    return Rule(leaves, choices, (*first, *steps), line.use, shared, line.joined, line.updated, line.tied)

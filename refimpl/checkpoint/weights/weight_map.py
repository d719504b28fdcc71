"""Weight maps say which tensors of a checkpoint make which parameter. They are written in a small notation,
in which a leaf is a parameter named by its path:

    leaf <- tensor                     This tensor is the parameter.
    leaf, leaf <- tensor : step …      The tensor contains several parameters. It is split along its last axis
                                       by the sizes of the parameters. Parameters after the first are named
                                       by the last part of their path.
    leaf == tensor                     If this tensor exists, it must equal the parameter, a setting of the
                                       layer, or a value of this name that tfm computes.
    nothing <- tensor                  If this tensor exists, it belongs to a head that isn't used.
    left out <- tower.*                Tensors with this beginning belong to a part that isn't read.
    leaf <- tensor + tensor : step …   Several tensors are stacked along the first axis before the steps.
    leaf <- tensor + up @ down : step …  The product of two narrow matrices is added to a matrix.
    leaf <- te(nsor|xt)                The first of these names that exists is read: tensor, else text.
    {wq,wk} <- {q,k}_proj              This is two lines: wq <- q_proj, and wk <- k_proj.
    for Classify, Tag:                 The lines after it are for these heads, until the next such line or the
                                       end of the text. With another head their tensors are unused.
    with mtp:                          The lines after it, to the end of the text, are for a Config with a
                                       multi-token prediction module (MTP). Other Configs ignore the lines.

Placeholders in a line stand for numbers:

    {i}        a layer of the parameter's stack, or with `nothing` a layer of the tensor's stack. If only the
               parameter has {i}, the layers share the tensor.
    {n}        the number of layers. For a parameter of an MTP module, the number of the decoder's layers.
    {s}        the number of the parameter's sublayer, in checkpoints that count a mixer and an mlp as two
               layers (Nemotron-H). In a line without layers, the number of all sublayers.
    {l} {half} a pair of layers and the layer's place in the pair, 0 or 1, in checkpoints that count two
               layers as one (LongCat)
    {block}    the number of earlier layers with an mlp, in checkpoints that count a layer without an mlp as
               part of the next layer (Qwen4-Exp)
    {nth}      the layer's place in the pair, 1 or 2 (RWKV)
    {e}        an expert of the layer, or an mlp inside of its mixer. With `nothing`, an identity of the
               layer, which is a choice of the router without an expert.
    {x}        a stream of a token except the first (AltUp)
    {h}        a head of the parameter. Only the tensor has {h}, and the heads' tensors are stacked.

`tensor[{e}]` is the part for one expert of a tensor that contains all experts. `tensor[{x}]` is the part for
one stream of a tensor that contains all these streams. If some files store a parameter alone and others store
it fused, there is a line for each form. A line for a parameter that a Config doesn't need is ignored. The
line `* <- *` reads all parameters under tfm's own names.

The steps are defined in `refimpl.checkpoint.weights.steps`. They are applied in the order in which they are
written. Each step names the form in which the file stores the parameter:

    transpose     a linear map, output axis first
    either_order  a linear map, output axis first in some files and last in others
    unpermute     query and key rows, as pairs for an interleaved rotation (Llama in GGUF)
    grouped       queries, keys and values, fused group by group, [G, R + 2, K]
    gate_by_head  queries and a gate, head by head (Qwen3-Next)
    by_key_head   queries, keys, values and gates, or rates, key head by key head (Qwen3-Next)
    four_parts    three matrices, side by side in each of four parts (CodeGen)
    values_by_key_head  value heads, one of each key head in turn (Qwen 3.5 in GGUF)
    negated_exp   the negated exponential of the parameter
    exp           the exponential of the parameter (Ling 3 in GGUF)
    in_turn       two matrices or biases, with alternating columns (gpt-oss)
    plus_one      a norm's weight, as its difference from one (Gemma)
    table         a matrix, or a vector if the matrix has one row (GGUF)
    column        a matrix with one column, as a vector
    row           a vector, as a matrix with one row (BART), or with further axes of size 1 (RWKV)
    flatten       a vector, as a matrix with one column, or with one row for each group (Mamba 2 in GGUF), or
                  with further axes of size 1 (Kimi Linear)
    keys_values   a map from a latent to keys and values, head by head (DeepSeek)
    by_head       a map, as one matrix [C, F] for each head
    merge_heads   heads along an axis of their own (XLNet)
    swap          a tensor with its last two axes in the other order
    taps          the kernel of a depthwise convolution, [F, 1, length]
    kernel        the kernel of a convolution that mixes channels, [D, D, length]
    one_tap, three_taps  the kernel of a convolution of length 1 or 3, [F, D, 1] or [F, D, 3]
    four_groups   the kernel of a convolution in four groups, [F, D / 4, 1] (SqueezeBERT)
    by_group      a linear map, in some files as a matrix for each group of channels (ConvBERT)
    narrow        value heads that are narrower than key heads; zeros are added to each (MiMo-V2-Flash)
    zeros_after   a bias; zeros are added for a second map that has no bias (DeBERTa)
    fewer_rows    a table with eight rows after the vocabulary's rows (Llama 3.2 Vision)
    zero_first    a matrix or bias; a row of zeros or a zero is added before it (ELECTRA's discriminator)

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
    """One line of a weight map, before the placeholders such as `{i}` and `{e}` are filled in.

    `tensors` are alternative names, in the order in which they are looked for. With `joined`, they are
    instead the parts of one tensor. With `updated`, they are a matrix and the two factors of its update. With
    `holds_all`, a tensor contains the parts of all experts or of all streams. If `heads` is None, the line is
    for any head. A line with `of_mtp` is for a Config with a multi-token prediction module. With `tied`,
    other lines may read the same tensors.
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
    """One line of a weight map, written out for one layer or expert.

    Each of `choices` names tensors from which the parameters `leaves` can be made. With `joined`, the tensors
    of a choice are parts of one tensor. With `updated`, they are a matrix and the two factors of its update.
    With `shared`, other parameters are made from the same tensors too. With `tied`, other layers may read the
    tensors as parameters of their own.
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
        """The names of the tensors of the first choice."""
        return self.choices[0]

    @property
    def stacked(self) -> bool:
        """Whether several tensors become the rows of one parameter."""
        return any(isinstance(step, StackRows) for step in self.steps)

    @property
    def part(self) -> int | None:
        """The index of the part of the tensor that is read, or None for the whole tensor."""
        return next((step.index for step in self.steps if isinstance(step, Part)), None)


@dataclass(frozen=True)
class WeightMap:
    """A weight map: its lines, in order."""

    lines: tuple[Line, ...]

    def __add__(self, other: WeightMap) -> WeightMap:
        return WeightMap(self.lines + other.lines)

    def renamed(self, names: Mapping[str, str]) -> WeightMap:
        """Return the map with changed names of parameters and tensors. `names` maps parts of names to their
        replacements.
        """

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
        """Return the map without the lines that make these parameters."""
        return WeightMap(tuple(line for line in self.lines if line.leaves[0] not in leaves))

    def numbered(self, layers: Sequence[int]) -> WeightMap:
        """Return the map for a checkpoint that gives the decoder's layers other numbers. `layers[i]` is the
        checkpoint's number of layer i.

        All layers must have the same parameters.
        """
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
        """Return the map with every line marked as `tied`, so that other lines may read the same tensors."""
        return WeightMap(tuple(replace(line, tied=True) for line in self.lines))

    def then(self, step: str, where: Callable[[str], bool]) -> WeightMap:
        """Return the map with one more step at the end of each line for which `where`, given the tensor's
        name, returns true.
        """
        return WeightMap(
            tuple(
                replace(line, steps=(*line.steps, STEPS[step])) if where(line.tensors[0]) else line
                for line in self.lines
            )
        )

    def of_mtp(self, layer: str) -> WeightMap:
        """Return the lines for the layer of a multi-token prediction module, made from the lines of a
        decoder's layers.

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
        """Return whether any line makes a parameter of the stack, such as "encoder"."""
        return any(line.leaves[0].startswith(f"{stack}.") for line in self.lines)

    def rules(self, config: Config) -> Iterator[Rule]:
        """Yield the lines of the map for a Config, with their placeholders filled in."""
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
    """Return the map that the text states. Raises ValueError for text that isn't in the notation of this
    module.
    """
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
    """Return the lines that a line with groups such as `{q,k}` abbreviates: the first line takes the first
    name of each group, the second line the second name, and so on.
    """
    plain, *parts = re.split(r"\{([^{}]*,[^{}]*)\}", text)
    groups = [group.split(",") for group in parts[::2]]
    if len({len(group) for group in groups}) > 1:
        raise ValueError(f"{text!r}: the groups of a line must have equally many names")
    rows = zip(*groups, strict=True) if groups else [()]
    return [plain + "".join(chain(*zip(names, parts[1::2], strict=True))) for names in rows]


def _line(text: str, heads: frozenset[str] | None) -> Line:
    stated, _, words = text.partition(" : ")
    match = re.fullmatch("(.+) (<-|==) (.+)", stated)
    if match is None:
        raise ValueError(f"{text!r}: a line must be PARAMETER <- TENSOR or PARAMETER == TENSOR")
    steps = words.split()
    if unknown := [word for word in steps if word not in STEPS]:
        raise ValueError(f"{text!r}: a step must be one of {', '.join(STEPS)}, got {unknown[0]!r}")
    first, *others = (leaf.strip() for leaf in match[1].split(","))
    siblings = (f"{first.rpartition('.')[0]}.{other}" for other in others)
    tensor, part, trailing = match[3].partition("[")
    if part and trailing not in (f"{EXPERT}]", f"{STREAM}]"):
        raise ValueError(f"{text!r}: [{EXPERT}] or [{STREAM}] must come last")
    named: dict[str, Use] = {NOTHING: "unused", LEFT_OUT: "left out"}
    use = "compare" if match[2] == "==" else named.get(first, "read")
    parsed = tuple(STEPS[word] for word in steps)
    updated = " @ " in tensor
    joined = " + " in tensor and not updated
    names = tuple(re.split(" +[+@] +", tensor)) if joined or updated else _choices(tensor)
    return Line((first, *siblings), names, parsed, use, bool(part), heads, joined, updated=updated)


def _choices(tensor: str) -> tuple[str, ...]:
    """Return the names that a name with a choice abbreviates, in order: `a(b|c)d` gives abd, then acd."""
    before, _, remaining = tensor.partition("(")
    inside, _, after = remaining.partition(")")
    return tuple(before + choice + after for choice in inside.split("|"))


def _written_out(line: Line, layers: tuple[Layer, ...], depth: int) -> Iterator[Rule]:
    """Yield a rule for each layer, expert or stream that the line is about. `depth` is the number of layers
    of the decoder or encoder."""
    names = (*line.leaves, *line.tensors)
    of_layers = any(number in name for name in names for number in ("{i}", "{l}", "{block}"))
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
            "{block}": sum(not isinstance(other.mlp, NoMlp) for other in earlier),
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
        number in tensor for tensor in line.tensors for number in ("{i}", "{s}", "{l}", "{block}")
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

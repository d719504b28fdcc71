"""Define the manifest of a bundle, tfm.json, format 3.

The file is one JSON object with exactly these fields. Only cache_kl, kernel_*, half_scales, chosen and
adapter may be absent. A name in braces is a field of an object.

    format       3
    tfm          the version of tfm that wrote the bundle
    versions     {package: version} of the packages that made the graph
    config       the Config, in the form of `refimpl.config.to_json`. If an attention's kv is "int8", its
                 cache contains int8 codes. If kv is "int4", its cache contains uint8, each with two codes.
                 The codes are multiplied by the parameters k_scale and v_scale. Both need the target
                 ort-cpu and a cache that isn't "copied"
    target       "ort-cpu", "ort-cuda" or "standard": the operators that the graph needs
    quant        the name of the quantization; nothing depends on it
    dtype        "float32" or "float16": the type of floats among the weights, cache and rotary tables
    cache        "shared": each output of the cache is bound to the memory of its input
                 "windowed": like shared, and layers with a window keep only the latest tokens
                 "copied": each step writes a new cache
                 "none": the model has no decoder
    schemes      {parameter: WeightFormat} of each quantized parameter of `refimpl.params`; all others are
                 float. {halves} is present if it is true. With quant "keep", {source} is the type that the
                 parameter has in the checkpoint: Q5_0, F16, …. With w8a16, {activation_bits} is 16 and
                 {rounds_output} is true; otherwise both are absent
    tensors      {name: {dtype, shape, offset, length}} of model.onnx.data
    refused      the reasons why fused operators were not used, why a GPU can't capture steps, or why
                 matrices of 4 bits were rounded without feedback
    generation   the checkpoint's own settings for generation: the fields of
                 `refimpl.checkpoint.generation_config.Generation`. {stop} is present if texts end an answer,
                 {left_out} if the checkpoint asks for options that tfm doesn't have, and {speech} or {ctc}
                 if the model hears
    labels       [names] of the labels of a Classify or Tag head, in order; empty for other heads
    source       {name, sha256} of the checkpoint, and these fields if they apply:
                 {code_replaced_by}: the family of tfm that replaces the repository's own code, which tfm
                 didn't run; {licence}: the licence, as the checkpoint states it; {left_out}: {prefix of
                 tensors' names: {tensors, bytes}} of parts that the bundle doesn't contain, such as a vision
                 tower; {ignored_keys}: [names] of unknown keys that the user told tfm to ignore
    cache_kl     the loss from keys and values in 4 bits: the KL divergence in nats per token, over the text
                 from which their scales come; only if kv is "int4", and absent in older bundles
    kernel_cache "float16" if the graph over tfm's own kernels keeps keys and values in float16, else absent
    kernel_encoder "float16" if these graphs also keep an encoder's keys and values in it, else absent
    kernel_minima true if tfm's own kernels add minima, else absent. In older bundles the field is absent,
                 because their graphs over kernels add minima by operators of ONNX Runtime; tfm doesn't use
                 these graphs
    kernel_forms {group of `runtime.bundle.weight_storage`: {bits, scales, table}} of the weights that tfm's
                 own kernels read in another form than the stored one (`runtime.bundle.kernel_storage`);
                 absent if there are none
    half_scales  [groups] for which the kernels read scales and lowest numbers in float16; only in bundles of
                 tfm 0.2, which have no kernel_forms
    chosen       only with quant "auto": how the formats were chosen. {budget} is the budget as the user gave
                 it. {losses} is {name of `Plan.units`: loss}, with a loss for each unit of weights with one
                 format. {measured} is the loss with all chosen formats, over {tokens} tokens. A loss is a KL
                 divergence from the unquantized model in nats per token. If the model predicts no tokens, a
                 loss is Σ|y − ŷ|² / Σ|y|² of its outputs y. Losses are measured with products of floats.
                 Nothing depends on this field
    adapter      {name, sha256} of the adapter that is merged into the weights; absent without an adapter
    files        {name: {size, sha256}} of every file of the bundle except tfm.json and certificate.json

The fields config, target, schemes and dtype determine the tensors, their types and their shapes
(`runtime.bundle.weight_storage`). The tensors MUST be in this order. A tensor of a megabyte or more begins
at the next multiple of 4096 bytes, any other tensor at the next multiple of 64. The bytes between tensors
are zero, and the file ends with the last tensor. Numbers are little-endian. If any tensor, size or hash
disagrees, tfm refuses the whole bundle.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from functools import cached_property
from typing import Any, Literal

from ...refimpl.checkpoint.config_readers.generation_keys import KEYS
from ...refimpl.checkpoint.formats.strict_json import parse
from ...refimpl.checkpoint.generation_config import Generation, is_head
from ...refimpl.checkpoint.licence import LONGEST, MOST, is_notice
from ...refimpl.checkpoint.weights.left_out import LeftOut
from ...refimpl.components import from_json
from ...refimpl.config import LM, Classify, Config, Tag, to_json
from ...refimpl.config.typed_json import read
from ...refimpl.decoding.beam import BeamSearch
from ...refimpl.decoding.options import BEAMS, STOPS
from ...refimpl.decoding.sampler import TOKEN_OPTIONS, Sampler
from ...refimpl.engine.cache_kinds import Halved, cache_kinds, recurrent, windows
from ...refimpl.errors import BundleError, ConfigError, TfmError
from ...refimpl.params.parameter_shapes import ParameterShapes
from . import golden_files, kernel_storage, targets
from .graph_io import ENCODER, GRAPH, MTP, graphs
from .kernel_storage import KernelForm
from .plan import Plan, Tensor
from .targets import CacheForm, FloatType, Target, TargetName
from .weight_formats import WeightFormat, is_table

# 2: the names of graph inputs and of the Config's fields changed. 3: each golden array is a file.
FORMAT = 3
MANIFEST, DATA = "tfm.json", "model.onnx.data"
CACHE_BUDGET = 0.05  # nats a token that keys and values in 4 bits may cost: a twentieth more of perplexity
TOKENIZER, CERTIFICATE = "tokenizer.json", "certificate.json"
TEMPLATE, TOOL_USE = "chat_template.jinja", "tool_use.jinja"
OPTIONAL = (TOKENIZER, TEMPLATE, TOOL_USE)
NAMES = (
    MANIFEST,
    GRAPH,
    ENCODER,
    MTP,
    *kernel_storage.GRAPHS.values(),
    DATA,
    *golden_files.FILES,
    *OPTIONAL,
    CERTIFICATE,
)
AGAIN = "export the model again"
# Where a model in another runtime's layout keeps its bundle's manifest, certificate and golden inputs.
IN_LAYOUT = "tfm"


class OtherFormatError(BundleError):
    """Raised if an older or a newer version of tfm wrote the bundle in another format. The bundle need not be
    damaged.
    """


@dataclass(frozen=True)
class File:
    """The size in bytes and the SHA-256 that a file of a bundle must have."""

    size: int
    sha256: str


@dataclass(frozen=True)
class MergedAdapter:
    """The name and SHA-256 of the adapter that was merged into a bundle's weights."""

    name: str
    sha256: str


@dataclass(frozen=True)
class SourceCheckpoint:
    """The checkpoint from which a bundle was made.

    - `code_replaced_by`: the family of tfm that replaces the repository's own code, which tfm didn't run.
    - `licence`: the licence, as the checkpoint states it.
    - `left_out`: the parts of the checkpoint that the bundle doesn't contain.
    - `ignored_keys`: the unknown keys of its files that the user told tfm to ignore.

    tfm.json leaves these four fields out if they are empty.
    """

    name: str
    sha256: str
    code_replaced_by: str = field(default="", metadata={"optional": True})
    licence: str = field(default="", metadata={"optional": True})
    left_out: dict[str, LeftOut] = field(default_factory=dict, metadata={"optional": True})
    ignored_keys: tuple[str, ...] = field(default=(), metadata={"optional": True})


@dataclass(frozen=True)
class Chosen:
    """The budget and the losses by which an `auto` bundle's formats were chosen.

    `losses` gives the loss of each unit of weights. `measured` is the model's loss with all chosen
    formats, over `tokens` tokens.
    """

    budget: str
    losses: dict[str, float]
    measured: float
    tokens: int


@dataclass(frozen=True)
class Manifest:
    """The fields of tfm.json. The module's docstring explains each field."""

    tfm: str
    versions: dict[str, str]
    config: Config
    target: TargetName
    quant: str
    dtype: FloatType
    cache: CacheForm
    schemes: dict[str, WeightFormat]
    tensors: dict[str, Tensor]
    refused: tuple[str, ...]
    generation: Generation
    labels: tuple[str, ...]
    source: SourceCheckpoint
    files: dict[str, File]
    cache_kl: float | None = field(default=None, metadata={"optional": True})
    kernel_cache: Literal["float16"] | None = field(default=None, metadata={"optional": True})
    kernel_encoder: Literal["float16"] | None = field(default=None, metadata={"optional": True})
    kernel_minima: bool = field(default=False, metadata={"optional": True})
    kernel_forms: dict[str, KernelForm] = field(default_factory=dict, metadata={"optional": True})
    half_scales: tuple[str, ...] = field(default=(), metadata={"optional": True})
    chosen: Chosen | None = field(default=None, metadata={"optional": True})
    adapter: MergedAdapter | None = field(default=None, metadata={"optional": True})

    @cached_property
    def plan(self) -> Plan:
        """The plan of how the bundle stores its weights."""
        return Plan(ParameterShapes(self.config), targets.find(self.target), self.dtype, self.schemes)

    @cached_property
    def forms(self) -> dict[str, KernelForm]:
        """The kernels' form of each group that the kernels read in another form than the stored one, by the
        group's name.
        """
        groups = self.plan.groups
        halves = {
            name: replace(kernel_storage.stored_form(groups[name]), scales="float16")
            for name in self.half_scales
        }
        return halves | self.kernel_forms

    @property
    def halved(self) -> Halved:
        """Return which keys and values the graphs over tfm's kernels keep in float16."""
        return "" if self.kernel_cache is None else "cache" if self.kernel_encoder is None else "all"

    @property
    def notices(self) -> list[str]:
        """The names of the files in the bundle that contain the source's licences, notices and model card."""
        return [name for name in self.files if is_notice(name)]


def dump(manifest: Manifest) -> str:
    """Return the text of tfm.json for a manifest. Equal manifests give equal texts."""
    value = {f.name: getattr(manifest, f.name) for f in fields(Manifest)}
    absent = _absent(manifest)
    stated = {name: _json(one) for name, one in value.items() if name not in absent}
    return json.dumps({"format": FORMAT} | stated, indent=1) + "\n"


def _json(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _json(value[key]) for key in value}
    if isinstance(value, Config):
        return to_json(value)
    if is_dataclass(value) and not isinstance(value, type):
        absent = _absent(value)
        return {key: item for key, item in asdict(value).items() if key not in absent}
    return value


def _absent(value: Any) -> set[str]:
    """Return the names of the optional fields that have their default. The file leaves these fields out."""
    optional = [f for f in fields(value) if f.metadata.get("optional")]
    return {f.name for f in optional if getattr(value, f.name) in (f.default, {})}


def load(data: bytes, where: str) -> Manifest:
    """Parse the bytes of tfm.json and check that the fields agree. Raises BundleError if `dump` can't have
    written these bytes.

    If another version of tfm may have written the bytes, the error is an OtherFormatError, which is a kind
    of BundleError.
    """
    try:
        value = parse(data, where, BundleError)
        stated = value.pop("format", None) if isinstance(value, dict) else None
        if type(stated) is not int:
            raise ValueError(f"format must be a number (this tfm reads {FORMAT}), got {stated!r:.40}")
        if stated != FORMAT:
            raise OtherFormatError(f"{where}: {_other_format(value, stated)}")
        manifest = read(value, Manifest, "manifest", READERS)
        _check(manifest)
    except OtherFormatError:
        raise
    except (ValueError, TypeError, TfmError) as error:
        text = " ".join(str(error).removeprefix(f"{where}: ").split())
        raise BundleError(f"{where}: {text}; {AGAIN}") from None
    return manifest


def _other_format(value: dict[str, Any], stated: int) -> str:
    """Return the error message for a manifest of another format. The message says what the user can do."""
    if stated > FORMAT:
        return f"must be a bundle of format {FORMAT}, got {stated}: a newer tfm wrote it; update tfm"
    quant = value.get("quant")
    option = f" --quant {quant}" if isinstance(quant, str) and re.fullmatch(r"[a-z0-9-]{1,20}", quant) else ""
    return (
        f"must be a bundle of format {FORMAT}, got {stated}: an older tfm wrote it; export it again with "
        f"`tfm-cli export MODEL OUT{option}`, where MODEL is the bundle's checkpoint"
    )


def _natural(value: Any, name: str) -> int:
    """Return the value if it is a size, an offset or an id, else raise ConfigError."""
    if type(value) is int and 0 <= value < 2**48:
        return value
    raise ConfigError(f"{name} must be a whole number from 0, got {value!r:.80}")


READERS = {int: _natural, Config: lambda value, _: from_json(value)}


def _check(m: Manifest) -> None:
    """Raise ValueError if fields of the manifest contradict each other."""
    target = targets.find(m.target)
    _check_schemes(m, target)
    _check_cache(m, target)
    expected = m.plan.tensors
    if m.tensors != expected:
        odd = next(n for n in (*expected, *m.tensors) if expected.get(n) != m.tensors.get(n))
        got = m.tensors.get(odd)
        raise ValueError(
            f"tensors.{odd:.80} must be {expected.get(odd)} according to `config` and `schemes`, got {got}"
        )
    _check_kernels(m)
    _check_files(m)
    count = m.config.head.labels if isinstance(m.config.head, Classify | Tag) else 0
    if len(set(m.labels)) != len(m.labels) or len(m.labels) != count:
        raise ValueError(
            f"labels must be {count} different names according to `config`, got {list(m.labels)!r:.80}"
        )
    _check_source(m.source)
    _check_chosen(m)
    for name, task in m.generation.tasks.items():
        if task.tasks:
            raise ValueError(f"generation.tasks.{name:.80}.tasks must be empty")
    for one in (m.generation, *m.generation.tasks.values()):
        _check_generation(one, m.config)


def _check_schemes(m: Manifest, target: Target) -> None:
    """Raise ValueError if a format belongs to no matrix of the Config, or the target can't have the
    format.
    """
    shapes = m.plan.shapes
    for name, weight_format in m.schemes.items():
        if len(shapes.get(name, ())) != 2:
            raise ValueError(f"schemes.{name:.80} must be the name of a matrix of the model in `config`")
        if not _possible(weight_format, shapes[name][int(is_table(name))], target):
            raise ValueError(f"schemes.{name} can't be the format {weight_format} with target {m.target}")
        if not re.fullmatch(r"[A-Z0-9_]{0,20}", weight_format.source):
            raise ValueError(
                f"schemes.{name}.source must be a type of weights, got {weight_format.source!r:.40}"
            )


def _check_cache(m: Manifest, target: Target) -> None:
    """Raise ValueError if the Config and the target can't have the manifest's kind of cache."""
    if recurrent(cache_kinds(m.config)) and m.cache == "windowed":
        raise ValueError("cache must not be windowed if a layer is recurrent")
    if (m.cache == "none") != (not isinstance(m.config.head, LM)):
        raise ValueError(f"cache must be none if and only if the model generates no text, got {m.cache}")
    if m.config.rounds_cache and (target.float_cache is not None or m.cache == "copied"):
        raise ValueError(
            f"config.kv can't be {m.config.kv} with target {m.target} and cache {m.cache}: only ort-cpu "
            "writes quantized keys and values in place"
        )
    if (m.cache_kl is None) == (m.config.kv == "int4") or not 0 <= (m.cache_kl or 0) < math.inf:
        raise ValueError(
            f"cache_kl must be a number of at least 0 with kv int4 and absent otherwise, got {m.cache_kl}"
        )
    if m.cache == "windowed" and not windows(cache_kinds(m.config, windowed=True)):
        raise ValueError("cache can't be windowed: no layer of this config has a window below its context")


def _check_kernels(m: Manifest) -> None:
    """Raise ValueError if the fields about kernels name weights that the kernels don't read."""
    may_halve = m.plan.may_halve(m.cache)
    if m.kernel_cache is not None and not may_halve:
        raise ValueError(
            f"kernel_cache must be absent, got {m.kernel_cache}: this bundle's kernels don't store keys and "
            "values as floats in place"
        )
    if m.kernel_encoder is not None and (m.kernel_cache is None or may_halve != "all"):
        raise ValueError(
            f"kernel_encoder must be absent, got {m.kernel_encoder}: this field needs cross-attention and "
            "the field kernel_cache"
        )
    if m.kernel_minima and not m.plan.has_minima:
        raise ValueError(
            "kernel_minima must be absent, because no weight of this bundle's kernels has minima"
        )
    in_blocks = {name: group for name, group in m.plan.groups.items() if kernel_storage.has_scales(group)}
    if not m.plan.has_kernels or m.dtype != "float32":
        in_blocks = {}
    for field_name, named in (("half_scales", m.half_scales), ("kernel_forms", tuple(m.kernel_forms))):
        if list(named) != [name for name in in_blocks if name in named]:
            raise ValueError(
                f"{field_name} must list weights that kernels read in blocks, in the order of the model, got "
                f"{named!s:.80}"
            )
    for name, form in m.kernel_forms.items():
        if not kernel_storage.is_possible(in_blocks[name], form):
            raise ValueError(
                f"kernel_forms.{name} can't be {form}, because schemes gives this weight another format"
            )


def _check_files(m: Manifest) -> None:
    """Raise ValueError if a file of the model's graphs is missing, or if the manifest names an unknown
    file.
    """
    required = (*(graph.file for graph in graphs(m.config)), DATA, golden_files.file_of("tokens"))
    over_kernels = m.plan.kernel_graphs
    if any(name in m.files for name in over_kernels):  # bundles of tfm 0.1 have none
        required = (*required, *over_kernels)
    for name in (*required, *m.files):
        known = name in (*required, *golden_files.FILES, *OPTIONAL) or is_notice(name)
        if name not in m.files or not known:
            raise ValueError(f"files.{name:.80} is {'unknown' if name in m.files else 'missing'}")
    if m.files[DATA].size != m.plan.size:
        raise ValueError(
            f"{DATA} must have {m.plan.size} bytes according to `tensors`, but `files` states "
            f"{m.files[DATA].size} bytes"
        )
    if len(m.notices) > MOST:
        raise ValueError(f"files may list at most {MOST} licences and notices, got {len(m.notices)}")


def _check_source(source: SourceCheckpoint) -> None:
    """Raise ValueError if a text that people will see has characters or a length that `export` never
    writes.
    """
    if not source.licence.isprintable() or len(source.licence) > LONGEST:
        raise ValueError(f"source.licence must be a printable line of at most {LONGEST} characters")
    if not re.fullmatch(r"[a-z0-9_-]{0,40}", source.code_replaced_by):
        raise ValueError(
            f"source.code_replaced_by must be the name of a model family, got {source.code_replaced_by!r:.80}"
        )
    if odd := [part for part in source.left_out if not re.fullmatch(r"\w[\w.]{0,79}", part, re.ASCII)]:
        raise ValueError(f"the keys of source.left_out must be names of tensors, got {odd[0]!r:.80}")
    if odd := [key for key in source.ignored_keys if not key.isprintable() or len(key) > LONGEST]:
        raise ValueError(
            f"source.ignored_keys must be printable lines of at most {LONGEST} characters, got {odd[0]!r:.80}"
        )


def _check_chosen(m: Manifest) -> None:
    """Raise ValueError if the field `chosen` doesn't belong to the manifest's weights."""
    if m.chosen is None:
        return
    if m.quant != "auto":
        raise ValueError(f"chosen must be absent with quant {m.quant:.40}, since only auto chooses formats")
    if list(m.chosen.losses) != list(m.plan.units):
        raise ValueError(
            "the keys of chosen.losses must be the groups of weights with one format, in the model's order"
        )
    if min([m.chosen.measured, *m.chosen.losses.values()]) < 0:
        raise ValueError("chosen.losses and chosen.measured must be numbers of at least 0")
    if m.chosen.tokens < 1:
        raise ValueError("chosen.tokens must be at least 1, got 0")
    if not re.fullmatch(r"[a-z0-9=.+ -]{1,40}", m.chosen.budget):
        raise ValueError(
            f"chosen.budget must be a budget such as kl=0.01 or 4.5 bits, got {m.chosen.budget!r:.80}"
        )


def _possible(weight_format: WeightFormat, length: int, target: Target) -> bool:
    """Return whether a weight can have this format on a target. The axis that is split into blocks has
    `length` elements.
    """
    if weight_format.activations != "static" and (
        weight_format.activation_bits != 8 or weight_format.rounds_output
    ):
        return False
    if weight_format.code_bits:
        plain = replace(weight_format, code_bits=0)
        fits = plain.symmetric and not (plain.minimum or plain.native or plain.by_column)
        return (
            fits
            and weight_format.code_bits in (5, 6)
            and plain.bits == 8
            and _possible(plain, length, target)
        )
    if not weight_format.by_column:
        whole_bytes = weight_format.block > 0 and weight_format.block * weight_format.bits % 8 == 0
        return whole_bytes and weight_format.bits in (4, 8)
    if not weight_format.symmetric or weight_format.minimum:  # columns have a scale alone
        return False
    if weight_format.activations == "static" and (weight_format.native or not target.storage.static_inputs):
        return False
    return weight_format.block == length and weight_format.bits == 8


def _check_generation(g: Generation, config: Config) -> None:
    vocabulary = config.embedding.vocabulary
    languages = () if g.languages is None else g.languages.codes.values()
    s = Sampler(**g.defaults)
    ids = [*g.eos, g.bos, g.mask, g.start, *languages]
    ids += [token for name in TOKEN_OPTIONS for token in getattr(s, name)]
    ids += [token for word in s.bad_words for token in word] + [token for token, _ in s.logit_bias]
    if g.speech is not None:
        ids += [g.speech.first_timestamp, g.speech.previous, *g.speech.languages.values()]
        ids += g.speech.tasks.values()
        if g.speech.no_speech < 0:
            raise ValueError(
                "generation.speech.no_timestamps must be at least 1, because the token before it means "
                f"silence, got {g.speech.no_timestamps}"
            )
        if odd := [one for one in g.speech.alignment_heads if not is_head(one, config)]:
            raise ValueError(f"generation.speech.alignment_heads must be heads of the decoder, got {odd[0]}")
    if g.ctc is not None:
        ids += [g.ctc.blank, g.ctc.delimiter]
    for token in ids:
        if token is not None and token >= vocabulary:
            raise ValueError(
                f"generation's token ids must be below the vocabulary of {vocabulary}, got {token}"
            )
    if g.max_new_tokens == 0:
        raise ValueError("generation.max_new_tokens must be null or at least 1, got 0")
    if odd := sorted(g.search.keys() - {"beams", "length_penalty", "early_stopping", "renormalize"}):
        raise ValueError(f"generation.search.{odd[0]:.80} is an unknown field")
    search: dict[str, Any] = {"beams": 1, **g.search}
    if not BEAMS.holds(search["beams"]):
        raise ValueError(f"generation.search.beams must be {BEAMS.words}, got {search['beams']!r:.40}")
    BeamSearch((), **search)
    if not STOPS.holds(g.stop):
        raise ValueError(f"generation.stop must be {STOPS.words}, got {g.stop!r:.80}")
    if odd := [name for name in g.left_out if name not in KEYS]:
        raise ValueError(f"generation.left_out must list options of generation, got {odd[0]!r:.80}")

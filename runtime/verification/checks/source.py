"""Check that everything that a bundle copied from its source equals the original.

These are the weights, tokenizer, templates, settings, licence, and the golden outputs of the unquantized
weights.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np

from ....refimpl.checkpoint.formats.file_bytes import read_file
from ....refimpl.checkpoint.formats.strict_json import parse
from ....refimpl.checkpoint.licence import LARGEST
from ....refimpl.checkpoint.protocol import ExportSource, ModelSource
from ....refimpl.error_budget import DIGITS, ErrorTerms, largest_difference
from ....refimpl.errors import BundleError, TfmError
from ...bundle.bundle import Bundle
from ...bundle.golden_files import HALF
from ...bundle.manifest import TEMPLATE, TOKENIZER, TOOL_USE
from .. import golden as golden_outputs
from ..report import Row, judged
from ..streamed_reference import Precision, outputs
from .context import VerifyContext
from .logits import output_unit
from .weights import compare_weights

if TYPE_CHECKING:
    from numpy import ndarray as Array

WEIGHTS = "weights equal the source's"
SHOWN = 3  # as many differences are told
LAST_DIGIT = 10.0 ** (1 - DIGITS)  # of a stored term, which is rounded up
# Of the largest output: float64 in another order of sums is off by 1e-12, also where attention is saturated.
NOISE = 1e-6


def check_source(context: VerifyContext) -> Iterator[Row]:
    """Check that everything that the bundle took from its source equals the source."""
    source, bundle = context.source, context.bundle
    if source is None:
        yield Row(WEIGHTS, note="no source given")
        return
    yield _row("tokenizer equals the source's", "parts", tokenizer_parts(bundle), tokenizer_parts(source))
    yield _row("chat templates equal the source's", "templates", _templates(bundle), _templates(source))
    own, wanted = bundle.manifest.source, _settings(source)
    about = {name: getattr(own, name) for name in ("code_replaced_by", "left_out", "ignored_keys")}
    wanted |= {name: getattr(source, name) for name in about}
    yield _row("settings equal the source's", "settings", _settings(bundle) | about, wanted)
    yield licence_row(bundle, source)
    yield from compare_weights(context, WEIGHTS, source)
    if not bundle.config.rounds_cache:  # else they depend on scales that a text gave
        yield _golden(context, source)
    yield _own_golden(context)


def _row(name: str, unit: str, own: Mapping[str, Any], wanted: Mapping[str, Any]) -> Row:
    """Return a row that counts how many parts are equal, and names the first different ones."""
    parts = [*dict.fromkeys((*wanted, *own))]
    different = [part for part in parts if own.get(part) != wanted.get(part)]
    note = f"different: {', '.join(different[:SHOWN])}" if different else ""
    return Row(name, len(parts) - len(different), unit=unit, ok=not different, note=note, of=len(parts))


def tokenizer_parts(model: ModelSource) -> dict[str, str]:
    """Return the parts of a model's tokenizer.json as texts. Parts that mean the same have the same text.

    For example, a vocabulary may be in any order, and merges may be pairs or texts. A file that can't be
    split into parts is returned as one part.
    """
    if (text := model.tokenizer) is None:
        return {}
    try:
        stated = parse(text, TOKENIZER)
    except TfmError:
        stated = None
    if not isinstance(stated, dict):
        return {TOKENIZER: text}
    parts = {name: part for name, part in stated.items() if name != "model"}
    inside = stated.get("model")
    parts |= {f"model.{name}": part for name, part in inside.items()} if isinstance(inside, dict) else {}
    if isinstance(merges := parts.get("model.merges"), list):
        parts["model.merges"] = [_pair(merge) for merge in merges]
    return {name: json.dumps(part, sort_keys=True) for name, part in parts.items()}


def _pair(merge: Any) -> Any:
    """Return a merge as a list of its two tokens.

    A text is returned unchanged if it doesn't contain exactly one space. A text that begins with #version is
    also unchanged, because the tokenizers library ignores it as the first line of a merges.txt."""
    is_text = isinstance(merge, str) and merge.count(" ") == 1 and not merge.startswith("#version")
    return merge.split(" ") if is_text else merge


def _templates(model: ModelSource) -> dict[str, str]:
    both = {TEMPLATE: model.chat_template, TOOL_USE: model.tool_use_template}
    return {name: text for name, text in both.items() if text is not None}


def _settings(model: ModelSource) -> dict[str, Any]:
    """Return the settings with which the model generates, such as the end tokens, and the names of its
    labels.
    """
    generation = model.generation
    stated = {f"generation.{field.name}": getattr(generation, field.name) for field in fields(generation)}
    return {**stated, "labels": model.labels}


def licence_row(bundle: Bundle, source: ExportSource) -> Row:
    """Check that the bundle states the source's licence and contains the same files of licences and
    notices.
    """
    name, notices, licence = "licence equals the source's", bundle.manifest.notices, source.licence
    if notices and not licence.files and not source.path.is_dir():
        return Row(
            name,
            note="the source's folder has other files too, so tfm can't tell which licence is the source's",
        )
    own = {notice: read_file(bundle.path / notice, LARGEST, BundleError) for notice in notices}
    stated = {"statement": bundle.manifest.source.licence}
    return _row(name, "texts", stated | own, {"statement": licence.stated, **licence.files})


def _golden(context: VerifyContext, source: ExportSource) -> Row:
    """Check the golden outputs of the unquantized weights, from which the cost of quantization is
    measured.
    """
    golden, exact = context.golden, [Precision(np.dtype(np.float64))]
    (floats,) = outputs(source.config, source.params, golden.inputs, exact)
    view = golden.view(golden.real(floats))
    error, limit = largest_difference(view, golden.floats), NOISE * float(np.abs(view).max(initial=0))
    return judged("golden outputs of the source: largest error", error, limit, output_unit(source.config))


def _own_golden(context: VerifyContext) -> Row:
    """Check the golden arrays of the bundle's own weights: compute the arrays again and count the equal
    ones.
    """
    bundle, known = context.bundle, context.golden
    halved = bundle.manifest.halved if known.half is not None else ""
    again = golden_outputs.golden(
        bundle.config, bundle.params(), dtype=bundle.dtype, halved=halved, like=known
    )
    arrays = {name: array for name, array in golden_outputs.stored(bundle).items() if name in again}
    del arrays["floats"]  # these are the source's
    limit = NOISE * float(np.abs(again["own.logits"]).max(initial=0))
    different = [name for name, array in arrays.items() if not _equal(name, array, again, limit)]
    count, total = len(arrays) - len(different), len(arrays)
    note = f"different: {', '.join(different[:SHOWN])}" if different else ""
    return Row(
        "golden arrays of the bundle's weights", count, unit="arrays", ok=not different, note=note, of=total
    )


def _equal(name: str, stated: Array, again: Mapping[str, Array], limit: float) -> bool:
    """Return whether a stored golden array equals the array that was computed again. Differences from the
    order of sums in float64 are allowed.

    The term A of a budget comes from sums in float32, which depend on the processor. So the stored A need
    only be within the budget that was computed again, as any correct result in float32 is.
    """
    computed = again[name]
    if name == "best":  # equal ones may change places
        return bool((stated == computed)[again["gap"] > limit].all())
    if name.endswith((".maximum", ".rms")):
        within = stated[0] <= ErrorTerms(*computed.tolist()).budget
        return bool(within) and np.allclose(stated[1:], computed[1:], rtol=LAST_DIGIT, atol=0)
    if name == HALF:
        return np.allclose(stated, computed, rtol=LAST_DIGIT, atol=0)
    return stated.shape == computed.shape and bool((np.abs(stated - computed) <= limit).all())

"""Compare the outputs of each backend for the golden tokens with the unquantized model's. The report gets a
row for each backend.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np

from ....refimpl.config import LM, MaskedLM
from ...bundle.bundle import Bundle
from ..golden import rms
from ..report import NOT_HERE, Row
from .context import VerifyContext
from .logits import output_unit

SUBJECT = "backends that compute the bundle"
KL = ": KL divergence"  # of a backend that comes before


def is_quantized(bundle: Bundle) -> bool:
    """Return whether the bundle has quantized weights. Without quantized weights, all backends compute the
    same.
    """
    return bool(bundle.manifest.schemes)


def check_backends(context: VerifyContext) -> Iterator[Row]:
    """Yield a row for each backend with the distance between its outputs and the unquantized model's outputs.

    Earlier checks have run the backends. If no backend could run, for example without a GPU, the row has the
    distance for NumPy's specification with the quantized weights. The note of a backend's row contains the
    beginning of the outputs' SHA-256: backends with equal hashes computed the same bits. If the model
    predicts tokens, the note also states how many of the likeliest tokens match the specification's.
    """
    golden, config = context.golden, context.bundle.config
    predicts = isinstance(config.head, LM | MaskedLM)
    if not context.backends:
        note = "no backend could run here"
        if predicts:
            yield Row(f"specification{KL}", golden.own_kl, unit="nats a token", note=note)
        else:
            error = rms(golden.own.logits, golden.floats)
            yield Row("specification: RMS error", error, unit=output_unit(config), note=note)
    for backend, outputs in context.backends.items():
        if isinstance(outputs, str):
            yield Row(backend, note=outputs, missing=NOT_HERE)
            continue
        digest = hashlib.sha256(np.ascontiguousarray(outputs, "<f4").data).hexdigest()
        note = f"outputs {digest[:16]}"
        if predicts:
            equal = int((outputs.argmax(-1) == golden.best[:, 0]).sum())
            note = f"{equal} of {len(outputs)} likeliest tokens equal, {note}"
            yield Row(f"{backend}{KL}", golden.kl(outputs), unit="nats a token", note=note)
        else:
            error = rms(golden.view(outputs), golden.floats)
            yield Row(f"{backend}: RMS error", error, unit=output_unit(config), note=note)

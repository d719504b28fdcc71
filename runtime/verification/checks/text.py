"""What is said of a text, beside what the specification says of it: next tokens, or an encoder's head."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from ....refimpl.config import LM
from ....refimpl.engine.numpy_engine import NumpyEngine
from ....refimpl.engine.protocol import Engine
from ...text.tokenizer import Tokenizer
from ..metrics import fidelity, likeness
from ..report import Row, judged
from .context import VerifyContext

WINDOW = 512
PROSE = (
    "Water boils at one hundred degrees at sea level, and at a lower temperature on a mountain, "
    "because the air above it presses less. A kettle that sings in the valley is quiet longer up "
    "there, and an egg needs more time. People who live high up know this without a thermometer. "
    "They put a lid on the pot, wait a little longer, and talk about the weather, which changes "
    "quickly where the clouds pass through the village instead of over it. In the evening the wind "
    "turns, the smoke of the fires goes down the slope, and the first lights of the town below can "
    "be seen. Then somebody says that tomorrow will be clear, and most of the time this is true."
)


def prose(climb: VerifyContext) -> Iterator[Row]:
    """What is said of a text, the text itself handed to both."""
    bundle, origin = climb.bundle, climb.source
    told, config = bundle.tokenizer, bundle.config
    generates = isinstance(config.head, LM)
    what = "KL divergence over a text" if generates else "likeness over a text"
    if told is None:
        yield Row(what, note="the bundle has no tokenizer")
        return
    if origin is None and bundle.dtype == "float16":
        yield Row(what, note="in float16 it needs --source")
        return
    if origin is None:
        truth, name = NumpyEngine(config, bundle.params()), "the bundle's weights"
    else:
        truth, name = NumpyEngine(origin.config, origin.params), "the source"
    tokenizer, text = Tokenizer(told, config.embedding.vocabulary), climb.text or PROSE
    unrounded = bundle.dtype == "float32" and not bundle.manifest.schemes
    exact = origin is None or (unrounded and origin.config == config)
    judge = _predictions if generates else _likeness
    yield from judge(climb, truth, tokenizer, text, f"against the specification over {name}", exact)


def _predictions(
    climb: VerifyContext, truth: Engine, tokenizer: Tokenizer, text: str, note: str, exact: bool
) -> Iterator[Row]:
    """Predictions of the next token."""
    ids = tokenizer.encode(text)
    if not ids:
        yield Row("KL divergence over a text", note="the text has no token")
        return
    found = fidelity(climb.engine, truth, ids, min(WINDOW, truth.config.context), enough=climb.late)
    note = f"{found.positions} of {len(ids)} tokens, {note}"
    yield _divergence(climb, found.kl, note, exact)
    yield Row("top-1 agreement", found.agreement)
    yield Row("perplexity", found.perplexity, note=f"the specification's is {found.reference_perplexity:.4g}")


def _divergence(climb: VerifyContext, kl: float, note: str, exact: bool) -> Row:
    if exact:
        return judged("KL divergence over a text", kl, climb.golden.own.kl_budget, "nats", note)
    finite = None if np.isfinite(kl) else False
    return Row("KL divergence over a text", kl, unit="nats", ok=finite, note=note)


def _likeness(
    climb: VerifyContext, truth: Engine, tokenizer: Tokenizer, text: str, note: str, exact: bool
) -> Iterator[Row]:
    """What an encoder's head says, sentence by sentence."""
    sentences = [s for s in re.split(r"(?<=[.!?])\s+", text) if s.strip()]
    texts = [tokenizer.encode(s, add_special_tokens=True)[: truth.config.context] for s in sentences]
    texts = [ids for ids in texts if ids]
    if not texts:
        yield Row("likeness over a text", note="the text has no token")
        return
    found = likeness(climb.engine, truth, texts, enough=climb.late)
    note = f"{found.texts} of {len(texts)} sentences, {note}"
    if exact:
        yield judged("RMS error over a text", found.rms, climb.golden.own.rms_budget, "", note)
    else:
        finite = None if np.isfinite(found.rms) else False
        yield Row("RMS error over a text", found.rms, ok=finite, note=note)
    yield Row("mean cosine over a text", found.cosine)
    yield Row("lowest cosine over a text", found.lowest)
    if found.kl is not None:
        yield _divergence(climb, found.kl, note, exact)
        yield Row("top-1 agreement", found.agreement)

"""List all checks of `verify` in the order in which they run.

Cheap checks come first. If the failure of a check explains the failures of others, it comes before the
others.
"""

from __future__ import annotations

from ....refimpl.config import LM, Decoder, has_mtp
from ...bundle.bundle import Bundle
from . import (
    backends,
    caches,
    files,
    graphs,
    greedy,
    kernels,
    layers,
    logits,
    mtp,
    source,
    text,
    weights,
    words,
)
from .context import Check


def _generates(bundle: Bundle) -> bool:
    return isinstance(bundle.config.head, LM)


def _continues_texts(bundle: Bundle) -> bool:
    return isinstance(bundle.config, Decoder) and _generates(bundle)


def _has_module(bundle: Bundle) -> bool:
    return has_mtp(bundle.config)


def _hears(bundle: Bundle) -> bool:
    return bundle.config.sound_shape is not None


CHECKS: dict[str, Check] = {
    "files": Check(files.check_hashes, "hashes of all files"),
    "weights": Check(weights.check_digests, "weights"),
    "graphs": Check(graphs.check_graphs, graphs.SUBJECT),
    "session": Check(logits.check_session, "the start of ONNX Runtime"),
    "sharp": Check(logits.check_float_products, "outputs with products in float"),
    "numbers": Check(logits.check_golden_outputs, "outputs for the golden tokens"),
    "kernels": Check(kernels.check_kernels, kernels.SUBJECT, applies=kernels.has_kernels),
    "mtp": Check(mtp.check_module, mtp.SUBJECT, applies=_has_module),
    "backends": Check(backends.check_backends, backends.SUBJECT, applies=backends.is_quantized),
    "words": Check(words.check_words, words.SUBJECT, applies=_hears),
    "stated": Check(
        caches.check_stated_cost,
        "what keys and values in 4 bits cost, as the export says",
        applies=lambda bundle: bundle.manifest.cache_kl is not None,
    ),
    "greedy": Check(
        greedy.check_greedy_tokens,
        f"{greedy.GREEDY_TOKENS} greedy tokens against the specification's",
        full=True,
        applies=_generates,
    ),
    "layers": Check(
        layers.check_layers,
        layers.SUBJECT,
        full=True,
    ),
    "windows": Check(
        caches.check_window_caches,
        "caches that drop the tokens outside their windows",
        full=True,
        applies=lambda bundle: bundle.cache == "windowed",
    ),
    "source": Check(
        source.check_source,
        "weights, texts and settings against the source's",
        full=True,
        asked_by="source=MODEL",
    ),
    "text": Check(
        text.check_text,
        "outputs over a text",
        full=True,
        applies=lambda bundle: not _hears(bundle),
    ),
    "bits_of_text": Check(
        kernels.check_text_to_the_bit,
        kernels.TEXT_SUBJECT,
        full=True,
        applies=kernels.has_kernels,
    ),
    "texts": Check(
        greedy.check_greedy_texts,
        "greedy texts beside the specification's",
        full=True,
        applies=_continues_texts,
    ),
    "cache": Check(
        caches.check_quantized_cache,
        "what keys and values in few bits cost",
        full=True,
        applies=lambda bundle: bundle.config.rounds_cache,
    ),
}

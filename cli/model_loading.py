"""From a model's name to a Model that generates, on any of the three engines."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from .console import say

if TYPE_CHECKING:
    from ..refimpl.checkpoint.open import Checkpoint
    from ..refimpl.config import Config
    from ..refimpl.params.shapes import Tree
    from ..refimpl.tokenizers.tokenizer import Tokenizer
    from ..runtime.bundle.bundle import Bundle
    from ..runtime.hub.model_names import Source
    from ..runtime.tasks import Model


def load(
    name: str, engine: str, quant: str | None, device: str, threads: int | None, context: int | None = None
) -> Model:
    """The model, fetched and exported where it has to be.

    Without `quant` the NumPy and torch engines compute with a checkpoint's own numbers; with it, and
    on ONNX Runtime, a bundle runs, from the cache if it is there.
    """
    from ..refimpl.errors import CheckpointError, DeviceError
    from ..runtime.hub.model_names import locate

    if engine != "onnx":
        if device == "cuda":
            raise DeviceError(
                f"the {engine} engine runs on the CPU: leave --device out, or take --engine onnx"
            )
        if threads is not None:  # read by the libraries when they are loaded, which is not yet
            os.environ |= dict.fromkeys(
                ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads)
            )
    source = locate(name, say)
    if source.kind == "config":
        raise CheckpointError(f"{name} must have weights beside its config.json")
    if engine == "onnx":
        from ..runtime.tasks import load as load_bundle

        return load_bundle(bundle(source, quant, device, context), device, threads, say)
    return _eager(source, engine, quant, context)


def specified(name: str) -> tuple[Config, Tree, Tokenizer]:
    """What the specification computes with: Config, leaves that are read when asked for, tokenizer."""
    from ..refimpl.checkpoint.open import open_checkpoint
    from ..refimpl.errors import CheckpointError
    from ..refimpl.tokenizers.tokenizer import read
    from ..runtime.bundle.bundle import open_bundle
    from ..runtime.hub.model_names import locate

    source = locate(name, say)
    if source.kind == "config":
        raise CheckpointError(f"{name} must have weights beside its config.json")
    if source.kind == "bundle":
        opened = open_bundle(source.path, check_hashes=True)
        params = opened.params()
    else:
        opened = open_checkpoint(source.path)
        params = opened.params
    if opened.tokenizer is None:
        raise CheckpointError(f"{name} must have a tokenizer")
    return opened.config, params, read(opened.tokenizer, name)


def bundle(source: Source, quant: str | None, device: str, context: int | None = None) -> Path:
    """The bundle that a source is or becomes; BundleError if it is one of another scheme."""
    if source.kind == "bundle":
        if quant is not None or context is not None:
            from ..runtime.bundle.bundle import open_bundle

            fits(open_bundle(source.path), quant, context)
        return source.path
    from ..runtime.bundle.atomic_dir import recover
    from ..runtime.hub.model_names import bundle_path

    target = _target(device)
    if quant is None:
        from ..refimpl.checkpoint.open import open_checkpoint
        from ..runtime.bundle import schemes, targets

        quant = schemes.default(open_checkpoint(source.path).config, targets.find(target)).name
    place = bundle_path(source, quant, target, context)
    recover(place)
    if not place.exists():
        checkpoint = whole(source.path, context)
        from ..export.bundle_writer import export  # seconds of torch, which a bad checkpoint needn't wait for

        export(checkpoint, place, target=target, quant=quant, progress=say)
        say(f"exported to {place}, the next run starts from there")
    return place


def fits(held: Bundle, quant: str | None, context: int | None) -> None:
    """Raise BundleError for a bundle of another scheme or context than those asked for."""
    from ..refimpl.errors import BundleError

    for what, has, asked in (("", held.quant, quant), ("a context of ", held.config.context, context)):
        if asked not in (None, has):
            raise BundleError(
                f"{held.path} holds {what}{has}, asked was {asked}: export the checkpoint again"
            )


def whole(path: Path, context: int | None = None) -> Checkpoint:
    """A checkpoint that can be exported: what nobody would notice before the bundle runs is tried here."""
    from ..refimpl.checkpoint.open import open_checkpoint
    from ..runtime.text.tokenizer import Tokenizer

    checkpoint = open_checkpoint(path).for_context(context)
    if checkpoint.tokenizer is not None:
        Tokenizer(checkpoint.tokenizer, checkpoint.config.embedding.vocabulary)
    return checkpoint


def _target(device: str) -> str:
    from ..runtime.bundle import targets

    if device == "auto":
        from ..runtime.ort.session import missing_for_cuda

        device = "cpu" if missing_for_cuda() else "cuda"
    return targets.for_device("cuda" if device == "cuda" else "cpu").name


def _eager(source: Source, engine: str, quant: str | None, context: int | None) -> Model:
    """A checkpoint, or the leaves of a bundle to the integer, on the NumPy or the torch engine."""
    from ..refimpl.checkpoint.open import materialize, open_checkpoint
    from ..runtime.bundle.bundle import open_bundle
    from ..runtime.tasks import Model

    if source.kind == "checkpoint" and quant is None:
        opened = open_checkpoint(source.path).for_context(context)
        params = materialize(opened.params)
    else:
        opened = open_bundle(bundle(source, quant, "cpu", context), check_hashes=True)
        params = materialize(opened.params())
    if engine == "torch":
        from ..export.torch_engine import TorchEngine

        return Model(TorchEngine(opened.config, params), opened)
    from ..refimpl.engine.numpy_engine import NumpyEngine

    return Model(NumpyEngine(opened.config, params), opened)

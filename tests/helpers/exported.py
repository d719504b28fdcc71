"""Bundles of models with random weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from tfm.export import bundle_writer
from tfm.export.bundle_writer import export
from tfm.refimpl.checkpoint.open import open_checkpoint, save_checkpoint
from tfm.refimpl.config import Config
from tfm.runtime.bundle.bundle import Bundle, open_bundle

from helpers import tiny_models


def exported(
    folder: Path, config: Config, seed: int = 0, *, texts: Sequence[str] = (), **options: Any
) -> Bundle:
    """FOLDER/bundle of the checkpoint FOLDER/model: float32, unverified, unless `options` say otherwise.

    `texts` are the checkpoint's tokenizer and its chat template.
    """
    save_checkpoint(folder / "model", config, tiny_models.weights(config, seed), *texts)
    options = {"quant": "fp32", "verify": False} | options
    export(open_checkpoint(folder / "model"), folder / "bundle", **options)
    return open_bundle(folder / "bundle")


def export_once(
    folder: Path, configs: Mapping[str, Config], seed: int = 0
) -> Callable[[str, str, str], Bundle]:
    """(name of a config, target, quantization) -> its bundle, exported when it is asked for first."""

    @cache
    def bundle(name: str, target: str, quant: str) -> Bundle:
        return exported(folder / f"{name}-{target}-{quant}", configs[name], seed, target=target, quant=quant)

    return bundle


def rehash(bundle: Path) -> None:
    """Let the manifest state the bytes that the bundle's files now have, of those that are still there."""
    stated = json.loads((bundle / "tfm.json").read_text())
    there = (name for name in stated["files"] if (bundle / name).exists())
    stated["files"] = {name: vars(bundle_writer._describe(bundle / name)) for name in there}
    (bundle / "tfm.json").write_text(json.dumps(stated))

"""The bundle's files are those that were exported, and the certificate is of them."""

from __future__ import annotations

import json
from collections.abc import Iterator

from ...bundle.manifest import CERTIFICATE, MANIFEST
from ..report import Row, manifest_hash
from .context import VerifyContext


def files(climb: VerifyContext) -> Iterator[Row]:
    """Every byte is the one that was exported."""
    bundle = climb.bundle
    bundle.check_hashes()
    yield Row("hashes of all files", len(bundle.manifest.files), unit="files", ok=True)
    if (bundle.path / CERTIFICATE).exists():
        try:
            named = json.loads((bundle.path / CERTIFICATE).read_bytes())["manifest"]
        except (ValueError, KeyError, TypeError):
            named = None
        same = named == manifest_hash(bundle.path)
        note = "" if same else f"{CERTIFICATE} names another {MANIFEST}: one of them was changed since"
        yield Row("certificate names the manifest", "yes" if same else "no", ok=same, note=note)

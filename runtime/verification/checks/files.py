"""Check that the bundle's files are the exported ones, and that the certificate belongs to these files."""

from __future__ import annotations

from collections.abc import Iterator

from ...bundle.bundle import manifest_hash
from ...bundle.manifest import CERTIFICATE, MANIFEST
from ..certificate import read
from ..report import Row
from .context import VerifyContext


def check_hashes(context: VerifyContext) -> Iterator[Row]:
    """Check that every file has the hash that the manifest states, and that a certificate states the
    manifest's own hash.
    """
    bundle = context.bundle
    bundle.check_hashes()
    yield Row("hashes of all files", len(bundle.manifest.files), unit="files", ok=True)
    if not (bundle.path / CERTIFICATE).exists():
        return
    certificate = read(bundle.path)
    if certificate is not None and certificate.get("manifest") == manifest_hash(bundle.path):
        yield Row("certificate names the manifest", "yes", ok=True)
    else:
        note = f"{CERTIFICATE} belongs to another {MANIFEST}: one of the two files was changed"
        yield Row("certificate names the manifest", "no", ok=False, note=note)

"""The bundle's files are those that were exported, and its certificate belongs to them."""

from __future__ import annotations

from collections.abc import Iterator

from ....refimpl.errors import BundleError
from ....refimpl.formats.file_bytes import read_file
from ....refimpl.formats.strict_json import parse
from ...bundle.bundle import LIMITS
from ...bundle.manifest import CERTIFICATE, MANIFEST
from ..report import Row, manifest_hash
from .context import VerifyContext


def check_hashes(context: VerifyContext) -> Iterator[Row]:
    """The hash of every file is the manifest's; a certificate names the hash of this manifest."""
    bundle = context.bundle
    bundle.check_hashes()
    yield Row("hashes of all files", len(bundle.manifest.files), unit="files", ok=True)
    if not (bundle.path / CERTIFICATE).exists():
        return
    where = bundle.path / CERTIFICATE
    try:
        certificate = parse(read_file(where, LIMITS[CERTIFICATE], BundleError), str(where), BundleError)
    except BundleError:
        certificate = None
    certified = certificate.get("manifest") if isinstance(certificate, dict) else None
    if certified == manifest_hash(bundle.path):
        yield Row("certificate names the manifest", "yes", ok=True)
    else:
        note = f"{CERTIFICATE} names another {MANIFEST}: one of them was changed since"
        yield Row("certificate names the manifest", "no", ok=False, note=note)

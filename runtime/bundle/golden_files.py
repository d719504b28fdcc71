"""Name the files golden/NAME.npy, which store a bundle's golden arrays. They are part of the format, so that
other programs can read them without tfm.

`runtime.verification.golden` describes the content of the arrays. The arrays are row-major and
little-endian. Ids and counts are int64, hashes are uint8, and all other numbers are float64.
"""

from __future__ import annotations

FOLDER = "golden"
# Each bundle has these, and `own.` with the names in EXPECTED.
COMMON = ("tokens", "lengths", "columns", "best", "gap", "digests", "floats")
EXPECTED = ("logits", "maximum", "rms")
# Some models' inputs.
ENCODER_IDS, ENCODER_LENGTHS, TOKEN_TYPES = "source", "source_lengths", "types"
HALF = "half"
# The tokens that matrices of 4 bits were rounded over.
ROUNDING = "rounding"
NAMES = (
    *COMMON,
    *(f"{kind}.{name}" for kind in ("own", "plain") for name in EXPECTED),
    *(ENCODER_IDS, ENCODER_LENGTHS, TOKEN_TYPES, HALF, ROUNDING),
)
# By the kind of number.
TYPES = {"i": "<i8", "u": "|u1", "f": "<f8"}


def file_of(name: str) -> str:
    """Return the path, inside a bundle, of the file that stores the golden array `name`."""
    return f"{FOLDER}/{name}.npy"


FILES = {file_of(name): name for name in NAMES}

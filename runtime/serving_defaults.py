"""The default settings of a server and of an `AsyncModel`."""

from __future__ import annotations

SLOTS = 8  # texts that are generated at a time
QUEUE = 256  # requests that wait
MAX_WAIT_S = 300.0  # of a server: whom it would keep longer it tells at once when to come again
PREFIX_BYTES = 2**28  # of what is kept of a model's earlier texts
RESPONSE_BYTES = 2**26  # of the answers of `/v1/responses` that are kept

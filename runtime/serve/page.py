"""Serve the chat page for browsers at `/`. The page's files are in `static`, and the page loads nothing from
other servers.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
FILES = {
    file.name: (file.read_bytes(), TYPES[file.suffix])
    for file in sorted(Path(__file__).with_name("static").iterdir())
    if file.suffix in TYPES
}
# The page's own files run, and talk to this server alone. No text becomes HTML but by DOMPurify, where the
# browser has Trusted Types.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types dompurify"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",  # a browser asks whether it changed, so that an update's files come together
}


async def page(request: Request) -> Response:
    """`GET /`: return the chat page."""
    return _file(request, "page.html")


async def static(request: Request) -> Response:
    """`GET /static/NAME`: return a file that the chat page uses."""
    return _file(request, request.path_params["name"])


def _file(request: Request, name: str) -> Response:
    if name not in FILES:
        raise HTTPException(404)
    content, kind = FILES[name]
    headers = {**HEADERS, "etag": f'"{hashlib.sha256(content).hexdigest()[:32]}"'}
    if headers["etag"] in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(content, media_type=kind, headers=headers)

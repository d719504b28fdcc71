"""The page at `/`: a chat in one file, without anything from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

from starlette.requests import Request
from starlette.responses import HTMLResponse

PAGE = Path(__file__).with_name("page.html").read_text(encoding="utf-8")


def policy(page: str) -> str:
    """A Content-Security-Policy that lets the page's own style and script run, talk to this server, and
    nothing else."""
    allowed = []
    for kind in ("style", "script"):
        (inline,) = re.findall(rf"<{kind}>(.*?)</{kind}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
        allowed.append(f"{kind}-src 'sha256-{digest}'")
    rest = "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    return f"default-src 'none'; {'; '.join(allowed)}; {rest}"


HEADERS = {"content-security-policy": policy(PAGE), "x-content-type-options": "nosniff"}


async def page(request: Request) -> HTMLResponse:
    """`GET /`: the chat."""
    return HTMLResponse(PAGE, headers=HEADERS)

"""How soon a slot of `tfm-cli serve` is free once its client has gone.

    python tests/bench/serve_disconnects.py BUNDLE

One after another, --clients ask for a text of --tokens, read its beginning and close the connection; the time
from there to `tfm_running 0` in /metrics is taken. Exit code 1: it was above LIMIT_S once, a text was
complete before its client left, or the golden prompt has another answer afterwards.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import httpx
import numpy as np
import typer
from servers import started

LIMIT_S = 1.0


async def left(client: httpx.AsyncClient, body: dict[str, Any]) -> float:
    """Seconds until the slot is free of a text whose client reads three events."""
    async with client.stream("POST", "/v1/completions", json=body) as response:
        lines = (line async for line in response.aiter_lines() if line.startswith("data: "))
        for _ in range(3):
            await anext(lines)
        if not await running(client):
            sys.exit("the text was complete before its client left: ask for more --tokens")
    begin = time.perf_counter()
    while await running(client):
        await asyncio.sleep(0.001)
    return time.perf_counter() - begin


async def running(client: httpx.AsyncClient) -> bool:
    metrics = (await client.get("/metrics")).text
    return any(line.startswith("tfm_running{") and not line.endswith(" 0.0") for line in metrics.split("\n"))


async def measure(url: str, clients: int, tokens: int) -> bool:
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=120) as client:
        model = (await client.get("/v1/models")).json()["data"][0]["id"]
        body = {"model": model, "prompt": "The sea is", "temperature": 0}

        async def golden() -> str:
            answer = await client.post("/v1/completions", json={**body, "max_tokens": 24})
            return answer.json()["choices"][0]["text"]

        first = await golden()
        times = [await left(client, {**body, "max_tokens": tokens, "stream": True}) for _ in range(clients)]
        same = await golden() == first
    median, most = np.median(times), max(times)
    typer.echo(f"{clients} clients left: slot free after {1e3 * median:.0f} ms, at most {1e3 * most:.0f} ms")
    typer.echo(f"golden answer the same: {same}")
    return most <= LIMIT_S and same


def main(
    bundle: Path,
    clients: Annotated[int, typer.Option()] = 100,
    tokens: Annotated[int, typer.Option()] = 1000,
) -> None:
    with started([Path(sys.executable).with_name("tfm-cli"), "serve", bundle]) as (_, url):
        ok = asyncio.run(measure(url, clients, tokens))
    raise typer.Exit(not ok)


if __name__ == "__main__":
    typer.run(main)

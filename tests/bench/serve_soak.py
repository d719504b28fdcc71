"""`tfm-cli serve` for a long time: does it stay as it was?

    PYTHONPATH=tests python tests/bench/serve_soak.py --minutes 30

A toy model is exported and served, and --clients ask it at a time: 7 of 10 requests are valid, streamed or
not, one leaves before its answer is complete, one is invalid, one is longer than the context. The largest
shapes come first. Exit code 1: a status other than 200, 400 and 429, memory that grows by more than GATE_KIB
a request over the second half, more files or threads than at the start, or another answer to the
golden prompt.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import httpx
import numpy as np
import typer
from helpers import serving, tiny_models
from servers import open_files, private_kib, started, threads
from tfm.export.bundle_writer import export
from tfm.refimpl.checkpoint.open import open_checkpoint, save_checkpoint

GATE_KIB = 1.0
SPARE = 2  # more files and threads than at the start, which may be connections
GOLDEN: dict[str, Any] = {"prompt": "the cat sat on", "max_tokens": 24, "temperature": 1.1, "seed": 5}


def body(rng: random.Random, kind: str) -> dict[str, Any]:
    """A request of a kind."""
    words = rng.choices(serving.WORDS, k=rng.randint(1, 12))
    made: dict[str, Any] = {
        "model": "int8",
        "prompt": " ".join(words),
        "max_tokens": rng.randint(1, 40),
        "temperature": rng.choice([0, 0.7, 1.5]),
        "stream": rng.random() < 0.5,
        "n": rng.choice([1, 1, 1, 2]),
    }
    if rng.random() < 0.2:
        made["structured_outputs"] = {"regex": rng.choice(["[a-z]{3,9}", "(cat|dog)( and (cat|dog))*"])}
    if kind == "invalid":
        made |= rng.choice([{"top_p": 7}, {"nobody": 1}, {"model": "other"}, {"prompt": []}, {"n": 99}])
    elif kind == "long":
        made["prompt"] = "the cat " * 200
    return made


async def ask(client: httpx.AsyncClient, rng: random.Random, counts: Counter[str]) -> None:
    kind = rng.choices(["valid", "leaves", "invalid", "long"], [7, 1, 1, 1])[0]
    asked = body(rng, kind)
    if kind == "leaves":
        asked |= {"stream": True, "max_tokens": 80}
    try:
        async with client.stream("POST", "/v1/completions", json=asked) as response:
            counts[f"{kind} {response.status_code}"] += 1
            async for _ in response.aiter_lines():
                if kind == "leaves" and rng.random() < 0.3:
                    break
    except httpx.TransportError as error:
        counts[f"{kind} {type(error).__name__}"] += 1


async def golden(client: httpx.AsyncClient) -> str:
    answer = (await client.post("/v1/completions", json={"model": "int8", **GOLDEN})).json()
    return answer["choices"][0]["text"]


async def soak(url: str, pid: int, clients: int, seconds: float) -> bool:
    counts: Counter[str] = Counter()
    samples: list[tuple[int, int]] = []
    # The server closes a connection on which nothing came for 5 s.
    limits = httpx.Limits(keepalive_expiry=2)
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=120, limits=limits) as client:

        async def user(seed: int, end: float) -> None:
            rng = random.Random(seed)
            while time.monotonic() < end:
                await ask(client, rng, counts)

        first = await golden(client)
        largest = {"model": "int8", "prompt": "the " * 40, "max_tokens": 50, "n": 8}
        await asyncio.gather(*(client.post("/v1/completions", json=largest) for _ in range(4)))
        await asyncio.gather(*(user(1000 + i, time.monotonic() + seconds / 20) for i in range(clients)))
        begun = open_files(pid), threads(pid)
        counts.clear()
        end = time.monotonic() + seconds
        users = asyncio.gather(*(user(i, end) for i in range(clients)))
        while not users.done():
            samples.append((counts.total(), private_kib(pid)))
            await asyncio.sleep(seconds / 200)
        await users
        last = await golden(client)
        figures = (await client.get("/metrics")).text
        ended = open_files(pid), threads(pid)
    requests, kib = np.array(samples[len(samples) // 2 :]).T
    slope = float(np.polyfit(requests, kib, 1)[0])
    statuses = {kind.split()[1] for kind in counts}
    idle = 'tfm_running{model="int8"} 0.0' in figures and 'tfm_waiting{model="int8"} 0.0' in figures
    typer.echo(json.dumps(dict(sorted(counts.items()))))
    typer.echo(f"{counts.total()} requests; memory {kib[0]} to {kib[-1]} KiB, {slope:+.3f} KiB a request")
    typer.echo(f"files and threads: {begun} at the start, {ended} at the end; slots free: {idle}")
    typer.echo(f"golden answer the same: {first == last}")
    steady = all(after - before <= SPARE for before, after in zip(begun, ended, strict=True))
    return (
        statuses <= {"200", "400", "404", "429"} and slope <= GATE_KIB and steady and first == last and idle
    )


def exported(folder: Path) -> Path:
    """The toy of the server's tests, with a stop token, as a bundle."""
    config, tokenizer = serving.CONFIG, serving.TOKENIZER
    save_checkpoint(folder / "model", config, tiny_models.weights(config, seed=3), tokenizer.to_str())
    stop = {"eos_token_id": tokenizer.token_to_id("<|im_end|>")}
    (folder / "model" / "generation_config.json").write_text(json.dumps(stop))
    export(open_checkpoint(folder / "model"), folder / "int8", quant="int8", verify=False)
    return folder / "int8"


def main(
    minutes: Annotated[float, typer.Option()] = 1.0,
    clients: Annotated[int, typer.Option()] = 8,
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        bundle = exported(Path(folder))
        command = [Path(sys.executable).with_name("tfm-cli"), "serve", bundle, "--threads", 1]
        with started(command) as (pid, url):
            ok = asyncio.run(soak(url, pid, clients, 60 * minutes))
    raise typer.Exit(not ok)


if __name__ == "__main__":
    typer.run(main)

"""`tfm-cli serve` under load, beside llama.cpp's server: the same prompts, the same number of tokens.

    pip install 'llama-cpp-python[server]'      in an environment of its own
    tfm-cli export MODEL.gguf int8 --quant int8
    python tests/bench/serve_load.py --tfm int8 --llama-python BIN --llama MODEL.gguf --seconds 60

and `--llama-server BIN` for its own binary, which answers --users at a time.

A closed loop of --users measures capacity; then requests arrive at random times (Poisson, a fixed seed) at
each of RATES times that. A phase lasts --seconds, after a warm-up of a fifth of that, and then its requests
have until they are complete. Prompts are of 10 to 200 words; answers of exactly --tokens, greedy, streamed.

TTFT is from sending to the first text, ITL between two texts, TPOT the rest of the answer by its tokens.
Goodput counts answers whose TTFT is at most --max-wait, as long as tfm lets a request wait for a slot, and a
second to read the prompt, and whose TPOT is at most --tpot. With --threads 1 the server has one core
and the client another. Exit code 1: beyond capacity goodput fell below nine tenths of its peak, or an answer
was neither 200 nor 429.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import httpx
import numpy as np
import typer
from servers import started

RATES = (0.25, 0.5, 0.75, 1.0, 1.5)
WORDS = (Path(__file__).with_name("chat_prompts.txt")).read_text(encoding="utf-8").split()
GATE = 0.9


@dataclass
class Answer:
    """What one request got, and when: seconds since it was sent, and when it ended."""

    status: int
    texts: list[float] = field(default_factory=list)
    ended: float = 0.0

    def tpot(self, tokens: int) -> float:
        return (self.texts[-1] - self.texts[0]) / max(tokens - 1, 1)


@dataclass(frozen=True)
class Load:
    """One server, and what each request asks of it."""

    client: httpx.AsyncClient
    model: str
    tokens: int
    stops: list[int]
    seeds: Iterator[int]  # of prompts: none is asked twice, as servers keep what they computed

    async def ask(self) -> Answer:
        seed = next(self.seeds)
        rng = random.Random(seed)
        body = {
            "model": self.model,
            "prompt": f"{seed} " + " ".join(rng.choices(WORDS, k=rng.randint(10, 200))),
            "max_tokens": self.tokens,
            "temperature": 0,
            "stream": True,
            "logit_bias": {str(token): -100 for token in self.stops},
        }
        begin, answer = time.perf_counter(), Answer(0)
        try:
            async with self.client.stream("POST", "/v1/completions", json=body) as response:
                answer.status = response.status_code
                async for line in response.aiter_lines():
                    if line.startswith("data: {"):
                        (choice,) = json.loads(line[6:])["choices"]
                        if choice["text"]:
                            answer.texts.append(time.perf_counter() - begin)
        except httpx.HTTPError:
            answer.status = 0
        answer.ended = time.perf_counter()
        return answer


async def closed(load: Load, users: int, seconds: float) -> tuple[list[Answer], float]:
    """Each user asks again once the answer is complete: (answers, seconds from first to last)."""
    begin, answers = time.perf_counter(), []

    async def user() -> None:
        while time.perf_counter() < begin + seconds:
            answers.append(await load.ask())

    await asyncio.gather(*(user() for _ in range(users)))
    return answers, time.perf_counter() - begin


async def opened(load: Load, rate: float, seconds: float) -> tuple[list[Answer], float]:
    """Requests at random times, `rate` a second, whether others are complete or not: (answers, seconds in
    which they were sent)."""
    rng, begin, asked, due = random.Random(7), time.perf_counter(), [], 0.0
    while (due := due + rng.expovariate(rate)) < seconds:
        await asyncio.sleep(max(0.0, begin + due - time.perf_counter()))
        asked.append(asyncio.create_task(load.ask()))
    return list(await asyncio.gather(*asked)), seconds


def figures(
    answers: list[Answer], begin: float, seconds: float, tokens: int, slo: tuple[float, float]
) -> dict[str, Any]:
    """The figures of a phase: rates of what was complete in these seconds, times of all, in milliseconds."""
    complete = [a for a in answers if a.status == 200 and a.texts]

    def percentiles(values: list[float]) -> list[float]:
        return [round(1e3 * float(v), 1) for v in np.percentile(values or [np.nan], (50, 95, 99))]

    in_time = [a for a in complete if a.ended <= begin + seconds]
    good = [a for a in in_time if a.texts[0] <= slo[0] and a.tpot(tokens) <= slo[1]]
    return {
        "requests": len(answers),
        "statuses": dict(Counter(a.status for a in answers)),
        "requests_per_s": len(in_time) / seconds,
        "tokens_per_s": len(in_time) * tokens / seconds,
        "goodput_per_s": len(good) / seconds,
        "ttft": percentiles([a.texts[0] for a in complete]),
        "tpot": percentiles([a.tpot(tokens) for a in complete]),
        "itl": percentiles([float(gap) for a in complete for gap in np.diff(a.texts)]),
    }


def row(name: str, phase: str, f: dict[str, Any]) -> str:
    times = "  ".join(f"{k} {'/'.join(f'{v:.0f}' for v in f[k])}" for k in ("ttft", "tpot", "itl"))
    return (
        f"{name:12} {phase:8} {f['tokens_per_s']:7.1f} tokens/s {f['requests_per_s']:6.2f} answers/s "
        f"goodput {f['goodput_per_s']:6.2f}/s  {times} ms  {f['statuses']}"
    )


async def measured(
    name: str, url: str, tokens: int, stops: list[int], users: int, seconds: float, slo: tuple[float, float]
) -> dict[str, Any]:
    """All phases of one server."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=600, limits=limits) as client:
        listed = (await client.get("/v1/models")).json()["data"]
        load, phases = Load(client, listed[0]["id"], tokens, stops, itertools.count()), {}

        async def phase(label: str, run: Callable[[float], Awaitable[tuple[list[Answer], float]]]) -> None:
            await run(seconds / 5)
            begin = time.perf_counter()
            answers, took = await run(seconds)
            phases[label] = figures(answers, begin, took, tokens, slo)
            typer.echo(row(name, label, phases[label]))

        await phase("closed", lambda s: closed(load, users, s))
        capacity = phases["closed"]["requests_per_s"]
        for rate in RATES:
            await phase(f"{rate:g}", lambda s, rate=rate: opened(load, rate * capacity, s))
        return phases


def main(
    tfm: Annotated[Path, typer.Option(help="A bundle.")],
    llama: Annotated[Path | None, typer.Option(help="A GGUF file with the same weights.")] = None,
    llama_python: Annotated[Path | None, typer.Option(help="Python with llama-cpp-python[server].")] = None,
    llama_server: Annotated[Path | None, typer.Option(help="llama.cpp's own server.")] = None,
    seconds: Annotated[float, typer.Option(help="Of each of the six phases of a server.")] = 20,
    users: int = 8,
    tokens: int = 32,
    threads: int = 1,
    stop: Annotated[list[int] | None, typer.Option(help="Ids of stop tokens, which are banned.")] = None,
    max_wait: Annotated[float, typer.Option(help="Seconds that a request may wait for a slot.")] = 5.0,
    tpot: Annotated[float, typer.Option(help="Seconds a token in a good answer.")] = 0.25,
    context: int = 1024,
    out: Path | None = None,
) -> None:
    cores = [None, None]
    if threads == 1 and os.cpu_count() != 1:
        cores = [{0}, {1}]
        os.sched_setaffinity(0, cores[1])
    commands: dict[str, list[object]] = {
        "tfm": [
            Path(sys.executable).with_name("tfm-cli"),
            "serve",
            tfm,
            "--threads",
            threads,
            "--max-wait",
            max_wait,
        ]
    }
    if llama is not None and llama_python is not None:
        # Without --interrupt_requests false a request that waits ends the one that runs.
        commands["llama"] = [
            llama_python, "-m", "llama_cpp.server", "--model", llama, "--n_ctx", context, "--n_threads",
            threads, "--n_threads_batch", threads, "--interrupt_requests", "false",
        ]  # fmt: skip
    if llama is not None and llama_server is not None:
        commands["llama-server"] = [
            llama_server, "--model", llama, "--ctx-size", context * users, "--parallel", users,
            "--threads", threads, "--threads-batch", threads, "--no-webui",
        ]  # fmt: skip
    stops = [0, 2] if stop is None else stop  # of SmolLM2
    results = {}
    for name, command in commands.items():
        with started(command, cores[0]) as (_, url):
            results[name] = asyncio.run(
                measured(name, url, tokens, stops, users, seconds, (max_wait + 1, tpot))
            )
    ok = True
    for name, phases in results.items():
        peak = max(f["goodput_per_s"] for f in phases.values())
        beyond = phases[f"{RATES[-1]:g}"]["goodput_per_s"] / max(peak, 1e-9)
        odd = {s for f in phases.values() for s in f["statuses"]} - {200, 429}
        typer.echo(
            f"{name}: goodput beyond capacity {beyond:.2f} of its peak; other statuses: {odd or 'none'}"
        )
        ok &= name != "tfm" or (beyond >= GATE and not odd)
    for name in results.keys() - {"tfm"}:
        ours, theirs = results["tfm"]["closed"], results[name]["closed"]
        ratio = ours["tokens_per_s"] / theirs["tokens_per_s"]
        typer.echo(
            f"tfm / {name}, {users} users: throughput {ratio:.2f}, "
            f"TTFT p95 {ours['ttft'][1]:.0f} / {theirs['ttft'][1]:.0f} ms"
        )
    if out is not None:
        out.write_text(json.dumps({"seconds": seconds, "threads": threads, "results": results}, indent=1))
    raise typer.Exit(not ok)


if __name__ == "__main__":
    typer.run(main)

"""`tfm-cli serve` for a long time: does it stay as it was?

    PYTHONPATH=tests python tests/bench/serve_soak.py --minutes 30

A toy that chats and one that embeds are exported and served, and --clients ask them at a time, each after a
--pause: by every API, streamed or not, with tools and held to languages. Of 10 requests 6 are valid, one
leaves before its answer is complete, one is invalid, one is longer than the context, and one is a bomb: a
body, a depth or a language that takes too much. The largest shapes come first, and SIGTERM last, while an
answer is written. Exit code 1: a status other than those of STATUSES, memory that grows by more than GATE_KIB
a request over the second half, more files, threads or processes than at the start, another answer to the
golden prompt, or an end in which the last answer isn't complete.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

import httpx
import numpy as np
import typer
from helpers import agents, serving, tiny_models
from helpers.hostile_languages import STEPS, WIDE
from servers import open_files, private_kib, processes, started, threads
from tfm.export.bundle_writer import export
from tfm.refimpl.checkpoint.open import open_checkpoint, save_checkpoint
from tfm.refimpl.config import Config, Pool

GATE_KIB = 1.0
SPARE = 2  # more files, threads and processes than at the start, which may be connections
STATUSES = {"200", "400", "404", "413", "429"}
MOST_TOKENS = 40
GOLDEN: dict[str, Any] = {"prompt": "the cat sat on", "max_tokens": 24, "temperature": 1.1, "seed": 5}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "clock", "schema": agents.CLOCK}}
FUNCTION = {"name": "weather", "parameters": agents.WEATHER}
TOOL = {"type": "function", "function": {**FUNCTION, "strict": True}}
LANGUAGES: list[dict[str, Any]] = [
    {"structured_outputs": {"regex": "[a-z]{3,9}"}},
    {"structured_outputs": {"regex": "(cat|dog)( and (cat|dog))*"}},
]
CHOICES: list[dict[str, Any]] = [{}, {}, {"response_format": SCHEMA}, {"tools": [TOOL]}]
CHOICES += [{"tools": [TOOL], "tool_choice": "required"}]


def valid(rng: random.Random) -> tuple[str, dict[str, Any]]:
    """The path and the body of a request."""
    text = " ".join(rng.choices(serving.WORDS, k=rng.randint(1, 12)))
    said, most = [{"role": "user", "content": text}], rng.randint(1, MOST_TOKENS)
    drawn = {"model": "int8", "temperature": rng.choice([0, 0.7, 1.0]), "stream": rng.random() < 0.5}
    match rng.choice(["completions", "chat", "chat", "responses", "messages", "ollama", "embeddings"]):
        case "completions":
            more = rng.choice([{}, {}, {"n": 2}, *LANGUAGES])
            return "/v1/completions", {**drawn, "prompt": text, "max_tokens": most, **more}
        case "chat":
            more = rng.choice(CHOICES)
            return "/v1/chat/completions", {**drawn, "messages": said, "max_tokens": most, **more}
        case "responses":
            tools = rng.choice([{}, {"tools": [{"type": "function", **FUNCTION}], "tool_choice": "required"}])
            return "/v1/responses", {**drawn, "input": text, "max_output_tokens": most, **tools}
        case "messages":
            named = {"name": "weather", "input_schema": agents.WEATHER}
            tools = rng.choice([{}, {"tools": [named], "tool_choice": {"type": "any"}}])
            return "/v1/messages", {**drawn, "messages": said, "max_tokens": most, **tools}
        case "ollama":
            options = {"num_predict": most, "temperature": drawn.pop("temperature")}
            return "/api/chat", {**drawn, "messages": said, "options": options}
        case _:
            return "/v1/embeddings", {"model": "pool", "input": rng.choices(serving.WORDS, k=most)}


def bomb(rng: random.Random) -> tuple[str, bytes]:
    """The path and the body of a request that would take too much."""
    body: dict[str, Any] = {"model": "int8", "prompt": "the cat", "max_tokens": MOST_TOKENS}
    match rng.randrange(4):
        case 0:
            body["prompt"] = "the " * 2**22
        case 1:
            return "/v1/chat/completions", b'{"model": "int8", "messages": ' + b"[" * 2**16
        case 2:
            kind, text = rng.choice([WIDE, STEPS])
            assert kind == "json_schema"
            body["structured_outputs"] = {"json": json.loads(text)}
        case _:
            body["structured_outputs"] = {"regex": "(((a{1000}){1000}){1000}){1000}"}
    return "/v1/completions", json.dumps(body).encode()


def drawn(rng: random.Random, kind: str) -> tuple[str, bytes]:
    """The path and the body of a request of a kind."""
    if kind == "bomb":
        return bomb(rng)
    path, body = valid(rng)
    if kind == "invalid":
        body |= rng.choice([{"top_p": 7}, {"frobnicate": 1}, {"model": "other"}, {"stream": "no"}])
    elif kind == "long":
        path, body = "/v1/completions", {"model": "int8", "prompt": "the cat " * 2000}
    elif kind == "leaves":
        body = {"model": "int8", "stream": True, "max_tokens": 400, "prompt": "the cat"}
        path = "/v1/completions"
    return path, json.dumps(body).encode()


async def ask(client: httpx.AsyncClient, rng: random.Random, counts: Counter[str]) -> None:
    kind = rng.choices(["valid", "leaves", "invalid", "long", "bomb"], [6, 1, 1, 1, 1])[0]
    path, body = drawn(rng, kind)
    try:
        json_type = {"content-type": "application/json"}
        async with client.stream("POST", path, content=body, headers=json_type) as response:
            counts[f"{kind} {path} {response.status_code}"] += 1
            async for _ in response.aiter_lines():
                if kind == "leaves" and rng.random() < 0.3:
                    break
    except httpx.TransportError as error:
        counts[f"{kind} {path} {type(error).__name__}"] += 1


async def golden(client: httpx.AsyncClient) -> str:
    answer = (await client.post("/v1/completions", json={"model": "int8", **GOLDEN})).json()
    return answer["choices"][0]["text"]


async def drained(client: httpx.AsyncClient, pid: int) -> bool:
    """Whether an answer that is being written at SIGTERM is completed, and the server then ends by itself."""
    last = {"model": "int8", "prompt": "the cat", "max_tokens": 400, "stream": True}
    async with client.stream("POST", "/v1/completions", json=last) as response:
        lines = [line async for line in begun(response, pid) if line]
    await asyncio.to_thread(os.waitid, os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    return lines[-1] == "data: [DONE]"


async def begun(response: httpx.Response, pid: int) -> AsyncIterator[str]:
    """The lines of an answer; SIGTERM is sent after the first one."""
    sent = False
    async for line in response.aiter_lines():
        if not sent:
            os.kill(pid, signal.SIGTERM)
            sent = True
        yield line


async def soak(url: str, pid: int, clients: int, seconds: float, pause: float) -> bool:
    counts: Counter[str] = Counter()
    samples: list[tuple[int, int]] = []
    # The server closes a connection on which nothing came for 75 s.
    limits = httpx.Limits(keepalive_expiry=2)
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=120, limits=limits) as client:

        async def user(seed: int, end: float) -> None:
            rng = random.Random(seed)
            while time.monotonic() < end:
                await ask(client, rng, counts)
                await asyncio.sleep(pause)

        first = await golden(client)
        largest = {"model": "int8", "prompt": "the " * 400, "max_tokens": 500, "n": 8}
        await asyncio.gather(*(client.post("/v1/completions", json=largest) for _ in range(4)))
        await asyncio.gather(*(user(1000 + i, time.monotonic() + seconds / 20) for i in range(clients)))
        begun_with = open_files(pid), threads(pid), processes(pid)
        counts.clear()
        end = time.monotonic() + seconds
        users = asyncio.gather(*(user(i, end) for i in range(clients)))
        while not users.done():
            samples.append((counts.total(), private_kib(pid)))
            await asyncio.sleep(seconds / 200)
        await users
        last = await golden(client)
        await asyncio.sleep(1)  # for those who left
        figures = (await client.get("/metrics")).text
        ended_with = open_files(pid), threads(pid), processes(pid)
        complete = await drained(client, pid)
    requests, kib = np.array(samples[len(samples) // 2 :]).T
    slope = float(np.polyfit(requests, kib, 1)[0])
    statuses = {kind.split()[-1] for kind in counts}
    idle = 'tfm_running{model="int8"} 0.0' in figures and 'tfm_waiting{model="int8"} 0.0' in figures
    typer.echo(json.dumps(dict(sorted(counts.items())), indent=1))
    memory = f"memory {samples[0][1]}, {kib[0]}, {kib[-1]} KiB at the begin, in the middle, at the end"
    typer.echo(f"{counts.total()} requests; {memory}, {slope:+.3f} KiB a request in the second half")
    what = f"{begun_with} at the start, {ended_with} at the end"
    typer.echo(f"files, threads, processes: {what}; slots free: {idle}")
    typer.echo(f"golden answer the same: {first == last}; complete after SIGTERM: {complete}")
    steady = all(after - before <= SPARE for before, after in zip(begun_with, ended_with, strict=True))
    return statuses <= STATUSES and slope <= GATE_KIB and steady and first == last and idle and complete


def exported(folder: Path, name: str, config: Config, template: str | None, **stated: Any) -> Path:
    """A toy with the tokenizer of the server's tests, as a bundle."""
    saved = folder / f"{name}-model"
    save_checkpoint(saved, config, tiny_models.weights(config, seed=3), serving.TOKENIZER.to_str(), template)
    (saved / "generation_config.json").write_text(json.dumps(stated))
    export(open_checkpoint(saved), folder / name, quant="int8", verify=False)
    return folder / name


def main(
    minutes: Annotated[float, typer.Option()] = 1.0,
    clients: Annotated[int, typer.Option()] = 8,
    pause: Annotated[float, typer.Option(help="Seconds between a client's requests.")] = 0.0,
) -> None:
    size = serving.TOKENIZER.get_vocab_size()
    stop = serving.TOKENIZER.token_to_id("<|im_end|>")
    chats = tiny_models.llama(vocabulary=size, context=1024, layers=1)
    reads = tiny_models.encoder(vocabulary=size, head=Pool())
    with tempfile.TemporaryDirectory() as folder:
        chat = exported(Path(folder), "int8", chats, serving.TOOLS, eos_token_id=stop)
        pool = exported(Path(folder), "pool", reads, None)
        memory = ["--prefix-memory", 4, "--response-memory", 1]  # full long before the second half
        command = [Path(sys.executable).with_name("tfm-cli"), "serve", chat, pool, "--threads", 1, *memory]
        with started(command) as (pid, url):
            ok = asyncio.run(soak(url, pid, clients, 60 * minutes, pause))
    raise typer.Exit(not ok)


if __name__ == "__main__":
    typer.run(main)

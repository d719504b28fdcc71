"""What a server on many replicas would do, from how long its answers take on one: latency, queues, cost.

    python tests/bench/fleet_simulation.py --bundle int8 --save times.json       measures, then simulates
    python tests/bench/fleet_simulation.py --times times.json --price 0.04       simulates

Measured is one replica whose slots are all taken: a closed loop of --slots users of one thread, who ask the
next thing once they have an answer of --tokens tokens. Such times are the longest, so a fleet that is less
busy answers sooner than this says.

Simulated are arrivals at random times (Poisson), of a rate that keeps --loads of all slots busy in the mean;
each takes one of the measured times, drawn at random. A request goes to the replica with fewer requests of
two that are drawn, as Ray Serve's router does, or to one that is drawn, for comparison; there it waits in
line for a slot. Sizes that a router doesn't know at once, starts of replicas and the network are left out.
Cost is --price, of one replica for an hour, by answers.
"""

from __future__ import annotations

import asyncio
import heapq
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

REPLICAS = (1, 10, 100, 1000)
LOADS = (0.5, 0.7, 0.9)


@dataclass(frozen=True)
class Fleet:
    """Replicas with so many slots each, of which `choices` are drawn for a request."""

    replicas: int
    slots: int
    choices: int = 2


def simulate(
    fleet: Fleet, times: np.ndarray, load: float, requests: int, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """(seconds in line, seconds of service) of each request, without the first tenth, while queues fill."""
    rng = np.random.default_rng(seed)
    rate = load * fleet.replicas * fleet.slots / times.mean()
    arrivals = np.cumsum(rng.exponential(1 / rate, requests))
    services = rng.choice(times, requests)
    drawn = rng.integers(fleet.replicas, size=(requests, fleet.choices))
    free = [[0.0] * fleet.slots for _ in range(fleet.replicas)]  # when each slot is, the first one first
    ends: list[list[float]] = [[] for _ in range(fleet.replicas)]  # of the requests that are there
    waits = np.empty(requests)
    for i, (now, service, some) in enumerate(zip(arrivals, services, drawn.tolist(), strict=True)):
        for replica in some:
            while ends[replica] and ends[replica][0] <= now:
                heapq.heappop(ends[replica])
        chosen = min(some, key=lambda replica: len(ends[replica]))
        begin = max(now, free[chosen][0])
        heapq.heapreplace(free[chosen], begin + service)
        heapq.heappush(ends[chosen], begin + service)
        waits[i] = begin - now
    warm = requests // 10
    return waits[warm:], services[warm:]


def table(times: np.ndarray, slots: int, price: float, each: int) -> list[str]:
    """The rows of a table in Markdown; `each` requests a slot are simulated, from 20,000 to 2,000,000."""
    lines = [
        "| replicas | busy | answers/s | p50 | p95 | p99 | waited | p99 of waits | p99, one drawn "
        "| a million |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for replicas in REPLICAS:
        for load in LOADS:
            count = min(max(each * replicas * slots, 20_000), 2_000_000)
            waits, services = simulate(Fleet(replicas, slots), times, load, count)
            drawn = sum(simulate(Fleet(replicas, slots, 1), times, load, count))
            p50, p95, p99 = np.percentile(waits + services, (50, 95, 99))
            rate = load * replicas * slots / times.mean()
            cost = price * replicas / (rate * 3600) * 1e6
            lines.append(
                f"| {replicas:,} | {load:.0%} | {rate:,.1f} | {p50:.2f} s | {p95:.2f} s | {p99:.2f} s "
                f"| {np.mean(waits > 0):.1%} | {np.percentile(waits, 99):.2f} s "
                f"| {np.percentile(drawn, 99):.2f} s | {cost:,.2f} |"
            )
    return lines


async def measure(bundle: Path, slots: int, tokens: int, seconds: float) -> list[float]:
    """How long each answer takes while all slots are taken."""
    from tfm.runtime import load
    from tfm.runtime.serve import AsyncModel

    words = Path(__file__).with_name("chat_prompts.txt").read_text(encoding="utf-8").split()
    rng, times = np.random.default_rng(7), []
    async with AsyncModel(load(bundle, threads=1), slots=slots, prefix_bytes=0) as model:
        until = time.perf_counter() + seconds

        async def user() -> None:
            while (begin := time.perf_counter()) < until:
                prompt = " ".join(rng.choice(words, rng.integers(10, 200)))
                stream = await model.generate(
                    prompt, raw=True, greedy=True, max_new_tokens=tokens, stop_on_eos=False
                )
                await stream.read()
                times.append(time.perf_counter() - begin)

        await asyncio.gather(*(user() for _ in range(slots)))
    return times[slots:]  # without the first, which began together


def main(
    bundle: Annotated[Path | None, typer.Option(help="A decoder's, to measure.")] = None,
    times: Annotated[Path | None, typer.Option(help="A JSON list of seconds, instead.")] = None,
    save: Annotated[Path | None, typer.Option(help="Where measured times go.")] = None,
    slots: int = 8,
    tokens: int = 32,
    seconds: float = 60,
    price: Annotated[float, typer.Option(help="Of a replica for an hour.")] = 0.04,
    each: Annotated[int, typer.Option(help="Requests a slot that are simulated.")] = 100,
) -> None:
    if (bundle is None) == (times is None):
        raise typer.BadParameter("give --bundle or --times")
    if bundle is not None:
        measured = asyncio.run(measure(bundle, slots, tokens, seconds))
    else:
        measured = json.loads(times.read_text())
    if save is not None:
        save.write_text(json.dumps(measured))
    known = np.array(measured)
    p50, p95, p99 = np.percentile(known, (50, 95, 99))
    typer.echo(
        f"{len(known)} answers, mean {known.mean():.3f} s, p50 {p50:.3f}, p95 {p95:.3f}, p99 {p99:.3f} s"
    )
    for line in table(known, slots, price, each):
        typer.echo(line)


if __name__ == "__main__":
    typer.run(main)

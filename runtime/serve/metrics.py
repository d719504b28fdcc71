"""Figures of a running server, in the form of Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from .worker import Worker

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """Counters and gauges of one server; their names begin with `tfm_`."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter(
            "tfm_requests", "Requests that were answered.", ["path", "code"], registry=registry
        )
        self.prompt_tokens = Counter(
            "tfm_prompt_tokens", "Tokens of prompts and texts.", ["model"], registry=registry
        )
        self.generated_tokens = Counter(
            "tfm_generated_tokens", "Tokens that were generated.", ["model"], registry=registry
        )
        self.first_token = Histogram(
            "tfm_first_token_seconds",
            "From a request to its first token.",
            ["model"],
            registry=registry,
            buckets=SECONDS,
        )
        self._running = Gauge("tfm_running", "Slots that are taken.", ["model"], registry=registry)
        self._waiting = Gauge("tfm_waiting", "Requests in the queue.", ["model"], registry=registry)

    def watch(self, name: str, worker: Worker) -> None:
        """Read a worker's slots and queue whenever the figures are asked for."""
        self._running.labels(name).set_function(lambda: worker.running)
        self._waiting.labels(name).set_function(lambda: worker.waiting)

    def text(self) -> bytes:
        """All figures."""
        return generate_latest(self._registry)

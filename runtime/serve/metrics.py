"""Figures of a running server, in the form of Prometheus."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from .worker import Worker

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics(Collector):
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
        self._prefix_bytes = Gauge(
            "tfm_prefix_bytes", "What is kept of earlier requests.", ["model"], registry=registry
        )
        self._workers: dict[str, Worker] = {}
        registry.register(self)
        self._waiting = Gauge("tfm_waiting", "Requests in the queue.", ["model"], registry=registry)

    def watch(self, name: str, worker: Worker) -> None:
        """Read a worker's slots and queue whenever the figures are asked for."""
        self._running.labels(name).set_function(lambda: worker.running)
        self._waiting.labels(name).set_function(lambda: worker.waiting)
        self._prefix_bytes.labels(name).set_function(lambda: worker.prefixes.nbytes)
        self._workers[name] = worker

    def collect(self) -> Iterator[Metric]:
        """Counters that the workers keep."""
        shared = CounterMetricFamily(
            "tfm_prefix_tokens", "Tokens of prompts that an earlier request had read.", labels=["model"]
        )
        for name, worker in self._workers.items():
            shared.add_metric([name], worker.prefixes.tokens)
        yield shared

    def text(self) -> bytes:
        """All figures."""
        return generate_latest(self._registry)

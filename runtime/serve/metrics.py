"""Collect figures of a running server, in Prometheus' format."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from .worker import Worker

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics(Collector):
    """The counters and gauges of one server. The names of all metrics begin with `tfm_`."""

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
        self._workers: dict[str, Callable[[], Worker | None]] = {}
        registry.register(self)

    def watch(self, name: str, worker: Callable[[], Worker | None]) -> None:
        """Include the worker of the model `name` in the figures.

        Each scrape calls `worker`. The function returns None while the model isn't loaded.
        """
        self._workers[name] = worker

    def collect(self) -> Iterator[Metric]:
        """Yield the figures that come from the workers, such as queue lengths."""
        loaded = GaugeMetricFamily("tfm_loaded", "Whether the model is loaded.", labels=["model"])
        running = GaugeMetricFamily("tfm_running", "Slots that are taken.", labels=["model"])
        waiting = GaugeMetricFamily("tfm_waiting", "Requests in the queue.", labels=["model"])
        kept = GaugeMetricFamily("tfm_prefix_bytes", "What is kept of earlier requests.", labels=["model"])
        shared = CounterMetricFamily(
            "tfm_prefix_tokens",
            "Tokens of prompts that an earlier request had read, since the model was loaded.",
            labels=["model"],
        )
        for name, find in self._workers.items():
            worker = find()
            loaded.add_metric([name], worker is not None)
            running.add_metric([name], 0 if worker is None else worker.running)
            waiting.add_metric([name], 0 if worker is None else worker.waiting)
            kept.add_metric([name], 0 if worker is None else worker.prefixes.nbytes)
            shared.add_metric([name], 0 if worker is None else worker.prefixes.tokens)
        yield from (loaded, running, waiting, kept, shared)

    def text(self) -> bytes:
        """Return all figures as text in Prometheus' format."""
        return generate_latest(self._registry)

"""The models of a server, each with its name, its queue and its certificate."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Unpack

from starlette.requests import Request

from ...refimpl.config import LM, Classify, Pool
from ...refimpl.errors import ConfigError
from ..ort.engine import OrtEngine
from ..tasks.base import TASKS
from ..tasks.model import Model
from ..verification import certificate
from .async_model import AsyncModel
from .errors import RequestError
from .limits import LIMITS, Limits
from .metrics import Metrics
from .worker import WorkerOptions


class Served(NamedTuple):
    """A model with its name, the certificate of its bundle, and the fingerprint of that."""

    name: str
    model: AsyncModel
    certificate: dict[str, Any] | None
    fingerprint: str | None


class Server:
    """What all routes share: the models, the limits of a request, the figures."""

    def __init__(
        self, models: Mapping[str, Model], *, limits: Limits = LIMITS, **options: Unpack[WorkerOptions]
    ) -> None:
        """ConfigError for a model that can't be served, before any queue is opened."""
        for name, model in models.items():
            expect_served(name, model)
        self.limits, self.metrics = limits, Metrics()
        self.models: dict[str, Served] = {}
        for name, model in models.items():
            served = AsyncModel(model, **options)
            self.metrics.watch(name, served.worker)
            found = _certificate(model)
            self.models[name] = Served(name, served, found, None if found is None else _fingerprint(found))

    def find(self, name: str) -> Served:
        """The model of a name; RequestError 404, with the names that there are."""
        if name not in self.models:
            raise RequestError(
                f"no model is named {name!r:.80}, there is {', '.join(self.models)}",
                param="model", code="model_not_found", status=404,
            )  # fmt: skip
        return self.models[name]

    async def close(self) -> None:
        """Close all queues; what isn't complete gets an error."""
        for served in self.models.values():
            await served.model.close()


def expect_served(name: str, model: Model) -> None:
    """ConfigError unless the model has a task that is served."""
    head = model.config.head
    if not isinstance(head, LM | Pool | Classify):
        raise ConfigError(
            f"{name} can't be served, its head is for {TASKS[type(head)]}: models that generate, embed or "
            "classify can"
        )


def server_of(request: Request) -> Server:
    """The server that a request came to."""
    return request.app.state.server


def owner_of(request: Request) -> str:
    """Whose request it is: the number of its key, or nothing where no key is asked for."""
    return request.user.display_name if "user" in request.scope else ""


def _certificate(model: Model) -> dict[str, Any] | None:
    """The certificate of the model's bundle, if it runs from one that has one."""
    engine = model.engine
    return certificate.read(Path(engine.model).parent) if isinstance(engine, OrtEngine) else None


def _fingerprint(content: dict[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, ensure_ascii=False)
    return f"tfm_{hashlib.sha256(text.encode()).hexdigest()[:16]}"

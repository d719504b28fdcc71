"""Manage the models of a server. Each model has a name, a queue of requests and the certificate of its
bundle.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import itertools
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, Unpack

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from ...refimpl.config import CTC, LM, Classify, ConvStem, Decoder, Head, Pool
from ...refimpl.errors import ConfigError
from ..hardware import return_large_blocks
from ..ort.engine import OrtEngine
from ..serving_defaults import MAX_WAIT_S, RESPONSE_BYTES, SLOTS
from ..tasks.base import task_of
from ..tasks.model import Model
from ..verification import certificate
from .async_model import AsyncModel
from .errors import RequestError
from .kept_responses import KeptResponses
from .limits import LIMITS, Limits
from .metrics import Metrics
from .worker import QueueFullError, WorkerOptions

Load = Callable[[], Model]
H = TypeVar("H", bound=Head)


class Served:
    """A served model: its name, context and endpoints, and its bundle's certificate with a fingerprint.

    These fields are filled when the model is first loaded, and stay when the model is unloaded. `users` is
    the number of requests that use the model now. `idle_since` is the time at which the last request
    ended.
    """

    def __init__(self, name: str, load: Load, options: WorkerOptions) -> None:
        self.name, self._load, self._options = name, load, options
        self._model: AsyncModel | None = None
        self.users, self.last_used, self.idle_since = 0, 0, time.monotonic()
        self.context: int | None = None
        self.endpoints: list[str] | None = None
        self.certificate: dict[str, Any] | None = None
        self.fingerprint: str | None = None

    @property
    def loaded(self) -> bool:
        return self._model is not None

    @property
    def model(self) -> AsyncModel:
        """The loaded model. The model stays loaded at least as long as a request uses it."""
        assert self._model is not None, f"{self.name} isn't loaded"
        return self._model

    def expect(self, kind: type[H], doing: str) -> H:
        """Return the model's head if it is of this kind. Otherwise raise RequestError with the routes that
        the model answers.

        `doing` says in the message what the request wants, such as "embed texts".
        """
        config = self.model.model.config
        if config.sound_shape is not None or not isinstance(config.head, kind):
            raise self._other(doing)
        return config.head

    def expect_hearing(self) -> None:
        """Raise RequestError with the routes that the model answers, if the model can't transcribe sounds."""
        if self.model.model.config.sound_shape is None:
            raise self._other("transcribe sounds")

    def _other(self, doing: str) -> RequestError:
        answered = " or ".join(self.endpoints or ())
        return RequestError(
            f"the model {self.name} can't {doing}: use {answered} with this model", param="model"
        )

    def load(self) -> AsyncModel:
        """Load the model. Raises ConfigError if the server has no routes for the model's task."""
        model = self._load()
        expect_served(self.name, model)
        self.context, self.certificate = model.config.context, _certificate(model)
        self.endpoints = _endpoints(model)
        self.fingerprint = None if self.certificate is None else _fingerprint(self.certificate)
        self.idle_since = time.monotonic()
        self._model = AsyncModel(model, **self._options)
        return self._model

    def give_up(self) -> AsyncModel:
        """Unload the model, and return it so that the caller can close it."""
        model, self._model = self.model, None
        return model


class Server:
    """The state that all routes share: the models, the limits of a request, and the metrics.

    A model with several names is loaded once, and its answers state the first of these names. At most
    `models_max` models are loaded at a time. Loading another model unloads the idle model that was used
    least recently. A model is unloaded after `idle_s` seconds without a request; without `idle_s`, it
    stays loaded.
    """

    def __init__(
        self,
        models: Mapping[str, Load],
        *,
        limits: Limits = LIMITS,
        models_max: int | None = None,
        idle_s: float | None = None,
        on_demand: bool = False,
        response_bytes: int = RESPONSE_BYTES,
        **options: Unpack[WorkerOptions],
    ) -> None:
        """Load all models, or with `on_demand` load each model at its first request. Raises ConfigError for a
        model that can't be served.
        """
        return_large_blocks()  # bodies, of any size up to their limit
        self._idle_s = idle_s
        self.limits, self.metrics = limits, Metrics()
        self.responses = KeptResponses(response_bytes)
        options = {"max_wait": MAX_WAIT_S, **options}
        self.slots = options.get("slots", SLOTS)
        self.models: dict[str, Served] = {}
        self._served: dict[Load, Served] = {}  # each once
        self._most = len(models) if models_max is None else models_max
        self._uses, self._loading = itertools.count(1), asyncio.Lock()
        for name, load in models.items():
            if load in self._served:
                self.models[name] = self._served[load]
                continue
            self.models[name] = self._served[load] = served = Served(name, load, options)
            if not on_demand:
                _free(self._displaced())
                served.load()
            served.last_used = next(self._uses)
            self.metrics.watch(name, lambda served=served: served.model.worker if served.loaded else None)

    def find(self, name: str) -> Served:
        """Return the model with this name. An empty name means the only model of the server. As in ollama,
        NAME:latest means NAME.

        Raises RequestError with status 404 and a list of the existing names for an unknown name. Raises
        RequestError with status 400 for an empty name if the server has several models.
        """
        if not name and len(self._served) == 1:
            return next(iter(self._served.values()))
        names = ", ".join(map(repr, self.models))
        if not name:
            raise RequestError(
                f"the request must have the field `model`: this server has {names}", param="model"
            )
        found = self.models.get(name) or self.models.get(name.removesuffix(":latest"))
        if found is None:
            raise RequestError(
                f"unknown model {name!r:.80}: this server has {names}",
                param="model", code="model_not_found", status=404,
            )  # fmt: skip
        return found

    async def use(self, request: Request, name: str) -> Served:
        """Load the model with this name if necessary, and return it. The model stays loaded until this
        request is answered.

        Raises RequestError with status 404 for an unknown name. Raises QueueFullError if `models_max`
        other models are loaded and in use.
        """
        served = self.find(name)
        served.users += 1
        request.scope["tfm.used"].append(served)
        served.last_used = next(self._uses)
        if not served.loaded:
            async with self._loading:
                if not served.loaded:
                    displaced = self._displaced()
                    await asyncio.to_thread(_free, displaced)
                    await asyncio.to_thread(served.load)
        return served

    def _displaced(self) -> list[AsyncModel]:
        """Take the least recently used idle models out of use, so that one more model may be loaded. Returns
        the models that were taken out.

        Only the thread of requests may call this."""
        loaded = [served for served in self._served.values() if served.loaded]
        idle = [served for served in loaded if not served.users]
        count = len(loaded) - self._most + 1
        if count > len(idle):
            raise QueueFullError(
                f"at most {self._most} models may be loaded, and all of them are in use: try again later"
            )
        idle.sort(key=lambda served: served.last_used)
        return [served.give_up() for served in idle[: max(count, 0)]]

    async def unload_idle(self) -> None:
        """Unload each model that has been idle for `idle_s` seconds. This coroutine runs as long as the
        server.
        """
        while self._idle_s is not None:
            loaded = [one for one in self._served.values() if one.loaded and not one.users]
            late = [one for one in loaded if time.monotonic() - one.idle_since >= self._idle_s]
            await asyncio.to_thread(_free, [one.give_up() for one in late])
            await asyncio.sleep(min(self._idle_s, 1.0))

    async def close(self) -> None:
        """Close the queues of all models. Requests that aren't complete get an error."""
        await asyncio.to_thread(_free, [one.give_up() for one in self._served.values() if one.loaded])


def _free(models: list[AsyncModel]) -> None:
    """Close the models' queues and free the models' memory."""
    while models:
        models.pop().end()  # no name may hold one while circles are looked for
    gc.collect()  # sessions and their arrays may be in a circle


class ReleaseModels:
    """ASGI middleware that releases the models that a request used once the request ends, even by an
    error.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        used: list[Served] = []
        scope["tfm.used"] = used
        try:
            await self._app(scope, receive, send)
        finally:
            for served in used:
                served.users -= 1
                served.idle_since = time.monotonic()


def expect_served(name: str, model: Model) -> None:
    """Raise ConfigError if the server has no routes for the model's task."""
    if not isinstance(model.config.head, LM | Pool | Classify | CTC):
        raise ConfigError(
            f"{name} can't be served, since this model can only {task_of(model.config)}: use a model that "
            "generates, embeds, classifies or transcribes"
        )


def server_of(request: Request) -> Server:
    """Return the server that received a request."""
    return request.app.state.server


def owner_of(request: Request) -> str:
    """Return the owner of a request: the number of its API key, or an empty text if the server has no
    keys.
    """
    return request.user.display_name if "user" in request.scope else ""


def _endpoints(model: Model) -> list[str]:
    """Return the endpoints that a model answers: of OpenAI's API, and of tfm's own."""
    config = model.config
    if config.sound_shape is not None:
        translates = isinstance(config.stem, ConvStem)
        return ["/v1/audio/transcriptions", *["/v1/audio/translations"] * translates]
    match config.head:
        case Pool():
            return ["/v1/embeddings"]
        case Classify(labels=count):
            return ["/v1/classify", *["/v1/rerank"] * (count == 1)]
    chats = isinstance(config, Decoder) and model.template is not None
    return [*["/v1/chat/completions"] * chats, "/v1/completions"]


def _certificate(model: Model) -> dict[str, Any] | None:
    """Return the certificate of the model's bundle; None if there is no bundle or no certificate."""
    engine = model.engine
    return certificate.read(Path(engine.model).parent) if isinstance(engine, OrtEngine) else None


def _fingerprint(content: dict[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, ensure_ascii=False)
    return f"tfm_{hashlib.sha256(text.encode()).hexdigest()[:16]}"

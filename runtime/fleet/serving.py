"""Define the Ray Serve application: replicas of a server behind `forward`.

Ray Serve starts and stops replicas as the number of requests changes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from ray import serve
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp, Message, Scope

from ..serve.keys import read_keys
from .forward import Forward, ReplicaGoneError
from .replica import Replica
from .settings import Settings

FORWARDED = 10_000  # requests on their way at a time; replicas have queues of their own
SPARE = 64  # that a replica gets beyond its slots and queue: it answers them, by 429 where they'd wait


@serve.ingress()
class Door:
    """A deployment that forwards requests from Ray Serve's proxy to the replicas."""

    def __init__(self, replicas: DeploymentHandle) -> None:
        self._replicas: Any = replicas.options(stream=True).answer

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return Forward(self._ask)

    async def _ask(self, scope: Scope, body: bytes) -> AsyncIterator[Message]:
        messages = self._replicas.remote(scope, body)
        try:
            async for message in messages:
                yield message
        except RayTaskError:
            raise  # the application's own
        except (RayError, RayServeException) as error:
            raise ReplicaGoneError("the replica ended before the answer was complete") from error
        finally:
            messages.cancel()


def application(given: Mapping[str, Any]) -> serve.Application:
    """Return the Ray Serve application for these settings, by name. `Settings` explains the settings."""
    settings = Settings.read(given)
    keys = read_keys(Path(settings.api_key_file)) if settings.api_key_file else []
    deployment: Any = serve.deployment
    replicas = deployment(
        Replica,
        name="replica",
        max_ongoing_requests=settings.slots + settings.queue + SPARE,
        autoscaling_config={
            "min_replicas": settings.min_replicas,
            "max_replicas": settings.max_replicas,
            "target_ongoing_requests": settings.slots,
        },
        ray_actor_options={
            "num_cpus": settings.threads,
            "num_gpus": int(settings.device == "cuda"),
        },
    )
    door = deployment(Door, name="door", max_ongoing_requests=FORWARDED, ray_actor_options={"num_cpus": 0})
    bound = replicas.bind(
        settings.bundles,
        keys,
        settings.slots,
        settings.queue,
        settings.max_wait,
        settings.device,
        settings.threads,
    )
    return door.bind(bound)

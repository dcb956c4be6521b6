"""Counts and times of requests in Prometheus' text form. Importing this file needs the extra ``serve``."""

from __future__ import annotations

import math
import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vpr.core import VprError
from vpr.serve.service import Service

_METHODS = ("GET", "POST", "DELETE", "HEAD")
_SECONDS = (0.005, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1, 2, 5, 10, 30)


class Metrics:
    """What happened since the server started."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._registry = CollectorRegistry()
        labels = ["endpoint", "status"]
        self.requests = Counter("vpr_requests", "Requests", labels, registry=self._registry)
        self.seconds = Histogram(
            "vpr_request_seconds", "Time of a request", ["endpoint"], buckets=_SECONDS, registry=self._registry
        )
        waiting = Gauge("vpr_waiting", "Requests that run or wait for the methods", registry=self._registry)
        waiting.set_function(lambda: service.worker.waiting)
        Gauge("vpr_map_images", "Images of the map", registry=self._registry).set_function(self._images)

    def text(self) -> bytes:
        return generate_latest(self._registry)

    def _images(self) -> float:
        try:
            return len(self._service.map)
        except VprError:
            return math.nan


class Measured:
    """ASGI middleware that counts and times requests, and forbids browsers to guess the type of an answer."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.perf_counter(), 500

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-content-type-options", b"nosniff")]
            await send(message)

        try:
            await self._app(scope, receive, counted)
        finally:
            endpoint = _endpoint(scope)
            self._metrics.requests.labels(endpoint, status).inc()
            self._metrics.seconds.labels(endpoint).observe(time.perf_counter() - start)


def _endpoint(scope: Scope) -> str:
    """Method and route, not the address: what senders invent makes no new series."""
    route = getattr(scope.get("route"), "path", None)
    return f"{scope['method']} {route}" if route and scope["method"] in _METHODS else "other"

"""Puts the gateway together: every part is made here, once, and given what it needs.

The application is FastAPI's; its endpoints are Starlette's, since they read and write bytes.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version

import msgspec
from fastapi import FastAPI
from fastapi.telemetry import TelemetryConfig
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from blobs import Blobs
from broker import Broker, QueueLimits
from configuration.process import WrongConfiguration
from contract.catalog import Catalog
from contract.errors import ServiceError
from contract.queue import QueueNames
from gateway import problems
from gateway.auth import LoopbackAuth, TokenAuth, parse_tokens
from gateway.claims import Claims
from gateway.direct import READ, SUBMIT, Direct, Endpoint
from gateway.edge import Auth, Edge, EdgeLimits
from gateway.follow import Follower
from gateway.health import Health
from gateway.listing import Listing
from gateway.recent import Recent
from gateway.rest.addresses import base_url
from gateway.rest.answers import Answers
from gateway.rest.docs import docs_routes
from gateway.rest.models import Models
from gateway.rest.moves import Moves
from gateway.rest.openapi import TITLE, document
from gateway.rest.predictions import Predictions
from gateway.settings import GatewaySettings
from gateway.submit import Submitter
from gateway.upkeep import Upkeep
from gateway.withdraw import Withdrawer
from inference import read_catalog
from ledger import Ledger
from tasks.base import Task
from tasks.registry import task

VERSION = version("tritonq")

# Outcomes are removed by whole weeks, from time to time, and a prediction may have waited long.
CLAIMS_LONGER_DAYS = 30

# FastAPI's own; asking whether anybody listens costs a twentieth of a request. Ours is in `edge`.
_NO_TELEMETRY: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False}


@dataclass(frozen=True, slots=True)
class Gateway:
    """A gateway that is open: what to serve, and what runs beside it."""

    asgi: ASGIApp
    background: tuple[asyncio.Task[None], ...]  # each runs for ever; one that ends is a bug
    stop_waiting: Callable[[], None]  # lets callers go who wait for outcomes


@asynccontextmanager
async def open_gateway(settings: GatewaySettings) -> AsyncIterator[Gateway]:
    """Connect to the services and build the application.

    Services that are away do not keep it from opening.

    Raises:
        WrongConfiguration: the settings, or the model repository, make no sense; says what.
    """
    try:
        catalog = _read_catalog(settings)
        tasks = _read_tasks(catalog)
        auth = _make_auth(settings)
        blobs = Blobs.open(settings.blobs_url)
        ledger = await Ledger.connect(
            settings.postgres_dsn.get_secret_value(),
            connections_max=settings.ledger_connections_max,
        )
    except (ValueError, ServiceError) as error:
        raise WrongConfiguration(str(error)) from error
    async with AsyncExitStack() as opened:
        opened.push_async_callback(ledger.close)
        broker = await _connect_broker(settings)
        opened.push_async_callback(broker.close)

        names = [model.name for model in catalog]
        withdrawer = Withdrawer(
            ledger, broker, blobs, keep_inputs=settings.keep_inputs, now_ms=_now_ms
        )
        recent = Recent()
        follower = Follower(ledger, broker, withdrawer, recent, waiters_max=settings.waiters_max)
        health = Health(ledger, broker, names, time.monotonic)
        await broker.subscribe_outcomes(follower.heard)
        await broker.subscribe_dispatchers(health.heard)
        broker.when_connected(follower.reconnected)

        submitter = Submitter(
            catalog, tasks, broker, blobs, recent, now_ms=_now_ms, random=os.urandom
        )
        claims = Claims(broker, ledger, follower, submitter, now_ms=_now_ms)
        public_url = settings.public_url
        answers = Answers(follower, withdrawer, public_url=public_url)
        moves = Moves(submitter, claims, follower, withdrawer, blobs, answers)
        predictions = Predictions(follower, Listing(ledger, broker), blobs, answers)
        models = Models(catalog, tasks, since=datetime.now(UTC), public_url=public_url)
        app = build_app(
            moves, predictions, models, health, document(catalog, tasks, version=VERSION)
        )
        direct = Direct(app, submit=moves.submit_to_model, read=predictions.one)

        upkeep = Upkeep(ledger, broker, names, _queue_limits(settings))
        background = (
            asyncio.create_task(follower.run(), name="gateway.follow"),
            asyncio.create_task(upkeep.run(), name="gateway.upkeep"),
        )
        opened.push_async_callback(_end, background)
        edge = Edge(direct, auth, _edge_limits(settings))
        yield Gateway(edge, background, follower.stop_waiting)


async def _end(tasks: Collection[asyncio.Task[None]]) -> None:
    for each in tasks:
        each.cancel()
    await asyncio.wait(tasks)


async def _connect_broker(settings: GatewaySettings) -> Broker:
    token = settings.nats_token
    return await Broker.connect(
        settings.nats_url,
        names=QueueNames(settings.namespace),
        token=token.get_secret_value() if token else None,
        client_name="gateway",
    )


def build_app(
    moves: Moves,
    predictions: Predictions,
    models: Models,
    health: Health,
    openapi: dict[str, object],
) -> FastAPI:
    """The application with all its routes."""
    app = FastAPI(
        title=TITLE, docs_url=None, redoc_url=None, redirect_slashes=False, telemetry=_NO_TELEMETRY
    )
    app.openapi = lambda: openapi  # type: ignore[method-assign] # FastAPI's documented hook
    # The first two are the busiest: most of their requests do not come this far (`Direct`).
    _add(app, SUBMIT, POST=moves.submit_to_model)
    _add(app, READ, GET=predictions.one, PUT=moves.put)
    _add(app, "/v1/predictions", POST=moves.submit, GET=predictions.page)
    _add(app, "/v1/predictions/{id}/cancel", POST=moves.cancel)
    _add(app, "/v1/predictions/{id}/retry", POST=moves.retry)
    _add(app, "/v1/predictions/{id}/input/{field:path}", GET=predictions.input_file)
    _add(app, "/v1/models", GET=models.collection)
    _add(app, "/v1/models/{owner}/{name}", GET=models.one)
    _add(app, "/v1/models/{owner}/{name}/versions", GET=models.versions)
    _add(app, "/v1/models/{owner}/{name}/versions/{id}", GET=models.version)
    _add(app, "/v1", GET=_discovery)
    _add(app, "/healthz", GET=health.answer_alive)
    _add(app, "/readyz", GET=health.answer_ready)
    _add(app, "/metrics", GET=_metrics)
    _add(app, "/problems/{code}", GET=_problem)
    app.router.routes.extend(docs_routes(TITLE))
    for kind, handler in problems.HANDLERS.items():
        app.add_exception_handler(kind, handler)
    return app


def _read_catalog(settings: GatewaySettings) -> Catalog:
    """Raises ValueError where nothing is on offer."""
    catalog = read_catalog(
        settings.model_repository,
        offered=settings.models,
        config_name=settings.model_config_name,
    )
    if not len(catalog):
        raise ValueError(f"{settings.model_repository} holds no model that is built")
    return catalog


def _read_tasks(catalog: Catalog) -> dict[str, Task]:
    """The tasks of all models on offer, by name. Raises ValueError where one does not fit."""
    tasks: dict[str, Task] = {}
    for model in catalog:
        tasks[model.task] = task(model.task)
        tasks[model.task].check_model(model)
    return tasks


def _make_auth(settings: GatewaySettings) -> Auth:
    if settings.auth == "none":
        return LoopbackAuth()
    return TokenAuth(parse_tokens(settings.tokens.get_secret_value()))


def _edge_limits(settings: GatewaySettings) -> EdgeLimits:
    return EdgeLimits(
        header_bytes_max=settings.header_bytes_max,
        body_bytes_max=settings.body_bytes_max,
        bodies_bytes_max=settings.bodies_bytes_max,
        body_wait_s=settings.body_wait_s,
        requests_max=settings.requests_max,
    )


def _queue_limits(settings: GatewaySettings) -> QueueLimits:
    return QueueLimits(
        tickets_max=settings.queue_tickets_max,
        bytes_max=settings.queue_bytes_max,
        replicas=settings.queue_replicas,
        claims_max=settings.claims_max,
        claims_age_s=_claims_age_s(settings.retention_days),
    )


def _claims_age_s(retention_days: int) -> float:
    """Beyond what they stand for, so that a key never comes to stand for a second prediction."""
    return (retention_days + CLAIMS_LONGER_DAYS) * 24 * 3600.0 if retention_days else 0.0


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _add(app: FastAPI, path: str, **endpoints: Endpoint) -> None:
    """Add a route, with an endpoint for each method."""

    async def answer(request: Request) -> Response:
        request.scope["state"]["route"] = path  # for the metrics, which `gateway.edge` counts
        # The router lets through what is listed here, and HEAD wherever GET is.
        method = "GET" if request.method == "HEAD" else request.method
        return await endpoints[method](request)

    app.add_route(path, answer, methods=list(endpoints), include_in_schema=False)


async def _discovery(request: Request) -> Response:
    base = base_url(request, "")
    links = {
        "predictions": f"{base}/v1/predictions",
        "models": f"{base}/v1/models",
        "docs": f"{base}/docs",
        "openapi": f"{base}/openapi.json",
    }
    content = {"name": TITLE, "version": VERSION, "urls": links}
    return Response(msgspec.json.encode(content), media_type="application/json")


async def _metrics(_: Request) -> Response:
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


async def _problem(request: Request) -> Response:
    return problems.explain(request.path_params["code"])

"""The endpoints of models: what is on offer, and what each version takes and gives.

All of it is known when the process starts: the answers are made once.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from contract.catalog import OWNER, Catalog, Model, parse_reference, version_id
from contract.errors import InvalidInput, UnknownModel
from gateway.rest.addresses import base_url, model_in_path
from tasks.base import Task

# Clients take a version below 0.3.9 for a maker of iterators. This is none of Cog's numbers, and
# they leave what they cannot read alone.
COG_VERSION = "tritonq"


class Models:
    """Answers for /v1/models.

    Args:
        since: when the catalog was read; the dialect wants a time of creation for each version,
            and a model repository keeps none.
    """

    def __init__(
        self, catalog: Catalog, tasks: Mapping[str, Task], *, since: datetime, public_url: str
    ) -> None:
        self._catalog = catalog
        self._tasks = tasks
        self._since = since
        self._public_url = public_url

    async def collection(self, request: Request) -> Response:
        """GET /v1/models."""
        base = base_url(request, self._public_url)
        return _json(_page([self._model(model, model.latest, base) for model in self._catalog]))

    async def one(self, request: Request) -> Response:
        """GET /v1/models/{owner}/{name}; `name@1` shows that version as the latest."""
        model, version = self._resolve(request)
        return _json(self._model(model, version, base_url(request, self._public_url)))

    async def versions(self, request: Request) -> Response:
        """GET /v1/models/{owner}/{name}/versions, newest first."""
        model, _ = self._resolve(request)
        return _json(_page([self._version(model, each) for each in reversed(model.versions)]))

    async def version(self, request: Request) -> Response:
        """GET /v1/models/{owner}/{name}/versions/{id}; a number will do for the id."""
        model, _ = self._resolve(request)
        text = request.path_params["id"]
        if text.isascii() and text.isdigit():
            text = version_id(model.name, int(text[:18]))
        try:
            name, number = parse_reference(text)
        except InvalidInput:
            name, number = "", None
        if name != model.name or number is None:
            raise UnknownModel(f"model {model.name} has no version {text[:160]!a}")
        return _json(self._version(*self._catalog.resolve(name, number)))

    def _resolve(self, request: Request) -> tuple[Model, int]:
        return self._catalog.resolve(*model_in_path(request))

    def _model(self, model: Model, version: int, base: str) -> dict[str, Any]:
        return {
            "url": f"{base}/v1/models/{model.full_name}",
            "owner": OWNER,
            "name": model.name,
            "description": model.description,
            "visibility": "private",
            "run_count": 0,  # the dialect wants a number; nobody counts
            "latest_version": self._version(model, version),
        }

    def _version(self, model: Model, version: int) -> dict[str, Any]:
        return {
            "id": version_id(model.name, version),
            "created_at": self._since,
            "cog_version": COG_VERSION,
            "openapi_schema": openapi_schema(self._tasks[model.task], model),
        }


def openapi_schema(task: Task, model: Model) -> dict[str, Any]:
    """The schema of one model's input and output, as Replicate's clients read it."""
    return {
        "openapi": "3.0.2",
        "info": {"title": model.full_name, "version": str(model.latest)},
        "paths": {},
        "components": {
            "schemas": {"Input": task.input_schema(model), "Output": task.output_schema(model)}
        },
    }


def _page(results: list[dict[str, Any]]) -> dict[str, Any]:
    return {"next": None, "previous": None, "results": results}


def _json(content: object) -> Response:
    return Response(msgspec.json.encode(content), media_type="application/json")

"""The OpenAPI document, written by hand and filled with the models on offer.

By hand, since one submit has four kinds of body, and since the hot endpoints are not FastAPI's.
Every example in it works as it stands: a test sends them all.
"""

from collections.abc import Mapping

from contract.catalog import Catalog, Model, version_id
from gateway.rest import schemas
from gateway.rest.headers import KEY_LENGTH_MAX, WAIT_S_MAX
from gateway.rest.schemas import JsonObject
from tasks.base import Task

TITLE = "tritonq"
DESCRIPTION = """\
Asynchronous inference on NVIDIA Triton: POST an input, get an id, fetch the result. What was \
accepted is never lost.

The shapes are those of Replicate's API: its client libraries work with this address as their \
base URL. Errors are problem details (RFC 9457).
"""

_PROBLEM = {"$ref": "#/components/schemas/Problem"}
_PREDICTION = {"$ref": "#/components/schemas/Prediction"}

_ERRORS = {
    400: "The request cannot be read.",
    401: "No token, or not a known one.",
    404: "Unknown, or not yours.",
    409: "It conflicts with what was accepted before: `code` says how.",
    410: "It has been removed, at the end of the retention.",
    408: "The body came too slowly.",
    413: "The body, or a part of the input, is too large.",
    415: "Not a kind of content that is read here.",
    422: "A field breaks a rule: `errors` names both.",
    429: "Full or busy: come back after `Retry-After` seconds.",
    431: "The headers are too large.",
    503: "A service we rely on is away: come back after `Retry-After` seconds.",
}
_READING = (401, 404, 410, 429, 503)
_SUBMITTING = (401, 404, 408, 409, 410, 413, 415, 422, 429, 503)


def document(catalog: Catalog, tasks: Mapping[str, Task], *, version: str) -> JsonObject:
    """The whole document."""
    models = list(catalog)
    inputs = {model.name: tasks[model.task].input_schema(model) for model in models}
    return {
        "openapi": "3.1.0",
        "info": {"title": TITLE, "version": version, "description": DESCRIPTION},
        "security": [{"bearer": []}],
        "tags": [
            {"name": "predictions", "description": "Submit inputs, fetch outcomes."},
            {"name": "models", "description": "What is on offer."},
            {"name": "health", "description": "For machines that watch."},
        ],
        "paths": {
            "/v1/predictions": {"post": _create(models, inputs, _POST), "get": _LIST},
            "/v1/predictions/{id}": {
                "parameters": [_ID],
                "get": _GET,
                "put": _create(models, inputs, _PUT),
            },
            "/v1/predictions/{id}/cancel": {"parameters": [_ID], "post": _CANCEL},
            "/v1/predictions/{id}/retry": {"parameters": [_ID], "post": _RETRY},
            "/v1/predictions/{id}/input/{field}": {
                "parameters": [_ID, _path("field", "The input field that holds a file.")],
                "get": _GET_INPUT,
            },
            "/v1/models": {"get": _LIST_MODELS},
            "/v1/models/{owner}/{name}": {"parameters": _model_path(models), "get": _GET_MODEL},
            "/v1/models/{owner}/{name}/versions": {
                "parameters": _model_path(models),
                "get": _LIST_VERSIONS,
            },
            "/v1/models/{owner}/{name}/versions/{id}": {
                "parameters": [*_model_path(models), _version_path(models)],
                "get": _GET_VERSION,
            },
            "/v1/models/{owner}/{name}/predictions": {
                "parameters": _model_path(models),
                "post": _create_of_model(models, inputs),
            },
            "/healthz": {"get": _ALIVE},
            "/readyz": {"get": _READY},
        },
        "components": {
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
            "schemas": _schemas(inputs),
        },
    }


def _create(
    models: list[Model], inputs: Mapping[str, JsonObject], described: JsonObject
) -> JsonObject:
    body = {
        "type": "object",
        "required": ["input"],
        "properties": {
            "version": {
                "type": "string",
                "description": "A version's id, `owner/name` (its latest version) or "
                "`owner/name:<id>`. Either this or `model`.",
            },
            "model": {"type": "string", "description": "`owner/name` or `owner/name@<number>`."},
            "input": _input_schema(inputs),
            "priority": schemas.PRIORITY,
            "cancel_after": _CANCEL_AFTER_SCHEMA,
        },
        "additionalProperties": False,
    }
    examples = {
        model.name: {"value": {"version": version_id(model.name, model.latest), "input": example}}
        for model in models
        for example in inputs[model.name].get("examples", [])[:1]
    }
    return {
        **described,
        "tags": ["predictions"],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": body, "examples": examples}},
        },
        "responses": _SUBMITTED,
    }


def _create_of_model(models: list[Model], inputs: Mapping[str, JsonObject]) -> JsonObject:
    body = {
        "type": "object",
        "required": ["input"],
        "properties": {
            "input": _input_schema(inputs),
            "priority": schemas.PRIORITY,
            "cancel_after": _CANCEL_AFTER_SCHEMA,
        },
        "additionalProperties": False,
    }
    examples = {
        model.name: {"value": {"input": example}}
        for model in models
        for example in inputs[model.name].get("examples", [])[:1]
    }
    binary = {"schema": {"type": "string", "format": "binary"}}
    form = {"type": "object", "additionalProperties": {"type": "string", "format": "binary"}}
    return {
        "operationId": "createModelPrediction",
        "tags": ["predictions"],
        "summary": "Submit an input to one model",
        "description": "Besides JSON: one file as the body, with further inputs in the query; or "
        "a form whose parts are the inputs. `{name}@{number}` pins a version.",
        "parameters": [_PREFER, _X_PRIORITY, _CANCEL_AFTER, _KEY],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": body, "examples": examples},
                "image/*": binary,
                "application/octet-stream": binary,
                "multipart/form-data": {"schema": form},
            },
        },
        "responses": _SUBMITTED,
    }


def _input_schema(inputs: Mapping[str, JsonObject]) -> JsonObject:
    return {
        "type": "object",
        "description": "What the model takes; files as data URIs.",
        "anyOf": [{"$ref": f"#/components/schemas/Input.{name}"} for name in inputs],
    }


def _model_path(models: list[Model]) -> list[JsonObject]:
    owner = _path("owner", "The owner: always `triton`.")
    name = _path("name", "The model's name in the repository; `name@1` pins a version.")
    owner["example"] = "triton"
    if models:
        name["example"] = models[0].name
    return [owner, name]


def _version_path(models: list[Model]) -> JsonObject:
    version = _path("id", "A version's id.")
    if models:
        version["example"] = version_id(models[0].name, models[0].latest)
    return version


def _path(name: str, description: str) -> JsonObject:
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": description,
        "schema": {"type": "string"},
    }


def _answer(description: str, schema: JsonObject) -> JsonObject:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _errors(statuses: tuple[int, ...]) -> JsonObject:
    return {
        str(status): {
            "description": _ERRORS[status],
            "content": {"application/problem+json": {"schema": _PROBLEM}},
        }
        for status in statuses
    }


def _page(of: JsonObject) -> JsonObject:
    link = {"type": ["string", "null"], "format": "uri"}
    return {
        "type": "object",
        "required": ["results"],
        "properties": {
            "next": link,
            "previous": link,
            "results": {"type": "array", "items": of},
        },
    }


def _schemas(inputs: Mapping[str, JsonObject]) -> JsonObject:
    return {
        "Prediction": schemas.PREDICTION,
        "Problem": schemas.PROBLEM,
        "Model": schemas.MODEL,
        "Version": schemas.VERSION,
        **{f"Input.{name}": schema for name, schema in inputs.items()},
    }


_PREFER = {
    "name": "Prefer",
    "in": "header",
    "description": f"`wait` or `wait=N`: hold the answer back for up to N (at most "
    f"{WAIT_S_MAX:.0f}) seconds, until the prediction has ended.",
    "schema": schemas.TEXT,
    "example": "wait=10",
}
_X_PRIORITY = {
    "name": "X-Priority",
    "in": "header",
    "description": "The same as `priority` in the body, which comes first.",
    "schema": schemas.PRIORITY,
}
_CANCEL_AFTER_SCHEMA = {
    "type": ["string", "number"],
    "description": "`90s`, `1m30s`, `2h`, or seconds; 1 second to 30 days from acceptance. What "
    "has not ended by then has failed.",
}
_CANCEL_AFTER = {
    "name": "Cancel-After",
    "in": "header",
    "description": "The same as `cancel_after` in the body, which comes first.",
    "schema": schemas.TEXT,
    "example": "1m30s",
}
_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "The same request with the same key is the same prediction, however often it "
    "is sent; another request with it is refused (409).",
    "schema": {"type": "string", "minLength": 1, "maxLength": KEY_LENGTH_MAX},
}
_ID = _path("id", "The prediction's id.")
_WAIT = {
    "name": "wait",
    "in": "query",
    "description": f"Hold the answer back for up to so many (at most {WAIT_S_MAX:.0f}) seconds.",
    "schema": {"type": "number", "minimum": 0},
    "allowEmptyValue": True,
}

_ACCEPTED_HEADERS: JsonObject = {
    "Location": {"schema": {"type": "string", "format": "uri"}},
    "Idempotent-Replayed": {
        "description": "`true` where this request was accepted before.",
        "schema": schemas.TEXT,
    },
}
_SUBMITTED: JsonObject = {
    "201": {**_answer("It has ended.", _PREDICTION), "headers": _ACCEPTED_HEADERS},
    "202": {
        **_answer("It is accepted; fetch it from `Location`.", _PREDICTION),
        "headers": _ACCEPTED_HEADERS,
    },
    **_errors(_SUBMITTING),
}

_POST: JsonObject = {
    "operationId": "createPrediction",
    "summary": "Submit an input to any model",
    "description": "Answers as soon as the prediction is stored, or, with `Prefer: wait`, "
    "once it has ended or the time is over.",
    "parameters": [_PREFER, _X_PRIORITY, _CANCEL_AFTER, _KEY],
}
_PUT: JsonObject = {
    "operationId": "putPrediction",
    "summary": "Submit an input under an id of your own",
    "description": "The id is a UUIDv7 in 26 characters of base32hex, made within the last 24 "
    "hours. The same request again is the same prediction; another one is refused (409).",
    "parameters": [_PREFER, _X_PRIORITY, _CANCEL_AFTER],
}
_CANCEL: JsonObject = {
    "operationId": "cancelPrediction",
    "tags": ["predictions"],
    "summary": "Cancel a prediction",
    "description": "Answers with the prediction as it then stands: canceled, or as it had ended "
    "before.",
    "responses": {"200": _answer("It has ended.", _PREDICTION), **_errors(_READING)},
}
_RETRY: JsonObject = {
    "operationId": "retryPrediction",
    "tags": ["predictions"],
    "summary": "Repeat a failed prediction as a new one",
    "description": "With the same input, model, version and priority; `retry_of` names the old "
    "one. Refused (409) unless that has failed and its input is still there.",
    "parameters": [_PREFER, _CANCEL_AFTER, _KEY],
    "responses": _SUBMITTED,
}

_LIST: JsonObject = {
    "operationId": "listPredictions",
    "tags": ["predictions"],
    "summary": "List predictions, newest first, waiting ones included",
    "parameters": [
        {
            "name": "cursor",
            "in": "query",
            "description": "From `next` or `previous` of another page.",
            "schema": schemas.TEXT,
        },
        {
            "name": "limit",
            "in": "query",
            "schema": {"type": "integer", "minimum": 1, "maximum": 100, "default": 100},
        },
    ],
    "responses": {"200": _answer("One page.", _page(_PREDICTION)), **_errors((401, 422, 503))},
}
_GET: JsonObject = {
    "operationId": "getPrediction",
    "tags": ["predictions"],
    "summary": "Fetch a prediction, and wait for its end if you like",
    "parameters": [_WAIT, {**_PREFER, "name": "Prefer"}],
    "responses": {"200": _answer("As it stands.", _PREDICTION), **_errors((*_READING, 422))},
}
_GET_INPUT: JsonObject = {
    "operationId": "getPredictionInput",
    "tags": ["predictions"],
    "summary": "Fetch a file of a prediction's input",
    "responses": {
        "200": {
            "description": "The file as it was sent.",
            "content": {"*/*": {"schema": {"type": "string", "format": "binary"}}},
        },
        **_errors(_READING),
    },
}
_LIST_MODELS: JsonObject = {
    "operationId": "listModels",
    "tags": ["models"],
    "summary": "List the models on offer, the preferred first",
    "responses": {
        "200": _answer("All of them.", _page({"$ref": "#/components/schemas/Model"})),
        **_errors((401,)),
    },
}
_GET_MODEL: JsonObject = {
    "operationId": "getModel",
    "tags": ["models"],
    "summary": "Fetch a model, with the schema of its input and output",
    "responses": {
        "200": _answer("The model.", {"$ref": "#/components/schemas/Model"}),
        **_errors((401, 404)),
    },
}
_LIST_VERSIONS: JsonObject = {
    "operationId": "listVersions",
    "tags": ["models"],
    "summary": "List a model's versions, newest first",
    "responses": {
        "200": _answer("All of them.", _page({"$ref": "#/components/schemas/Version"})),
        **_errors((401, 404)),
    },
}
_GET_VERSION: JsonObject = {
    "operationId": "getVersion",
    "tags": ["models"],
    "summary": "Fetch a version of a model",
    "responses": {
        "200": _answer("The version.", {"$ref": "#/components/schemas/Version"}),
        **_errors((401, 404)),
    },
}
_ALIVE: JsonObject = {
    "operationId": "healthz",
    "tags": ["health"],
    "summary": "Whether the gateway runs",
    "security": [],
    "responses": {"200": _answer("It does.", {"type": "object"})},
}
_READINESS: JsonObject = {
    "type": "object",
    "required": ["ready", "missing", "dispatchers"],
    "properties": {
        "ready": {"type": "boolean"},
        "missing": {"type": "object", "additionalProperties": schemas.TEXT},
        "dispatchers": {"type": "integer"},
    },
}
_READY: JsonObject = {
    "operationId": "readyz",
    "tags": ["health"],
    "summary": "Whether an inference would succeed, and which part is missing if not",
    "security": [],
    "responses": {
        "200": _answer("It would.", _READINESS),
        "503": _answer("It would not.", _READINESS),
    },
}

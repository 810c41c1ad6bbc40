"""The schemas of what the API answers with. The OpenAPI document refers to them."""

from typing import Any

from contract.prediction import Priority

JsonObject = dict[str, Any]

EXAMPLE_ID = "06ercd0v75s73a9v8g0q1m2n3o"

TEXT = {"type": "string"}
TEXT_OR_NULL = {"type": ["string", "null"]}
TIME = {"type": "string", "format": "date-time"}
TIME_OR_NULL = {"type": ["string", "null"], "format": "date-time"}

PRIORITY = {"type": "string", "enum": [*Priority], "default": Priority.NORMAL}

PREDICTION: JsonObject = {
    "type": "object",
    "required": ["id", "model", "version", "status", "input", "urls", "created_at"],
    "properties": {
        "id": {"type": "string", "pattern": "^[0-9a-v]{26}$", "example": EXAMPLE_ID},
        "model": TEXT,
        "version": TEXT,
        "status": {
            "type": "string",
            "enum": ["starting", "processing", "succeeded", "failed", "canceled"],
        },
        "input": {"type": "object", "description": "As submitted; files as links to them."},
        "output": {"description": "What the model answered; null until it succeeded."},
        "error": {**TEXT_OR_NULL, "description": "Why it failed."},
        "error_code": {**TEXT, "description": "The same, as a stable word."},
        "logs": TEXT_OR_NULL,
        "metrics": {
            "type": "object",
            "description": "`predict_time` and `total_time` in seconds, `queue_ms` and "
            "`compute_ms` in milliseconds, `attempts`.",
            "additionalProperties": {"type": "number"},
        },
        "created_at": TIME,
        "started_at": TIME_OR_NULL,
        "completed_at": TIME_OR_NULL,
        "urls": {"type": "object", "additionalProperties": {"type": "string", "format": "uri"}},
        "priority": PRIORITY,
        "deadline": {**TIME, "description": "From then on it is not run any more."},
        "retry_of": {"type": "string", "description": "The failed prediction it repeats."},
        "queue": {
            "type": "object",
            "description": "Until it has ended: whether it runs, and its place in the queue.",
            "properties": {
                "state": {"type": "string", "enum": ["waiting", "running"]},
                "position": {"type": ["integer", "null"], "minimum": 1},
            },
        },
        "data_removed": {"type": "boolean"},
        "source": TEXT,
    },
}
PROBLEM: JsonObject = {
    "type": "object",
    "required": ["type", "title", "status", "detail", "code"],
    "properties": {
        "type": {"type": "string", "format": "uri-reference"},
        "title": TEXT,
        "status": {"type": "integer"},
        "detail": TEXT,
        "code": {**TEXT, "description": "A stable word for this kind of problem."},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["field", "rule", "message"],
                "properties": {"field": TEXT, "rule": TEXT, "message": TEXT},
            },
        },
    },
}
VERSION: JsonObject = {
    "type": "object",
    "required": ["id", "created_at", "cog_version", "openapi_schema"],
    "properties": {
        "id": TEXT,
        "created_at": TIME,
        "cog_version": TEXT,
        "openapi_schema": {
            "type": "object",
            "description": "`components.schemas` has `Input` and `Output`.",
        },
    },
}
MODEL: JsonObject = {
    "type": "object",
    "required": ["url", "owner", "name", "visibility", "run_count"],
    "properties": {
        "url": {"type": "string", "format": "uri"},
        "owner": TEXT,
        "name": TEXT,
        "description": TEXT,
        "visibility": TEXT,
        "run_count": {"type": "integer"},
        "latest_version": {"$ref": "#/components/schemas/Version"},
    },
}

"""The schema at /openapi.json: what every path can answer, errors too, and which scope it wants of a key."""

from __future__ import annotations

import json
from typing import Any

from fastapi import FastAPI

from api.schemas import ErrorOut

ERRORS: dict[int, str] = {
    400: "The request is wrong; the message says how.",
    401: "There is no valid API key.",
    403: "The API key may not do this.",
    404: "There is no such thing, or it belongs to another project.",
    409: "An Idempotency-Key came with another body.",
    413: "The body is too large.",
    429: "The key sends too many requests, or a quota of its project is used up.",
    500: "A defect of the server.",
    503: "The database does not answer, or its tables or the catalogue are of another version.",
    507: "No space is left.",
}
RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorOut, "description": description} for status, description in ERRORS.items()
}
"""What every path under /v1 can answer instead of what it was asked for."""

UNUSED = ("HTTPValidationError", "ValidationError")
"""FastAPI's own form of the errors that are answered with 400 here."""


def describe(app: FastAPI) -> None:
    """Let the application's schema say what FastAPI does not know of: that no answer is a 422."""
    made = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _completed(made())
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # the way that FastAPI documents


def _completed(schema: dict[str, Any]) -> dict[str, Any]:
    components = schema.setdefault("components", {})
    shapes = components.setdefault("schemas", {})
    for name in UNUSED:
        shapes.pop(name, None)
    for operations in schema["paths"].values():
        for operation in operations.values():
            operation["responses"].pop("422", None)
            operation.setdefault("security", [])
            for content in operation.get("requestBody", {}).get("content", {}).values():
                content["schema"] = _share_definitions(content["schema"], shapes)
    return schema


def _share_definitions(body: dict[str, Any], shapes: dict[str, Any]) -> dict[str, Any]:
    """Move what a body defines for itself to the shapes: its references count from the top of the whole schema.

    A shape of answers that has the same name and is another one keeps it, and FastAPI's name for such is taken.
    """
    own = {name: shape for name, shape in body.items() if name != "$defs"}, body.get("$defs", {})
    text = json.dumps(own)
    names = {name: name if shapes.get(name, shape) == shape else f"{name}-Input" for name, shape in own[1].items()}
    for name, shared in names.items():
        text = text.replace(f'"#/$defs/{name}"', f'"#/components/schemas/{shared}"')
    body, definitions = json.loads(text)
    shapes |= {names[name]: shape for name, shape in definitions.items()}
    return body

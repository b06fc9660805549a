"""The description of REST as it answers: besides what routes say of themselves, the errors that any of them may have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

_API = "/api/v1/"
# Shape and words of `_answer` in http.py, the same as over gRPC.
_ERROR: Mapping[str, Any] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message", "reason"],
            "properties": {
                "code": {"type": "string", "description": "The name that gRPC has for the same error."},
                "message": {"type": "string", "description": "For people: what is wrong, and what to do."},
                "reason": {"type": "string", "description": "For programs: see docs/api/errors.md."},
                "violations": {
                    "type": "array",
                    "description": "What is wrong with each field.",
                    "items": {
                        "type": "object",
                        "required": ["field", "description"],
                        "properties": {"field": {"type": "string"}, "description": {"type": "string"}},
                    },
                },
            },
        }
    },
}
_ANSWERS: Mapping[str, str] = {
    "400": "What was sent cannot be used.",
    "401": "Nobody is signed in, or the key is not known.",
    "403": "The caller may not do this.",
    "404": "There is no such thing.",
    "409": "It cannot be done as things stand.",
    "429": "Too much or too often; Retry-After may say when to try again.",
    "503": "Something that the hub needs does not answer.",
    "507": "The hub takes no more: its disk is full, or what was sent is too large.",
}


def describe(app: FastAPI) -> None:
    """Let the application describe its errors as they are: FastAPI's own 422 is answered with 400 here."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _described(get_openapi(title=app.title, version=app.version, routes=app.routes))
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _described(found: dict[str, Any]) -> dict[str, Any]:
    schemas = found["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas["Error"] = dict(_ERROR)
    found["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer", "description": "An API key."}}
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    for path, operations in found["paths"].items():
        for operation in operations.values():
            operation["responses"].pop("422", None)
            if path.startswith(_API):
                operation["security"] = [{"key": []}]
                for status, words in _ANSWERS.items():
                    operation["responses"].setdefault(status, {"description": words, "content": error})
    return found

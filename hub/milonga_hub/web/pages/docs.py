"""The API's own page, made from its OpenAPI document; nothing comes from elsewhere."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse

from milonga_hub.web.pages.page import render


def router(app: FastAPI) -> APIRouter:
    pages = APIRouter()

    # Each in a thread of its own: the description takes half a second to make, once.
    @pages.get("/api/openapi.json")
    def openapi() -> JSONResponse:
        return JSONResponse(app.openapi())

    @pages.get("/api/docs")
    def api_docs(request: Request) -> HTMLResponse:
        document = app.openapi()
        groups: dict[str, list[dict[str, Any]]] = {}
        for path, methods in document["paths"].items():
            for method, operation in methods.items():
                group = (operation.get("tags") or ["other"])[0]
                groups.setdefault(group, []).append(_operation(path, method, operation))
        schemas = document.get("components", {}).get("schemas", {})
        return render(request, "docs.html", groups=groups, schemas=_schemas(schemas))

    return pages


def _operation(path: str, method: str, operation: dict[str, Any]) -> dict[str, Any]:
    body = operation.get("requestBody", {}).get("content", {})
    answers = [
        _type(content.get("schema", {}))
        for status, answer in operation.get("responses", {}).items()
        for content in answer.get("content", {}).values()
        if status.startswith("2")
    ]
    return {
        "path": path,
        "method": method.upper(),
        "summary": operation.get("description") or operation.get("summary", ""),
        "parameters": [
            {"name": each["name"], "where": each["in"], "type": _type(each.get("schema", {}))}
            for each in operation.get("parameters", [])
        ],
        "body": [_type(content.get("schema", {})) for content in body.values()],
        "answers": [answer for answer in answers if answer],
    }


def _schemas(schemas: dict[str, Any]) -> dict[str, list[dict[str, str]]]:
    return {
        name: [{"name": field, "type": _type(of)} for field, of in schema.get("properties", {}).items()]
        or [{"name": ", ".join(map(str, schema.get("enum", []))), "type": "one of"}]
        for name, schema in sorted(schemas.items())
        if name not in ("HTTPValidationError", "ValidationError")
    }


def _type(schema: dict[str, Any]) -> str:
    """Return the schema in words: "list of DeviceView"."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "anyOf" in schema:
        return " or ".join(_type(each) for each in schema["anyOf"] if each.get("type") != "null")
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    if schema.get("type") == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"map to {_type(schema['additionalProperties'])}"
    return str(schema.get("format") or schema.get("type") or "")

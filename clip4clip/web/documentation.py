"""The documentation of the API: its OpenAPI document, and the same as a page that needs no script and no other host."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping
from typing import Any

from ..errors import MissingExtraError

try:
    from fastapi import FastAPI
    from starlette.responses import HTMLResponse, JSONResponse, Response
except ImportError as error:
    raise MissingExtraError("the page needs fastapi: pip install 'towhee-clip4clip[retrieval]'") from error

from .problems import MEDIA_TYPE

INTRODUCTION = """All answers are JSON, except those of media. An error is a problem (RFC 9457,
<code>application/problem+json</code>) whose <code>detail</code> is a sentence. The <code>id</code> of a video is one
segment of a path, percent-encoded: <code>/</code> as <code>%2F</code>. Addresses in answers are encoded already. The
same as an OpenAPI document: <a href="/api/openapi.json">/api/openapi.json</a>. The page: <a href="/">/</a>. If the
server was started with a user name and a password, every request needs them (HTTP Basic)."""


class Documentation:
    """Answer with the documentation of an application. Add its addresses last, as it describes those before it.

    Args:
        app: application to describe.
    """

    def __init__(self, app: FastAPI) -> None:
        self._document = _declare_problems(app.openapi())
        # HTTP Basic, on a server that asks for a login; the empty requirement means: or none.
        self._document["components"]["securitySchemes"] = {"basic": {"type": "http", "scheme": "basic"}}
        self._document["security"] = [{}, {"basic": []}]
        self._document["servers"] = [{"url": "/"}]
        self._page = _page(self._document)

    async def openapi(self) -> Response:
        """Answer with the OpenAPI document."""
        return JSONResponse(self._document)

    async def page(self) -> Response:
        """Answer with the page."""
        return HTMLResponse(self._page)


def _declare_problems(document: dict[str, Any]) -> dict[str, Any]:
    """Give the errors of an OpenAPI document their media type: FastAPI declares all answers as application/json."""
    for _, _, operation in _operations(document):
        for status, response in operation["responses"].items():
            if status >= "400":
                response["content"] = {MEDIA_TYPE: response["content"]["application/json"]}
    return document


def _operations(document: Mapping[str, Any]) -> Iterable[tuple[str, str, dict[str, Any]]]:
    """Yield method, path and description of every operation."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def _page(document: Mapping[str, Any]) -> str:
    operations, schemas = [*_operations(document)], document["components"]["schemas"]
    contents = "".join(
        f'<li><a href="#{operation["operationId"]}"><code>{method} {html.escape(path)}</code></a> '
        f"{_text(operation['description'])}</li>"
        for method, path, operation in operations
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>API of clip4clip</title>
<link rel="stylesheet" href="/static/api.css">
</head>
<body>
<main>
<h1>API of clip4clip {html.escape(document["info"]["version"])}</h1>
<p>{INTRODUCTION}</p>
<ul>{contents}</ul>
{"".join(_operation(*each) for each in operations)}
<h2>Objects</h2>
{"".join(_object(name, schema) for name, schema in sorted(schemas.items()))}
</main>
</body>
</html>
"""


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> str:
    parameters = [
        (
            each["name"],
            each["schema"],
            each.get("description") or each["schema"].get("description", ""),
            each["required"],
        )
        for each in operation.get("parameters", [])
    ]
    table = _table(parameters) if parameters else ""
    body = operation.get("requestBody", {}).get("content", {})
    bodies = "".join(f"<p>Body: <code>{kind}</code>, {_type(each['schema'])}.</p>" for kind, each in body.items())
    return f"""<section id="{operation["operationId"]}">
<h2><code>{method} {html.escape(path)}</code></h2>
<p>{_text(operation["description"])}</p>
{table}{bodies}
<dl>{"".join(_response(status, each) for status, each in sorted(operation["responses"].items()))}</dl>
</section>
"""


def _response(status: str, response: Mapping[str, Any]) -> str:
    content = " or ".join(
        _type(each["schema"]) if "$ref" in each.get("schema", {}) else f"<code>{kind}</code>"
        for kind, each in response.get("content", {}).items()
    )
    description = "" if status < "400" else f": {_text(response['description'])}"
    return f"<dt>{status}</dt><dd>{content}{description}</dd>"


def _object(name: str, schema: Mapping[str, Any]) -> str:
    required = schema.get("required", ())
    rows = [
        (field, each, each.get("description", ""), field in required)
        for field, each in schema.get("properties", {}).items()
    ]
    return f'<section id="{name}"><h3>{name}</h3><p>{_text(schema.get("description", ""))}</p>{_table(rows)}</section>'


def _table(rows: Iterable[tuple[str, Mapping[str, Any], str, bool]]) -> str:
    """Return a table of parameters or fields: name, schema, description, and whether it is required."""
    cells = "".join(
        f"<tr><th><code>{name}</code></th><td>{_type(schema)}</td>"
        f"<td>{_text(text)}{_default(schema, required)}</td></tr>"
        for name, schema, text, required in rows
    )
    return f"<table>{cells}</table>"


def _default(schema: Mapping[str, Any], required: bool) -> str:
    if required or schema.get("default") is None:
        return ""
    default = schema["default"]
    return f" Default: <code>{html.escape(str(default))}</code>." if default != "" else " Default: none."


def _type(schema: Mapping[str, Any]) -> str:
    """Return the type of a JSON schema in words."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        return f'<a href="#{name}">{name}</a>'
    if "anyOf" in schema:
        return " or ".join(map(_type, schema["anyOf"]))
    if "enum" in schema or "const" in schema:
        return " or ".join(
            f"<code>{html.escape(str(each))}</code>" for each in schema.get("enum", [schema.get("const")])
        )
    if schema.get("type") == "array":
        return f"list of {_type(schema['items'])}"
    if schema.get("format") == "binary":
        return "file"
    least, most = schema.get("minimum", schema.get("minLength")), schema.get("maximum", schema.get("maxLength"))
    unit = " characters" if schema.get("type") == "string" else ""
    bounds = f" from {least}" * (least is not None) + f" to {most}" * (most is not None)
    return f"{schema.get('type', 'any value')}{f',{bounds}{unit}' if bounds else ''}"


def _text(text: str) -> str:
    """Return a text as HTML, with code between backticks."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(" ".join(text.split()), quote=False))

"""Tests for clip4clip.web.documentation: the OpenAPI document describes what the server does, and the page shows it."""

from __future__ import annotations

import re
from typing import Any

import pytest

pytest.importorskip("fastapi")

OPERATIONS = {
    "search": ("get", "/api/search"),
    "search_by_clip": ("post", "/api/search"),
    "list_videos": ("get", "/api/videos"),
    "get_video": ("get", "/api/videos/{id}"),
    "similar_moments": ("get", "/api/videos/{id}/similar"),
    "embed_text": ("post", "/api/embed"),
    "get_status": ("get", "/api/status"),
    "get_media": ("get", "/media/{id}"),
    "get_clip": ("get", "/clips/{id}"),
    "get_thumbnail": ("get", "/thumbnails/{id}"),
    "get_strip": ("get", "/strips/{id}"),
}


@pytest.fixture(scope="module")
def document(shared_client: Any) -> Any:
    return shared_client.get("/api/openapi.json").json()


def test_every_operation_has_a_name_a_description_and_its_errors(document: Any) -> None:
    found = {
        operation["operationId"]: (method, path)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
    assert found == OPERATIONS
    for method, path in OPERATIONS.values():
        operation = document["paths"][path][method]
        assert operation["description"]
        assert operation["responses"].keys() >= {"200", "401", "403", "421", "422", "500", "503"}
        assert ("404" in operation["responses"]) == ("{id}" in path)
        for status, response in operation["responses"].items():
            if status >= "400":
                schema = {"$ref": "#/components/schemas/Problem"}
                assert response["content"] == {"application/problem+json": {"schema": schema}}
    assert "HTTPValidationError" not in document["components"]["schemas"]
    for schema in document["components"]["schemas"].values():
        assert schema["description"]


def test_a_clip_is_declared_as_a_file_of_a_form(document: Any) -> None:
    body = document["paths"]["/api/search"]["post"]["requestBody"]
    assert body["required"]
    schema = body["content"]["multipart/form-data"]["schema"]
    assert schema["required"] == ["clip"]
    assert schema["properties"]["clip"]["format"] == "binary"


def test_the_page_describes_every_operation_and_object_and_needs_nothing_else(
    document: Any, shared_client: Any
) -> None:
    page = shared_client.get("/api").text
    for name in (*OPERATIONS, *document["components"]["schemas"]):
        assert page.count(f'id="{name}"') == 1
    links = re.findall(r'(?:href|src)="([^"]*)"', page)
    assert {link for link in links if not link.startswith("#")} == {"/", "/api/openapi.json", "/static/api.css"}
    assert {link[1:] for link in links if link.startswith("#")} <= {*OPERATIONS, *document["components"]["schemas"]}
    assert "<script" not in page
    assert "style=" not in page
    assert "from 1 to 100" in page
    assert "`" not in page
    assert shared_client.get("/static/api.css").headers["content-type"] == "text/css; charset=utf-8"

"""Tests for clip4clip.web.access, by plain HTTP: host names, other websites, bodies, load, and the login."""

from __future__ import annotations

import asyncio
import base64
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from page_client import SEARCH, files_in, multipart_form
from servers import PageServer, drip, get

from clip4clip import InputValueError

pytest.importorskip("fastapi")
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from clip4clip.web import access
from clip4clip.web.access import LoadLimitMiddleware, SameSiteMiddleware, SizeLimitMiddleware

PATHS = ("/api", "/api/status", "/static/api.css", "/media/x", "/none")


@pytest.mark.parametrize(
    ("host", "is_known"),
    [
        ("localhost", True),
        ("LOCALHOST:1", True),
        ("127.0.0.1:7860", True),
        ("[::1]:7860", True),
        ("videos.example.com", True),
        ("[fd00::5]", True),
        ("evil.example", False),
        ("127.0.0.1.evil.example:7860", False),
        ("videos.example.com.evil.example", False),
        ("evil.example@localhost", False),
        ("localhost evil.example", False),
        ("10.1.2.3", False),
        ("[fd00::6]", False),
        ("::1", False),
        ("[localhost]", False),
        ("", False),
    ],
)
def test_only_requests_for_a_known_host_name_are_answered(empty_page: PageServer, host: str, is_known: bool) -> None:
    for path in PATHS:
        assert (empty_page.get(path, Host=host)[0] != 421) == is_known
    body, headers = multipart_form("clip", "x")
    assert (empty_page.request("POST", SEARCH, body=body, headers=headers | {"Host": host})[0] != 421) == is_known
    if not is_known and host.startswith("evil.example") and "@" not in host:
        assert b"--allowed-host evil.example" in empty_page.get("/", Host=host)[1]


def test_a_request_without_a_host_header_is_rejected(empty_page: PageServer) -> None:
    host, port = empty_page.url.removeprefix("http://").rstrip("/").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(b"GET /api/status HTTP/1.0\r\n\r\n")
        assert b" 421 " in connection.makefile("rb").readline()


@pytest.mark.parametrize("address", ["0.0.0.0", "::"])
def test_a_server_on_all_addresses_accepts_any_ip_address_but_no_unknown_name(address: str) -> None:
    client = TestClient(SameSiteMiddleware(PlainTextResponse("x"), address))
    known_hosts = ("192.168.1.5:7860", "[fe80::1]:7860", f"{socket.gethostname()}:7860", "localhost")
    assert [client.get("/", headers={"Host": host}).status_code for host in known_hosts] == [200] * 4
    assert client.get("/", headers={"Host": "evil.example"}).status_code == 421
    local = TestClient(SameSiteMiddleware(PlainTextResponse("x"), "192.168.1.5"))
    assert local.get("/", headers={"Host": "192.168.1.5:7860"}).status_code == 200
    assert local.get("/", headers={"Host": "192.168.1.6"}).status_code == 421


@pytest.mark.parametrize("name", ["", "https://videos.example.com", "two names", "*"])
def test_an_allowed_host_must_be_a_host_name(name: str) -> None:
    with pytest.raises(InputValueError, match=r"must be a host name such as videos\.example\.com"):
        SameSiteMiddleware(PlainTextResponse("x"), "127.0.0.1", [name])


CROSS_SITE = {"Sec-Fetch-Site": "cross-site"}
LINK = {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
FRAME = {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"}


@pytest.mark.parametrize(
    ("headers", "may_get", "may_post"),
    [
        ({}, True, True),  # a program
        ({"Sec-Fetch-Site": "none"} | LINK, True, True),  # a typed address
        ({"Sec-Fetch-Site": "same-origin"}, True, True),
        ({"Origin": "http://localhost:7860"}, True, True),
        ({"Origin": "https://LOCALHOST:7860"}, True, True),  # behind a proxy with HTTPS
        # Behind a proxy that changes Host.
        ({"Origin": "https://videos.example.com", "Sec-Fetch-Site": "same-origin"}, True, True),
        (CROSS_SITE | LINK, True, False),
        ({"Sec-Fetch-Site": "same-site"} | LINK, True, False),
        (CROSS_SITE | LINK | {"Origin": "http://evil.example"}, False, False),
        (CROSS_SITE | FRAME, False, False),
        (CROSS_SITE | {"Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}, False, False),
        ({"Sec-Fetch-Site": "same-site"}, False, False),
        ({"Origin": "http://evil.example"}, False, False),
        ({"Origin": "http://localhost:3000"}, False, False),
        ({"Origin": "http://localhost:7860.evil.example"}, False, False),
        ({"Origin": "null"}, False, False),
        ({"Origin": ""}, False, False),
        ({"Origin": "http://["}, False, False),
    ],
)
def test_requests_of_another_website_are_rejected(
    empty_page: PageServer, headers: dict[str, str], may_get: bool, may_post: bool
) -> None:
    headers = {"Host": "localhost:7860"} | headers
    for path in PATHS:
        assert (empty_page.get(path, **headers)[0] != 403) == may_get
    body, form = multipart_form("clip", "x")
    assert empty_page.request("POST", SEARCH, body=body, headers=form | headers)[0] == (400 if may_post else 403)
    assert empty_page.request("POST", "/api/embed", body=b"{}", headers=headers)[0] == (422 if may_post else 403)


def test_every_response_has_security_headers(empty_page: PageServer) -> None:
    for path, host in (("/", "localhost"), ("/media/x", "localhost"), ("/api/search", "localhost"), ("/", "evil")):
        headers = empty_page.request("GET", path, headers={"Host": host})[1]
        policy = headers["content-security-policy"].split("; ")
        assert {"default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'", "script-src 'self'"} <= {*policy}
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["referrer-policy"] == "same-origin"
        assert headers["cache-control"] == "private, no-cache"
        assert "server" not in headers


def test_a_body_is_cut_off_at_its_limit_whatever_its_content_length(
    client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "MAX_UPLOAD", 10_000)

    def pieces(body: bytes) -> Iterator[bytes]:
        for start in range(0, len(body), 1000):
            yield body[start : start + 1000]

    form, headers = multipart_form("clip", "x" * 1_000_000)
    text = b'{"text": "' + b"x" * 1_000_000 + b'"}'
    for path, body, limit in (
        (SEARCH, form, "75,536"),
        ("/api/embed", text, "65,536"),
        ("/api/status", text, "65,536"),
    ):
        for content in (body, pieces(body)):
            response = client.post(path, content=content, headers=headers)
            if path == "/api/status" and content is not body:  # answered before its body is read
                assert response.status_code == 405
            else:
                assert (response.status_code, response.json()["detail"]) == (
                    413,
                    f"The request is larger than {limit} bytes.",
                )
    assert files_in(tmp_path) == []


def test_a_body_that_stops_coming_is_given_up(empty_index: Any, serve: Callable[..., str], monkeypatch: Any) -> None:
    monkeypatch.setattr(access, "BODY_SECONDS", 0.2)

    def visit(url: str) -> None:
        host, port = url.removeprefix("http://").rstrip("/").split(":")
        form = "Content-Type: multipart/form-data; boundary=x"
        for path, kind in (("/api/embed", "Content-Type: application/json"), (SEARCH, form)):
            with socket.create_connection((host, int(port)), timeout=60) as connection:
                start = f"POST {path} HTTP/1.1\r\nHost: localhost\r\n{kind}\r\nContent-Length: 900\r\n\r\n"
                connection.sendall(start.encode() + b"-")
                assert b" 408 " in connection.makefile("rb").readline()
        # A body that always has a next byte has no more time, unless it is a clip.
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            connection.sendall(b"POST /api/embed HTTP/1.1\r\nHost: localhost\r\nContent-Length: 900\r\n\r\n")
            assert b" 408 " in drip(connection)

    serve(empty_index, visit)


def test_a_request_without_a_body_has_no_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """As what comes next, after minutes of a download or a search, is that the visitor has left."""
    monkeypatch.setattr(access, "BODY_SECONDS", 0)
    messages: list[Any] = []

    async def receive() -> Any:
        await asyncio.sleep(0.05)
        return {"type": "http.disconnect"}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        messages.append(await receive())

    scope = {"type": "http", "method": "GET", "raw_path": b"/", "query_string": b""}
    for headers in ([], [(b"content-length", b"0")]):
        asyncio.run(SizeLimitMiddleware(app)(scope | {"headers": headers}, receive, None))
    assert messages == [{"type": "http.disconnect"}] * 2
    with pytest.raises(HTTPException, match="did not arrive in time"):
        asyncio.run(SizeLimitMiddleware(app)(scope | {"headers": [(b"transfer-encoding", b"chunked")]}, receive, None))


def test_requests_beyond_the_limit_are_refused_until_others_are_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "MAX_REQUESTS", 2)
    statuses: list[int] = []

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    async def run() -> None:
        release = asyncio.Event()

        async def answer(scope: Any, receive: Any, send: Any) -> None:
            await release.wait()
            await PlainTextResponse("x")(scope, receive, send)

        app = LoadLimitMiddleware(answer)
        scope = {"type": "http", "method": "GET", "headers": []}
        waiting = [asyncio.create_task(app(scope, None, send)) for _ in range(2)]
        await asyncio.sleep(0)
        await app(scope, None, send)
        assert statuses == [503]
        release.set()
        await asyncio.gather(*waiting)
        await app(scope, None, send)
        assert statuses == [503, 200, 200, 200]

    asyncio.run(run())


def test_a_password_is_required_for_every_route(empty_index: Any, serve: Callable[..., str]) -> None:
    def visit(url: str) -> None:
        correct, wrong = (
            "Basic " + base64.b64encode(each.encode()).decode() for each in ("ann:s3cret: é", "ann:wrong")
        )
        for path in ("/", "/media/x", "/api/search?q=x", "/api/openapi.json", "/static/api.css", "/none"):
            assert get(url, path)[0] == 401
            assert get(url, path, Authorization=wrong)[0] == 401
        assert get(url, "/api/status", Authorization=correct)[0] == 200
        assert get(url, "/media/x", Authorization=correct)[0] == 404

    serve(empty_index, visit, login=("ann", "s3cret: é"))

"""Tests for clip4clip.web.access, by plain HTTP: host names, other websites, routes, bodies, and the login."""

from __future__ import annotations

import base64
import gc
import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from page_client import RUN, UPLOAD, event_number, files_in, multipart_form
from servers import PageServer, get

from clip4clip import InputValueError

pytest.importorskip("starlette")
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from clip4clip.web import access
from clip4clip.web.access import SameSiteMiddleware


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:1", 200),
        ("127.0.0.1:7860", 200),
        ("[::1]:7860", 200),
        ("videos.example.com", 200),
        ("[fd00::5]", 200),
        ("evil.example", 421),
        ("127.0.0.1.evil.example:7860", 421),
        ("videos.example.com.evil.example", 421),
        ("evil.example@localhost", 421),
        ("localhost evil.example", 421),
        ("10.1.2.3", 421),
        ("[fd00::6]", 421),
        ("::1", 421),
        ("[localhost]", 421),
        ("", 421),
    ],
)
def test_only_requests_for_a_known_host_name_are_answered(empty_page: PageServer, host: str, status: int) -> None:
    for path in ("/", "/config", "/static/img/logo.svg"):
        assert empty_page.get(path, Host=host)[0] == status
    body, headers = multipart_form("files", "x")
    assert empty_page.request("POST", UPLOAD, body=body, headers=headers | {"Host": host})[0] == status
    if status == 421 and host.startswith("evil.example") and "@" not in host:
        assert b"--allowed-host evil.example" in empty_page.get("/", Host=host)[1]


def test_a_request_without_a_host_header_is_rejected(empty_page: PageServer) -> None:
    host, port = empty_page.url.removeprefix("http://").rstrip("/").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(b"GET /config HTTP/1.0\r\n\r\n")
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
    ("headers", "get_status", "post_status"),
    [
        ({}, 200, 200),  # a program
        ({"Sec-Fetch-Site": "none"} | LINK, 200, 200),  # a typed address
        ({"Sec-Fetch-Site": "same-origin"}, 200, 200),
        ({"Origin": "http://localhost:7860"}, 200, 200),
        ({"Origin": "https://LOCALHOST:7860"}, 200, 200),  # behind a proxy with HTTPS
        # Behind a proxy that changes Host.
        ({"Origin": "https://videos.example.com", "Sec-Fetch-Site": "same-origin"}, 200, 200),
        (CROSS_SITE | LINK, 200, 403),
        ({"Sec-Fetch-Site": "same-site"} | LINK, 200, 403),
        (CROSS_SITE | LINK | {"Origin": "http://evil.example"}, 403, 403),
        (CROSS_SITE | FRAME, 403, 403),
        (CROSS_SITE | {"Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}, 403, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403, 403),
        ({"Origin": "http://evil.example"}, 403, 403),
        ({"Origin": "http://localhost:3000"}, 403, 403),
        ({"Origin": "http://localhost:7860.evil.example"}, 403, 403),
        ({"Origin": "null"}, 403, 403),
        ({"Origin": ""}, 403, 403),
        ({"Origin": "http://["}, 403, 403),
    ],
)
def test_requests_of_another_website_are_rejected(
    empty_page: PageServer, uploads_folder: Path, headers: dict[str, str], get_status: int, post_status: int
) -> None:
    headers = {"Host": "localhost:7860"} | headers
    for path in ("/", "/config", "/theme.css"):
        assert empty_page.get(path, **headers)[0] == get_status
    before = len(files_in(uploads_folder))
    body, form = multipart_form("files", "x")
    assert empty_page.request("POST", UPLOAD, body=body, headers=form | headers)[0] == post_status
    assert len(files_in(uploads_folder)) == before + (post_status == 200)
    assert empty_page.request("POST", RUN, body=b"{}", headers=headers)[0] == (422 if post_status == 200 else 403)


def test_every_response_has_security_headers(empty_page: PageServer) -> None:
    for path, host in (("/", "localhost"), ("/library/video?id=x", "localhost"), ("/none", "localhost"), ("/", "evil")):
        headers = empty_page.request("GET", path, headers={"Host": host})[1]
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert "object-src 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["referrer-policy"] == "same-origin"
        assert headers["cache-control"] == "private, no-cache"
        assert "server" not in headers


PLAYLIST = "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile://{}\n#EXT-X-ENDLIST\n"


def test_other_routes_of_gradio_are_closed(page: PageServer, library: Path) -> None:
    # Behind the first one ffmpeg runs, which reads any file that a playlist names.
    form = multipart_form("video", PLAYLIST.format(library / "secret.mp4"))
    for route in ("process_recording", "vibe-edit", "queue/join", "call/by_text", "stream/x", "cancel", "reset"):
        with pytest.raises(HTTPError) as caught:
            urlopen(Request(f"{page.url}gradio_api/{route}", *form))
        assert (caught.value.code, caught.value.read()) == (404, b"Not found.")
        caught.value.close()
    for route in ("monitoring", "gradio_api/info", "gradio_api/openapi.json", "gradio_api/proxy=http://127.0.0.1"):
        assert page.get(f"/{route}")[0] == 404


def test_a_visitor_cannot_name_a_file_or_an_address_to_read(page: PageServer, library: Path) -> None:
    functions = [each["id"] for each in json.loads(page.get("/config")[1])["dependencies"]]
    for path in ("/dev/zero", str(library / "secret.mp4"), page.url + "library/video?id=x", "/tmp", "\0", None):
        file = {"path": path, "meta": {"_type": "gradio.FileData"}}
        for number in functions:
            for data in ([file], [[file]], [{"value": file}]):
                body = json.dumps({"fn_index": number, "data": data, "session_hash": "x"}).encode()
                request = Request(f"{page.url}{RUN[1:]}", body, {"Content-Type": "application/json"})
                with pytest.raises(HTTPError) as caught:
                    urlopen(request, timeout=120)
                assert (caught.value.code, caught.value.read()) == (400, b"Invalid request.")
                caught.value.close()
    for body in (b"{", b"[" * 5000, b'{"data": ["' + b"x" * 100_000 + b'"]}'):
        with pytest.raises(HTTPError) as caught:
            urlopen(Request(f"{page.url}{RUN[1:]}", body, {"Content-Type": "application/json"}), timeout=120)
        assert caught.value.code == 400
        caught.value.close()
    assert page.get("/")[0] == 200


def test_invalid_json_is_rejected(client: Any) -> None:
    for data in (rb'["\ud800"]', b"[NaN]"):
        body = b'{"fn_index": %d, "data": %b}' % (event_number(client.get("/config").json(), "click"), data)
        assert client.post(RUN, content=body).status_code == 400


def test_a_body_is_cut_off_at_its_limit_whatever_its_content_length(
    client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "MAX_UPLOAD", 10_000)
    body, headers = multipart_form("files", "x" * 1_000_000)

    def pieces() -> Iterator[bytes]:
        for start in range(0, len(body), 1000):
            yield body[start : start + 1000]

    for content in (body, pieces()):
        response = client.post(UPLOAD, content=content, headers=headers)
        assert (response.status_code, "larger than 75,536 bytes" in response.text) == (413, True)
    assert files_in(tmp_path) == []
    assert client.post(RUN, content=b" " * 70_000).status_code == 400
    assert client.post(UPLOAD, content=multipart_form("files", "x" * 9000)[0], headers=headers).status_code == 200


def test_gradio_keeps_no_state_of_a_session(client: Any) -> None:
    event = {"fn_index": event_number(client.get("/config").json(), "click"), "data": ["a red square"]}

    def sessions() -> int:
        gc.collect()
        return sum(type(each).__name__ == "SessionState" for each in gc.get_objects())

    before = sessions()
    for session in "abc":
        response = client.post(RUN, json=event | {"session_hash": session})
        assert "No videos were found for “a red square”" in response.json()["data"][0]
    assert sessions() == before


def test_a_password_is_required_for_every_route(empty_index: Any, serve: Callable[..., str]) -> None:
    def visit(url: str) -> None:
        correct, wrong = (
            "Basic " + base64.b64encode(each.encode()).decode() for each in ("ann:s3cret: é", "ann:wrong")
        )
        for path in ("/", "/library/video?id=x", "/gradio_api/info", "/config"):
            assert get(url, path)[0] == 401
            assert get(url, path, Authorization=wrong)[0] == 401
        assert get(url, "/", Authorization=correct)[0] == 200
        assert get(url, "/library/video?id=x", Authorization=correct)[0] == 404

    serve(empty_index, visit, login=("ann", "s3cret: é"))

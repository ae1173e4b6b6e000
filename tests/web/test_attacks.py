"""Attacks on a server over the index of the drawn clips: each is answered with an error, and the server goes on.

``pytest -s`` prints how many requests each attack sent, and how they were answered.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from page_client import SEARCH, address, multipart_form
from servers import PageServer

pytest.importorskip("fastapi")

Attack = Callable[..., Counter[int]]
FOLDERS = ("media", "thumbnails", "strips", "clips", "api/videos")
JSON = {"Content-Type": "application/json"}


@pytest.fixture(autouse=True)
def figures(page: PageServer, request: pytest.FixtureRequest) -> Iterator[Counter[int]]:
    """Numbers of answers by status, which are printed. Check after each attack that the server still answers."""
    counts: Counter[int] = Counter()
    yield counts
    assert page.get("/api/status")[0] == 200
    print(f"\n{request.node.name}: {dict(sorted(counts.items()))}")


@pytest.fixture
def attack(page: PageServer, figures: Counter[int]) -> Attack:
    """``(method, paths, body=None, **options)``: send requests, and return how many got each status."""

    def send(method: str, paths: Iterable[str], body: Any = None, **options: Any) -> Counter[int]:
        counts: Counter[int] = Counter()
        connection = http.client.HTTPConnection(page.url.removeprefix("http://").rstrip("/"), timeout=300)
        with contextlib.closing(connection):
            for path in paths:
                connection.request(method, path, body, **options)
                with connection.getresponse() as response:
                    answer = response.read()
                assert b"Traceback" not in answer, path
                if response.status >= 400:
                    assert response.headers["content-type"] == "application/problem+json", path
                counts[response.status] += 1
        figures.update(counts)
        return counts

    return send


def test_no_path_leads_to_a_file_that_the_index_does_not_name(attack: Attack, page: PageServer, library: Path) -> None:
    clip = sorted((library / "clips").glob("0-*.mp4"))[0]
    secrets = [library / "secret.txt", library / "secret.mp4", library / "videos.db", Path("/etc/passwd")]
    targets = [str(secret) for secret in secrets]
    targets += [f"{clip.parent}/../{secret.name}" for secret in secrets]
    targets += [f"{clip}\0{secret}" for secret in secrets] + [f"{clip}/../../{secret.name}" for secret in secrets]
    targets += [f"file://{secret}" for secret in secrets] + [f"{secret}#t=0,1" for secret in secrets]
    coded = [
        code
        for target in targets
        for code in (
            quote(target, safe=""),
            quote(quote(target, safe=""), safe=""),
            quote(target, safe="/"),
            quote(target, safe="").replace("%2F", "%c0%af"),
        )
    ]
    paths = [f"/{folder}/{code}" for folder in FOLDERS for code in coded]
    paths += [f"/static/{code}" for code in coded] + [f"/static/..{code}" for code in coded]
    paths += [f"/{code}" for code in coded] + [f"/api/{code}" for code in coded]
    paths += ["/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fapp.py", "/static/", "/static", "/static//x"]
    paths += ["/media/..", "/media/%2e%2e", "/media/", "/media//", "//media/x", "/media/x/../../api/status"]
    counts = attack("GET", paths)
    assert counts.keys() <= {404, 422}, counts
    assert page.get(address("media", clip))[0] == 200


def test_no_id_changes_a_query_of_the_index(attack: Attack) -> None:
    ids = [
        "x' or id != '",
        'x" or id != "',
        'x"] or id not in ["',
        "%",
        "*",
        "_",
        "x;drop table rows",
        "\\",
        "\0",
        "\x01",
    ]
    ids += ["1 or 1=1", "${jndi:x}", "{{7*7}}", "a" * 20_000, "\ufffe", "\u202e", "🎬" * 1000]
    paths = [address(folder, each) for folder in FOLDERS for each in ids]
    paths += [f"{address('api/videos', each)}/similar" for each in ids]
    assert attack("GET", paths).keys() <= {404, 422, 431}
    assert attack("GET", [f"/{folder}/%FF%FE" for folder in FOLDERS]) == {422: len(FOLDERS)}


def test_filters_are_conditions_only(attack: Attack) -> None:
    filters = ["1=1", "duration < 1; drop table rows", "id == 'x' or 1", "load_extension('x')", "a) or (b", "(" * 5000]
    filters += [
        "not " * 300 + "duration < 1",
        "duration in [" + "1," * 5000 + "1]",
        "duration < 1e999",
        "duration < NaN",
    ]
    filters += ["\0", "\ud800".encode("utf-8", "surrogatepass").decode("latin-1"), 'path like "' + "%" * 2000 + '"']
    paths = [f"{SEARCH}?q=x&filter={quote(text)}" for text in filters] + [
        f"/api/videos?filter={quote(text)}" for text in filters
    ]
    counts = attack("GET", paths)
    assert counts.keys() <= {200, 400, 431}, counts
    assert counts[200] <= 6, counts  # 1e999 is a number, and a long pattern a pattern


def test_numbers_that_are_none_are_rejected(attack: Attack, library: Path) -> None:
    clip = sorted((library / "clips").glob("0-*.mp4"))[0]
    values = [
        "nan",
        "NaN",
        "inf",
        "-inf",
        "1e999",
        "-1",
        "0x10",
        "1_0",
        "",
        " ",
        "9" * 400,
        "\u0663x",
        "true",
        "[]",
        "%00",
        "%ED%A0%80",
    ]
    paths = [f"{SEARCH}?q=x&{name}={value}" for name in ("k", "offset", "per_video") for value in map(quote, values)]
    paths += [f"{address('thumbnails', clip)}?t={quote(value)}" for value in values]
    paths += [
        f"{address(folder, clip)}?start={quote(value)}&end=1" for folder in ("clips", "strips") for value in values
    ]
    paths += [f"{address('api/videos', clip)}/similar?t={quote(value)}" for value in values]
    counts = attack("GET", paths)
    assert counts.keys() <= {200, 400, 404, 422}, counts
    assert counts[422] >= 0.8 * len(paths), counts


def test_json_that_is_none_is_rejected(attack: Attack) -> None:
    bodies = [
        b"{",
        b"[" * 60_000,
        b'{"a":' * 10_000,
        b"NaN",
        b"Infinity",
        b'{"text": NaN}',
        b'{"text": 1e999}',
        b"\xff",
    ]
    bodies += [
        rb'{"text": "\ud800"}',
        rb'{"text": "\udfff\ud800"}',
        b'{"text": "' + b"x" * 60_000 + b'"}',
        b"9" * 60_000,
    ]
    for body in bodies:
        assert set(attack("POST", ["/api/embed"], body=body, headers=JSON)) <= {400, 422}
    big = b'{"text": "' + b"x" * 70_000 + b'"}'
    assert attack("POST", ["/api/embed"], body=big, headers=JSON) == {413: 1}
    pieces = iter([b"x" * 1000] * 200)  # without a Content-Length
    assert attack("POST", ["/api/embed"], body=pieces, headers=JSON, encode_chunked=True) == {413: 1}


def test_a_form_that_is_none_is_rejected_and_leaves_nothing(attack: Attack, library: Path) -> None:
    form, headers = multipart_form("clip", "x")
    empty = b"--x\r\n" * 10_000
    many = (
        b"".join(b'--x\r\nContent-Disposition: form-data; name="a%d"\r\n\r\nx\r\n' % n for n in range(2000))
        + b"--x--\r\n"
    )
    long_header = b"--x\r\nContent-Disposition: form-data; name=" + b"x" * 100_000 + b"\r\n\r\nx\r\n--x--\r\n"
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile://{library / 'secret.mp4'}\n#EXT-X-ENDLIST\n"
    for body in (form.replace(b"clip", b"other"), empty, many, long_header, multipart_form("clip", playlist)[0], b""):
        assert attack("POST", [SEARCH], body=body, headers=headers) == {400: 1}
    assert attack("POST", [SEARCH], body=form, headers={"Content-Type": "multipart/form-data"}) == {400: 1}
    claimed = headers | {"Content-Length": str(1 << 40)}
    with contextlib.suppress(OSError):
        assert attack("POST", [SEARCH], body=form, headers=claimed) == {413: 1}


def test_other_sites_get_nothing(attack: Attack) -> None:
    foreign = [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "video"},
        {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors", "Sec-Fetch-Dest": "empty"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"},
    ]
    paths = [
        "/",
        "/static/api.css",
        "/api/status",
        f"{SEARCH}?q=x",
        "/api/openapi.json",
        *(f"/{each}/x" for each in FOLDERS),
    ]
    for headers in foreign:
        assert attack("GET", paths, headers=headers) == {403: len(paths)}
        assert attack("POST", [SEARCH, "/api/embed"], headers=headers) == {403: 2}
        assert attack("OPTIONS", paths, headers=headers) == {403: len(paths)}
    for host in ("evil.example", "localhost.evil.example", "localhost@evil.example", "0x7f.1", "2130706433"):
        assert attack("GET", paths, headers={"Host": host}) == {421: len(paths)}


def test_ranges_are_no_way_to_more_work(figures: Counter[int], page: PageServer, library: Path) -> None:
    clip = sorted((library / "clips").glob("0-*.mp4"))[0]
    size = clip.stat().st_size
    ranges = [
        "bytes=0-0," * 1000 + "1-1",
        "bytes=0-,0-,0-",
        f"bytes={size}-",
        f"bytes=-{10**30}",
        "bytes=5-2",
        "bytes=x-y",
    ]
    ranges += ["bytes=-0", f"bytes=0-{10**30}", "items=0-1", "bytes=", "bytes=--1", "bytes=0-0, 5-9", "bytes=\u0661-"]
    sent = 0
    for text in ranges:
        headers = {"Range": text.encode("utf-8").decode("latin-1")}
        status, _, body = page.request("GET", address("media", clip), headers=headers)
        figures[status] += 1
        assert status in (200, 206, 416), text
        assert len(body) <= size or status == 416
        sent += len(body)
    assert sent <= len(ranges) * size


def test_slow_and_silent_visitors_do_not_keep_others_from_being_answered(page: PageServer) -> None:
    host, port = page.url.removeprefix("http://").rstrip("/").split(":")
    starts = [
        b"",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ",
        b"POST /api/embed HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{",
    ]
    with contextlib.ExitStack() as visitors:
        for number in range(90):
            connection = visitors.enter_context(socket.create_connection((host, int(port))))
            connection.sendall(starts[number % 3])
        begin = time.perf_counter()
        assert page.get("/api/status")[0] == 200
        assert time.perf_counter() - begin < 60


def test_too_many_requests_at_once_are_answered_or_refused(figures: Counter[int], page: PageServer) -> None:
    def visit() -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):  # the connection was refused
            figures[page.get(f"{SEARCH}?q=x&k=100")[0]] += 1

    threads = [threading.Thread(target=visit) for _ in range(150)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert figures.keys() <= {200, 503}
    assert figures[200] > 0


def test_methods_and_protocols_that_are_not_used_are_closed(attack: Attack) -> None:
    for method in ("PUT", "DELETE", "PATCH", "TRACE", "CONNECT", "PROPFIND", "X" * 1000):
        assert attack(method, ["/", "/api/status", "/media/x"]) == {405: 3}
    upgrade = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "x" * 22 + "==",
    }
    assert attack("GET", ["/none"], headers=upgrade) == {404: 1}
    old = (
        "config",
        "gradio_api/info",
        "gradio_api/upload",
        "queue/join",
        "file=/etc/passwd",
        "docs",
        "redoc",
        "openapi.json",
    )
    assert attack("GET", [f"/{path}" for path in old]) == {404: len(old)}


def test_smuggled_requests_are_rejected(page: PageServer) -> None:
    host, port = page.url.removeprefix("http://").rstrip("/").split(":")
    inner = b"GET /api/status HTTP/1.1\r\nHost: localhost\r\n\r\n"
    chunked = b"Transfer-Encoding: chunked\r\n"
    for headers in (
        b"Content-Length: 4\r\n" + chunked,
        b"Content-Length: 4\r\nContent-Length: 9\r\n",
        b"Transfer-Encoding: xchunked\r\n",
        b"Transfer-Encoding: chunked, identity\r\n",
        b"Content-Length: +4\r\n",
        b"Host: evil.example\r\n",
        b"X: a\r\n\x00b: c\r\n",
    ):
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            connection.sendall(b"POST /api/embed HTTP/1.1\r\nHost: localhost\r\n" + headers + b"\r\n0\r\n\r\n" + inner)
            with contextlib.suppress(ConnectionError):
                answer = connection.recv(10_000)
                assert answer[9:10] == b"4", (headers, answer)

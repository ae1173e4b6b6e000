"""Videos behind URLs, and servers that fail or deceive."""

from __future__ import annotations

import contextlib
import itertools
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import trustme
from clips import X264, straight, write
from servers import HttpServer, Request, Response, serve_folder

from clip4clip import VideoError, VideoNotFoundError
from clip4clip.video import read_frames, remote, source


def read_all(url: str) -> list[np.ndarray]:
    return [frame.rgb for frame in read_frames(url, None)]


def endless_sound(file: bytes) -> Iterator[bytes]:
    """Yield an MPEG-TS file, then packets of its sound for ever."""
    packets = [file[position : position + 188] for position in range(0, len(file), 188)]
    sound = b"".join(packet for packet in packets if packet[1:3] in (b"\x41\x01", b"\x01\x01"))
    return itertools.chain([file], itertools.repeat(sound))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, clip: Path) -> Path:
    """Files of several formats. The server sends those named "plain" without byte ranges."""
    folder = tmp_path_factory.mktemp("http")
    (folder / "clip.mp4").write_bytes(clip.read_bytes())
    write(folder / "clip.ts", sound=True, **X264)
    write(folder / "clip.mkv", **X264)
    write(folder / "plain.mp4", muxer={"movflags": "faststart"}, **X264)
    write(folder / "plain.ts", **X264)
    write(folder / "plain_fragments.mp4", muxer={"movflags": "frag_keyframe"}, **X264)
    return folder


@pytest.fixture
def respond(folder: Path, tmp_path: Path) -> Callable[[Request], Response]:
    """Send files, with byte ranges unless their name has "plain" in it; and what a careless server sends."""

    def respond(request: Request) -> Response:
        name = request.path[1:]
        if name == "endless":
            return Response(endless_sound((folder / "clip.ts").read_bytes()))
        if name.isdigit():
            return Response(status=int(name))
        if name == "to_file":
            return Response(status=302, headers={"Location": f"file://{folder}/clip.mp4"})
        return serve_folder(folder, tmp_path, ranges="plain" not in name)(request)

    return respond


@pytest.fixture
def http(respond: Callable[[Request], Response]) -> Iterator[HttpServer]:
    with HttpServer(respond) as http:
        yield http


@pytest.fixture
def server(http: HttpServer) -> str:
    """The address of a server for ``folder`` and ``tmp_path``."""
    return http.url


@pytest.fixture
def noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes ``clips.write`` write noise, so that few and small frames make a large file."""
    random = np.random.default_rng(0)
    monkeypatch.setattr("clips.picture", lambda number, width, height: random.integers(
        0, 255, (height, width, 3), np.uint8))  # fmt: skip


# Frames over HTTP


@pytest.mark.parametrize("name", ["clip.mp4", "clip.ts", "clip.mkv", "plain.mp4", "plain.ts", "plain_fragments.mp4"])
def test_a_url_gives_the_frames_of_the_file(name: str, server: str, folder: Path) -> None:
    expected = straight(folder / name)
    frames = read_all(f"{server}/{name}")
    assert len(frames) == 25
    np.testing.assert_array_equal(frames, expected)
    sampled = [frame.rgb for frame in read_frames(f"{server}/{name}", 5)]
    np.testing.assert_array_equal(sampled, [expected[number] for number in (0, 6, 12, 18, 24)])


def test_the_scheme_may_be_in_upper_case(server: str, folder: Path) -> None:
    url = server.replace("http", "HTTP") + "/clip.mp4"
    np.testing.assert_array_equal(read_all(url), straight(folder / "clip.mp4"))


@pytest.mark.usefixtures("noise")
@pytest.mark.parametrize("muxer", [{}, {"movflags": "faststart"}])
def test_a_large_mp4_is_copied_from_a_server_without_ranges(
    muxer: dict[str, str], server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its index may be at its end, and reading its frames needs seeks."""
    path = write(tmp_path / "plain_large.mp4", count=60, muxer=muxer, sound=True, g="5", preset="ultrafast")
    assert path.stat().st_size > 2 * source.READ_SIZE
    expected = straight(path)
    for indices in (range(60), [0, 30, 59], [30]):
        frames = [frame.rgb for frame in read_frames(f"{server}/plain_large.mp4", indices=indices)]
        np.testing.assert_array_equal(frames, [expected[number] for number in indices])
    np.testing.assert_array_equal(read_all(f"{server}/plain_large.mp4"), expected)
    monkeypatch.setattr(source, "MAX_COPY_BYTES", 1000)
    with pytest.raises(VideoError, match=r"plain_large\.mp4: it cannot seek, and is over the limit of 1,000 bytes"):
        list(read_frames(f"{server}/plain_large.mp4", indices=[0, 30]))


@pytest.mark.usefixtures("noise")
def test_only_the_gops_of_the_selected_frames_are_fetched(server: str, http: HttpServer, tmp_path: Path) -> None:
    path = write(tmp_path / "large.mp4", count=100, size=(640, 360), g="5", preset="ultrafast", crf="20", sound=True)
    gops, size = 20, path.stat().st_size  # GOPs of about 2 MB
    assert size > 15_000_000
    for indices in ([2], [2, 51], [0, 33, 66, 99]):
        http.clear()
        frames = list(read_frames(f"{server}/large.mp4", indices=indices))
        assert len(frames) == len(indices)
        # Besides the GOPs: the index, the rest of each request, and what was on its way when enough had come.
        assert http.bytes_sent < len(indices) * (size / gops + 2_500_000) + 2_500_000
    http.clear()
    list(read_frames(f"{server}/large.mp4", 12))
    assert http.bytes_sent < 1.2 * size


# Addresses and servers that fail


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("nothing.mp4", "its server answers 404 Not Found"),
        ("401", "its server answers 401 Unauthorized"),
        ("403", "its server answers 403 Forbidden"),
        ("410", "its server answers with a 4xx error"),
        ("503", "its server answers with a 5xx error"),
    ],
)
def test_an_error_of_the_server_is_named(path: str, reason: str, server: str) -> None:
    with pytest.raises(VideoNotFoundError, match=f"{path}: cannot be fetched: {reason}"):
        read_all(f"{server}/{path}")


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://127.0.0.1:9/clip.mp4", "nothing listens at this address: the connection is refused"),
        ("http://127.0.0.1:99999/clip.mp4", "it is not a valid address, or redirects to something other than http"),
        ("http://clip4clip.invalid/clip.mp4", "the host 'clip4clip.invalid' has no address"),
    ],
)
def test_an_address_without_a_server_is_an_error_with_its_reason(
    url: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(VideoNotFoundError, match=f"clip.mp4: cannot be fetched: {reason}") as caught:
        read_all(url)
    assert "Errno" not in str(caught.value)


def test_a_stream_without_an_end_is_given_up(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if only sound still comes."""
    monkeypatch.setattr(remote, "MAX_FETCH_SECONDS", 0.2)
    with pytest.raises(VideoError, match=r"endless: fetching it takes more than 0\.2 s, which is the limit"):
        read_all(f"{server}/endless")
    with pytest.raises(VideoError, match=r"endless: fetching it takes more than 0\.2 s, which is the limit"):
        next(read_frames(f"{server}/endless"))


def test_a_server_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "OPEN_TIMEOUT", 0.3)
    monkeypatch.setattr(remote, "READ_TIMEOUT", 0.3)
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(VideoNotFoundError, match=r"cannot be fetched: no answer within 0\.3 s"),
    ):
        read_all(f"http://127.0.0.1:{silent.getsockname()[1]}/clip.mp4")


@pytest.mark.usefixtures("noise")
def test_a_server_that_falls_silent_is_given_up(
    server: str, http: HttpServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while FFmpeg seeks, when the timeouts of PyAV are not in force."""
    write(tmp_path / "long.ts", count=60, g="5", preset="ultrafast")
    monkeypatch.setitem(remote.HTTP_OPTIONS, "request_size", str(1 << 16))
    assert len(list(read_frames(f"{server}/long.ts", indices=[30]))) == 1
    requests = len(http.requests)
    monkeypatch.setitem(remote.HTTP_OPTIONS, "reconnect_delay_max", "0")  # one more attempt, not four
    monkeypatch.setattr(remote, "OPEN_TIMEOUT", 0.2)
    monkeypatch.setattr(remote, "READ_TIMEOUT", 0.2)
    monkeypatch.setattr(remote, "SEEK_TIMEOUT_MARGIN", 0.1)
    answer, silence = http.respond, threading.Event()
    for answers in (1, requests - 2):
        http.clear()

        def respond(request: Request, answers: int = answers) -> Response | None:
            return answer(request) if len(http.requests) <= answers else silence.wait() and None

        monkeypatch.setattr(http, "respond", respond)
        with pytest.raises((VideoError, VideoNotFoundError), match=r"cannot be fetched|connection failed"):
            list(read_frames(f"{server}/long.ts", indices=[30]))
    silence.set()  # lets the threads of the server end


# Encryption and proxies


def test_a_connection_that_cannot_be_encrypted_is_an_error(server: str) -> None:
    with pytest.raises(VideoNotFoundError, match=r"the connection failed or was lost, or its certificate is not valid"):
        read_all(f"https{server.removeprefix('http')}/clip.mp4")


def test_a_certificate_must_be_valid(
    respond: Callable[[Request], Response], server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with HttpServer(respond, tls=context) as secure:
        url = f"{secure.url}/clip.mp4"
        with pytest.raises(VideoNotFoundError, match="its certificate is not valid"):
            read_all(url)
        assert secure.requests == []
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
        assert len(read_all(url)) == len(read_all(f"{server}/clip.mp4"))


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_the_proxy_of_the_environment_is_used(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    requests = []
    with socket.create_server(("127.0.0.1", 0)) as proxy:

        def refuse() -> None:
            while True:
                with contextlib.suppress(OSError), proxy.accept()[0] as connection:
                    requests.append(connection.recv(1000))
                    connection.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
                if proxy.fileno() < 0:
                    return

        threading.Thread(target=refuse, daemon=True).start()
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.getsockname()[1]}")
        with pytest.raises(VideoNotFoundError, match="cannot be fetched"):
            read_all(f"{scheme}://clip4clip.invalid/clip.mp4")
    expected = b"CONNECT clip4clip.invalid:443 " if scheme == "https" else b"GET http://clip4clip.inva"
    assert requests[0].startswith(expected)


# What a server may not make us open


def test_a_redirection_to_a_local_file_is_refused(server: str) -> None:
    """FFmpeg refuses it with the error of a format that is not allowed. Our errors tell the two apart."""
    with pytest.raises(VideoNotFoundError, match="cannot be fetched"):
        read_all(f"{server}/to_file")


def test_a_playlist_over_http_is_not_followed(server: str, tmp_path: Path) -> None:
    playlist = "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:2.5,\n{url}\n#EXT-X-ENDLIST\n"
    (tmp_path / "list.m3u8").write_text(playlist.format(url=f"{server}/clip.ts"))
    with pytest.raises(VideoError, match="unsupported or corrupt video"):
        read_all(f"{server}/list.m3u8")

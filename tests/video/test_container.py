from __future__ import annotations

import contextlib
import io
import os
import re
import socket
import ssl
import struct
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import av
import numpy as np
import pytest
import trustme
from clips import X264, make, straight, write
from PIL import Image

from clip4clip import VideoError, VideoNotFoundError
from clip4clip.video import container, read_frames
from clip4clip.video.container import Container, Limits


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make("h264", tmp_path_factory.mktemp("container"))


def every(path: Path | str | bytes) -> list[np.ndarray]:
    return [frame.rgb for frame in read_frames(path, None)]


# What is no video


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(VideoNotFoundError, match=r"nowhere\.mp4: there is no such file"):
        every(tmp_path / "nowhere.mp4")


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "the file is empty"), (b"hello world" * 50, "not a video file"), (bytes(5000), "not a video file")],
)
def test_a_file_of_another_kind(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(VideoError, match=rf"a\.mp4: {message}") as caught:
        every(tmp_path / "a.mp4")
    assert "Errno" not in str(caught.value)
    with pytest.raises(VideoError, match=f"video of {len(content):,} bytes: {message}"):
        next(read_frames(content))


@pytest.mark.skipif(sys.platform == "win32", reason="named pipes")
def test_a_pipe_that_nobody_writes_to_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container, "PIPE_TIMEOUT", (0.1, 0.1))
    pipe = tmp_path / "pipe.mp4"
    os.mkfifo(pipe)
    threads = threading.active_count()
    with pytest.raises(VideoError, match=r"pipe\.mp4: cannot be opened: it is a pipe to which no program has begun to"):
        every(pipe)
    assert threading.active_count() == threads
    with (
        os.fdopen(os.open(pipe, os.O_RDWR), "wb", buffering=0),  # a writer that writes nothing
        pytest.raises(VideoError, match=r"pipe\.mp4: nothing has come through this pipe for 0\.1 s"),
    ):
        every(pipe)


def test_a_folder_and_an_impossible_name(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="cannot be opened"):
        every(tmp_path)
    with pytest.raises(VideoError, match="cannot be opened"):
        every("a\0b.mp4")


def test_sound_alone(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "sound.wav"), "w") as file:
        stream = file.add_stream("pcm_s16le", rate=8000)
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), layout="mono")
        samples.sample_rate = 8000
        file.mux(stream.encode(samples))
        file.mux(stream.encode(None))
    with pytest.raises(VideoError, match=r"sound\.wav: it has no video stream"):
        every(tmp_path / "sound.wav")


@pytest.mark.parametrize("with_video", [False, True])
def test_a_cover_picture_is_not_the_video(with_video: bool, tmp_path: Path) -> None:
    cover = write(tmp_path / "cover.jpg", "mjpeg", count=1, size=(64, 64), pixels="yuvj420p").read_bytes()
    path = tmp_path / ("film.mp4" if with_video else "song.mp3")
    with av.open(str(path), "w") as file:
        image = file.add_stream("mjpeg")
        image.width, image.height, image.pix_fmt = 64, 64, "yuvj420p"
        image.disposition = av.stream.Disposition.attached_pic
        other = file.add_stream("libx264", rate=10) if with_video else file.add_stream("libmp3lame", rate=44100)
        if with_video:
            other.width, other.height, other.pix_fmt = 160, 96, "yuv420p"
        packet = av.Packet(cover)
        packet.stream, packet.pts, packet.dts = image, 0, 0
        file.mux(packet)
        for _ in range(10):
            if with_video:
                content = av.VideoFrame.from_ndarray(np.zeros((96, 160, 3), np.uint8), format="rgb24")
            else:
                content = av.AudioFrame.from_ndarray(np.zeros((2, 1152), np.float32), format="fltp", layout="stereo")
                content.sample_rate = 44100
            file.mux(other.encode(content))
        file.mux(other.encode(None))
    if with_video:
        assert [frame.shape for frame in every(path)] == [(96, 160, 3)] * 10
    else:
        with pytest.raises(VideoError, match="no video stream"):
            every(path)


# Limits


def test_frames_over_the_limit(clip: Path) -> None:
    with pytest.raises(VideoError, match="160×96 are over the limit of 15,359 pixels"):
        next(read_frames(clip, limits=Limits(pixels=160 * 96 - 1)))


@pytest.mark.parametrize("kind", ["PNG", "WebP"])
def test_a_picture_over_the_limit_is_not_decoded_to_know_its_size(kind: str) -> None:
    file = io.BytesIO()
    Image.new("RGB", (160, 96)).save(file, kind)
    with Container(file.getvalue()) as opened:
        assert opened.stream.width == 160
    limits = Limits(pixels=160 * 96 - 1)
    with Container(file.getvalue(), limits=limits) as opened:
        assert opened.stream.width == 0
    with pytest.raises(VideoError, match="can be decoded, or they are over the limit"):
        next(read_frames(file.getvalue(), limits=limits))


def test_streams_over_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.mp4", sound=True)
    assert len(every(path)) == 25
    monkeypatch.setattr(container, "MAX_STREAMS", 1)
    with pytest.raises(VideoError, match=r"a\.mp4: not a video file of a kind that is read here"):
        every(path)


def test_the_work_of_decoding_over_the_limit(clip: Path) -> None:
    frame = 160 * 96
    assert len(list(read_frames(clip, limits=Limits(decoded_pixels=40 * 128 * 128)))) == 12
    with pytest.raises(VideoError, match=r"to decode it takes over 153,600 pixels, which is the limit"):
        list(read_frames(clip, limits=Limits(decoded_pixels=10 * frame)))


def test_packets_that_cannot_be_decoded_come_to_an_end(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container, "MAX_UNDECODABLE", 3)
    content = bytearray(clip.read_bytes())
    start, end = content.index(b"mdat") + 4, content.index(b"moov") - 4
    content[start:end] = bytes(end - start)
    asked = []
    decode = Container.decode
    monkeypatch.setattr(Container, "decode", lambda self, packet: asked.append(packet) or decode(self, packet))
    with pytest.raises(VideoError, match="no frame of its video stream can be decoded"):
        list(read_frames(bytes(content), None))
    assert len(asked) < 10


# What a name or a file may not make us do


@pytest.mark.parametrize("content", [b"", b"hello world" * 50])
def test_a_name_cannot_speak_to_the_terminal(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a\x1b[2J\nb\u202e.mp4"
    path.write_bytes(content)
    with pytest.raises(VideoError) as caught:
        every(path)
    assert str(caught.value).isprintable()
    assert r"a\x1b[2J\nb\u202e.mp4: " in str(caught.value)
    with pytest.raises(VideoNotFoundError, match=r"no\\x1b\.mp4: there is no such file"):
        every("no\x1b.mp4")
    with pytest.raises(VideoNotFoundError, match="of URLs only http"):
        every("s3://bucket/film.mp4")


@pytest.mark.parametrize("name", ["frame%03d.mp4", "concat:a.mp4", "file:a.mp4", "a b'c\".mp4", "-i.mp4", "http:a.mp4"])
def test_any_name_is_a_plain_file(name: str, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / name).write_bytes(clip.read_bytes())
    monkeypatch.chdir(tmp_path)
    assert len(every(name)) == 25


@pytest.mark.parametrize("name", ["rtsp://127.0.0.1/a", "ftp://127.0.0.1/a", "data:video/mp4;base64,AA", "pipe:0"])
def test_other_protocols_are_only_names_of_files(name: str) -> None:
    with pytest.raises(VideoNotFoundError, match="there is no such file"):
        every(name)


PLAYLISTS = {
    "list.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:2.5,\n{target}\n#EXT-X-ENDLIST\n",
    "list.ffconcat": "ffconcat version 1.0\nfile '{target}'\n",
    "list.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
    "list.mpd": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
    'mediaPresentationDuration="PT2S"><Period><AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1">'
    "<BaseURL>{target}</BaseURL></Representation></AdaptationSet></Period></MPD>",
}


@pytest.mark.parametrize("name", PLAYLISTS)
def test_a_playlist_cannot_make_us_open_what_it_names(name: str, tmp_path: Path, clip: Path) -> None:
    (tmp_path / "secret.ts").write_bytes(clip.read_bytes())
    for target in ("secret.ts", tmp_path / "secret.ts", f"file://{tmp_path}/secret.ts"):
        (tmp_path / name).write_text(PLAYLISTS[name].format(target=target))
        with pytest.raises(VideoError, match="not a video file"):
            every(tmp_path / name)


def _alias(path: str) -> bytes:
    """A data reference by a Macintosh alias record, the kind that FFmpeg follows where it is allowed to."""
    place = path.encode() + bytes(len(path) % 2)
    record = bytes(150) + struct.pack(">2H", 2, len(place)) + place + b"\xff\xff\0\0"
    return struct.pack(">I4sI", 12 + len(record), b"alis", 0) + record


def test_an_mp4_cannot_make_us_read_another_file(tmp_path: Path) -> None:
    """Its data reference can name a file (ISO 14496-12, 8.7.2); the frames still come from its own bytes, or not."""
    other = write(tmp_path / "other.mp4", **X264)
    content = other.read_bytes()
    own, foreign = b"\0\0\0\x0curl \0\0\0\x01", _alias(str(other))
    assert content.count(own) == 1
    changed = bytearray(content.replace(own, foreign))
    start, end = changed.index(b"mdat") + 4, changed.index(b"moov") - 4
    changed[start:end] = bytes(end - start)
    for name in (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"):
        at = changed.index(name) - 4
        size = int.from_bytes(changed[at : at + 4], "big") + len(foreign) - len(own)
        changed[at : at + 4] = size.to_bytes(4, "big")
    crafted = tmp_path / "crafted.mp4"
    crafted.write_bytes(changed)
    with av.open(str(crafted), options={"enable_drefs": "1", "use_absolute_path": "1"}) as file:
        assert len(list(file.decode(video=0))) == 25  # else this file would show nothing
    with pytest.raises(VideoError):
        every(crafted)


# Over HTTP


class _Server(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    folder: Path
    requests: list[str]
    sent: list[int]
    answered = 1 << 30  # requests, after which it is silent
    silence: threading.Event

    def handle(self) -> None:
        with contextlib.suppress(ConnectionResetError):  # the reader has what it wants
            super().handle()

    def do_GET(self) -> None:
        self.requests.append(self.path)
        if len(self.requests) > self.answered:
            self.silence.wait()
            self.close_connection = True
            return
        name = self.path[1:]
        if name == "endless":
            self._send_endless()
        elif name.isdigit():
            self.send_error(int(name))
        elif name == "to_file":
            self.send_response(302)
            self.send_header("Location", f"file://{self.folder}/clip.mp4")
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif not (self.folder / name).is_file():
            self.send_error(404)
        else:
            self._send((self.folder / name).read_bytes(), "plain" not in name)

    def _send(self, content: bytes, ranges: bool) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")) if ranges else None
        start = int(wanted[1]) if wanted else 0
        end = min(int(wanted[2]) + 1 if wanted and wanted[2] else len(content), len(content))
        if start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(content)}")
            self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(end - start))
        self.end_headers()
        try:
            for place in range(start, end, 1 << 14):
                self.wfile.write(content[place : min(place + (1 << 14), end)])
                self.sent.append(min(1 << 14, end - place))
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the reader has what it wants

    def _send_endless(self) -> None:
        """Packets of a sound that goes on for ever; of the pictures there were only a few."""
        content = (self.folder / "clip.ts").read_bytes()
        sound = [content[place : place + 188] for place in range(0, len(content), 188)]
        self.send_response(200)
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content)
        silence = b"".join(packet for packet in sound if packet[1:3] in (b"\x41\x01", b"\x01\x01"))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while True:
                self.wfile.write(silence)
        self.close_connection = True

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def handler(tmp_path: Path) -> type[_Server]:
    return type("Handler", (_Server,), {"folder": tmp_path, "requests": [], "sent": [], "silence": threading.Event()})


@pytest.fixture
def server(handler: type[_Server], tmp_path: Path, clip: Path) -> Iterator[str]:
    (tmp_path / "clip.mp4").write_bytes(clip.read_bytes())
    write(tmp_path / "plain.mp4", muxer={"movflags": "faststart"}, **X264)
    write(tmp_path / "plain.ts", **X264)
    write(tmp_path / "plain_fragments.mp4", muxer={"movflags": "frag_keyframe"}, **X264)
    write(tmp_path / "clip.ts", sound=True, **X264)
    write(tmp_path / "clip.mkv", **X264)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        http.daemon_threads = True
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_address[1]}"
        http.shutdown()


@pytest.mark.parametrize("name", ["clip.mp4", "clip.ts", "clip.mkv", "plain.mp4", "plain.ts", "plain_fragments.mp4"])
def test_a_url_gives_what_the_file_gives(name: str, server: str, tmp_path: Path) -> None:
    """With ranges and, the plain ones, without."""
    frames = straight(tmp_path / name)
    ours = every(f"{server}/{name}")
    assert len(ours) == 25
    np.testing.assert_array_equal(ours, frames)
    sampled = [frame.rgb for frame in read_frames(f"{server}/{name}", 5)]
    np.testing.assert_array_equal(sampled, [frames[number] for number in (0, 6, 12, 18, 24)])


def test_a_scheme_may_be_written_in_upper_case(server: str, tmp_path: Path) -> None:
    np.testing.assert_array_equal(every(server.replace("http", "HTTP") + "/clip.mp4"), straight(tmp_path / "clip.mp4"))


@pytest.mark.parametrize("muxer", [{}, {"movflags": "faststart"}])
def test_a_large_mp4_from_a_server_without_ranges(
    muxer: dict[str, str], server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its index may be at its end, and its frames are jumped to."""
    path = write(tmp_path / "plain_large.mp4", count=300, size=(320, 240), muxer=muxer, sound=True,
                 g="20", preset="ultrafast", crf="3")  # fmt: skip
    assert path.stat().st_size > 2 * container.BUFFER
    frames = straight(path)
    for wanted in (range(300), [0, 150, 299], [150]):
        ours = [frame.rgb for frame in read_frames(f"{server}/plain_large.mp4", indices=wanted)]
        np.testing.assert_array_equal(ours, [frames[number] for number in wanted])
    np.testing.assert_array_equal(every(f"{server}/plain_large.mp4"), frames)
    monkeypatch.setattr(container, "MAX_COPIED", 1000)
    with pytest.raises(VideoError, match=r"plain_large\.mp4: it cannot seek, and is over the 1,000 bytes"):
        list(read_frames(f"{server}/plain_large.mp4", indices=[0, 150]))


def test_only_the_groups_that_are_touched_are_fetched(
    server: str, handler: type[_Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Noise, so that it is large: 20 groups of 2 MB or so.
    random = np.random.default_rng(0)
    monkeypatch.setattr("clips.picture", lambda number, width, height: random.integers(
        0, 255, (height, width, 3), np.uint8))  # fmt: skip
    path = write(tmp_path / "large.mp4", count=100, size=(640, 360), g="5", preset="ultrafast", crf="20", sound=True)
    groups, size = 20, path.stat().st_size
    assert size > 15_000_000
    for wanted in ([2], [2, 51], [0, 33, 66, 99]):
        handler.sent.clear()
        frames = list(read_frames(f"{server}/large.mp4", indices=wanted))
        assert len(frames) == len(wanted)
        # The index, what is asked for at once, and what was on its way when enough had come.
        assert sum(handler.sent) < len(wanted) * (size / groups + 2_500_000) + 2_500_000
    handler.sent.clear()
    list(read_frames(f"{server}/large.mp4", 12))
    assert sum(handler.sent) < 1.2 * size


@pytest.mark.parametrize("path", ["endless"])
def test_a_stream_without_an_end_is_given_up(path: str, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if the packets that come are of its sound alone."""
    monkeypatch.setattr(container, "MAX_FETCH_SECONDS", 0.2)
    with pytest.raises(VideoError, match=r"endless: fetching it takes over 0\.2 s, which is the limit"):
        every(f"{server}/{path}")
    with pytest.raises(VideoError, match=r"endless: fetching it takes over 0\.2 s, which is the limit"):
        next(read_frames(f"{server}/{path}"))


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("nothing.mp4", "its server answers 404 Not Found"),
        ("401", "its server answers 401 Unauthorized"),
        ("403", "its server answers 403 Forbidden"),
        ("410", "its server answers with an error of the kind 4xx"),
        ("503", "its server answers with an error of the kind 5xx"),
    ],
)
def test_a_url_that_cannot_be_fetched(path: str, reason: str, server: str) -> None:
    with pytest.raises(VideoNotFoundError, match=f"{path}: cannot be fetched: {reason}"):
        every(f"{server}/{path}")


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://127.0.0.1:9/clip.mp4", "nothing listens at this address: the connection is refused"),
        ("http://127.0.0.1:99999/clip.mp4", "it leads to something else than http or https, or is no valid address"),
        ("http://clip4clip.invalid/clip.mp4", "the host 'clip4clip.invalid' has no address"),
    ],
)
def test_nobody_at_the_address(url: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(VideoNotFoundError, match=f"clip.mp4: cannot be fetched: {reason}") as caught:
        every(url)
    assert "Errno" not in str(caught.value)


def test_a_connection_that_cannot_be_made_secure(server: str) -> None:
    with pytest.raises(VideoNotFoundError, match=r"the connection failed or was lost, or its certificate is not valid"):
        every(f"https{server.removeprefix('http')}/clip.mp4")


def test_a_certificate_has_to_be_valid(
    handler: type[_Server], server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as secure:
        secure.socket = context.wrap_socket(secure.socket, server_side=True)
        threading.Thread(target=secure.serve_forever, daemon=True).start()
        url = f"https://127.0.0.1:{secure.server_port}/clip.mp4"
        with pytest.raises(VideoNotFoundError, match="its certificate is not valid"):
            every(url)
        assert handler.requests == []
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
        assert len(every(url)) == len(every(f"{server}/clip.mp4"))
        secure.shutdown()


def test_a_server_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container, "TIMEOUT", (1.0, 1.0))
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(VideoNotFoundError, match="cannot be fetched: no answer within 1 s"),
    ):
        every(f"http://127.0.0.1:{silent.getsockname()[1]}/clip.mp4")


def test_a_server_that_falls_silent_is_given_up(
    server: str, handler: type[_Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While FFmpeg seeks, too, when PyAV does not look at the clock."""
    write(tmp_path / "long.ts", count=600, size=(320, 240), preset="ultrafast", crf="5", g="20")
    monkeypatch.setitem(container.HTTP, "request_size", str(1 << 16))
    assert len(list(read_frames(f"{server}/long.ts", indices=[300]))) == 1
    asked = len(handler.requests)
    monkeypatch.setattr(container, "TIMEOUT", (1.0, 0.5))
    for answered in (1, asked - 2):
        handler.requests.clear()
        monkeypatch.setattr(handler, "answered", answered)
        with pytest.raises((VideoError, VideoNotFoundError), match=r"cannot be fetched|connection failed"):
            list(read_frames(f"{server}/long.ts", indices=[300]))
    handler.silence.set()  # its threads may end


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_is_asked(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    asked = []
    with socket.create_server(("127.0.0.1", 0)) as proxy:

        def refuse() -> None:
            while True:
                with contextlib.suppress(OSError), proxy.accept()[0] as connection:
                    asked.append(connection.recv(1000))
                    connection.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
                if proxy.fileno() < 0:
                    return

        threading.Thread(target=refuse, daemon=True).start()
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.getsockname()[1]}")
        with pytest.raises(VideoNotFoundError, match="cannot be fetched"):
            every(f"{scheme}://clip4clip.invalid/clip.mp4")
    assert asked[0].startswith(b"CONNECT clip4clip.invalid:443 " if scheme == "https" else b"GET http://clip4clip.inva")


def test_a_redirection_to_a_local_file_is_refused(server: str) -> None:
    """By FFmpeg, with the error of a format that is not allowed: ours tells the two apart."""
    with pytest.raises(VideoNotFoundError, match="cannot be fetched"):
        every(f"{server}/to_file")


def test_a_playlist_over_http_cannot_make_us_fetch_what_it_names(server: str, tmp_path: Path) -> None:
    (tmp_path / "list.m3u8").write_text(PLAYLISTS["list.m3u8"].format(target=f"{server}/clip.ts"))
    with pytest.raises(VideoError, match="not a video file"):
        every(f"{server}/list.m3u8")


@pytest.mark.parametrize("name", ["photo.jpg", "photo%03d.jpg", "[photo].png", "photo.mp3"])
def test_the_name_of_a_file_is_no_hint_of_its_format(name: str, tmp_path: Path) -> None:
    photo = write(tmp_path / "a.mov", "mjpeg", 1, (98, 66), "yuvj444p").read_bytes()
    photo = photo[photo.index(b"\xff\xd8") : photo.index(b"\xff\xd9") + 2]
    path = tmp_path / name
    path.write_bytes(photo)
    assert [frame.rgb.shape for frame in read_frames(path)] == [(66, 98, 3)]
    with path.open("rb") as file:
        assert len(list(read_frames(file))) == 1

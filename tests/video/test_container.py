"""What is opened as a video, what is not, and the limits of one video."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import av
import numpy as np
import pytest
from clips import X264, write
from frame_checks import Work
from PIL import Image

from clip4clip import VideoError
from clip4clip.video import Limits, container, read_frames
from clip4clip.video.container import Container


def read_all(source: Path | str | bytes) -> list[np.ndarray]:
    return [frame.rgb for frame in read_frames(source, None)]


def without_content(clip: Path) -> bytes:
    """An MP4 whose index is intact, but whose frames are zeros."""
    content = bytearray(clip.read_bytes())
    start, end = content.index(b"mdat") + 4, content.index(b"moov") - 4
    content[start:end] = bytes(end - start)
    return bytes(content)


# Files that are no video


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"hello world" * 50, "unsupported or corrupt video"),
        (bytes(5000), "unsupported or corrupt video"),
    ],
)
def test_a_file_that_is_not_a_video_is_an_error_with_its_name(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(VideoError, match=rf"a\.mp4: {message}") as caught:
        read_all(tmp_path / "a.mp4")
    assert "Errno" not in str(caught.value)
    with pytest.raises(VideoError, match=f"video of {len(content):,} bytes: {message}"):
        next(read_frames(content))


def test_a_sound_file_is_an_error_that_says_so(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "sound.wav"), "w") as file:
        stream = file.add_stream("pcm_s16le", rate=8000)
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), layout="mono")
        samples.sample_rate = 8000
        file.mux(stream.encode(samples))
        file.mux(stream.encode(None))
    with pytest.raises(VideoError, match=r"sound\.wav: it has no video stream"):
        read_all(tmp_path / "sound.wav")


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
        assert [frame.shape for frame in read_all(path)] == [(96, 160, 3)] * 10
    else:
        with pytest.raises(VideoError, match="no video stream"):
            read_all(path)


# Limits


def test_frames_over_the_limit_of_pixels_are_an_error(clip: Path) -> None:
    with pytest.raises(VideoError, match="160×96 are over the limit of 15,359 pixels"):
        next(read_frames(clip, limits=Limits(pixels=160 * 96 - 1)))


@pytest.mark.parametrize("kind", ["PNG", "WebP"])
def test_a_picture_over_the_limit_is_not_decoded_to_learn_its_size(kind: str) -> None:
    file = io.BytesIO()
    Image.new("RGB", (160, 96)).save(file, kind)
    with Container(file.getvalue()) as opened:
        assert opened.stream.width == 160
    limits = Limits(pixels=160 * 96 - 1)
    with Container(file.getvalue(), limits) as opened:
        assert opened.stream.width == 0
    with pytest.raises(VideoError, match="can be decoded, or all are over the limit of 15,359 pixels"):
        next(read_frames(file.getvalue(), limits=limits))


def test_more_streams_than_the_limit_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.mp4", sound=True)
    assert len(read_all(path)) == 25
    monkeypatch.setattr(container, "MAX_STREAMS", 1)
    with pytest.raises(VideoError, match=r"a\.mp4: unsupported or corrupt video"):
        read_all(path)


def test_more_decoded_pixels_than_the_limit_are_an_error(clip: Path) -> None:
    assert len(list(read_frames(clip, limits=Limits(decoded_pixels=40 * 128 * 128)))) == 12
    with pytest.raises(VideoError, match=r"decoding it takes more than 153,600 pixels, which is the limit"):
        list(read_frames(clip, limits=Limits(decoded_pixels=10 * 160 * 96)))


def test_reading_stops_after_many_packets_that_cannot_be_decoded(
    work: Work, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(container, "MAX_UNDECODABLE", 3)
    with pytest.raises(VideoError, match="no frame of its video stream can be decoded"):
        read_all(without_content(clip))
    assert work.packets < 10


# What a file may not make us open


PLAYLISTS = {
    "list.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:2.5,\n{target}\n#EXT-X-ENDLIST\n",
    "list.ffconcat": "ffconcat version 1.0\nfile '{target}'\n",
    "list.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
    "list.mpd": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
    'mediaPresentationDuration="PT2S"><Period><AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1">'
    "<BaseURL>{target}</BaseURL></Representation></AdaptationSet></Period></MPD>",
}


@pytest.mark.parametrize("name", PLAYLISTS)
def test_a_playlist_is_not_followed(name: str, tmp_path: Path, clip: Path) -> None:
    (tmp_path / "secret.ts").write_bytes(clip.read_bytes())
    for target in ("secret.ts", tmp_path / "secret.ts", f"file://{tmp_path}/secret.ts"):
        (tmp_path / name).write_text(PLAYLISTS[name].format(target=target))
        with pytest.raises(VideoError, match="unsupported or corrupt video"):
            read_all(tmp_path / name)


def _alias(path: str) -> bytes:
    """A data reference by a Macintosh alias record, the kind that FFmpeg follows if it is allowed to."""
    name = path.encode() + bytes(len(path) % 2)
    record = bytes(150) + struct.pack(">2H", 2, len(name)) + name + b"\xff\xff\0\0"
    return struct.pack(">I4sI", 12 + len(record), b"alis", 0) + record


def test_an_mp4_whose_frames_are_in_another_file_is_an_error(tmp_path: Path) -> None:
    """A data reference can name a file (ISO 14496-12, 8.7.2). It is not followed."""
    other = write(tmp_path / "other.mp4", **X264)
    own, foreign = b"\0\0\0\x0curl \0\0\0\x01", _alias(str(other))
    content = without_content(other)
    assert content.count(own) == 1
    changed = bytearray(content.replace(own, foreign))
    for name in (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"):
        start = changed.index(name) - 4
        size = int.from_bytes(changed[start : start + 4], "big") + len(foreign) - len(own)
        changed[start : start + 4] = size.to_bytes(4, "big")
    crafted = tmp_path / "crafted.mp4"
    crafted.write_bytes(changed)
    with av.open(str(crafted), options={"enable_drefs": "1", "use_absolute_path": "1"}) as file:
        assert len(list(file.decode(video=0))) == 25  # FFmpeg would follow it if it were allowed to
    with pytest.raises(VideoError):
        read_all(crafted)


# Formats and streams


@pytest.mark.parametrize("name", ["photo.jpg", "photo%03d.jpg", "[photo].png", "photo.mp3"])
def test_the_format_of_a_file_does_not_depend_on_its_name(name: str, tmp_path: Path) -> None:
    photo = write(tmp_path / "a.mov", "mjpeg", 1, (98, 66), "yuvj444p").read_bytes()
    photo = photo[photo.index(b"\xff\xd8") : photo.index(b"\xff\xd9") + 2]
    path = tmp_path / name
    path.write_bytes(photo)
    assert [frame.rgb.shape for frame in read_frames(path)] == [(66, 98, 3)]
    with path.open("rb") as file:
        assert len(list(read_frames(file))) == 1


def test_a_stream_that_appears_within_the_file_is_not_an_error(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyAV does not know the stream, and fails to look it up at the end of the file."""
    av_open = av.open

    def open_with_another_stream(*arguments: Any, **options: Any) -> Any:
        opened = av_open(*arguments, **options)

        def demux(stream: av.VideoStream) -> Iterator[av.Packet]:
            yield from opened.demux(stream)
            raise IndexError("list index out of range")

        attributes = {name: getattr(opened, name) for name in ("format", "size", "duration", "streams")}
        return Mock(wraps=opened, demux=demux, **attributes)

    monkeypatch.setattr(av, "open", open_with_another_stream)
    assert len(read_all(clip)) == 25

"""Clips: which frames and sounds of a video they have, and what happens to videos that cannot be cut."""

from __future__ import annotations

import threading
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from clips import X264, orient, straight, write
from servers import HttpServer, serve_folder

from clip4clip import InputValueError, VideoError, VideoNotFoundError
from clip4clip.video import Limits, clip, read_frames
from clip4clip.video.clip import clip_ending, source_file_name, write_clip

SOUND_RATE = 48000
CLICK = 1.5  # seconds at which the sound of `movie` begins
# Kinds of videos, and for each the first frame that a copy from 1.1 s on shows: its last key frame until then.
COPIED = {
    "h264": 8,
    "h264, b-pyramid": 0,
    "h264, open groups": 8,
    "h264, open groups, mkv": 8,
    "h264, open groups, ts": 8,
    "h264, begins late": 8,
    "h264, begins late, ts": 8,
    "h264, edit list": 16,
    "h264, trimmed at its start, open groups": 16,
    "h264, variable rate": 0,
    "h264, variable rate, mkv": 0,
    "h264, fragments": 8,
    "h264, mov": 8,
    "h264, flv": 8,
    "hevc, open groups, ts": 10,
    "vp9, hidden frames": 8,
    "mpeg-2, ps": 9,
    "mjpeg": 11,
}


def frames_of(path: Path) -> list[tuple[float, np.ndarray]]:
    """Return the time and the RGB picture of every frame, as a plain decoder returns them; none may be damaged."""
    with av.open(str(path)) as file:
        frames = list(file.decode(video=0))
        assert not any(frame.is_corrupt for frame in frames)
        return [(frame.time, frame.to_ndarray(format="rgb24")) for frame in frames]


def loud_from(path: Path, track: int = 0) -> float:
    """Return the time at which the sound of a file begins to be loud, in seconds after its first picture."""
    with av.open(str(path)) as file:
        first = next(file.decode(video=0)).time
    with av.open(str(path)) as file:
        for frame in file.decode(audio=track):
            loud = np.abs(frame.to_ndarray().astype(float)).max(axis=0) > 0.1
            if loud.any():
                return float(frame.time + loud.argmax() / frame.sample_rate - first)
    raise AssertionError("no sound")


@pytest.fixture(scope="module")
def movie(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Maps the name of a file to a video of 3 s with two audio tracks, silent until ``CLICK``."""
    folder = tmp_path_factory.mktemp("movie")

    def write_movie(name: str) -> Path:
        path = folder / name
        if path.exists():
            return path
        silent = write(folder / "silent.mp4", count=30, **X264)
        samples = np.zeros((1, 3 * SOUND_RATE), np.float32)
        samples[:, round(CLICK * SOUND_RATE) :] = 0.8 * np.sin(np.arange(1.5 * SOUND_RATE) / 10)
        with av.open(str(silent)) as source, av.open(str(path), "w") as file:
            picture = file.add_stream_from_template(source.streams.video[0], opaque=True)
            tracks = [file.add_stream("aac", rate=SOUND_RATE, layout="mono") for _ in range(2)]
            for track, language in zip(tracks, ("eng", "fra"), strict=True):
                track.metadata["language"] = language
            packets = [packet for packet in source.demux(video=0) if packet.dts is not None]
            for packet in packets:
                packet.stream = picture
            for track in tracks:
                frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
                frame.sample_rate, frame.pts = SOUND_RATE, 0
                packets += [*track.encode(frame), *track.encode(None)]
            file.mux(sorted(packets, key=lambda packet: packet.dts * packet.time_base))
        return path

    return write_movie


@pytest.mark.parametrize("kind", COPIED)
def test_a_copy_begins_at_the_key_frame_and_loses_nothing(
    kind: str, clip_of: Callable[..., Path], tmp_path: Path
) -> None:
    source = frames_of(clip_of(kind))
    beginning = source[0][0] if "begins late" in kind or "ps" in kind or "ts" in kind else 0.0
    shown = [picture for _, picture in frames_of(clip_of(kind))]
    output = tmp_path / f"a{clip_ending(str(clip_of(kind)), exact=False)}"
    write_clip(clip_of(kind), output, beginning + 1.1, beginning + 1.8)
    copy = frames_of(output)
    numbers = [next(n for n, picture in enumerate(shown) if np.array_equal(picture, copied)) for _, copied in copy]
    # In the edit lists, frames before the first one are hidden.
    hidden = {"h264, edit list": 5, "h264, trimmed at its start, open groups": 6}.get(kind, 0)
    assert numbers[0] == COPIED[kind] - hidden
    wanted = [n for n, (time, _) in enumerate(source) if n >= numbers[0] and time < beginning + 1.8 - 1e-6]
    assert numbers[: len(wanted)] == wanted
    assert len(numbers) <= len(wanted) + 2  # frames that the last ones refer to
    times = [time - copy[0][0] for time, _ in copy]
    assert times == pytest.approx([source[number][0] - source[numbers[0]][0] for number in numbers], abs=2e-3)


@pytest.mark.parametrize(
    "kind",
    ["h264", "h264, open groups, ts", "h264, begins late, mkv", "h264, odd size", "hevc, 10 bit", "flv1", "apng"],
)
def test_an_exact_clip_has_exactly_the_frames_in_between(
    kind: str, clip_of: Callable[..., Path], tmp_path: Path
) -> None:
    source = frames_of(clip_of(kind))
    beginning = source[0][0] if "begins late" in kind or "ts" in kind else 0.0
    write_clip(clip_of(kind), tmp_path / "a.mp4", beginning + 1.1, beginning + 1.8, exact=True)
    copy = frames_of(tmp_path / "a.mp4")
    assert [time for time, _ in copy] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6], abs=1e-3)
    for (_, picture), (_, original) in zip(copy, source[11:18], strict=True):
        height, width, _ = picture.shape
        assert np.abs(picture.astype(float) - original[:height, :width]).mean() < 4
    with av.open(str(tmp_path / "a.mp4")) as file:
        assert [stream.codec_context.name for stream in file.streams] == ["h264"]
        assert file.duration / av.time_base == pytest.approx(0.7, abs=2e-3)


@pytest.mark.parametrize("exact", [False, True])
def test_times_that_are_rounded_to_milliseconds_mean_the_same_frames(exact: bool, tmp_path: Path) -> None:
    # A key frame at 0.66733 s, and frames at 1/29.97 s: a rounded start is before its frame, a rounded end behind it.
    path = tmp_path / "ntsc.mp4"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=Fraction(30000, 1001), options={"g": "10", "bf": "0"})
        stream.width, stream.height = 160, 96
        for number in range(60):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((96, 160, 3), 4 * number, np.uint8))))
        file.mux(stream.encode(None))
    write_clip(path, tmp_path / "a.mp4", round(20 * 1001 / 30000, 3), round(31 * 1001 / 30000, 3), exact=exact)
    assert [round(picture.mean() / 4) for _, picture in frames_of(tmp_path / "a.mp4")] == list(range(20, 31))


def test_an_exact_clip_begins_with_the_frame_that_is_displayed_at_its_start(
    clip_of: Callable[..., Path], tmp_path: Path
) -> None:
    source = frames_of(clip_of("h264, variable rate, mkv"))  # frames at 1.0, 1.2, 1.5 and 1.8 s
    write_clip(clip_of("h264, variable rate, mkv"), tmp_path / "a.mp4", 1.1, 1.7, exact=True)
    copy = frames_of(tmp_path / "a.mp4")
    assert [time for time, _ in copy] == pytest.approx([0, 0.1, 0.4], abs=2e-3)
    for (_, picture), (_, original) in zip(copy, source[6:9], strict=True):
        assert np.abs(picture.astype(float) - original).mean() < 4
    with av.open(str(tmp_path / "a.mp4")) as file:
        assert file.duration / av.time_base == pytest.approx(0.6, abs=2e-3)


@pytest.mark.parametrize(
    ("name", "exact", "first"),
    [("a.mp4", False, 0.8), ("a.mkv", False, 0.8), ("a.ts", False, 0.8), ("a.mov", True, 1.1)],
)
def test_sound_stays_with_the_pictures(
    name: str, exact: bool, first: float, movie: Callable[[str], Path], tmp_path: Path
) -> None:
    source = movie(name)
    shift = frames_of(source)[0][0]
    output = tmp_path / f"b{clip_ending(name, exact)}"
    write_clip(source, output, shift + 1.1, shift + 1.9, exact=exact)
    for track in range(2):
        assert loud_from(output, track) == pytest.approx(CLICK - first, abs=0.01)
    with av.open(str(output)) as file:
        assert [stream.language for stream in file.streams.audio] == ["eng", "fra"]
        pictures, *sounds = (float(stream.start_time * stream.time_base) for stream in file.streams)
        assert sounds == pytest.approx([pictures, pictures], abs=0.05)
        assert file.duration / av.time_base == pytest.approx(1.9 - first, abs=0.15)


@pytest.mark.parametrize("start", [0.1, 0.6])
def test_sound_that_pauses_stays_with_the_pictures(start: float, movie: Callable[[str], Path], tmp_path: Path) -> None:
    """The pause is from 0.3 to 1.2 s; silence fills it."""
    with av.open(str(movie("a.mkv"))) as source, av.open(str(tmp_path / "gap.mkv"), "w") as file:
        streams = {s.index: file.add_stream_from_template(s, opaque=True) for s in source.streams.get(0, 1)}
        for packet in source.demux(*source.streams.get(0, 1)):
            is_cut = packet.stream_index == 1 and packet.size and 0.3 < packet.pts * packet.time_base < 1.2
            if packet.size and not is_cut:
                packet.stream = streams[packet.stream_index]
                file.mux(packet)
    write_clip(tmp_path / "gap.mkv", tmp_path / "a.mp4", start, 2.0, exact=True)
    assert loud_from(tmp_path / "a.mp4") == pytest.approx(CLICK - start, abs=0.01)
    with av.open(str(tmp_path / "a.mp4")) as file:
        samples = sum(frame.samples for frame in file.decode(audio=0))
    assert samples / SOUND_RATE == pytest.approx(2.0 - start, abs=0.05)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
def test_a_whole_video_is_copied_whole(name: str, movie: Callable[[str], Path], tmp_path: Path) -> None:
    write_clip(movie(name), tmp_path / name)
    source, copy = frames_of(movie(name)), frames_of(tmp_path / name)
    assert len(source) == 30
    assert all(np.array_equal(a, b) for (_, a), (_, b) in zip(source, copy, strict=True))
    assert loud_from(tmp_path / name) == pytest.approx(CLICK, abs=0.01)


@pytest.mark.parametrize("exact", [False, True])
def test_a_rotated_video_is_displayed_upright(exact: bool, clip: Path, tmp_path: Path) -> None:
    rotated = orient(clip, (0, 1, -1, 0), tmp_path / "rotated.mp4")
    write_clip(rotated, tmp_path / "a.mp4", 0.8, 1.2, exact=exact)
    original, copy = (next(read_frames(path, times=[at])).rgb for path, at in ((rotated, 0.8), (tmp_path / "a.mp4", 0)))
    assert copy.shape == original.shape == (160, 96, 3)
    assert np.abs(copy.astype(float) - original).mean() < 5


def test_hidden_frames_stay_hidden(clip_of: Callable[..., Path], tmp_path: Path) -> None:
    source = straight(clip_of("h264, edit list"))  # which shows frames from 5 on; the key frame is 0
    write_clip(clip_of("h264, edit list"), tmp_path / "a.mp4", 0.1, 0.3)
    assert np.array_equal(straight(tmp_path / "a.mp4")[0], source[0])


@pytest.mark.parametrize("kind", ["gif", "flv1", "h264, raw", "h264, intra refresh", "h264, trimmed in its middle"])
def test_a_video_that_cannot_be_copied_can_be_re_encoded(
    kind: str, clip_of: Callable[..., Path], tmp_path: Path
) -> None:
    start, end = {"h264, raw": (0.5, 0.9), "h264, trimmed in its middle": (0.5, 1.6)}.get(kind, (1.1, 1.8))
    with pytest.raises(VideoError, match="It can be re-encoded instead: --exact"):
        write_clip(clip_of(kind), tmp_path / "a.mkv", start, end)
    write_clip(clip_of(kind), tmp_path / "b.mp4", start, end, exact=True)
    assert straight(tmp_path / "b.mp4")
    assert [path.name for path in tmp_path.iterdir()] == ["b.mp4"]


@pytest.mark.parametrize("exact", [False, True])
def test_a_time_range_without_frames_is_an_error(exact: bool, clip: Path, tmp_path: Path) -> None:
    for start, end in ((2.0, 2.0), (3.0, 1.0), (60.0, 61.0), (float("nan"), 2.0)):
        with pytest.raises(InputValueError):
            write_clip(clip, tmp_path / "a.mp4", start, end, exact=exact)
    with pytest.raises(InputValueError, match="the ending of a clip must be one of "):
        write_clip(clip, tmp_path / "a.txt", exact=exact)
    with pytest.raises(VideoNotFoundError):
        write_clip(tmp_path / "none.mp4", tmp_path / "a.mp4", exact=exact)
    (tmp_path / "text.mp4").write_text("text")
    with pytest.raises(VideoError, match="unsupported or corrupt"):
        write_clip(tmp_path / "text.mp4", tmp_path / "a.mp4", exact=exact)
    assert [path.name for path in tmp_path.iterdir()] == ["text.mp4"]


@pytest.mark.parametrize("exact", [False, True])
def test_a_damaged_video_gives_what_is_left_of_it(exact: bool, clip: Path, tmp_path: Path) -> None:
    content = bytearray(clip.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 200] = bytes(200)
    (tmp_path / "damaged.mp4").write_bytes(content)
    write_clip(tmp_path / "damaged.mp4", tmp_path / "a.mp4", 0.0, 2.4, exact=exact)
    with av.open(str(tmp_path / "a.mp4")) as file:
        assert file.duration / av.time_base == pytest.approx(2.4, abs=0.2)


def test_limits_hold(clip_of: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = clip_of("h264, mkv")
    with pytest.raises(VideoError, match="over 5 frames, which is the limit"):
        write_clip(source, tmp_path / "a.mkv", limits=Limits(frames=5))
    with pytest.raises(VideoError, match="decoding it takes more than"):
        write_clip(source, tmp_path / "a.mp4", exact=True, limits=Limits(decoded_pixels=5 * 160 * 96))
    with pytest.raises(VideoError, match="over the limit of 100 pixels"):
        write_clip(source, tmp_path / "a.mkv", limits=Limits(pixels=100))
    monkeypatch.setattr(clip, "SIZE_TOLERANCE", -source.stat().st_size // 2)
    with pytest.raises(VideoError, match="its packets are larger than the file"):
        write_clip(source, tmp_path / "a.mkv")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("exact", [False, True])
def test_a_stopped_clip_leaves_the_file_as_it_was(exact: bool, clip: Path, tmp_path: Path) -> None:
    stopped = threading.Event()
    stopped.set()
    (tmp_path / "a.mp4").write_text("before")
    for name in ("a.mp4", "b.mp4"):
        with pytest.raises(KeyboardInterrupt):
            write_clip(clip, tmp_path / name, 0.5, 1.5, exact=exact, stopped=stopped)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.mp4", "before")]


@pytest.mark.parametrize("exact", [False, True])
def test_a_clip_is_cut_out_of_a_url(exact: bool, movie: Callable[[str], Path], tmp_path: Path) -> None:
    with HttpServer(serve_folder(movie("a.mp4").parent, ranges=True)) as server:
        write_clip(f"{server.url}/a.mp4", tmp_path / "a.mp4", 1.1, 1.9, exact=exact)
    assert loud_from(tmp_path / "a.mp4") == pytest.approx(CLICK - (1.1 if exact else 0.8), abs=0.01)


def test_names_come_from_paths_and_urls() -> None:
    assert source_file_name("https://host/a%20b/c%2Fd.mp4?x=/y.avi#t=1") == "d.mp4"
    assert source_file_name("/a/b.mkv") == "b.mkv"
    assert [clip_ending(name, exact=False) for name in ("a.MP4", "b.m2ts", "c.flv", "d")] == [
        ".mp4",
        ".m2ts",
        ".mkv",
        ".mkv",
    ]
    assert clip_ending("a.webm", exact=True) == ".mp4"

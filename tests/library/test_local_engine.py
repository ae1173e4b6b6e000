"""Embedding on this machine: errors of single videos, and memory."""

from __future__ import annotations

import errno
import os
import shutil
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from constants import DEMO_MODEL
from library_tables import embed, rows_by_id, write_scenes

from clip4clip import VideoEncoder, VideoError
from clip4clip.library import local_engine
from clip4clip.library.sources import Video
from clip4clip.video.limits import Limits
from clip4clip.video.reader import Frame, Frames, VideoInfo, read_frames, read_sampled
from clip4clip.video.sampling import DEFAULT_SAMPLING, FrameSampling


def test_an_unexpected_error_while_decoding_becomes_the_error_of_the_row(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(path: str, *arguments: Any, **options: Any) -> Any:
        if path.endswith("3\x1b.mp4"):
            raise ZeroDivisionError("a fault\n\x1bof a library")
        return read_sampled(path, *arguments, **options)

    monkeypatch.setattr(local_engine, "read_sampled", read)
    (clips / "3.mp4").rename(clips / "3\x1b.mp4")
    report = embed(clips, tmp_path / "vectors.parquet")
    assert report.failed == {f"{clips}/3\x1b.mp4": rf"{clips}/3\x1b.mp4: ZeroDivisionError: a fault\n\x1bof a library"}


def test_rows_say_which_files_are_undecodable(
    clips: Path, tmp_path: Path, bigbuckbunny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "text.mp4").write_text("not a video")
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "cut.mp4").write_bytes(bigbuckbunny.read_bytes()[:100_000])  # its index was at the end
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "disk.mp4").touch()

    def read(path: str, *arguments: Any, **options: Any) -> Any:
        if path.endswith("disk.mp4"):
            raise OSError(errno.EIO, "Input/output error")
        return read_sampled(path, *arguments, **options)

    monkeypatch.setattr(local_engine, "read_sampled", read)
    names = ["text.mp4", "empty.mp4", "cut.mp4", "folder.mp4", "disk.mp4", "none.mp4"]
    paths = [str(tmp_path / name) for name in names] + [str(clips / "1.mp4"), "http://127.0.0.1:9/a.mp4"]
    videos = [Video(path, path, None, None) for path in paths]
    rows = [row for [row] in local_engine.embed_videos(videos, VideoEncoder.load(DEMO_MODEL))]
    assert [row["error"] is None for row in rows] == [False] * 6 + [True, False]
    assert [Path(row["path"]).name for row in rows if row["undecodable"]] == ["text.mp4", "empty.mp4", "cut.mp4"]


def test_at_most_three_batches_are_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[str] = []
    in_memory: list[int] = []
    embedded = 0

    def read(path: str, *_: object, **__: object) -> Frames:
        decoded.append(path)
        in_memory.append(len(decoded) - embedded)
        return Frames((frame for frame in [Frame(np.zeros((112, 112, 3), np.uint8), 0.0, True)]), VideoInfo())

    monkeypatch.setattr(local_engine, "read_sampled", read)
    videos = (Video(str(number), str(number), None, None) for number in range(200))
    for [row] in local_engine.embed_videos(videos, VideoEncoder.load(DEMO_MODEL)):
        assert (row["id"], row["error"]) == (str(embedded), None)
        embedded += 1
    assert embedded == 200
    assert max(in_memory) <= 3 * local_engine.BATCH_SIZE


def test_file_names_that_are_not_utf8_fail_and_unusual_ones_do_not(clips: Path, tmp_path: Path) -> None:
    unusual = clips / "a b 'c' \"d\" #é % 你好 <b>.mp4"
    shutil.copy(clips / "1.mp4", unusual)
    listed = [unusual]
    if sys.platform == "linux":
        broken = os.fsdecode(os.fsencode(clips) + b"/\xff.mp4")
        shutil.copy(clips / "1.mp4", broken)
        listed.append(Path(broken))
    report = embed(listed, tmp_path / "vectors.parquet")
    assert len(report.failed) == len(listed) - 1
    assert all("its name is not UTF-8" in reason for reason in report.failed.values())
    assert rows_by_id(tmp_path / "vectors.parquet")[str(unusual)]["error"] is None


# Videos that are cut


@pytest.fixture(scope="module")
def encoder() -> VideoEncoder:
    return VideoEncoder.load(DEMO_MODEL)


def rows_of(path: Path, encoder: VideoEncoder, sampling: FrameSampling = DEFAULT_SAMPLING) -> list[dict[str, Any]]:
    """The rows of one video."""
    [rows] = local_engine.embed_videos([Video("v", str(path), 1, 2)], encoder, sampling)
    return rows


def test_a_video_of_up_to_30_seconds_is_not_cut(encoder: VideoEncoder, tmp_path: Path) -> None:
    path = write_scenes(tmp_path / "a.mp4", (1, 15), (2, 14))
    [row] = rows_of(path, encoder)
    np.testing.assert_array_equal(row.pop("vector"), encoder(read_frames(path)))
    times = {"start": None, "end": None, "duration": 29.0, "frame_count": 58}
    state = {"size": 1, "mtime": 2, "error": None, "undecodable": False}
    assert row == {"id": "v", "video": "v", "path": str(path), **times, "uniform": False, **state}


def test_a_longer_video_gets_a_row_for_each_shot(encoder: VideoEncoder, tmp_path: Path) -> None:
    path = write_scenes(tmp_path / "a.mp4", (1, 15), (2, 16))
    first, second = rows_of(path, encoder)
    state = {"size": 1, "mtime": 2, "error": None, "undecodable": False}
    for row, start, end in ((first, 0.0, 14.5), (second, 14.5, 31.0)):
        vector = row.pop("vector")
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-6)
        frame_times = np.arange(np.ceil(start), end)
        np.testing.assert_allclose(vector, encoder(read_frames(path, times=frame_times)), atol=1e-5)
        times = {"start": start, "end": end, "duration": 31.0, "frame_count": 62}
        names = {"id": f"v#t={start:g},{end:g}", "video": "v", "path": str(path)}
        assert row == {**names, **times, "uniform": False, **state}


def test_other_ways_to_cut_a_video(encoder: VideoEncoder, tmp_path: Path) -> None:
    path = write_scenes(tmp_path / "a.mp4", (1, 15), (2, 16))
    [whole] = rows_of(path, encoder, FrameSampling(segments="whole"))
    assert (whole["id"], whole["start"]) == ("v", None)
    np.testing.assert_array_equal(whole["vector"], encoder(read_frames(path)))
    windows = rows_of(path, encoder, FrameSampling(segments=10, every=1))
    assert [(row["start"], row["end"]) for row in windows[:3]] == [(0, 10), (5, 15), (10, 20)]


def test_a_black_stretch_has_a_row_without_a_vector(encoder: VideoEncoder, tmp_path: Path) -> None:
    rows = rows_of(write_scenes(tmp_path / "a.mp4", (1, 14), (None, 10), (2, 16)), encoder)
    assert [row["uniform"] for row in rows] == [False, True, False]
    assert [row["vector"] is None for row in rows] == [False, True, False]
    assert (rows[1]["error"], rows[1]["undecodable"]) == (None, False)
    assert rows[1]["id"] == f"v#t={rows[1]['start']:g},{rows[1]['end']:g}"


def test_an_all_black_video_has_one_row_with_a_vector(encoder: VideoEncoder, tmp_path: Path) -> None:
    path = write_scenes(tmp_path / "a.mp4", (None, 100))
    [row] = rows_of(path, encoder)
    assert (row["id"], row["start"], row["end"], row["uniform"], row["error"]) == ("v", None, None, True, None)
    np.testing.assert_allclose(row["vector"], encoder(read_frames(path)), atol=1e-5)


STRIPES = np.arange(128).repeat(128 * 3).reshape(128, 128, 3).astype(np.uint8) // 64 * 200


class LongVideo(Frames):
    """A video of the same frame again and again, two seconds apart, that is not read from a file.

    Attributes:
        taken: number of frames that were taken.
        is_closed: whether it was closed.
    """

    def __init__(self, count: int, error: Exception | None = None) -> None:
        self.info = VideoInfo(duration=2.0 * count)
        self.taken, self.is_closed = 0, False
        self._count, self._error = count, error

    def __next__(self) -> Frame:
        if self.taken == self._count:
            raise self._error or StopIteration
        self.info.is_cut = True
        self.taken += 1
        return Frame(STRIPES, 2.0 * (self.taken - 1), True)

    def close(self) -> None:
        self.is_closed = True


def test_an_error_in_the_middle_of_a_long_video_costs_all_of_its_segments(
    encoder: VideoEncoder, clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = LongVideo(100, VideoError("long: over the limit"))
    monkeypatch.setattr(
        local_engine, "read_sampled", lambda path, *rest: long if path == "long" else read_sampled(path, *rest)
    )
    paths = [str(clips / "0.mp4"), "long", str(clips / "1.mp4")]
    rows = [
        row for rows in local_engine.embed_videos([Video(path, path, 1, 2) for path in paths], encoder) for row in rows
    ]
    assert sorted((row["id"], row["error"]) for row in rows) == sorted(
        [(paths[0], None), ("long", "long: over the limit"), (paths[2], None)]
    )
    [failed] = [row for row in rows if row["error"]]
    assert (failed["vector"], failed["start"], failed["undecodable"]) == (None, None, True)
    assert long.is_closed


def test_videos_behind_a_long_one_do_not_wait_for_it(
    encoder: VideoEncoder, clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others_are_done = threading.Event()

    class BlockedVideo(LongVideo):
        def __next__(self) -> Frame:
            if self.taken == 1:
                assert others_are_done.wait(60)
            return super().__next__()

    monkeypatch.setattr(
        local_engine,
        "read_sampled",
        lambda path, *rest: BlockedVideo(40) if path == "long" else read_sampled(path, *rest),
    )
    paths = ["long", *(str(clips / f"{number % 8}.mp4") for number in range(30))]
    videos = [Video(str(number), path, None, None) for number, path in enumerate(paths)]
    finished = []
    for rows in local_engine.embed_videos(videos, encoder, workers=2):
        finished.append(rows[0]["video"])
        if len(finished) == 30:
            others_are_done.set()
    assert finished == [*(str(number) for number in range(1, 31)), "0"]


def test_memory_does_not_grow_with_the_length_of_a_video(
    encoder: VideoEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    videos = [LongVideo(300), LongVideo(300), LongVideo(300)]
    monkeypatch.setattr(local_engine, "read_sampled", lambda path, *_: videos[int(path)])
    embedded, in_memory = 0, []

    def count(frames: list[np.ndarray]) -> np.ndarray:
        nonlocal embedded
        if not embedded:
            time.sleep(0.5)  # the threads decode meanwhile, as far as they may
        in_memory.append(sum(video.taken for video in videos) - embedded)
        embedded += len(frames)
        return np.ones((len(frames), 128), np.float32)

    monkeypatch.setattr(encoder, "frame_embeddings", count)
    listed = [Video(str(number), str(number), None, None) for number in range(3)]
    positions: list[tuple[str, float, float | None]] = []
    done = local_engine.embed_videos(
        listed, encoder, workers=2, report_position=lambda video, *position: positions.append((video.id, *position))
    )
    assert [rows[-1]["end"] for rows in done] == [600.0] * 3
    assert embedded == 900
    assert max(in_memory) <= (local_engine.MAX_WAITING_CHUNKS + 1 + 2) * 32 + 2
    for number in range(3):
        assert [position for video, *position in positions if video == str(number)] == [
            [2.0 * (min(frames, 300) - 1), 600.0] for frames in range(32, 300 + 32, 32)
        ]


def test_an_interruption_stops_the_decoding_of_long_videos(
    encoder: VideoEncoder, clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    videos = [LongVideo(1 << 40), LongVideo(1 << 40)]
    monkeypatch.setattr(
        local_engine,
        "read_sampled",
        lambda path, *rest: videos[int(path)] if path in "01" else read_sampled(path, *rest),
    )
    paths = ["0", "1", *(str(clips / f"{number}.mp4") for number in range(8))]

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    listed = [Video(path, path, None, None) for path in paths]
    with pytest.raises(KeyboardInterrupt):
        list(local_engine.embed_videos(listed, encoder, workers=2, report_position=stop))
    assert all(video.is_closed for video in videos if video.taken)


def test_threads_are_shared_by_the_videos_in_work(encoder: VideoEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []

    def read(path: str, sampling: FrameSampling, limits: Limits) -> Frames:
        threads.append(limits.threads)
        if int(path) < together.parties:
            together.wait(300)  # no video is done before the last of these begins
        return LongVideo(1)

    monkeypatch.setattr(local_engine, "read_sampled", read)
    for count, expected in ((1, [4]), (2, [2, 2]), (9, [1] * 4)):
        threads.clear()
        together = threading.Barrier(len(expected))
        videos = [Video(str(number), str(number), None, None) for number in range(count)]
        assert len(list(local_engine.embed_videos(videos, encoder, workers=4))) == count
        assert threads[: len(expected)] == expected

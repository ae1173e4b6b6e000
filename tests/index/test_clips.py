"""A file for each hit: its name, what is in it, and what happens to hits that cannot be cut out."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import av
import pytest
from clips import X264, write
from servers import HttpServer, Request, Response

from clip4clip.index.clips import ClipReport, clip_name, save_clips
from clip4clip.index.hit import Hit


def moment(path: object, start: float | None = None, end: float | None = None) -> Hit:
    return Hit(f"{path}#t={start},{end}", str(path), 0.5, {}, str(path), start, end)


def seconds(path: Path) -> float:
    with av.open(str(path)) as file:
        return float(file.duration / av.time_base)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a good video of 4 s, and a file that is none."""
    folder = tmp_path_factory.mktemp("videos")
    write(folder / "good.mp4", count=40, **X264)
    (folder / "broken.mkv").write_text("no video")
    return folder


def test_each_hit_becomes_a_file_and_failures_are_listed(videos: Path, tmp_path: Path) -> None:
    hits = [
        moment(videos / "good.mp4", 1.0, 2.0),
        moment(videos / "broken.mkv", 1.0, 2.0),
        moment(videos / "good.mp4"),
        moment(videos / "gone.mov", 3661.0, 3662.0),
        Hit("7", "", 0.1),
        moment(videos / "good.mp4", 90.0, 95.0),
    ]
    report = save_clips(hits, tmp_path / "new" / "folder")
    names = ["01 good 0.01-0.02.mp4", "03 good.mp4"]
    assert report.saved == [tmp_path / "new" / "folder" / name for name in names]
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == names
    assert seconds(report.saved[0]) == pytest.approx(1.2, abs=0.11)  # from the key frame at 0.8 s
    assert seconds(report.saved[1]) == pytest.approx(4.0)
    assert {name: error.replace(f"{videos}{os.sep}", "") for name, error in report.failed.items()} == {
        "02 broken 0.01-0.02.mkv": "broken.mkv: unsupported or corrupt video. If a media player can play it, convert "
        "it to MP4",
        "04 gone 1.01.01-1.01.02.mov": "gone.mov: there is no such file",
        "05 7.mkv": "05 7.mkv: the index has no path for the video '7'",
        "06 good 1.30-1.35.mp4": "good.mp4: it has no frame at 90 s",
    }


def test_files_are_never_replaced(videos: Path, tmp_path: Path) -> None:
    (tmp_path / "01 good 0.01-0.02.mp4").write_text("mine")
    report = save_clips([moment(videos / "good.mp4", 1.0, 2.0), moment(videos / "good.mp4", 2.0, 3.0)], tmp_path)
    assert [path.name for path in report.saved] == ["02 good 0.02-0.03.mp4"]
    assert "this file exists already" in report.failed["01 good 0.01-0.02.mp4"]
    assert (tmp_path / "01 good 0.01-0.02.mp4").read_text() == "mine"


def test_padding_is_added_on_both_sides_within_the_video(videos: Path, tmp_path: Path) -> None:
    hits = [moment(videos / "good.mp4", start, start + 1) for start in (0.3, 1.0, 2.7)]
    report = save_clips(hits, tmp_path, exact=True, padding=0.5)
    assert [seconds(path) for path in report.saved] == pytest.approx([1.8, 2.0, 1.8], abs=0.01)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/videos/holiday.mp4", "holiday 12.30-12.45.mp4"),
        ("/videos/a: b?/c*d|e<f>.webm", "c_d_e_f_ 12.30-12.45.webm"),
        ("/videos/back\\slash.avi", "back_slash 12.30-12.45.avi")
        if os.name != "nt"
        else ("C:\\CON.avi", "CON 12.30-12.45.avi"),
        ("/videos/..", "video 12.30-12.45.mkv"),
        ("/videos/ . .ts", "video 12.30-12.45.ts"),
        ("/videos/line\nbreak\u202e.mov", "line_break_ 12.30-12.45.mov"),
        ("https://host/x%2F..%2F..%2Fetc%2Fcron.mp4?a=/b", "cron 12.30-12.45.mp4"),
        ("https://host/", "host 12.30-12.45.mkv"),
        (f"/videos/{'ü' * 200}.mp4", f"{'ü' * 75} 12.30-12.45.mp4"),
    ],
)
def test_names_are_valid_everywhere_and_name_no_other_folder(path: str, name: str) -> None:
    assert clip_name(moment(path, 750.4, 765.9)) == name
    assert clip_name(moment(path, 750.4, 765.9), exact=True) == f"{Path(name).stem}.mp4"


def test_numbers_have_as_many_digits_as_the_last_one(tmp_path: Path) -> None:
    report = save_clips([moment(tmp_path / "gone.mp4", 0.0, 1.0)] * 100, tmp_path)
    assert next(iter(report.failed)) == "001 gone 0.00-0.01.mp4"


@pytest.mark.skipif(os.name == "nt", reason="a process cannot send itself Ctrl-C")
def test_ctrl_c_leaves_no_half_file(videos: Path, tmp_path: Path) -> None:
    """The signal comes while the second video is fetched, whose server answers only once the wait for it has ended."""
    interrupted = threading.Event()

    def respond(request: Request) -> Response:
        if not interrupted.is_set():  # a video takes several requests
            os.kill(os.getpid(), signal.SIGINT)
        assert interrupted.wait(60)
        return Response((videos / "good.mp4").read_bytes(), ranges=True)

    def stop(*_: object) -> None:
        interrupted.set()
        raise KeyboardInterrupt

    report = ClipReport()
    handler = signal.signal(signal.SIGINT, stop)
    try:
        with HttpServer(respond) as server:
            hits = [moment(videos / "good.mp4", 1.0, 2.0), moment(f"{server.url}/late.mp4", 1.0, 2.0)]
            with pytest.raises(KeyboardInterrupt):
                save_clips(hits, tmp_path, report=report)
    finally:
        signal.signal(signal.SIGINT, handler)
    assert [path.name for path in tmp_path.iterdir()] == ["01 good 0.01-0.02.mp4"]
    assert [path.name for path in report.saved] == ["01 good 0.01-0.02.mp4"]

"""Edit decision lists: the text, worked out by hand, and as an independent parser reads it."""

from __future__ import annotations

import io
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from clips import X264, write

from clip4clip import InputValueError
from clip4clip.index.edl import make_edit_list, parse_rate, standard_rate
from clip4clip.index.hit import Hit

NTSC = Fraction(30000, 1001)


def moment(path: object, start: float | None = None, end: float | None = None) -> Hit:
    return Hit(f"{path}#t={start},{end}", str(path), 0.5, {}, str(path), start, end)


@pytest.fixture(scope="module")
def video_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Maps a file name, a frame rate and a timecode to a video of 4 s."""
    folder = tmp_path_factory.mktemp("videos")

    def video(name: str, rate: Fraction | int, timecode: str = "") -> Path:
        path = folder / name
        if not path.exists():
            with av.open(str(path), "w") as file:
                if timecode:
                    file.metadata["timecode"] = timecode
                stream = file.add_stream("libx264", rate=rate, options={"preset": "ultrafast"})
                stream.width, stream.height = 32, 32
                for _ in range(round(4 * rate)):
                    file.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8))))
                file.mux(stream.encode(None))
        return path

    return video


def test_events_follow_each_other_from_one_hour_on(video_of: Callable[..., Path], tmp_path: Path) -> None:
    holiday = video_of("My holiday (2).mp4", 25)
    party = write(tmp_path / "party.mkv", count=40, sound=True, **X264)
    edit_list = make_edit_list([moment(holiday, 1.2, 3.48), moment(party, 0.5, 3.0), moment(holiday)], "a red\nsquare")
    assert edit_list.text.split("\r\n") == [
        "TITLE: a red\\nsquare",
        "FCM: NON-DROP FRAME",
        "001  MYHOLIDA V     C        00:00:01:05 00:00:03:12 01:00:00:00 01:00:02:07",
        "* FROM CLIP NAME: My holiday (2).mp4",
        f"* SOURCE FILE: {holiday}",
        "002  PARTY    AA/V  C        00:00:00:12 00:00:03:00 01:00:02:07 01:00:04:20",
        "* FROM CLIP NAME: party.mkv",
        f"* SOURCE FILE: {party}",
        "003  MYHOLIDA V     C        00:00:00:00 00:00:04:00 01:00:04:20 01:00:08:20",
        "* FROM CLIP NAME: My holiday (2).mp4",
        f"* SOURCE FILE: {holiday}",
        "",
    ]
    assert (edit_list.rate_name, edit_list.events, edit_list.failed) == ("25", 3, {})
    assert edit_list.notes == [f"{party}: it has 10 frames a second, the list 25"]


def test_an_independent_parser_reads_the_list(video_of: Callable[..., Path]) -> None:
    pycmx = pytest.importorskip("pycmx")
    paths = [video_of("a.mp4", NTSC), video_of("b.mp4", NTSC)]
    edit_list = make_edit_list([moment(paths[0], 0.5, 1.5), moment(paths[1], 2.0, 3.001)], "two")
    parsed = pycmx.parse_cmx3600(io.StringIO(edit_list.text.replace("\r\n", "\n")))
    assert (parsed.title, [*parsed.unrecognized_statements]) == ("two", [])
    edits = [edit for event in parsed.events for edit in event.edits]
    assert [(edit.clip_name, edit.source_file, edit.source) for edit in edits] == [
        ("a.mp4", str(paths[0]), "A"),
        ("b.mp4", str(paths[1]), "B"),
    ]
    assert [(edit.source_in, edit.source_out, edit.record_in, edit.record_out) for edit in edits] == [
        ("00:00:00:15", "00:00:01:15", "01:00:00:00", "01:00:01:00"),
        ("00:00:02:00", "00:00:03:00", "01:00:01:00", "01:00:02:00"),
    ]
    assert all(edit.channels.video and edit.transition.cut for edit in edits)


def test_padding_stays_within_the_video(video_of: Callable[..., Path]) -> None:
    path = video_of("c.mp4", 25)
    text = make_edit_list([moment(path, 0.4, 1.0), moment(path, 3.0, 3.8)], "t", padding=0.6).text
    assert "00:00:00:00 00:00:01:15 01:00:00:00" in text
    assert "00:00:02:10 00:00:04:00 01:00:01:15" in text


def test_a_recorded_timecode_counts(video_of: Callable[..., Path]) -> None:
    path = video_of("t.mov", 25, "10:00:00:12")
    edit_list = make_edit_list([moment(path, 1.0, 2.0)], "t")
    assert "10:00:01:12 10:00:02:12 01:00:00:00" in edit_list.text
    assert "10:00:01:24 10:00:02:24" in make_edit_list([moment(path, 1.0, 2.0)], "t", rate=Fraction(50)).text
    drop = video_of("drop.mov", NTSC, "10:00:00;00")
    edit_list = make_edit_list([moment(drop, 1.001, 2.002)], "t")
    assert "00:00:01:00 00:00:02:00 01:00:00:00" in edit_list.text
    assert edit_list.notes == [
        f"{drop}: its timecode is drop-frame, which the list is not; its source times begin at 0"
    ]


def test_videos_whose_time_begins_late_count_from_their_first_frame(tmp_path: Path) -> None:
    path = write(tmp_path / "late.ts", **X264)
    with av.open(str(path)) as file:
        start = float(file.streams.video[0].start_time * file.streams.video[0].time_base)
    assert start > 0
    assert "00:00:01:00 00:00:02:00" in make_edit_list([moment(path, start + 1, start + 2)], "t").text


def test_videos_that_cannot_be_read_are_left_out(video_of: Callable[..., Path], tmp_path: Path) -> None:
    hits = [moment(tmp_path / "gone.mp4", 1.0, 2.0), moment(video_of("d.mp4", 25), 1.0, 2.0), Hit("7", "", 0.1)]
    edit_list = make_edit_list(hits, "t")
    assert edit_list.events == 1
    assert "001  D        V     C        00:00:01:00 00:00:02:00 01:00:00:00 01:00:01:00" in edit_list.text
    assert [*edit_list.failed] == [str(tmp_path / "gone.mp4"), ""]
    assert make_edit_list(hits[:1], "t").text == ""


def test_reels_differ_where_names_do_not(video_of: Callable[..., Path], tmp_path: Path) -> None:
    paths = [video_of(name, 25) for name in ("holiday1.mp4", "Holiday 1 (a).mp4", "HOLIDAY 1 b.mp4", "ü.mp4")]
    lines = make_edit_list([moment(path, 0.0, 1.0) for path in paths], "t").text.split("\r\n")
    assert [line[5:13].strip() for line in lines if line[:1].isdigit()] == ["HOLIDAY1", "HOLIDAY2", "HOLIDAY3", "AX"]


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("25", 25),
        ("29.97", NTSC),
        ("23.98", NTSC * Fraction(4, 5)),
        ("30000/1001", NTSC),
        ("59.94", 2 * NTSC),
        ("10", 10),
    ],
)
def test_rates_are_those_of_editing_programs(text: str, rate: Fraction) -> None:
    assert parse_rate(text) == rate


def test_odd_rates_are_rounded() -> None:
    assert [standard_rate(Fraction(rate)) for rate in ("29.8", "14.99", "30.01", "0.4")] == [30, 15, 30, 0]


@pytest.mark.parametrize("text", ["", "fast", "0", "-25", "120", "1/0", "nan"])
def test_impossible_rates_are_errors(text: str) -> None:
    with pytest.raises(InputValueError, match="the frame rate of an edit list must be a number from 1 to 99"):
        parse_rate(text)


def test_a_list_has_at_most_999_events() -> None:
    with pytest.raises(InputValueError, match="at most 999 events, but there are 1,000 hits"):
        make_edit_list([moment("/a.mp4", 0.0, 1.0)] * 1000, "t")

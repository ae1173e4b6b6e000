"""Libraries as folders, tables and lists of videos."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from clip4clip import LibraryError
from clip4clip.library.sources import list_videos


def test_a_folder_is_searched_for_videos_at_any_depth(tmp_path: Path) -> None:
    for name in ("b.mp4", "a.MOV", "deep/er/c.webm", "notes.txt", ".hidden.mp4", ".trash/d.mp4"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"123")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.mp4")
    videos = list_videos(tmp_path)
    assert [Path(video.path).relative_to(tmp_path).as_posix() for video in videos] == [
        "a.MOV",
        "b.mp4",
        "deep/er/c.webm",
    ]
    assert all(video.id == video.path and video.size == 3 for video in videos)
    assert videos[0].mtime == (tmp_path / "a.MOV").stat().st_mtime_ns


def test_the_tables_of_the_tutorial_and_of_msrvtt_are_read(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    for number in range(2):
        (tmp_path / "videos" / f"video{number}.mp4").touch()
    table = tmp_path / "msrvtt.csv"
    table.write_text(
        "id,video_path,sentence\nv0,videos/video0.mp4,a\nv1,./videos/video1.mp4,b\nv1,videos/video1.mp4,c\n"
    )
    assert [(video.id, video.path) for video in list_videos(table)] == [
        (f"v{number}", str(tmp_path / "videos" / f"video{number}.mp4")) for number in range(2)
    ]
    (tmp_path / "jsfusion.csv").write_text("\ufeffkey,video_id,sentence\nret0,video1,a\nret1,video0,b\n", "utf-8")
    videos = list_videos(tmp_path / "jsfusion.csv", tmp_path / "videos")
    assert [(video.id, Path(video.path).name) for video in videos] == [
        ("video1", "video1.mp4"),
        ("video0", "video0.mp4"),
    ]


def test_a_list_of_paths_and_urls_gives_each_video_once(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    listing = tmp_path / "list.txt"
    listing.write_text(f"# mine\n\na.mp4\nhttps://example.org/b.mp4?x=1\n{tmp_path}/a.mp4\n./x/../a.mp4\nnone.mp4\n")
    videos = list_videos(listing)
    assert [video.path for video in videos] == [
        f"{tmp_path}/a.mp4",
        "https://example.org/b.mp4?x=1",
        f"{tmp_path}/none.mp4",
    ]
    assert [video.size for video in videos] == [0, None, None]
    assert list_videos([str(tmp_path / "a.mp4")]) == videos[:1]


def test_tsv_and_json_tables_are_read(tmp_path: Path) -> None:
    (tmp_path / "a, b.mp4").touch()
    rows = [{"id": 7, "path": "a, b.mp4", "other": None}, {"id": "w", "path": "https://example.org/b.mp4"}]
    for name, text in (
        ("v.tsv", "id\tpath\n7\ta, b.mp4\nw\thttps://example.org/b.mp4\n"),
        ("v.json", json.dumps(rows)),
        ("v.jsonl", "\n".join(map(json.dumps, rows))),
    ):
        (tmp_path / name).write_text(text)
        assert [(video.id, video.path) for video in list_videos(tmp_path / name)] == [
            ("7", str(tmp_path / "a, b.mp4")),
            ("w", "https://example.org/b.mp4"),
        ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", '[{"path": 5}]', "item 1: the path and the id of a video must be non-empty strings, not 5"),
        ("a.json", '[{"id": "a"}]', "item 1: the path and the id of a video must be non-empty strings, not None"),
        ("a.json", '[{"path": "a\\ud800"}]', r"item 1: 'a\\ud800' is not valid Unicode"),
        ("a.jsonl", '{"id": "\\ud800", "path": "a"}', r"line 1: '\\ud800' is not valid Unicode"),
        ("a.csv", "video,sentence\n,b\n", "line 2: the path and the id of a video must be non-empty strings"),
        ("a.csv", "file,sentence\na,b\n", "needs a header with one of the columns path, video_path"),
        ("a.csv", "id,path\n1,a.mp4\n1,b.mp4\n", "is the id of two videos"),
        ("a.csv", "id,path\n", "names no video"),
        ("a.txt", "# nothing\n", "names no video"),
        ("a.txt", "a\0b\n", "is not a path"),
        ("a.txt", b"\xff\xfe\x00", "is text in UTF-16; save it as UTF-8. Expected a folder of videos"),
    ],
)
def test_a_malformed_table_is_reported(name: str, content: str | bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(LibraryError, match=message):
        list_videos(tmp_path / name)


def test_an_empty_folder_and_a_missing_one_are_reported_differently(tmp_path: Path) -> None:
    with pytest.raises(LibraryError, match="no videos in"):
        list_videos(tmp_path)
    (tmp_path / "list.txt").write_text("a.mp4")
    with pytest.raises(LibraryError, match=r"no folder of videos at .*none"):
        list_videos(tmp_path / "list.txt", tmp_path / "none")
    with pytest.raises(LibraryError, match="no library at"):
        list_videos(tmp_path / "none")

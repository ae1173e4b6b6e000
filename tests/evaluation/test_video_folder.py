"""Video files found by name, with and without extension."""

from __future__ import annotations

from pathlib import Path

import pytest

from clip4clip import PairsError
from clip4clip.evaluation.video_folder import VideoFolder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    videos = tmp_path / "videos"
    (videos / "sub").mkdir(parents=True)
    for name in ("video1.mp4", "video2.webm", "video2.txt", "sub/video3.avi", "with.dot.mp4", "bare", "two.avi"):
        (videos / name).touch()
    (videos / "two.mp4").touch()
    return videos


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("video1", "video1.mp4"),
        ("video1.mp4", "video1.mp4"),
        ("video2", "video2.webm"),
        ("sub/video3", "sub/video3.avi"),
        ("with.dot", "with.dot.mp4"),
        ("bare", "bare"),
        ("two", "two.mp4"),  # the first extension in VIDEO_EXTENSIONS
        ("nowhere", "nowhere"),  # no such file: the expected path
        ("no/such/folder", "no/such/folder"),
    ],
)
def test_a_video_is_found_with_and_without_its_extension(folder: Path, name: str, file: str) -> None:
    assert VideoFolder(folder).find(name, "line 2") == folder / file


def test_a_circular_link_hides_no_other_file(folder: Path) -> None:
    (folder / "circle").symlink_to("circle")
    videos = VideoFolder(folder)
    assert [videos.find(name, "line 2").name for name in ("video1", "circle")] == ["video1.mp4", "circle"]


@pytest.mark.parametrize("name", ["../secret.mp4", "/etc/passwd", "sub/../../secret", ".", "sub/.."])
def test_a_name_that_leads_out_of_the_folder_is_rejected(folder: Path, name: str) -> None:
    (folder.parent / "secret.mp4").touch()
    with pytest.raises(PairsError, match=r"line 2: .* leads out of the folder"):
        VideoFolder(folder).find(name, "line 2")

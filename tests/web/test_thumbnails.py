"""Tests for clip4clip.web.thumbnails."""

from __future__ import annotations

import asyncio
import io
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import clips
import numpy as np
import pytest
from clips import SCENES
from page_client import address
from PIL import Image

from clip4clip import VideoError
from clip4clip.retrieval import VideoIndex

pytest.importorskip("fastapi")
from clip4clip.web import thumbnails
from clip4clip.web.video_files import VideoFiles


def colours(picture: bytes, parts: int = 1) -> list[str]:
    """Return the name of the scene that each of so many parts of a picture, side by side, shows."""
    image = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")).astype(int)
    means = [part.mean((0, 1)) for part in np.split(image, parts, axis=1)]
    return [min(SCENES, key=lambda name: np.abs(mean - SCENES[name]).sum()) for mean in means]


def test_a_thumbnail_shows_the_scene_of_its_time_although_key_frames_are_far(scenes: Path, scenes_client: Any) -> None:
    for time_, scene in ((0, "red"), (1.9, "red"), (2, "green"), (3.9, "green"), (4.1, "blue"), (5.9, "blue")):
        response = scenes_client.get(address("thumbnails", scenes), params={"t": time_})
        assert (response.status_code, colours(response.content)) == (200, [scene]), time_
    assert response.headers["content-type"] == "image/jpeg"
    assert response.headers["cache-control"] == "private, max-age=3600"
    assert colours(scenes_client.get(address("thumbnails", f"{scenes}#t=2,4")).content) == ["green"]


def test_a_strip_shows_six_frames_of_a_moment_or_of_the_whole_video(scenes: Path, scenes_client: Any) -> None:
    whole = scenes_client.get(address("strips", scenes))
    assert Image.open(io.BytesIO(whole.content)).size == (6 * 160, 96)
    assert colours(whole.content, 6) == ["red", "red", "green", "green", "blue", "blue"]
    part = scenes_client.get(address("strips", scenes), params={"start": 1, "end": 3})
    assert colours(part.content, 6) == ["red", "red", "red", "green", "green", "green"]
    assert colours(scenes_client.get(address("strips", f"{scenes}#t=2,4")).content, 6) == ["green"] * 6
    # A segment may end after the last frame, and start at the last frame.
    assert (
        colours(scenes_client.get(address("strips", scenes), params={"start": 5, "end": 99}).content, 6) == ["blue"] * 6
    )


@pytest.mark.parametrize(
    ("folder", "query", "sentence"),
    [
        ("thumbnails", {"t": 99}, "100%.mp4: it has no frame at 99 s."),
        ("thumbnails", {"t": -1}, "t is '-1'"),
        ("thumbnails", {"t": "nan"}, "t is"),
        ("strips", {"start": 3, "end": 2}, "end is 2: it should not be before start, 3."),
        ("strips", {"start": 99, "end": 100}, "100%.mp4: it has no frame at 99"),
    ],
)
def test_a_time_that_the_video_does_not_have_is_explained(
    folder: str, query: dict[str, Any], sentence: str, scenes: Path, scenes_client: Any
) -> None:
    response = scenes_client.get(address(folder, scenes), params=query)
    assert (response.status_code, sentence in response.json()["detail"]) == (422, True), response.text
    assert str(scenes.parent) not in response.text


def test_pictures_are_small_whatever_the_frames_are(tmp_path: Path, client_of: Callable[..., Any]) -> None:
    wide, tall = tmp_path / "wide.mp4", tmp_path / "tall.mp4"
    clips.write(wide, count=2, size=(1280, 32))
    clips.write(tall, count=2, size=(32, 720))
    client = client_of(wide, tall)
    sizes = [
        Image.open(io.BytesIO(client.get(address(folder, video)).content)).size
        for folder in ("thumbnails", "strips")
        for video in (wide, tall)
    ]
    assert sizes == [(480, 12), (21, 480), (960, 20), (960, 320)]


def test_a_changed_file_gets_a_new_picture(scenes: Path, tmp_path: Path, client_of: Callable[..., Any]) -> None:
    video = tmp_path / "a.mp4"
    shutil.copy(scenes, video)
    client = client_of(video)
    assert thumbnail_size(client, video) == (160, 96)
    clips.write(video, count=5, size=(320, 192))
    assert thumbnail_size(client, video) == (320, 192)


def thumbnail_size(client: Any, video: Path) -> tuple[int, int]:
    """Return the size of the thumbnail of the first frame."""
    return Image.open(io.BytesIO(client.get(address("thumbnails", video), params={"t": 0}).content)).size


class CountedDecoding:
    """Replaces :func:`read_stills`: counts its calls, each of which waits for ``may_go_on``."""

    def __init__(self, error: Exception | None = None) -> None:
        self.count, self.error, self.may_go_on = 0, error, threading.Event()

    def read_stills(self, *_: object) -> Sequence[Any]:
        self.count += 1
        assert self.may_go_on.wait(60)
        if self.error:
            raise self.error
        return [thumbnails.Frame(np.zeros((60, 80, 3), np.uint8), 0.0, True)]


def test_a_picture_is_made_once_for_all_who_ask_for_it(
    scenes: Path, scenes_index: VideoIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoding = CountedDecoding()
    monkeypatch.setattr(thumbnails, "read_stills", decoding.read_stills)
    pictures = thumbnails.Thumbnails(VideoFiles(scenes_index))

    async def visit() -> None:
        visitors = [asyncio.ensure_future(pictures.get_thumbnail(str(scenes), 1.0)) for _ in range(20)]
        while not decoding.count:
            await asyncio.sleep(0.01)
        visitors.pop(0).cancel()  # the first one leaves
        await asyncio.sleep(0.05)
        decoding.may_go_on.set()
        assert len({response.body for response in await asyncio.gather(*visitors)}) == 1
        await pictures.get_thumbnail(str(scenes), 1.0)
        assert decoding.count == 1
        await pictures.get_thumbnail(str(scenes), 2.0)
        assert decoding.count == 2

    asyncio.run(asyncio.wait_for(visit(), 60))


def test_a_video_that_cannot_be_decoded_is_not_tried_again_but_a_slow_one_is(
    scenes: Path, scenes_index: VideoIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    from starlette.exceptions import HTTPException

    decoding = CountedDecoding(VideoError("broken"))
    decoding.may_go_on.set()
    monkeypatch.setattr(thumbnails, "read_stills", decoding.read_stills)
    pictures = thumbnails.Thumbnails(VideoFiles(scenes_index))

    async def statuses() -> list[int]:
        found = []
        for _ in range(2):
            with pytest.raises(HTTPException) as error:
                await pictures.get_strip(str(scenes), 1.0, 2.0)
            found.append(error.value.status_code)
        return found

    monkeypatch.setattr(thumbnails, "PICTURE_SECONDS", -1)
    assert (asyncio.run(statuses()), decoding.count) == ([503, 503], 2)
    monkeypatch.undo()
    monkeypatch.setattr(thumbnails, "read_stills", decoding.read_stills)
    assert (asyncio.run(statuses()), decoding.count) == ([404, 404], 3)


def test_a_file_that_cannot_be_opened_for_a_moment_is_tried_again(
    scenes: Path, scenes_index: VideoIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    from starlette.exceptions import HTTPException

    pictures = thumbnails.Thumbnails(VideoFiles(scenes_index))

    def fail(*_: object) -> None:
        raise OSError("too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(thumbnails.Path, "open", fail)
        with pytest.raises(HTTPException) as error:
            asyncio.run(pictures.get_thumbnail(str(scenes), 1.0))
        assert error.value.status_code == 503
    assert asyncio.run(pictures.get_thumbnail(str(scenes), 1.0)).status_code == 200


def test_decoding_ends_in_time(scenes: Path, scenes_index: VideoIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    from starlette.exceptions import HTTPException

    monkeypatch.setattr(thumbnails, "PICTURE_SECONDS", -1)
    pictures = thumbnails.Thumbnails(VideoFiles(scenes_index))
    start = time.monotonic()
    with pytest.raises(HTTPException, match="was not decoded in"):
        asyncio.run(pictures.get_thumbnail(str(scenes), 1.0))
    assert time.monotonic() - start < 60


def test_no_more_pictures_wait_than_are_allowed(
    scenes: Path, scenes_index: VideoIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    from starlette.exceptions import HTTPException

    decoding = CountedDecoding()
    monkeypatch.setattr(thumbnails, "read_stills", decoding.read_stills)
    monkeypatch.setattr(thumbnails, "MAX_WAITING_PICTURES", 3)
    pictures = thumbnails.Thumbnails(VideoFiles(scenes_index))

    async def visit() -> None:
        visitors = [asyncio.ensure_future(pictures.get_thumbnail(str(scenes), float(t))) for t in range(3)]
        while decoding.count == 0:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        with pytest.raises(HTTPException) as error:
            await pictures.get_thumbnail(str(scenes), 5.0)
        assert error.value.status_code == 503
        decoding.may_go_on.set()
        await asyncio.gather(*visitors)
        await pictures.get_thumbnail(str(scenes), 5.0)

    asyncio.run(asyncio.wait_for(visit(), 60))

"""A frame index counts the frames of a video, and orders them, without decoding any."""

from __future__ import annotations

import struct
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from clips import KINDS, straight

from clip4clip import VideoError
from clip4clip.video import Limits, read_frames
from clip4clip.video.container import Container
from clip4clip.video.frame_index import (
    NOT_DISPLAYED,
    ContainerFrameIndex,
    FrameIndex,
    PacketFrameIndex,
    build_frame_index,
)

ClipOf = Callable[..., Path]
REPEATING = {"h264, trimmed in its middle", "h264, a group trimmed in its middle"}  # some of their frames come twice
NOT_INDEXED = REPEATING | {"h264, avi", "h264, raw", "mpeg-4, avi", "flv1", "gif", "apng"}


def index_of(container: Container) -> FrameIndex:
    index = build_frame_index(container)
    assert index is not None
    return index


@pytest.mark.parametrize("kind", KINDS)
def test_an_index_counts_the_frames_that_a_decoder_gives_without_decoding_any(
    kind: str, clip_of: ClipOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = clip_of(kind, 43)
    count = len(straight(path))
    monkeypatch.setattr(Container, "decode", None)
    with Container(path) as container:
        index = build_frame_index(container)
        if kind in NOT_INDEXED:
            assert index is None
            return
        assert index is not None
        has_own_index = path.suffix in (".mp4", ".mov") and "fragments" not in kind
        assert isinstance(index, ContainerFrameIndex if has_own_index else PacketFrameIndex)
        assert index.count == count
        times = [index.time_of(frame) for frame in range(count)]
        assert times == sorted(set(times))
        assert [index.count_before(time) for time in times] == list(range(count))
        assert index.count_before(times[-1] + 1) == count


@pytest.mark.parametrize("kind", ["h264", "h264, open groups", "h264, open groups, mkv", "h264, ts", "h264, edit list"])
def test_packets_begin_with_the_key_frame_of_a_gop_and_have_the_numbers_of_their_frames(
    kind: str, clip_of: ClipOf
) -> None:
    with Container(clip_of(kind, 43)) as container:
        index = index_of(container)
        times = [round(index.time_of(frame), 6) for frame in range(index.count)]
        for gop in range(len(index.key_frames)):
            packets = list(islice(index.packets_from(gop), 9))
            assert packets[0][0].is_keyframe
            for packet, frame in packets:
                if frame != NOT_DISPLAYED:
                    assert round(container.seconds(packet.pts), 6) == times[frame]


@pytest.mark.parametrize("kind", ["h264, open groups", "hevc, open groups", "h264, open groups, ts"])
def test_an_open_gop_has_frames_that_are_displayed_before_its_key_frame(kind: str, clip_of: ClipOf) -> None:
    with Container(clip_of(kind, 43)) as container:
        frames = [frame for _, frame in islice(index_of(container).packets_from(1), 8)]
        assert min(frames) < frames[0]


@pytest.mark.parametrize("kind", ["h264", "h264, ts"])
def test_gops_begin_at_key_frames(kind: str, clip_of: ClipOf) -> None:
    with Container(clip_of(kind)) as container:
        index = index_of(container)
        np.testing.assert_array_equal(index.key_frames, [0, 8, 16, 24])
        assert [index.gop_of(frame) for frame in (0, 7, 8, 24)] == [0, 0, 1, 3]


@pytest.mark.parametrize("kind", ["h264", "h264, mkv"])
def test_more_frames_than_the_limit_are_an_error(kind: str, clip_of: ClipOf) -> None:
    with pytest.raises(VideoError, match="over 23 frames, which is the limit"):
        next(read_frames(clip_of(kind), limits=Limits(frames=23)))


def test_an_index_that_lists_more_frames_than_the_file_has_bytes_is_an_error(clip: Path) -> None:
    content, frames = bytearray(clip.read_bytes()), 100_000
    sizes, chunks = content.index(b"stsz") + 4, content.index(b"stsc") + 4
    content[sizes + 4 : sizes + 12] = struct.pack(">2I", 1, frames)  # all of one byte
    content[chunks + 4 : chunks + 20] = struct.pack(">4I", 1, 1, frames, 1)  # all in one chunk
    with pytest.raises(VideoError, match=rf"its index lists 100,000 frames in {len(content):,} bytes"):
        next(read_frames(bytes(content)))

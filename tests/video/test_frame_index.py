from __future__ import annotations

from itertools import islice
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from clips import KINDS, make, straight

from clip4clip import VideoError
from clip4clip.video.container import Container, Limits
from clip4clip.video.frame_index import ContainerFrameIndex, PacketFrameIndex, timeline

MIDDLE = {"h264, trimmed in its middle", "h264, a group trimmed in its middle"}  # some of their frames come twice
UNTRUSTED = MIDDLE | {"h264, avi", "h264, raw", "mpeg-4, avi", "flv1", "gif", "apng"}


@pytest.mark.parametrize("kind", KINDS)
def test_it_counts_the_frames_that_a_decoder_gives_without_decoding_any(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make(kind, tmp_path, 1 if kind == "still" else 43)
    count = len(straight(path))
    monkeypatch.setattr(Container, "decode", None)
    with Container(path) as container:
        found = timeline(container)
        if kind in UNTRUSTED:
            assert found is None
            return
        assert found is not None
        assert isinstance(
            found, ContainerFrameIndex if path.suffix in (".mp4", ".mov") and "fragm" not in kind else PacketFrameIndex
        )
        assert found.count == count
        times = [found.time(number) for number in range(count)]
        assert times == sorted(set(times))
        assert [found.before(time) for time in times] == list(range(count))
        assert found.before(times[-1] + 1) == count


@pytest.mark.parametrize("kind", ["h264", "h264, open groups", "h264, open groups, mkv", "h264, ts", "h264, edit list"])
def test_packets_of_a_group_begin_with_its_key_frame_and_know_their_numbers(kind: str, tmp_path: Path) -> None:
    with Container(make(kind, tmp_path, 43)) as container:
        found = timeline(container)
        assert found is not None
        times = [round(found.time(number), 6) for number in range(found.count)]
        for group in range(len(found.keys)):
            packets = list(islice(found.packets(group), 9))
            assert packets[0][0].is_keyframe
            for packet, number in packets:
                if number >= 0:
                    assert round(container.seconds(packet.pts), 6) == times[number]


def test_open_groups_have_frames_that_are_shown_before_their_key_frame(tmp_path: Path) -> None:
    """Else the tests of such files would show nothing."""
    for kind in ("h264, open groups", "hevc, open groups", "h264, open groups, ts"):
        with Container(make(kind, tmp_path, 43)) as container:
            found = timeline(container)
            assert found is not None
            numbers = [number for _, number in islice(found.packets(1), 8)]
            assert min(numbers) < numbers[0]


def test_groups_are_those_of_the_key_frames(tmp_path: Path) -> None:
    for kind in ("h264", "h264, ts"):
        with Container(make(kind, tmp_path)) as container:
            found = timeline(container)
            assert found is not None
            np.testing.assert_array_equal(found.keys, [0, 8, 16, 24])
            assert [found.group(number) for number in (0, 7, 8, 24)] == [0, 0, 1, 3]


@pytest.mark.parametrize("kind", ["h264", "h264, mkv"])
def test_more_frames_than_the_limit_are_refused(kind: str, tmp_path: Path) -> None:
    with (
        pytest.raises(VideoError, match="over 23 frames, which is the limit"),
        Container(make(kind, tmp_path), limits=Limits(frames=23)) as container,
    ):
        timeline(container)


def test_an_index_of_more_frames_than_bytes_is_refused(tmp_path: Path) -> None:
    with Container(make("h264", tmp_path)) as container:
        crowded = Mock(wraps=container, stream=container.stream, size=24, codec="h264", format="mp4")
        crowded.name = "a.mp4"
        with pytest.raises(VideoError, match=r"a\.mp4: its index names 25 frames in 24 bytes"):
            timeline(crowded)
